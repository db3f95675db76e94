"""The kernel tells when a cgroup, all below it counted, has run out of the memory that it may have.

Version 1 tells through an eventfd, and names nobody. Version 2 counts in a file, whose changes wake who polls it; only the
cgroup's own count is meant: that of its children, each of which may run out of its own, is theirs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
from collections.abc import Callable
from pathlib import Path
from typing import Self

from pool.parent import MemoryGroup


class OverflowWatch:
    """Watches one cgroup, as long as it is there.

    Attributes:
        closed: it watches no more.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_hit: Callable[[], None]) -> None:
        """Watch nothing yet; see `open`."""
        self.closed = False
        self._loop = loop
        self._on_hit = on_hit
        #: Readable when there is something to look at.
        self._bell = -1
        self._epoll: select.epoll | None = None
        self._file = -1

    @classmethod
    def open(cls, group: MemoryGroup, loop: asyncio.AbstractEventLoop, on_hit: Callable[[], None]) -> Self | None:
        """Begin to watch; None where the cgroup is not there yet, or this kernel does not tell.

        Args:
            group: may have a limit.
            loop: calls back.
            on_hit: called each time a process in or below the cgroup is ended for this limit, or for one above it.
        """
        self = cls(loop, on_hit)
        try:
            if group.version == 1:
                self._listen_v1(group.directory)
            else:
                self.poll(group.directory / "memory.events.local", b"oom")
        except OSError:
            self.close()
            return None
        return self

    def poll(self, file: Path, key: bytes) -> None:
        """Watch a count in a file of `key value` lines that wakes who polls it."""
        self._file = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        before = self._count(key)
        self._epoll = select.epoll()
        # Such a file is always ready to be read: the change is its priority event, which the loop cannot wait for itself.
        self._epoll.register(self._file, select.EPOLLPRI)
        self._bell = self._epoll.fileno()

        def look() -> None:
            nonlocal before
            try:
                now = self._count(key)
            except OSError:  # the cgroup is gone
                self.close()
                return
            before, hit = now, now > before
            if hit:
                self._on_hit()

        self._loop.add_reader(self._bell, look)

    def is_there(self) -> bool:
        """Tell whether the cgroup still is: the end of one of version 2 wakes nobody. Where it is not, the watch is closed."""
        if not self.closed:
            try:
                os.pread(self._file, 1, 0)
            except OSError:
                self.close()
        return not self.closed

    def _count(self, key: bytes) -> int:
        for line in os.pread(self._file, 4096, 0).splitlines():
            name, _, value = line.partition(b" ")
            if name == key:
                return int(value)
        return 0

    def _listen_v1(self, directory: Path) -> None:
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._file = os.open(directory / "memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        (directory / "cgroup.event_control").write_text(f"{self._bell} {self._file}")

        def look() -> None:
            os.eventfd_read(self._bell)
            if directory.is_dir():
                self._on_hit()
            else:  # its end rings too
                self.close()

        self._loop.add_reader(self._bell, look)

    def close(self) -> None:
        """Stop watching."""
        if self.closed:
            return
        self.closed = True
        if self._bell >= 0:
            with contextlib.suppress(OSError, ValueError):
                self._loop.remove_reader(self._bell)
        if self._epoll is not None:
            self._epoll.close()
        elif self._bell >= 0:
            os.close(self._bell)
        if self._file >= 0:
            os.close(self._file)
