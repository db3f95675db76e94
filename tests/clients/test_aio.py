"""Adobe's `aio rt`, unmodified, against a real daemon: each case of `aio_rt.js` is a test here.

`--use-runtime-auth` (here USE_RUNTIME_AUTH) has it talk to the API host with the key, and not to Adobe's deploy service.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from npm_driver import cases_of, run_driver

pytestmark = pytest.mark.docker

DRIVER = Path(__file__).with_name("aio_rt.js")
CASES = cases_of(DRIVER)
SOURCE = "const main = ({ name }) => { console.log('greets', name); return { hello: name, env: process.env.LEVEL }; };\n"


@pytest.fixture(scope="module")
def settings(client: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a user who has been told where the API is."""
    return {
        "HOME": str(tmp_path_factory.mktemp("home")),
        "CI": "1",
        "AIO_TELEMETRY_DISABLED": "true",
        "AIO_RUNTIME_APIHOST": f"http://127.0.0.1:{client.port}",
        "AIO_RUNTIME_AUTH": client.key,
        "AIO_RUNTIME_NAMESPACE": "anna",
        "USE_RUNTIME_AUTH": "true",
    }


@pytest.fixture(scope="module")
def answers(node: str, modules: Path, client: Any, settings: dict[str, str]) -> dict[str, Any]:
    """How each case ended, by its name."""
    source = Path(settings["HOME"]) / "hello.js"
    source.write_text(SOURCE)
    client.deploy("logs", "def main(args):\n    print('a line of mine')\n    return {'n': 1}\n")
    about = client.ask("GET", "/api/v1", key=None).json
    settings = settings | {
        "SOURCE": str(source),
        "KEY": client.key,
        "ACTIVATION": client.record(client.invoke("logs").json["activationId"]).json["activationId"],
        "BUILD": about["build"],
        "BUILD_NUMBER": about["buildno"],
    }
    ended = run_driver(DRIVER, node=node, modules=modules, port=client.port, key=client.key, **settings)
    client.ask("DELETE", "actions/logs")
    return ended


def test_the_client_is_the_one_that_users_have(modules: Path):
    assert json.loads((modules / "@adobe/aio-cli/package.json").read_text())["version"].startswith("11.")


def test_every_case_of_the_driver_is_a_test(answers: dict[str, Any]):
    assert len(CASES) >= 7
    assert list(answers) == CASES


@pytest.mark.parametrize("case", CASES)
def test_CL_05_case(case: str, answers: dict[str, Any]):
    assert answers[case]["ok"], answers[case]["detail"]


def test_the_program_itself_prints_the_list_and_its_exit_code_tells_of_failure(
    node: str, modules: Path, client: Any, settings: dict[str, str]
):
    client.deploy("listed", "def main(args):\n    return args\n")

    def aio(*words: str) -> tuple[int, str]:
        command = [node, str(modules / ".bin/aio"), "rt", *words]
        environment = settings | {"PATH": os.environ["PATH"]}
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False
        )
        return done.returncode, done.stdout

    code, printed = aio("action", "list", "--json")
    assert (code, "listed" in [each["name"] for each in json.loads(printed)]) == (0, True)
    assert aio("action", "get", "nobody")[0] == 2
