"""Signals as events: the first SIGTERM drains, the second hurries, SIGHUP reloads."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Signals:
    """What the outside has asked of the daemon. The events are set and never cleared; reloads are counted.

    Attributes:
        drain: set by the first SIGTERM or SIGINT.
        hurry: set by the second.
    """

    def __init__(self) -> None:
        self.drain = asyncio.Event()
        self.hurry = asyncio.Event()
        self._reload = asyncio.Event()

    def stop(self) -> None:
        """Take one wish to stop: drain first, then hurry."""
        (self.hurry if self.drain.is_set() else self.drain).set()

    def reload(self) -> None:
        """Take one wish to read the configuration anew. Several before it is heard are one."""
        self._reload.set()

    async def wait_reload(self) -> None:
        """Wait for the next wish to reload, or take one that came meanwhile."""
        await self._reload.wait()
        self._reload.clear()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Receive the process's signals while the block runs, on the running loop."""
        loop = asyncio.get_running_loop()
        handlers = {signal.SIGTERM: self.stop, signal.SIGINT: self.stop, signal.SIGHUP: self.reload}
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)
