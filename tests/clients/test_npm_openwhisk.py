"""The npm client `openwhisk` 3.21, unmodified, against a real daemon: each case of `npm_openwhisk.js` is a test here."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from npm_driver import cases_of, run_driver

pytestmark = pytest.mark.docker

DRIVER = Path(__file__).with_name("npm_openwhisk.js")
CASES = cases_of(DRIVER)


@pytest.fixture(scope="module")
def answers(node: str, modules: Path, client: Any) -> dict[str, Any]:
    """How each case ended, by its name."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("package.json", '{"main": "start.js"}')
        archive.writestr("start.js", "exports.main = args => ({ n: require('./twice')(args.n) })\n")
        archive.writestr("twice.js", "module.exports = n => 2 * n\n")
    packed = base64.b64encode(buffer.getvalue()).decode()
    return run_driver(DRIVER, node=node, modules=modules, port=client.port, key=client.key, ZIP=packed)


def test_the_client_is_the_one_that_users_have(modules: Path):
    assert json.loads((modules / "openwhisk/package.json").read_text())["version"].startswith("3.21.")


def test_every_case_of_the_driver_is_a_test(answers: dict[str, Any]):
    assert len(CASES) >= 20
    assert list(answers) == CASES


@pytest.mark.parametrize("case", CASES)
def test_CL_04_case(case: str, answers: dict[str, Any]):
    assert answers[case]["ok"], answers[case]["detail"]
