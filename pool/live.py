"""A running container, as the shell knows it: its connections, what it has counted, who shares it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from pool.backend import ContainerBackend, ContainerHandle
from pool.connection import Connection
from pool.door import Door
from pool.errors import ContainerStartFailed
from pool.logs import LogReader
from pool.model import ActivationId, ContainerId, ContainerSpec
from pool.table import Slot

if TYPE_CHECKING:  # a lease is of a container, which knows those that it has
    from pool.lease import Lease

#: No process was killed for the memory of a container whose peak stayed this far below its limit, bytes: the kernel charges
#: in steps of at most 2 MiB, and kills when a step does not fit.
OOM_MARGIN = 8 * 2**20
#: For how long after its last use a frozen container's connection is kept at most, s: from then on the container costs a
#: descriptor less, and its next call dials anew, which takes about a millisecond.
CONNECTION_KEPT_S = 60.0
#: Pauses between attempts to reach a server that does not listen yet, s: the first while it boots, then the second.
DIAL_RETRY_S = (0.001, 0.02)
DIAL_EAGER_S = 0.75


def near_limit(spec: ContainerSpec) -> int:
    """Return from which memory on, bytes, a container may have met its own limit."""
    return spec.memory_mib * 2**20 - OOM_MARGIN


class Live:
    """What the shell keeps of a running container."""

    __slots__ = (
        "connection",
        "container_id",
        "cpu_before_us",
        "cpu_us",
        "create_began",
        "create_ended",
        "dead",
        "door",
        "fell_with_all",
        "freezes",
        "handle",
        "last_activation",
        "last_cpu_us",
        "logs",
        "oom_from",
        "oom_kills",
        "others",
        "overdue",
        "sharers",
        "slot",
        "spec",
        "throttled_us",
    )

    def __init__(
        self, container_id: ContainerId, spec: ContainerSpec, handle: ContainerHandle, slot: Slot, logs: LogReader
    ) -> None:
        self.container_id = container_id
        self.spec = spec
        self.handle = handle
        self.slot = slot
        self.logs = logs
        #: Kept over activations and freezes.
        self.connection: Connection | None = None
        #: Others, beside `connection`, of activations that ran at the same time.
        self.others: list[Connection] = []
        #: Leases that run now, all of which share the CPU time used meanwhile.
        self.sharers: list[Lease] = []
        #: Activations that ended without an answer beside these: what they do goes on, as long as the container does.
        self.overdue: list[ActivationId] = []
        #: Its main process has ended.
        self.dead = False
        #: Where it reaches the API; None where that is not served, or could not be opened.
        self.door: Door | None = None
        #: When the engine was asked and when it was done, seconds of the monotonic clock; 0 for an adopted one.
        self.create_began = self.create_ended = 0.0
        #: CPU time up to which everything is booked, microseconds; -1 before the first lease.
        self.cpu_us = -1
        #: All it had used when this daemon took it over; 0 for its own. And when that was last asked, whoever used it.
        self.cpu_before_us = self.last_cpu_us = 0
        #: The other counters, when they were last read.
        self.throttled_us = self.oom_kills = 0
        #: From which peak on a process may have been killed for memory, bytes.
        self.oom_from = near_limit(spec)
        #: At the last look for such a process all containers together had too much.
        self.fell_with_all = False
        #: To whom CPU time used between leases belongs.
        self.last_activation: ActivationId | None = None
        #: How often it was asked to freeze: a late confirmation of an earlier attempt is told by it.
        self.freezes = 0

    def total_cpu_us(self) -> int:
        """CPU time it has used in its life, microseconds; what was last known once the kernel has forgotten it."""
        with contextlib.suppress(OSError):
            self.last_cpu_us = max(self.last_cpu_us, self.handle.cpu_us())
        self.last_cpu_us = max(self.last_cpu_us, self.cpu_us)
        return self.last_cpu_us

    def take_over(self) -> None:
        """Take note of what it has counted under an earlier daemon: no lease of this one did it."""
        self.cpu_before_us = self.total_cpu_us()
        with contextlib.suppress(OSError):  # it has ended: the probe finds that
            self.throttled_us, self.oom_kills = self.handle.throttled_us(), self.handle.oom_kills()

    def expect_kill(self) -> None:
        """The kernel has ended some process because all containers together have too much: look whether one of these."""
        self.oom_from = 0

    def look_for_kills(self) -> None:
        """Read how many processes were ended for memory in its life. May raise OSError."""
        self.oom_kills = self.handle.oom_kills()
        self.fell_with_all, self.oom_from = not self.oom_from, near_limit(self.spec)

    def take_tail(self) -> tuple[ActivationId | None, int]:
        """CPU time since the last lease ended, and whose it is. Counted once. May raise OSError."""
        now_us = self.handle.cpu_us()
        tail_us = now_us - self.cpu_us if self.cpu_us >= 0 else 0
        self.cpu_us = now_us
        return self.overdue[-1] if self.overdue else self.last_activation, tail_us

    def kept_connection(self, now: float) -> Connection | None:
        """Return the kept connection, None where there is none that may be used; see `connect`.

        Args:
            now: seconds of the loop's clock.
        """
        connection = self.connection
        if connection is not None:
            if connection.is_busy:  # another activation's
                return self._other_connection(now)
            if self._is_fresh(connection, now):
                return connection
            connection.close()
            self.connection = None
        return None

    def _other_connection(self, now: float) -> Connection | None:
        """Return one of the others that nobody uses; close those that may not be used any more."""
        for connection in [each for each in self.others if not each.is_busy]:
            if self._is_fresh(connection, now):
                return connection
            connection.close()
            self.others.remove(connection)
        return None

    def _is_fresh(self, connection: Connection, now: float) -> bool:
        return connection.usable and now - connection.used_at < self.spec.server_keep_alive_s / 2

    def stale_at(self) -> float | None:
        """Tell when the first of the unused connections is to be closed, seconds of the loop's clock; None without any."""
        used_at = [each.used_at for each in self._unused_connections()]
        return min(used_at) + self._kept_s() if used_at else None

    def close_stale(self, now: float) -> None:
        """Close the connections whose time is over, at this time of the loop's clock."""
        for connection in self._unused_connections():
            if now - connection.used_at >= self._kept_s():
                connection.close()
        self.others = [each for each in self.others if each.usable]
        if self.connection is not None and not self.connection.usable:
            self.connection = None

    def _kept_s(self) -> float:
        return min(self.spec.server_keep_alive_s / 2, CONNECTION_KEPT_S)

    def _unused_connections(self) -> list[Connection]:
        return [each for each in (self.connection, *self.others) if each is not None and each.usable and not each.is_busy]

    def close_connections(self) -> None:
        """Close all of them; what is in flight fails."""
        for connection in (self.connection, *self.others):
            if connection is not None:
                connection.close()
        self.others.clear()

    def share_cpu(self) -> int:
        """Divide the CPU time since the last look among those that run: equally, for nobody can tell. May raise OSError.

        Returns:
            What each of those that are overdue has used of it, microseconds.
        """
        now_us = max(self.handle.cpu_us(), self.cpu_us)
        share, rest = divmod(now_us - self.cpu_us, len(self.sharers) + len(self.overdue))
        self.cpu_us = now_us
        for lease in self.sharers:
            lease.spent_us += share
        self.sharers[0].spent_us += rest
        return share

    async def connect(
        self,
        backend: ContainerBackend,
        loop: asyncio.AbstractEventLoop,
        *,
        deadline: float,
        on_refused: Callable[[], None] | None = None,
    ) -> Connection:
        """Return the kept connection, or a new one where reuse would race with the server's idle timer.

        A connection is reused only when it was idle, frozen time included, for less than half of the server's
        keep-alive: a server that wakes with an expired timer closes at once what was just written to it.
        `on_refused` is called at each attempt while nothing listens.

        Raises:
            TimeoutError: nothing listened before the deadline (seconds of the loop's clock).
            ContainerStartFailed: the container ended.
            OSError: its network namespace cannot be entered.
        """
        if (kept := self.kept_connection(loop.time())) is not None:
            return kept
        eager_until = loop.time() + DIAL_EAGER_S
        while True:
            try:
                sock = await backend.dial(self.handle)
                break
            except ProcessLookupError:
                raise ContainerStartFailed from None
            except ConnectionRefusedError:
                if self.dead:
                    raise ContainerStartFailed from None
                if on_refused is not None:
                    on_refused()
            if loop.time() >= deadline:
                raise TimeoutError
            await asyncio.sleep(DIAL_RETRY_S[loop.time() >= eager_until])
        connection = Connection(sock, loop, now=loop.time())
        if self.connection is None or not self.connection.usable:
            self.connection = connection
        else:  # it is another activation's
            self.others.append(connection)
        return connection

    async def exercise(self, backend: ContainerBackend, loop: asyncio.AbstractEventLoop, *, deadline: float) -> None:
        """Let it serve one empty request, so that pages and code are touched. Raises as `connect`, and InvokerError."""
        connection = await self.connect(backend, loop, deadline=deadline)
        async with asyncio.timeout_at(deadline):
            await connection.send(b"/", b"", limit=1024, method=b"GET")
