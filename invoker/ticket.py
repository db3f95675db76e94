"""One activation in flight: its stamps, who waits for it, and the record that becomes of it. Values; nothing here waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from invoker.activation import Accepted, Activation, CpuQuality, Meter, Phases
from invoker.composition import Course
from invoker.invocation import Call
from invoker.plan import Plan
from invoker.runtime import Outcome
from pool.errors import InvokerError
from pool.lease import Usage
from pool.model import ActivationId, MemoryReading, PeakQuality, Standing, StartKind

if TYPE_CHECKING:
    from invoker.short import ShortCall

#: Instead of the payload, in the promise of one that is never run again.
NO_PAYLOAD = msgspec.Raw(b"{}")
#: Counters of an activation that never had a container, or whose container's are gone.
_NOTHING_USED = Usage(
    cpu_us=0,
    throttled_us=0,
    oom_kills=0,
    memory=MemoryReading(peak=0, peak_quality=PeakQuality.LIFETIME, anonymous=0, shared=0, cache=0),
)


class Trace(msgspec.Struct):
    """Stamps of one activation, seconds of the monotonic clock; 0 where it did not get."""

    received: float
    planned: float = 0.0
    pulled: float = 0.0
    granted: float = 0.0
    created_from: float = 0.0
    created_to: float = 0.0
    init_began: float = 0.0
    sent: float = 0.0
    run_began: float = 0.0
    ended: float = 0.0
    start_kind: StartKind | None = None
    container: str | None = None
    usage: Usage | None = None


class Ticket(msgspec.Struct, eq=False):
    """One activation in flight."""

    activation_id: ActivationId
    call: Call
    #: Wall clock at arrival, seconds. Durations never come from it.
    wall: float
    #: Accepted in the journal before it begins: it survives the daemon.
    durable: bool
    trace: Trace
    #: Once it was looked up.
    plan: Plan | None = None
    task: asyncio.Task[Any] | None = None
    #: Of a sequence or composition: what it has come to.
    course: Course | None = None
    cancelled: bool = False
    #: Log lines of one that was cancelled while its container had it.
    lines: list[str] = []
    #: Promised, not begun, and the daemon ends: it has no record yet, the next daemon finds it in the journal and runs it.
    left: bool = False
    done: Activation | None = None
    error: InvokerError | None = None
    waiters: list[asyncio.Future[None]] = []
    #: As long as it goes the short way, and has no task.
    short: ShortCall | None = None
    #: Told of the end, as the waiters are, but at once and only once, or that the caller's time is up; may not raise.
    on_end: Callable[[Ticket], None] | None = None
    #: Rings when the caller's time is up, of one that had to wait for a container on the short way.
    patience: asyncio.TimerHandle | None = None

    @property
    def standing(self) -> Standing:
        """What it has behind it when it wants a container."""
        call = self.call
        if call.origin is not None and call.blocking:
            return Standing.NESTED
        if call.within is not None:
            return Standing.PART
        return Standing.ADMITTED if self.durable else Standing.NEW

    @property
    def composes(self) -> bool:
        """Whether it is the whole of a sequence or composition, and not an action that runs in a container."""
        within = self.call.within
        return self.call.action.is_composed and (within is None or not within.plain)

    def resolve(self, activation: Activation | None, error: InvokerError | None = None) -> None:
        """Tell all who wait how it ended, or, without a record, why it has not begun."""
        self.done, self.error = activation, error
        self.tell_end()
        self.release_waiters()

    def release_waiters(self) -> None:
        """Let those who wait for the end look: it has come, or will not."""
        for waiter in self.waiters:
            release(waiter)

    def tell_end(self) -> None:
        """Tell the caller that it has ended, or, without end and error, that his time is up: once."""
        if self.patience is not None:
            self.patience.cancel()
        on_end, self.on_end = self.on_end, None
        if on_end is not None:
            on_end(self)


def release(waiter: asyncio.Future[None]) -> None:
    """Wake one who waits, unless that is past."""
    if not waiter.done():
        waiter.set_result(None)


def promise_of(ticket: Ticket, *, payload: msgspec.Raw | None = None, digest: str | None = None) -> Accepted:
    """Make of an activation what the journal keeps of it until it has ended.

    Args:
        ticket: of the activation.
        payload: in place of the call's own.
        digest: SHA-256 of the body, where the call has an idempotency key.
    """
    call = ticket.call
    return Accepted(
        activation_id=ticket.activation_id,
        namespace=call.identity.namespace.name,
        subject=call.identity.namespace.name,
        path=call.action.full_path,
        payload=call.payload if payload is None else payload,
        transaction=call.transaction,
        cause=None if call.within is None else call.within.cause,
        binding=call.binding,
        composed=ticket.composes,
        accepted_ms=int(ticket.wall * 1000),
        idempotency_key=call.idempotency_key,
        body_sha256=digest,
    )


def finished_activation(ticket: Ticket, outcome: Outcome, *, node: str) -> Activation:
    """Make the record of an activation from its stamps, its counters and its outcome."""
    call, trace, action = ticket.call, ticket.trace, ticket.call.action
    phases = phases_of(ticket)
    began = trace.init_began or trace.run_began or trace.ended
    billed_us = phases.init + phases.run
    start_ms = int((ticket.wall + began - trace.received) * 1000)
    limits = action.limits
    usage = trace.usage or _NOTHING_USED
    cpu_quality = CpuQuality.SHARED if usage.is_shared else CpuQuality.EXACT
    if trace.usage is None:
        cpu_quality = CpuQuality.MISSING
    memory = usage.memory
    meter = Meter(
        start_kind=trace.start_kind,
        memory_limit_mib=limits.memory,
        billed_us=billed_us,
        cpu_us=usage.cpu_us,
        cpu_quality=cpu_quality,
        peak_bytes=memory.peak,
        peak_quality=memory.peak_quality,
        anonymous_bytes=memory.anonymous,
        shared_bytes=memory.shared,
        cache_bytes=memory.cache,
        throttled_us=usage.throttled_us,
        oom_kills=usage.oom_kills,
        request_bytes=call.payload_bytes,
        response_bytes=outcome.response_bytes,
        outcome=outcome.reason,
        phases=phases,
    )
    return Activation(
        activation_id=ticket.activation_id,
        node=node,
        namespace=call.identity.namespace.name,
        subject=call.identity.namespace.name,
        path=action.full_path,
        version=action.version,
        kind=action.exec.kind,
        limits=limits,
        start_ms=start_ms,
        end_ms=start_ms + round(billed_us / 1000),
        status=outcome.status,
        result=outcome.result,
        size=outcome.size,
        wait_ms=max(0, round((began - trace.received) * 1000)),
        init_ms=round(phases.init / 1000) if trace.init_began else None,
        timed_out=outcome.timed_out,
        container=trace.container,
        cause=None if call.within is None else call.within.cause,
        transaction=call.transaction,
        binding=call.binding,
        meter=meter,
    )


def phases_of(ticket: Ticket) -> Phases:
    """Cut the time from arrival to now into disjoint phases: each begins where the one before it ends."""
    call, trace = ticket.call, ticket.trace
    now = time.monotonic()
    known = (call.authenticate_us + call.authorise_us) / 1e6
    planned = trace.planned or now
    pulled = trace.pulled or (now if trace.planned else planned)
    granted = trace.granted or now
    ended = trace.ended or now
    create = thaw = init = run = 0.0
    if trace.start_kind is StartKind.COLD:
        create = max(0.0, min(granted, trace.created_to) - max(pulled, trace.created_from))
    if trace.granted:
        run_began = trace.run_began or ended
        if trace.init_began:
            init = run_began - granted
        else:
            thaw = max(0.0, (trace.sent or run_began) - granted)
            run_began = granted + thaw
        run = ended - run_began
    return Phases(
        authenticate=call.authenticate_us,
        authorise=call.authorise_us,
        resolve=_microseconds(planned - trace.received - known),
        queue=_microseconds(granted - pulled - create),
        pull=_microseconds(pulled - planned),
        create=_microseconds(create) if create else 0,
        thaw=_microseconds(thaw),
        init=_microseconds(init) if init else 0,
        run=_microseconds(run),
        collect=_microseconds(now - ended) if trace.granted else 0,
    )


def _microseconds(seconds: float) -> int:
    return round(seconds * 1e6) if seconds > 0.0 else 0
