"""A container engine of a test's own, below a directory of its own; the one that others use is left alone."""

from __future__ import annotations

import contextlib
import importlib.machinery
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import pytest

IMAGE = "invokerd/python3:latest"
LOAD_S = 300.0


class OwnEngine:
    """A dockerd that can be ended and started again on the same directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._script = _script()
        self._private: Any = None

    @property
    def url(self) -> str:
        return str(self._private.url)

    @property
    def data(self) -> Path:
        """Where its images and containers are."""
        return self.directory / "data"

    @classmethod
    @contextlib.contextmanager
    def with_image(cls, ask: Any, prepare: Callable[[Path], None] = lambda _: None) -> Iterator[Self]:
        """Start one with the image of Python's runtime while the block runs; nothing is left of it.

        Args:
            ask: the fixture; the engine that has the image.
            prepare: called with `data` before the start.
        """
        if shutil.which("dockerd", path=f"{os.environ['PATH']}:/usr/local/sbin:/usr/sbin:/sbin") is None:
            pytest.skip("there is no dockerd here of which a second one could be started")
        status, image = ask("GET", f"/images/{IMAGE}/get", timeout=LOAD_S)
        assert status == 200, image[:300]
        # Sockets lie in it: a short path.
        engine = cls(Path(tempfile.mkdtemp(prefix="engine-")))
        try:
            prepare(engine.data)
            engine.start()
            status, told = ask.func(engine.url, "POST", "/images/load?quiet=1", image, timeout=LOAD_S)
            assert status == 200, told
            yield engine
        finally:
            engine.purge()

    def start(self, *options: str) -> None:
        self._private = self._script.PrivateEngine(self.directory, options)
        self._private.start()

    def end(self) -> None:
        """End it as a service manager does. With live-restore its containers go on."""
        self._private._end(self._private._pid())
        self._private._process.wait()

    def purge(self) -> None:
        """Remove all of it, containers first, and what is mounted in it."""
        private = self._private or self._script.PrivateEngine(self.directory)
        if private._process is not None and private._process.poll() is not None:
            # None but a running engine can be told to remove its containers; one that cannot start any more has none.
            with contextlib.suppress(self._script.Refused):
                self.start()
            private = self._private
        private.stop(purge=True)
        if private._process is not None:
            private._process.wait()


def _script() -> ModuleType:
    """Load `scripts/engine`, which is no module by its name."""
    loader = importlib.machinery.SourceFileLoader("engine_script", str(Path(__file__).parents[2] / "scripts" / "engine"))
    spec = importlib.util.spec_from_loader("engine_script", loader)
    assert spec is not None
    script = importlib.util.module_from_spec(spec)
    loader.exec_module(script)
    return script
