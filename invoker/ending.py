"""How every activation ends, whichever way it went: counters, record, answer. What fails ends too, with a record.

The functions are the steps of one that had a container, on the short way and on the long one; they do not wait. `Endings` does
the whole of it for those that have a task.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence

from invoker.activation import Activation, Status
from invoker.in_flight import InFlight
from invoker.invocation import Call
from invoker.lost import Lost, parts_first
from invoker.plan import LimitsLowered
from invoker.record.recorder import Recorder, RecordTooLarge
from invoker.runtime import Outcome
from invoker.ticket import Ticket, finished_activation
from pool.errors import (
    ActionError,
    InvokerError,
    MemoryNeverAvailable,
    PlatformError,
    PoolClosed,
    PoolOverloaded,
    TooManyWaiting,
)
from pool.lease import Lease

log = logging.getLogger(__name__)

#: By how much the wall clock may have been set back while a sequence ran, and its parts be found after a crash, ms.
CLOCK_MS = 3_600_000


def read_counters(ticket: Ticket, lease: Lease) -> None:
    """Note when the work ended, and what it used; without numbers where the container's cgroup is gone."""
    trace = ticket.trace
    trace.ended = time.monotonic()
    trace.sent = lease.sent_at
    try:
        trace.usage = lease.read_usage()
    except OSError as error:
        log.info("activation %s has no counters: %s", ticket.activation_id, error)


def take_lines(ticket: Ticket, lease: Lease) -> list[str] | None:
    """Take the log lines of one whose container writes them before it answers; None where some are still to be read."""
    if lease.logs.come_late or (lease.log_frames != 0 and not lease.logs.drain()):
        return None
    return end_lines(ticket, lease)


def end_lines(ticket: Ticket, lease: Lease) -> list[str]:
    """Close the log of an activation, and return the lines that are here."""
    # Without an answer nobody says how many lines there were: the last ones may have died with it.
    complete = lease.logs.come_late or lease.log_frames is not None
    return lease.logs.end(ticket.activation_id, complete=complete)


def write_record(recorder: Recorder, activation: Activation, lines: list[str] | None, *, stored: bool | None) -> None:
    """Write the finished record; only what is billed where `stored` is false: the namespace keeps none.

    Raises:
        RecordTooLarge, JournalFull: as `Recorder.finish`.
    """
    if stored is False:
        recorder.finish_unstored(activation)
    else:
        recorder.finish(activation, logs=lines)


class Endings:
    """Ends activations that have a task, those that fail too, and those that an earlier daemon has left."""

    def __init__(
        self,
        *,
        recorder: Recorder,
        in_flight: InFlight,
        node: str,
        on_finished: Callable[[Activation], None],
        on_throttled: Callable[[str, str], None],
    ) -> None:
        """Join the parts; see `Invoker`."""
        self._recorder = recorder
        self._in_flight = in_flight
        self._node = node
        self._on_finished = on_finished
        self._on_throttled = on_throttled

    async def run(self, ticket: Ticket, work: Callable[[Ticket], Awaitable[None]]) -> None:
        """Do the work, and if that fails end the activation as it must: with a record, and an error for its caller."""
        try:
            await work(ticket)
        except asyncio.CancelledError:
            if not ticket.cancelled or ticket.task is None:
                raise
            ticket.task.uncancel()
            if ticket.left:
                ticket.resolve(None, PoolClosed())
            else:
                await self.fail(ticket, Status.APPLICATION_ERROR, "The activation was cancelled.", "cancelled")
        except (MemoryNeverAvailable, LimitsLowered) as error:
            await self.fail(ticket, Status.APPLICATION_ERROR, str(error), error.code)
        except ActionError as error:
            await self.fail(ticket, Status.DEVELOPER_ERROR, str(error), error.code)
        except PlatformError as error:
            await self._fail_by_us(ticket, error)
        finally:
            self._in_flight.leave(ticket)

    async def _fail_by_us(self, ticket: Ticket, error: PlatformError) -> None:
        """End an activation that the platform failed."""
        if isinstance(error, PoolOverloaded) and not ticket.durable:  # its plan was not known before
            self.note_refusal(ticket.call, error)
            ticket.resolve(None, error)
            return
        error.activation_id = ticket.activation_id
        if isinstance(error, PoolClosed) and ticket.durable and not ticket.trace.granted:
            ticket.resolve(None, error)  # promised and not begun: the next daemon finds it in the journal and runs it
        else:
            await self.fail(ticket, Status.INTERNAL_ERROR, str(error), error.code, error)

    async def fail(self, ticket: Ticket, status: Status, sentence: str, reason: str, error: InvokerError | None = None) -> None:
        """End an activation that got no answer from its action."""
        if ticket.done is None:
            ticket.trace.ended = ticket.trace.ended or time.monotonic()
            await self.end(ticket, Outcome.failure(status, sentence, reason), logs=ticket.lines, error=error)

    async def end(self, ticket: Ticket, outcome: Outcome, *, logs: list[str] | None, error: InvokerError | None = None) -> None:
        """Write the finished record, then answer: in this order, so that no answer is without its record."""
        await self.finish(ticket, finished_activation(ticket, outcome, node=self._node), logs=logs, error=error)

    async def finish(
        self, ticket: Ticket, activation: Activation, *, logs: list[str] | None, error: InvokerError | None = None
    ) -> None:
        """Do as `end`, with the record as it is."""
        await self.record(activation, logs, stored=ticket.call.identity.namespace.limits.store_activations)
        ticket.resolve(activation, error)
        self._on_finished(activation)

    async def record(self, activation: Activation, logs: list[str] | None, *, stored: bool | None = None) -> None:
        """Write a finished record of any size; see `write_record`."""
        try:
            write_record(self._recorder, activation, logs, stored=stored)
        except RecordTooLarge:
            await self._recorder.finish_large(activation, logs=logs)

    def note_refusal(self, call: Call, refusal: PoolOverloaded) -> None:
        """Have it counted that a namespace has too many waiting."""
        if isinstance(refusal, TooManyWaiting):  # a full node's refusals are counted where they are answered
            self._on_throttled(call.identity.namespace.name, refusal.code)

    async def record_lost(self, lost: Iterable[Lost]) -> int:
        """End what an earlier daemon had begun: once, as lost, never repeated. What has a finished record keeps that one.

        Returns:
            How many there were.
        """
        order = parts_first(lost)
        for each in order:
            parts: Sequence[Activation] = ()
            if each.composed:
                since_ms = each.start_ms - CLOCK_MS
                parts = await self._recorder.records.parts_of(each.facts.namespace, each.activation_id, since_ms=since_ms)
            lost_one = each.record(parts, node=self._node)
            await self.record(lost_one, [], stored=each.stored)
            self._on_finished(lost_one)
        return len(order)
