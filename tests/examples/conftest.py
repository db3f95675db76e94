"""Fixtures of the examples' tests: each example, made ready and run as its runtime would."""

import asyncio
import io
import shutil
import sys
import zipfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

sys.path[:0] = [str(Path(__file__).parents[2] / "examples"), str(Path(__file__).parent)]

from example_harness import EXAMPLES, PRINT, RUN_NODE, RUN_PYTHON, RUN_ZIP, last_line  # noqa: E402


@pytest.fixture(scope="session")
def executable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C example, compiled."""
    from catalogue import compile_c

    if not any(shutil.which(name) for name in ("cc", "gcc", "clang", "tcc")):
        pytest.skip("no C compiler")
    return compile_c(EXAMPLES / "c" / "ball.c", tmp_path_factory.mktemp("c"))


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zip example, packed as invokerctl packs it and unpacked as the runtime unpacks it."""
    from invoker.commands.ctl_code import zip_directory

    directory = tmp_path_factory.mktemp("zip")
    with zipfile.ZipFile(io.BytesIO(zip_directory(EXAMPLES / "zip"))) as archive:
        archive.extractall(directory)
    return directory


@pytest.fixture
def run(request: pytest.FixtureRequest) -> Callable[[str, Any], dict[str, Any]]:
    """Run an example by its name, as its runtime would."""

    def run_one(name: str, arguments: Any) -> dict[str, Any]:
        if name == "ball":
            return last_line([str(request.getfixturevalue("executable"))], arguments)
        if name == "checksum":
            return last_line([str(EXAMPLES / "shell" / "checksum.sh")], arguments)
        if name == "rings":
            return last_line([sys.executable, "-c", RUN_ZIP + PRINT, str(request.getfixturevalue("packed"))], arguments)
        if name == "hitrate":
            if not shutil.which("node"):
                pytest.skip("no node")
            return last_line(["node", "-e", RUN_NODE, str(EXAMPLES / "nodejs" / "hitrate.js")], arguments)
        return last_line([sys.executable, "-c", RUN_PYTHON + PRINT, str(EXAMPLES / "python" / f"{name}.py")], arguments)

    return run_one


@pytest.fixture
def run_async(run: Callable[[str, Any], dict[str, Any]]) -> Callable[[str, Any], Awaitable[dict[str, Any]]]:
    """The same, beside a running loop."""
    return lambda name, arguments: asyncio.to_thread(run, name, arguments)
