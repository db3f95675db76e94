"""Row CL-06: composer's `parallel` and `map`, with Debian's redis behind a socket that the site mounts (docs/clients.md)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from npm_driver import cases_of, run_driver

from bench.daemon import Daemon

pytestmark = pytest.mark.docker

DOCS = Path(__file__).parents[2] / "docs/clients.md"
DRIVER = Path(__file__).with_name("npm_composer_parallel.js")
CASES = cases_of(DRIVER)
#: Where the docs have the socket's directory on the node.
SOURCE = "/srv/redis/anna"
DEADLINE_S = 30.0
UID = 20_001


def block(language: str, mark: str) -> str:
    """The block of the docs in this language that has `mark` in it."""
    (text,) = [each for each in re.findall(rf"```{language}\n(.*?)```", DOCS.read_text(), re.DOTALL) if mark in each]
    return str(text)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A redis of the namespace's user, and the directory of its socket."""
    program = shutil.which("redis-server")
    if program is None:
        if os.environ.get("INVOKERD_TEST_REDIS") == "1":
            pytest.fail("INVOKERD_TEST_REDIS=1 promises redis-server, and there is none", pytrace=False)
        pytest.skip("there is no redis-server")
    place = Path(tempfile.mkdtemp(dir="/var/tmp"))  # pytest's own directories let no other user pass
    os.chown(place, UID, UID)
    settings = block("conf", "unixsocket").replace(SOURCE, str(place))
    log = tmp_path_factory.mktemp("redis") / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, "-"], user=UID, group=UID, extra_groups=[], cwd=place, stdin=subprocess.PIPE, stdout=output, stderr=output
        )
    assert process.stdin is not None
    process.stdin.write(settings.encode())
    process.stdin.close()
    deadline = time.monotonic() + DEADLINE_S
    while not (place / "redis.sock").exists():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
    yield place
    process.terminate()
    process.wait(DEADLINE_S)
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def daemon(
    tmp_path_factory: pytest.TempPathFactory, engine_url: str, leave_no_containers: None, directory: Path
) -> Iterator[Daemon]:
    running = Daemon(tmp_path_factory.mktemp("daemon"), engine_url, {"pool.memory_mib": 6144})
    with running._file.open("a") as file:
        file.write(block("toml", "isolation.mounts").replace(SOURCE, str(directory)))
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def answers(node: str, modules: Path, daemon: Daemon, make_user: Any) -> dict[str, Any]:
    """How each case ended, by its name."""
    user = make_user(daemon, "anna", uid=UID, gid=UID, words=("--mount", "redis"))
    (path,) = set(re.findall(r'"uri": "([^"]+)"', DOCS.read_text()))
    return run_driver(DRIVER, node=node, modules=modules, port=user.port, key=user.key, REDIS=path)


def test_every_case_of_the_driver_is_a_test(answers: dict[str, Any]):
    assert len(CASES) >= 5
    assert list(answers) == CASES


@pytest.mark.parametrize("case", CASES)
def test_CL_06_case(case: str, answers: dict[str, Any]):
    assert answers[case]["ok"], answers[case]["detail"]
