"""The short way: a call from its plan to its answer without a task, step by step as it is told of a container and of a response.

Most calls of a busy node go it. Nothing here waits: a `ShortCall` takes a container that stands ready, or a place in the pool's
queue; with the container it sends; with the response it comes to its end in the same breath: counters, journal, answer,
container back. Where something is not plain (a container without code, no clean end, a record too large, a cancellation) the call
goes on by the long way, `long.py`, from where it stands. Both ways are made of the same steps, and write the same records.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import msgspec

from invoker.activation import Activation
from invoker.ending import read_counters, take_lines, write_record
from invoker.errors import JournalFull
from invoker.ids import ActivationIds
from invoker.in_flight import InFlight
from invoker.invocation import Call
from invoker.long import LongWay
from invoker.model import MIB
from invoker.plan import Plan
from invoker.record.recorder import Recorder, RecordTooLarge
from invoker.runtime import classify_run, run_body
from invoker.ticket import Ticket, Trace, finished_activation
from pool.connection import Connection, Response
from pool.errors import InvokerError, ThawFailed
from pool.lease import Lease
from pool.model import Standing
from pool.pool import Pool

log = logging.getLogger(__name__)

#: What waits for longer than this in the queue gets timers of its own, s.
FRESH_S = 0.1


class ShortPlan(msgspec.Struct, frozen=True, gc=False):
    """What a call on the short way needs: the plan of its action, and what that is called with, JSON text."""

    plan: Plan
    arguments: msgspec.Raw


class ShortWay:
    """Begins calls, and has what they need; owns none of its parts."""

    def __init__(
        self,
        *,
        pool: Pool,
        recorder: Recorder,
        in_flight: InFlight,
        ids: ActivationIds,
        node: str,
        check_queue: Callable[[Call, Plan], None],
        max_wait_s: Callable[[], float],
        result_bytes: Callable[[], int],
        on_finished: Callable[[Activation], None],
        long_way: LongWay,
        on_bug: Callable[[Exception], None],
    ) -> None:
        """Join the parts.

        Args:
            pool: leases containers.
            recorder: writes the records.
            in_flight: where each call is entered.
            ids: of activations.
            node: in every record.
            check_queue: raises PoolOverloaded for a call that may not even wait for a container.
            max_wait_s: how long a call may wait for one.
            result_bytes: longest result.
            on_finished: told of each finished activation; may not raise.
            long_way: goes on with what does not end plainly.
            on_bug: told of an exception that nobody expected.
        """
        self.pool = pool
        self.recorder = recorder
        self.in_flight = in_flight
        self.ids = ids
        self.node = node
        self.check_queue = check_queue
        self.max_wait_s = max_wait_s
        self.result_bytes = result_bytes
        self.on_finished = on_finished
        self.long_way = long_way
        self.on_bug = on_bug
        self.loop = asyncio.get_running_loop()
        #: Those that have lined up since the last look at them, oldest first.
        self._fresh: list[ShortCall] = []

    def start(self, call: Call, found: ShortPlan, on_end: Callable[[Ticket], None]) -> None:
        """Begin a call.

        Args:
            call: blocking, not durable, for a caller who waits as long as the action may run.
            found: of its action.
            on_end: told once: when it has ended and that is on record, when it could not begin, or when the caller's time is up;
                may not raise.

        Raises:
            PoolOverloaded: it may not even wait; nothing was done.
        """
        wall, now = time.time(), time.monotonic()
        activation_id = self.ids.new(wall)
        lease = self.pool.take(activation_id, found.plan.key)
        if lease is None:
            self.check_queue(call, found.plan)
        trace = Trace(received=call.received, planned=now, pulled=now)
        ticket = Ticket(activation_id, call, wall, False, trace, found.plan, on_end=on_end)
        ticket.short = short = ShortCall(self, ticket, found)
        self.in_flight.enter(ticket)
        if lease is None:
            short.line_up()
        else:
            short.grant(lease)

    def watch(self, call: ShortCall, wait_s: float) -> None:
        """See to it that a call in the queue does not wait too long. Most wait for a few milliseconds, and cost no timer."""
        if min(wait_s, self.max_wait_s()) < 2 * FRESH_S:
            call.be_patient()
            return
        if not self._fresh:
            self.loop.call_later(FRESH_S, self._look)
        self._fresh.append(call)

    def _look(self) -> None:
        fresh, self._fresh = self._fresh, []
        for call in fresh:
            call.be_patient()


class ShortCall:
    """One call on the short way: the pool's `Waiter` for its container, then the connection's `Answer` for its response."""

    __slots__ = ("_connection", "_done", "_expiry", "_found", "_lease", "_ticket", "_verify", "_way", "lined_up")

    def __init__(self, way: ShortWay, ticket: Ticket, found: ShortPlan) -> None:
        self._way = way
        self._ticket = ticket
        self._found = found
        #: Once it has a container.
        self._lease: Lease | None = None
        self._connection: Connection
        #: When it lined up, seconds of the loop's clock.
        self.lined_up = 0.0
        #: Ends the wait for a container; None of what had not to wait for long.
        self._expiry: asyncio.TimerHandle | None = None
        #: Looks whether the container did thaw; None where it was not frozen.
        self._verify: asyncio.TimerHandle | None = None
        #: Nothing that the container says matters any more.
        self._done = False

    # ---- to a container

    def line_up(self) -> None:
        """Wait for a container in the pool's queue."""
        way = self._way
        self.lined_up = way.loop.time()
        try:
            lease = way.pool.line_up(self._ticket.activation_id, self._found.plan.key, self, standing=Standing.ADMITTED)
        except InvokerError as error:
            self.refuse(error)
            return
        if lease is None:
            way.watch(self, self._ticket.call.wait_s)
        else:
            self.grant(lease)

    def be_patient(self) -> None:
        """It has waited for a while: end the wait for a container, and that of the caller, in time."""
        way, ticket = self._way, self._ticket
        if ticket.on_end is None:
            return
        if self._lease is None and not self._done:
            self._expiry = way.loop.call_at(self.lined_up + way.max_wait_s(), way.pool.expire, ticket.activation_id)
        ticket.patience = way.loop.call_at(self.lined_up + ticket.call.wait_s, ticket.tell_end)

    def refuse(self, error: InvokerError) -> None:
        """See `Waiter`."""
        self._way.pool.give_back(self._ticket.activation_id, None)
        self._leave(self._way.long_way.fail(self._ticket, error))

    def grant(self, lease: Lease) -> None:
        """See `Waiter`: send to the container that it got."""
        way, ticket, plan = self._way, self._ticket, self._found.plan
        call, trace, activation_id = ticket.call, ticket.trace, ticket.activation_id
        self._lease = lease
        if self._expiry is not None:
            self._expiry.cancel()
        trace.granted = time.monotonic()
        trace.start_kind, trace.container = lease.start_kind, lease.container_id
        try:
            lease.begin(plan.facts)
            connection = lease.connection()
            if connection is None:
                self._leave(way.long_way.take_over(ticket, lease))
                return
            lease.logs.begin(activation_id, limit_bytes=call.action.limits.logs * MIB)
            timeout_ms = call.action.limits.timeout
            body = run_body(
                plan.prefix,
                self._found.arguments,
                activation_id=activation_id,
                transaction=call.transaction,
                deadline_ms=int(time.time() * 1000) + timeout_ms,
                api_key=call.identity.api_key if plan.gives_api_key else None,
            )
            deadline, limit = way.loop.time() + timeout_ms / 1000, way.result_bytes()
            trace.run_began = time.monotonic()
            self._connection = connection
            self._verify = lease.send(connection, self, b"/run", body, deadline=deadline, limit=limit)
        except ThawFailed as error:
            log.info("%s is replaced: %s", lease.container_id, error)
            lease.logs.end(activation_id)
            way.pool.give_back(activation_id, lease)
            self._leave(way.long_way.start_over(ticket))

    # ---- the answer, as the connection tells it

    def done(self) -> bool:
        """See `Answer`."""
        return self._done

    def set_result(self, response: Response) -> None:
        """See `Answer`."""
        try:
            self._end(response)
        except Exception as error:  # noqa: BLE001 - the connection has done nothing wrong
            self._way.on_bug(error)

    def set_exception(self, error: Exception) -> None:
        """See `Answer`."""
        try:
            self._go_on().set_exception(error)
        except Exception as bug:  # noqa: BLE001 - as above
            self._way.on_bug(bug)

    # ---- its end

    def cancel(self) -> None:
        """Go on by the long way, where it is cancelled."""
        ticket = self._ticket
        if self._lease is None:
            self._way.pool.give_back(ticket.activation_id, None)
            self._leave(self._way.long_way.start_over(ticket))
            return
        self._go_on()
        assert ticket.task is not None
        self._way.loop.call_soon(ticket.task.cancel)  # once it has begun

    def _go_on(self) -> asyncio.Future[Response]:
        """Have the long way wait for the future that this returns. What else the container says goes nowhere."""
        assert self._lease is not None, "something was sent"
        answer: asyncio.Future[Response] = self._way.loop.create_future()
        self._leave(self._way.long_way.go_on(self._ticket, self._lease, answer))
        self._connection.close()
        return answer

    def _leave(self, task: asyncio.Task[None]) -> None:
        """It is on the long way, with this task."""
        self._finish_waiting()
        self._ticket.task = task

    def _finish_waiting(self) -> None:
        self._done = True
        self._ticket.short = None  # nor would the two go without the collector of garbage, and all that hangs on them
        if self._verify is not None:
            self._verify.cancel()
        if self._expiry is not None:
            self._expiry.cancel()

    def _end(self, response: Response) -> None:
        """The plain end of most calls: the record, then the answer, then the container back."""
        way, ticket, lease = self._way, self._ticket, self._lease
        assert lease is not None, "something was sent"
        lease.note_logs(response)
        outcome = classify_run(response, way.result_bytes())
        if not outcome.keep:
            self._go_on().set_result(response)
            return
        self._finish_waiting()
        lease.clean = True
        read_counters(ticket, lease)
        lines = take_lines(ticket, lease)
        if lines is None:
            self._leave(way.long_way.end_late(ticket, lease, outcome, None))
            return
        activation = finished_activation(ticket, outcome, node=way.node)
        stored = ticket.call.identity.namespace.limits.store_activations
        try:
            write_record(way.recorder, activation, lines, stored=stored)
        except (RecordTooLarge, JournalFull):
            self._leave(way.long_way.end_late(ticket, lease, outcome, lines))
            return
        ticket.resolve(activation)
        way.pool.give_back(ticket.activation_id, lease)
        way.in_flight.leave(ticket)
        way.on_finished(activation)
