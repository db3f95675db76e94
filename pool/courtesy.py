"""The engine gives way to calls: its CPU cgroups are idle while it works for us, as long as it gets on.

To start or to remove a container costs some hundred milliseconds of CPU time in a dozen processes of many threads. The kernel
lets each of them have its turn, and (from Linux 6.6) lets a task that runs go on for its slice of some milliseconds whoever
wakes up: calls of other actions wait. Tasks of a cgroup with `cpu.idle` = 1 (from Linux 5.15) are interrupted at once by all
others and share what these leave over. The containers are in cgroups of their own and stay as they are.

On a node whose cores are always busy such an engine would get next to nothing. So it gives way only while a call to it is under
way, and only as long as calls come to an end; if none does for a while it is a usual one again, for some time.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from pool.cgroup import controller_paths, mount_points
from pool.errors import PlatformError

log = logging.getLogger(__name__)

#: While calls are under way one should end within this time, s; else the engine is held to be starved.
PATIENCE_S = 0.7
#: How long a starved engine stays a usual one, s.
HOLD_S = 5.0
#: How long it still gives way when its last call has ended, s: it tidies up after its answer, and the next call is often near.
LINGER_S = 1.0

_ENGINE_NAMES = ("dockerd", "containerd", "runc", "docker-init", "docker-proxy")
#: The services of Docker Engine's packages: taken where systemd listens in the engine's stead, and for the second of them.
_USUAL_GROUPS = ("/system.slice/docker.service", "/system.slice/containerd.service")
_SYSTEMD = 1


class NoIdleCgroup(PlatformError):
    """No CPU controller with `cpu.idle` is mounted."""

    code = "no-idle-cgroup"


class Loop(Protocol):
    """What is used of the event loop."""

    def time(self) -> float:
        """Return seconds of its clock."""

    def call_at(self, when: float, callback: Callable[[], object], /) -> asyncio.TimerHandle:
        """Call back once, at a time of its clock."""


class Courtesy:
    """Switches `cpu.idle` of the engine's cgroups by what becomes of our calls to it.

    Attributes:
        gives_way: whether they are idle now.
        starved: how often calls did not end in time, and the engine was made a usual one again.
    """

    def __init__(self, files: Sequence[Path], loop: Loop, *, patience_s: float = PATIENCE_S, hold_s: float = HOLD_S) -> None:
        """Make the engine a usual one: who was here before may have ended at the wrong moment.

        Args:
            files: `cpu.idle` of each cgroup of the engine.
            loop: tells the time, and calls back.
            patience_s: see `PATIENCE_S`.
            hold_s: see `HOLD_S`.
        """
        self._files = files
        self._loop = loop
        self._patience_s = patience_s
        self._hold_s = hold_s
        self._under_way = 0
        #: When the last call ended, or the first began.
        self._moved_at = loop.time()
        self._usual_until = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        self._failed = False
        #: Share of the CPU by cgroup, as it was before it was made idle.
        self._weights: dict[Path, str] = {}
        self.gives_way = False
        self.starved = 0
        self._write(idle=False)

    def began(self, *, starts_or_removes: bool) -> None:
        """A call to the engine begins. Only starts and removals are work that others would notice."""
        now = self._loop.time()
        if not self._under_way:
            self._moved_at = now
        self._under_way += 1
        if starts_or_removes and not self.gives_way and now >= self._usual_until:
            self.gives_way = self._write(idle=True)
            if not self.gives_way:
                self._write(idle=False)  # all or none
        self._plan()

    def ended(self) -> None:
        """A call has ended, however."""
        self._under_way -= 1
        self._moved_at = self._loop.time()

    def close(self) -> None:
        """Make the engine a usual one, and leave it so."""
        self._usual_until = float("inf")
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.gives_way:
            self._return()

    def _plan(self) -> None:
        if self.gives_way and self._timer is None:
            self._timer = self._loop.call_at(self._due(), self._look)

    def _due(self) -> float:
        """When the engine is a usual one again, if nothing moves until then."""
        return self._moved_at + (self._patience_s if self._under_way else LINGER_S)

    def _look(self) -> None:
        self._timer = None
        now = self._loop.time()
        if now < self._due():
            self._plan()
            return
        if self._under_way:
            self.starved += 1
            self._usual_until = now + self._hold_s
            log.info("no call to the engine has ended for %g s: it does not give way for %g s", self._patience_s, self._hold_s)
        self._return()

    def _return(self) -> None:
        self.gives_way = False
        self._write(idle=False)

    def _write(self, *, idle: bool) -> bool:
        """Switch all; return whether all could be. An engine that restarts may be without its cgroups for a moment."""
        done = True
        for file in self._files:
            try:
                if idle:
                    self._make_idle(file)
                else:
                    self._make_usual(file)
            except OSError as error:
                done = False
                if not self._failed:
                    log.warning("the engine cannot be made to give way: %s: %s ([engine] cgroups)", file, error.strerror)
        self._failed = not done
        return done

    def _make_idle(self, file: Path) -> None:
        self._weights[file] = weight_file(file).read_text()
        file.write_text("1")

    def _make_usual(self, file: Path) -> None:
        """Give its share back, unless systemd has made it a usual one: 252 does when it reloads, 257 with its next start."""
        if file.read_text().strip() != "0":
            file.write_text("0")
            if weight := self._weights.get(file):
                weight_file(file).write_text(weight)  # the kernel has set it to the default
        self._weights.pop(file, None)


def weight_file(file: Path) -> Path:
    """Return the file beside `cpu.idle` that has the cgroup's share of the CPU."""
    shares = file.with_name("cpu.shares")
    return shares if shares.exists() else file.with_name("cpu.weight")


def idle_file(group: str, proc: Path = Path("/proc")) -> Path:
    """Return where `cpu.idle` of a cgroup would be, version 1 or 2.

    Args:
        group: its path in the hierarchy, `/system.slice/docker.service`.
        proc: where `self/mountinfo` is.

    Raises:
        NoIdleCgroup: no CPU controller is mounted.
    """
    mounts = list(mount_points((proc / "self" / "mountinfo").read_text()))
    for version, point, options in sorted(mounts, key=lambda mount: mount[0]):
        if version == 2 or "cpu" in options:
            return point / group.strip("/") / "cpu.idle"
    raise NoIdleCgroup("no cgroup hierarchy with the CPU controller is mounted")


def find_groups(engine_socket: str, proc: Path = Path("/proc")) -> list[str]:
    """Find the cgroups that hold processes of an engine and nothing else; empty where it has none of its own.

    Args:
        engine_socket: path of the socket on which it listens.
        proc: where procfs is mounted.
    """
    listener = _listener(engine_socket)
    groups = list(_group_of(listener, proc))
    if listener == _SYSTEMD or _USUAL_GROUPS[0] in groups:
        groups = list(_USUAL_GROUPS)
    return [group for group in groups if _is_engines(group, proc)]


def _listener(engine_socket: str) -> int:
    """Return the pid of the process that listens on a socket; 0 when none does."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1.0)
            connection.connect(engine_socket)
            pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    except OSError:
        return 0
    return int(pid)


def _group_of(pid: int, proc: Path) -> Iterator[str]:
    """Give the cgroup of a process in the hierarchy of the CPU controller."""
    try:
        paths = controller_paths((proc / str(pid) / "cgroup").read_text())
    except OSError:
        return
    path = paths.get("cpu", paths.get(""))
    if path is not None:
        yield path


def _is_engines(group: str, proc: Path) -> bool:
    """Whether a cgroup can be idle, and holds an engine's processes alone."""
    try:
        file = idle_file(group, proc)
        pids = (file.parent / "cgroup.procs").read_text().split()
        names = [(proc / pid / "comm").read_text().strip() for pid in pids]
    except (OSError, NoIdleCgroup):
        return False
    return file.exists() and bool(names) and all(name.startswith(_ENGINE_NAMES) for name in names)
