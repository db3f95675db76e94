"""The npm client `openwhisk` 3.21, unmodified, against a real daemon: each case of `npm_openwhisk.js` is a test here.

`scripts/test` puts the client into `.state/npm` (`NPM_CLIENTS` in scripts/lib/setup.sh).
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.daemon import Daemon

pytestmark = pytest.mark.docker

DRIVER = Path(__file__).with_name("npm_openwhisk.js")
CLIENT = Path(__file__).parents[2] / ".state/npm/node_modules/openwhisk"
CASES = re.findall(r"^  async (\w+)\(\) \{$", DRIVER.read_text(), re.MULTILINE)


def missing() -> str | None:
    """Say what the tests lack."""
    if shutil.which("node") is None:
        return "node is not on PATH"
    if not CLIENT.is_dir():
        return "the client is not in .state/npm, where scripts/test puts it"
    return None


@pytest.fixture(scope="module")
def node() -> str:
    reason = missing()
    if reason is not None:
        if os.environ.get("INVOKERD_TEST_NODE") == "1":
            pytest.fail(f"INVOKERD_TEST_NODE=1 promises the npm client, and {reason}", pytrace=False)
        pytest.skip(reason)
    found = shutil.which("node")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def daemon(node: str, tmp_path_factory: pytest.TempPathFactory, engine_url: str, leave_no_containers: None) -> Iterator[Daemon]:
    running = Daemon(tmp_path_factory.mktemp("npm"), engine_url, {"pool.memory_mib": 4096})
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def answers(node: str, daemon: Daemon) -> dict[str, Any]:
    """Run all cases in one process of Node; by name, how each ended."""
    key = daemon.control("namespace", "create", "anna", "--uid", "20001", "--gid", "20001").strip()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("package.json", '{"main": "start.js"}')
        archive.writestr("start.js", "exports.main = args => ({ n: require('./twice')(args.n) })\n")
        archive.writestr("twice.js", "module.exports = n => 2 * n\n")
    environment = {
        "PATH": os.environ["PATH"],
        "APIHOST": f"http://127.0.0.1:{daemon.port}",
        "AUTH": key,
        "CLIENT": str(CLIENT),
        "ZIP": base64.b64encode(buffer.getvalue()).decode(),
    }
    done = subprocess.run([node, str(DRIVER)], env=environment, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    return {answer["name"]: answer for answer in map(json.loads, done.stdout.splitlines())}


def test_the_client_is_the_one_that_users_have(node: str):
    assert json.loads((CLIENT / "package.json").read_text())["version"].startswith("3.21.")


def test_every_case_of_the_driver_is_a_test(node: str, answers: dict[str, Any]):
    assert len(CASES) >= 20
    assert list(answers) == CASES


@pytest.mark.parametrize("case", CASES)
def test_case(case: str, answers: dict[str, Any]):
    assert answers[case]["ok"], answers[case]["detail"]
