"""Rows AG-01 and AG-02: `routes` of npm's `openwhisk`, unmodified; each case of `npm_routes.js` is a test here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from npm_driver import cases_of, run_driver

pytestmark = pytest.mark.docker

DRIVER = Path(__file__).with_name("npm_routes.js")
CASES = cases_of(DRIVER)


@pytest.fixture(scope="module")
def answers(node: str, modules: Path, client: Any) -> dict[str, Any]:
    """How each case ended, by its name."""
    return run_driver(DRIVER, node=node, modules=modules, port=client.port, key=client.key)


def test_every_case_of_the_driver_is_a_test(answers: dict[str, Any]):
    assert len(CASES) >= 10
    assert list(answers) == CASES


@pytest.mark.parametrize("case", CASES)
def test_AG_01_case(case: str, answers: dict[str, Any]):
    assert answers[case]["ok"], answers[case]["detail"]
