"""A container held for one activation: its requests, its counters, its log lines."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from pool.backend import ContainerBackend, ContainerHandle
from pool.connection import Answer, Connection, Response
from pool.door import Door
from pool.errors import ConnectionLost, ContainerStartFailed, ContainerUnreachable, ThawFailed
from pool.logs import LogReader
from pool.model import ActivationId, ContainerId, ContainerSpec, MemoryReading, PeakQuality, StartKind
from pool.table import Slot

#: A thawed container that says nothing for this long is looked at in the kernel, s.
VERIFY_THAW_S = 0.05
#: No process was killed for the memory of a container whose peak stayed this far below its limit, bytes: the kernel charges
#: in steps of at most 2 MiB, and kills when a step does not fit.
OOM_MARGIN = 8 * 2**20
#: For how long after its last use a frozen container's connection is kept at most, s: from then on the container costs a
#: descriptor less, and its next call dials anew, which takes about a millisecond.
CONNECTION_KEPT_S = 60.0
#: Pauses between attempts to reach a server that does not listen yet, s: the first while it boots, then the second.
DIAL_RETRY_S = (0.001, 0.02)
DIAL_EAGER_S = 0.75


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
        "freezes",
        "handle",
        "last_activation",
        "last_cpu_us",
        "logs",
        "oom_from",
        "oom_kills",
        "others",
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
        self.oom_from = spec.memory_mib * 2**20 - OOM_MARGIN
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

    def take_tail(self) -> tuple[ActivationId | None, int]:
        """CPU time since the last lease ended, and whose it is. Counted once. May raise OSError."""
        now_us = self.handle.cpu_us()
        tail_us = now_us - self.cpu_us if self.cpu_us >= 0 else 0
        self.cpu_us = now_us
        return self.last_activation, tail_us

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

    def share_cpu(self) -> None:
        """Divide the CPU time since the last look among those that run: equally, for nobody can tell. May raise OSError."""
        now_us = max(self.handle.cpu_us(), self.cpu_us)
        share, rest = divmod(now_us - self.cpu_us, len(self.sharers))
        self.cpu_us = now_us
        for lease in self.sharers:
            lease.spent_us += share
        self.sharers[0].spent_us += rest

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


class Usage(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the kernel counted from `Lease.begin` to `Lease.read_usage`.

    Attributes:
        is_shared: others ran in the container meanwhile: `cpu_us` is this one's share of what all used.
    """

    cpu_us: int
    throttled_us: int
    oom_kills: int
    memory: MemoryReading
    is_shared: bool = False


@dataclass(frozen=True, slots=True)
class Told:
    """Whom a lease tells what. None may raise.

    Attributes:
        initialised: the container took its code: (activation, whether that takes one activation at a time).
        tail: CPU time used after the reply of an activation: (activation, container, microseconds).
        repaired: a container was found frozen with a call in flight, and thawed.
    """

    initialised: Callable[[ActivationId, bool], None]
    tail: Callable[[ActivationId, ContainerId, int], None] | None = None
    repaired: Callable[[ContainerId], None] | None = None


class Lease:
    """A container held for one activation. Made by the pool."""

    __slots__ = (
        "_backend",
        "_facts",
        "_key_digest",
        "_live",
        "_loop",
        "_to_thaw",
        "_told",
        "_touched",
        "activation",
        "being_tested",
        "clean",
        "is_shared",
        "log_frames",
        "needs_init",
        "sent_at",
        "spent_us",
        "start_kind",
    )

    def __init__(
        self,
        backend: ContainerBackend,
        live: Live,
        activation: ActivationId,
        *,
        start_kind: StartKind,
        needs_init: bool,
        loop: asyncio.AbstractEventLoop,
        told: Told,
        key_digest: str,
    ) -> None:
        self._backend = backend
        self._live = live
        self._loop = loop
        self._told = told
        self._key_digest = key_digest
        self._facts = b""
        #: It was dialled: from then on the container is reusable only after a clean end.
        self._touched = False
        self._to_thaw = start_kind is StartKind.FROZEN or start_kind is StartKind.STEM
        #: CPU time that is its own, as far as it was divided.
        self.spent_us = 0
        #: Others ran in the container meanwhile.
        self.is_shared = False
        #: Log frames in the pipe, as the runtime says with its answer; None before, and where it says nothing.
        self.log_frames: int | None = None
        #: When the first request was sent, and the container thawed, seconds of the monotonic clock; 0 before.
        self.sent_at = 0.0
        self.activation = activation
        self.start_kind = start_kind
        #: /init must come before /run.
        self.needs_init = needs_init
        #: Set by the caller once the function came to a clean end: then the container is kept.
        self.clean = False
        #: It stands still because the self-test wants so.
        self.being_tested = False

    @property
    def container_id(self) -> ContainerId:
        """The container."""
        return self._live.container_id

    @property
    def logs(self) -> LogReader:
        """Its log lines."""
        return self._live.logs

    @property
    def created_between(self) -> tuple[float, float]:
        """When its creation began and ended, seconds of the monotonic clock; (0, 0) for an adopted one."""
        return self._live.create_began, self._live.create_ended

    @property
    def dead(self) -> bool:
        """Whether its main process has ended."""
        return self._live.dead

    def begin(self, facts: bytes) -> None:
        """Note in the table that the activation begins, and start its counters. Called by the pool.

        CPU time used since the last lease is the last activation's tail, so this one starts at zero.
        """
        live = self._live
        previous, tail_us = None, 0
        try:
            if live.sharers:
                live.share_cpu()
                for lease in (self, *live.sharers):
                    lease.is_shared = True
            else:
                previous, tail_us = live.take_tail()
                live.handle.reset_memory_peak()
        except OSError as error:
            self._touched = True  # it must not be used again
            raise ThawFailed(f"the container's counters cannot be read: {error}") from error
        if previous is not None and tail_us > 0 and self._told.tail:
            self._told.tail(previous, live.container_id, tail_us)
        live.sharers.append(self)
        live.last_activation = self.activation
        self._facts = facts
        live.slot.begin(self.activation, time.time_ns() // 1_000_000)

    def end(self) -> bool:
        """Clear the table and say whether the container may be reused. Called by the pool."""
        live = self._live
        reusable = self.clean or not self._touched
        live.slot.end(live.cpu_us, self.activation)
        if self in live.sharers:  # its counters were not read
            live.sharers.remove(self)
        if not reusable and not live.sharers:
            live.close_connections()
        return reusable and not live.dead

    def initialised(self, *, takes_one: bool = False) -> None:
        """The container took its code.

        Args:
            takes_one: that code runs one activation at a time, whatever the action's limit says.
        """
        if takes_one:
            self._live.slot.take_one()
        self._told.initialised(self.activation, takes_one)

    async def request(self, path: bytes, body: bytes, *, deadline: float, limit: int) -> Response:
        """Send one request and wait for its response.

        A frozen container gets the request first and is thawed in the same breath: it wakes to work that is there,
        and its idle timers find a busy connection.

        Args:
            path: `b"/init"` or `b"/run"`.
            body: JSON on one line.
            deadline: seconds of the loop's clock.
            limit: bytes of the response that are kept.

        Raises:
            TimeoutError: the deadline came first. The connection is closed.
            ConnectionLost, ResponseNotHttp, ContainerStartFailed: what the container did.
            ThawFailed: the kernel refused; nothing has run.
            ContainerUnreachable: a container with its code is not there any more; nothing was sent.
        """
        live, loop = self._live, self._loop
        if self.needs_init and not self._touched:
            live.slot.specialise(self._key_digest, self._facts)
        self._touched = True
        connection = live.kept_connection(loop.time()) or await self._connect(deadline)
        answer: asyncio.Future[Response] = loop.create_future()
        verify = self.send(connection, answer, path, body, deadline=deadline, limit=limit)
        try:
            response = await answer
        except BaseException:  # cancelled, too late or broken: nothing more is to come over it
            connection.close()
            raise
        finally:
            if verify is not None:
                verify.cancel()
        self.note_logs(response)
        return response

    def connection(self) -> Connection | None:
        """Return the kept connection; None where `request` would have to dial, or to send /init first."""
        return None if self.needs_init else self._live.kept_connection(self._loop.time())

    def send(
        self, connection: Connection, answer: Answer, path: bytes, body: bytes, *, deadline: float, limit: int
    ) -> asyncio.TimerHandle | None:
        """Send a request, then thaw, for somebody who does not wait but is told; else as `request`.

        Args:
            connection: from `connection`.
            answer: is told how it ended. It is to cancel the timer then, and to close the connection unless all went well; and to
                give the response to `note_logs`.
            path: as of `request`.
            body: as of `request`.
            deadline: as of `request`.
            limit: as of `request`.

        Returns:
            The timer that looks whether the container did thaw, None where it was not frozen.

        Raises:
            ConnectionLost: the connection of a container without code is broken already.
            ThawFailed: nothing has run, and `answer` is told nothing more.
        """
        self._touched = True
        try:
            connection.send_for(answer, path, body, limit=limit, deadline=deadline)
        except ConnectionLost as error:
            if self.needs_init:
                raise
            raise ContainerUnreachable(str(error)) from error
        verify: asyncio.TimerHandle | None = None
        if self._to_thaw:
            try:
                self._thaw_now()
            except ThawFailed:
                connection.abandon()
                raise
            verify = self._loop.call_later(VERIFY_THAW_S, self._verify_thaw, answer)
        self.sent_at = self.sent_at or time.monotonic()
        return verify

    async def _connect(self, deadline: float) -> Connection:
        try:
            return await self._live.connect(self._backend, self._loop, deadline=deadline, on_refused=self._thaw_now)
        except TimeoutError:
            raise
        except (OSError, ContainerStartFailed) as error:
            failure = ContainerStartFailed if self.needs_init else ContainerUnreachable
            raise failure(f"the container cannot be reached: {error}") from error

    def _thaw_now(self) -> None:
        """Thaw it, once."""
        if self._to_thaw:
            self._to_thaw = False
            try:
                self._live.handle.thaw()
            except OSError as error:
                raise ThawFailed(f"the container cannot be thawed: {error}") from error

    def note_logs(self, response: Response) -> None:
        """Take the runtime's word, `frames,dropped`: how many are in the pipe, and how many did not fit."""
        said = response.logs
        if said is None:
            return
        if said == "0,0":
            self.log_frames = 0
            return
        frames, _, dropped = said.partition(",")
        self.log_frames = _count(frames)
        if lines := _count(dropped):
            self._live.logs.note_dropped(self.activation, lines)

    def _verify_thaw(self, answer: Answer) -> None:
        """Believe the reply, not the write: no answer yet, so ask the kernel, and thaw again if it says frozen."""
        live = self._live
        if answer.done():
            return
        try:
            if live.handle.is_frozen():
                live.handle.thaw()
                if self._told.repaired:
                    self._told.repaired(live.container_id)
                self._loop.call_later(VERIFY_THAW_S, self._verify_thaw, answer)
        except OSError as error:
            answer.set_exception(ConnectionLost(f"the container cannot be thawed: {error}"))

    async def check_freezing(self, within_s: float) -> None:
        """Freeze the container, believe the kernel and not the write, and let it run again. For the node's self-test.

        Raises:
            OSError: the kernel refuses.
            TimeoutError: it does not get there within so many seconds, one way or the other.
        """
        handle = self._live.handle
        self.being_tested = True
        try:
            handle.freeze()
            await _until(handle.is_frozen, within_s)
        finally:
            handle.thaw()
            self.being_tested = False
        await _until(lambda: not handle.is_frozen(), within_s)

    async def was_out_of_memory(self) -> bool:
        """Ask the engine whether the kernel ended the container for its memory, where its counters are gone with it."""
        return await self._backend.was_out_of_memory(self._live.container_id)

    def read_usage(self) -> Usage:
        """Read the counters. Raises OSError when the container's cgroup is gone.

        Kills for memory are looked for where the container was near its limit, or came to no clean end. (A process that
        falls to the memory of the whole node, in or after a call that ends well, is counted with the next such call.)
        """
        live = self._live
        handle = live.handle
        if len(live.sharers) > 1:
            live.share_cpu()
        else:
            before_us, live.cpu_us = live.cpu_us, max(handle.cpu_us(), live.cpu_us)
            self.spent_us += live.cpu_us - before_us
        live.sharers.remove(self)
        # Between leases nothing is throttled or killed that was not begun by the last one: two reads a call are enough.
        throttled_us, oom_kills = live.throttled_us, live.oom_kills
        live.throttled_us = handle.throttled_us() if live.spec.cpu_millis else 0
        memory = handle.memory()
        # The file is not open. Where the peak is a sample, memory may have been short before it was taken.
        if memory.peak >= live.oom_from or not self.clean or memory.peak_quality is PeakQuality.SAMPLED:
            live.oom_kills = handle.oom_kills()
        return Usage(
            cpu_us=self.spent_us,
            throttled_us=live.throttled_us - throttled_us,
            oom_kills=live.oom_kills - oom_kills,
            memory=memory,
            is_shared=self.is_shared,
        )


def _count(text: str) -> int | None:
    """Read a count; None where it is none. Its writer is not trusted: `int` refuses thousands of digits."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


async def _until(holds: Callable[[], bool], within_s: float) -> None:
    """Ask the kernel, which tells no event, until it says so."""
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
