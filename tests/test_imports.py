"""Who may import whom: invoker -> metrics -> pool, invoker -> pool; and what the deciding parts never touch."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"invoker", "metrics", "pool"}
MAY_IMPORT = {"invoker": {"invoker", "metrics", "pool"}, "metrics": {"metrics", "pool"}, "pool": {"pool"}}
#: Decide without I/O and without a loop.
PURE = (
    "machine",
    "books",
    "bounds",
    "events",
    "expiries",
    "keepalive",
    "launcher",
    "launching",
    "model",
    "queueing",
    "settings",
    "simulation",
    "stems",
    "trace",
)
#: A foreign package, and the only file of ours that may import it.
SEAMS = {"aiodocker": {"pool/engine.py"}, "aiosqlite": {"invoker/record/store.py"}}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module


SOURCES = sorted(path for package in OURS for path in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_point_one_way(path: Path):
    package = path.relative_to(ROOT).parts[0]
    foreign = {name.partition(".")[0] for name in imports(path)} & OURS
    assert foreign <= MAY_IMPORT[package]
    for name, allowed in SEAMS.items():
        if name in {each.partition(".")[0] for each in imports(path)}:
            assert str(path.relative_to(ROOT)) in allowed


@pytest.mark.parametrize("name", PURE)
def test_deciding_parts_know_no_loop_no_socket_and_no_clock(name: str):
    assert not {"asyncio", "socket", "time", "os"} & set(imports(ROOT / "pool" / f"{name}.py"))


def test_each_dependency_is_explained_and_each_explanation_is_of_a_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {line.partition(">")[0] for line in project["dependencies"]}
    rows = [
        line.split("|")[1].strip() for line in (ROOT / "docs/dependencies.md").read_text().splitlines() if line.startswith("| ")
    ]
    assert set(rows) - {"package"} == needed
