"""A container held for one activation: its requests, its counters, its log lines."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from pool.backend import ContainerBackend
from pool.connection import Answer, Connection, Response
from pool.errors import ConnectionLost, ContainerStartFailed, ContainerUnreachable, ThawFailed
from pool.live import Live, near_limit
from pool.logs import LogReader
from pool.model import ActivationId, ContainerId, MemoryKill, MemoryReading, PeakQuality, StartKind

#: A thawed container that says nothing for this long is looked at in the kernel, s.
VERIFY_THAW_S = 0.05


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
        spoiled: an activation has ended so that its container is to take no more, while others run in it.
    """

    initialised: Callable[[ActivationId, bool], None]
    tail: Callable[[ActivationId, ContainerId, int], None] | None = None
    repaired: Callable[[ContainerId], None] | None = None
    spoiled: Callable[[ContainerId], None] | None = None


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
                self._share_cpu()
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
        self.log_frames = None  # of /init alone: the answer to /run counts its frames too
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
        except (OSError, ContainerStartFailed) as error:
            if isinstance(error, TimeoutError) and self._loop.time() >= deadline:
                raise  # the action's time is up; one of a single attempt to dial is the container's fault
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

    async def memory_kill(self, usage: Usage | None) -> MemoryKill:
        """Tell whether the kernel has ended a process of the container for memory, and for whose.

        Args:
            usage: as read at the end; None where the counters were gone with the container: then the engine is asked.
        """
        live = self._live
        if usage is None:
            if not await self._backend.was_out_of_memory(live.container_id):
                return MemoryKill.NONE
            return MemoryKill.OWN_LIMIT if live.oom_from else MemoryKill.ALL_TOGETHER
        if not usage.oom_kills:
            return MemoryKill.NONE
        if usage.memory.peak_quality is PeakQuality.SAMPLED:  # what it had when it was ended is not known
            within = live.fell_with_all
        else:
            within = usage.memory.peak < near_limit(live.spec)
        return MemoryKill.ALL_TOGETHER if within else MemoryKill.OWN_LIMIT

    def read_usage(self) -> Usage:
        """Read the counters. Raises OSError when the container's cgroup is gone.

        Kills for memory are looked for where the container was near its limit, came to no clean end, or all containers
        together had too much meanwhile. (A process that falls to the memory of the whole node, beyond our wall, in or after
        a call that ends well is counted with the next such call.)
        """
        live = self._live
        handle = live.handle
        if len(live.sharers) > 1 or live.overdue:
            self._share_cpu()
        else:
            before_us, live.cpu_us = live.cpu_us, max(handle.cpu_us(), live.cpu_us)
            self.spent_us += live.cpu_us - before_us
        live.sharers.remove(self)
        if self._touched and not self.clean and live.sharers:
            live.overdue.append(self.activation)
            if self._told.spoiled:
                self._told.spoiled(live.container_id)
        # Between leases nothing is throttled or killed that was not begun by the last one: two reads a call are enough.
        throttled_us, oom_kills = live.throttled_us, live.oom_kills
        live.throttled_us = handle.throttled_us() if live.spec.cpu_millis else 0
        memory = handle.memory()
        # The file is not open. Where the peak is a sample, memory may have been short before it was taken.
        if memory.peak >= live.oom_from or not self.clean or memory.peak_quality is PeakQuality.SAMPLED:
            live.look_for_kills()
        return Usage(
            cpu_us=self.spent_us,
            throttled_us=live.throttled_us - throttled_us,
            oom_kills=live.oom_kills - oom_kills,
            memory=memory,
            is_shared=self.is_shared,
        )

    def _share_cpu(self) -> None:
        """Divide what was used since the last look; the part of those whose record is written is their tail."""
        live = self._live
        share_us = live.share_cpu()
        if share_us and self._told.tail:
            for activation in live.overdue:
                self._told.tail(activation, live.container_id, share_us)


def _count(text: str) -> int | None:
    """Read a count; None where it is none. Its writer is not trusted: `int` refuses thousands of digits."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


async def _until(holds: Callable[[], bool], within_s: float) -> None:
    """Ask the kernel, which tells no event, until it says so."""
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
