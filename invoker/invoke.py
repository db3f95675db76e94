"""READ THIS FIRST: one invocation, top to bottom.

`Invoker.invoke` takes a call that was authenticated and admitted. `_conduct` is its whole way: plan, lease, /init, /run,
counters, journal, answer. (Most calls need but the second half of that, and go the short way: `short.py`. A sequence or a
composition goes by `_compose`: `composition.py` runs its parts, and each goes this way.) What the action does wrong is an
outcome; what the platform does wrong is an outcome too, and an error for the caller. Whatever happens, exactly one finished
record is written; none of a call that was refused before it could even wait.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import msgspec

from invoker.arguments import merge_arguments, refuse_final
from invoker.code import MOUNT_TARGET
from invoker.composition import Composer, Course, Resolve, finished_composition
from invoker.ending import read_counters, take_lines, write_record
from invoker.errors import IdempotencyConflict, JournalFull
from invoker.ids import ActivationIds
from invoker.in_flight import InFlight
from invoker.invocation import Accepted202, Builtin, Call
from invoker.lost import Lost, parts_first
from invoker.manifest import BUILTIN
from invoker.model import (
    MIB,
    Accepted,
    Action,
    Activation,
    Identity,
    Status,
)
from invoker.nesting import NestedCall, Nesting
from invoker.plan import LimitsLowered, Plan, Planner
from invoker.record.code_files import CodeFiles
from invoker.record.recorder import Recorder, RecordTooLarge
from invoker.runtime import Outcome, init_body, initialise, outcome_of, run, run_body
from invoker.short import ShortPlan, ShortWay
from invoker.ticket import Ticket, Trace, finished_activation, release
from invoker.vault import Vault
from pool.connection import Response
from pool.errors import (
    ActionError,
    InvokerError,
    MemoryNeverAvailable,
    PlatformError,
    PoolClosed,
    PoolOverloaded,
    ThawFailed,
    TooManyWaiting,
)
from pool.lease import Lease
from pool.model import ActivationId, ContainerId, LogTransport
from pool.pool import Pool

_log = logging.getLogger(__name__)

#: How long the lines of a foreign image may take after its answer, s. Our runtimes' lines are there with it.
LOG_DEADLINE_S = 2.0
_NOTHING = msgspec.Raw(b"{}")
#: A container that would not thaw has run nothing: the activation may have another, this often.
THAW_ATTEMPTS = 3
#: By how much the wall clock may have been set back while a sequence ran, and its parts be found after a crash, ms.
CLOCK_MS = 3_600_000


class Invoker:
    """Conducts activations. Owns none of its parts."""

    def __init__(
        self,
        *,
        pool: Pool,
        planner: Planner,
        recorder: Recorder,
        code: CodeFiles,
        vault: Vault,
        group: asyncio.TaskGroup,
        node: str,
        max_wait_s: Callable[[], float],
        result_bytes: Callable[[], int],
        on_finished: Callable[[Activation], None],
        on_throttled: Callable[[str, str], None],
        resolve: Resolve,
        builtins: Mapping[str, Builtin] = MappingProxyType({}),
    ) -> None:
        """Begin with nothing in flight.

        Args:
            pool: leases containers.
            planner: knows what an action needs.
            recorder: journal and stores.
            code: of actions; held for those in flight.
            vault: opens sealed parameters, and seals what is promised.
            group: runs the activations.
            node: in every record.
            max_wait_s: how long an activation may wait for a container.
            result_bytes: longest result.
            on_finished: told of each finished activation; may not raise.
            on_throttled: told of each call refused because its namespace has too many waiting: namespace, reason; may not raise.
            resolve: finds what sequences and compositions run.
            builtins: what the daemon carries out itself, by full path of the action.
        """
        self._pool = pool
        self._planner = planner
        self._recorder = recorder
        self._vault = vault
        self._group = group
        self._loop = asyncio.get_running_loop()
        self._node = node
        self._max_wait_s = max_wait_s
        self._result_bytes = result_bytes
        self._on_finished = on_finished
        self._on_throttled = on_throttled
        self._composer = Composer(resolve, self._run_part)
        self._builtins = builtins
        self._nesting = Nesting(pool)
        self._in_flight = InFlight(code)
        #: Reuse key's digest -> how many are being promised and will want a container. No zeros.
        self._promised: dict[str, int] = {}
        self._stopping = False
        self._ids = ActivationIds()
        self._short_way = ShortWay(
            pool=pool,
            recorder=recorder,
            in_flight=self._in_flight,
            ids=self._ids,
            node=node,
            check_queue=self._check_queue,
            max_wait_s=max_wait_s,
            result_bytes=result_bytes,
            on_finished=on_finished,
            long_way=self,
            on_bug=self._on_bug,
        )

    # ---- from the API

    def find_short(self, identity: Identity, action: Action, payload: msgspec.Raw, wait_s: float) -> ShortPlan | None:
        """Tell how a call could go the short way now, see `short.py`: blocking, from outside, without an idempotency key.

        Args:
            identity: who calls.
            action: what is called, with the parameters that it inherits.
            payload: as of `Call`.
            wait_s: as of `Call`.

        Returns:
            None: `invoke` is to be called.
        """
        if self._stopping or action.is_composed or action.limits.timeout > wait_s * 1000:
            return None
        plan = self._planner.find(identity.namespace, action)
        if plan is None or plan.key.spec.logs is not LogTransport.PIPE:
            return None
        if not self._recorder.room(len(self._in_flight) + 1):
            return None
        arguments = payload
        if action.parameters:
            try:
                refuse_final(action, payload)
                arguments, _ = merge_arguments(self._vault.open(action.parameters), payload)
            except InvokerError:
                return None
        return ShortPlan(plan, arguments)

    def start_short(self, call: Call, found: ShortPlan, on_end: Callable[[Ticket], None]) -> None:
        """Run an action as `find_short` found in the same breath; see `ShortWay.start`."""
        self._short_way.start(call, found, on_end)

    async def invoke(self, call: Call) -> Activation | Accepted202:
        """Run an action.

        A client that goes away changes nothing: the activation has a task of its own.

        Args:
            call: what to run, for whom.

        Returns:
            The finished activation of a blocking call; else, or when it takes longer than `call.wait_s`, its id.

        Raises:
            PoolClosed, PoolOverloaded, JournalFull: refused; nothing was done.
            IdempotencyConflict: the key was used with another body.
            ParametersNotAllowed: the payload names a final parameter.
            PlatformError: it was accepted and recorded, and the platform failed; it bears the activation's id.
        """
        refuse_final(call.action, call.payload)
        digest = hashlib.sha256(call.payload).hexdigest() if call.idempotency_key else None
        if digest is not None:
            known = self._recorder.find_idempotent(
                call.identity.namespace.name, call.action.full_path, call.idempotency_key or ""
            )
            if known is not None:
                return await self._repeat(known[0], call, same=known[1] == digest)
        if self._stopping and (call.origin is None or not self._pool.is_busy(call.origin)):
            raise PoolClosed
        if not self._recorder.room(len(self._in_flight) + 1):
            raise JournalFull
        durable = not call.blocking or digest is not None
        plan = None if call.action.is_composed else self._planner.find(call.identity.namespace, call.action)
        ready = plan is not None and self._pool.is_ready(plan.key)
        if plan is not None and (not ready or (durable and plan.key.digest in self._promised)):
            self._check_queue(call, plan)
        wall = time.time()
        activation_id = self._ids.new(wall)
        ticket = Ticket(activation_id, call, wall, durable, Trace(received=call.received), plan)
        self._in_flight.enter(ticket)
        if durable:
            try:
                with self._coming(plan):
                    # Sealed: callers give keys to the actions they trust, as to a feed.
                    written = self._vault.seal_payload(call.identity.namespace.name, call.payload)
                    await self._recorder.accepted(self._accepted(ticket, digest, payload=written))
            except BaseException:
                self._in_flight.leave(ticket)
                raise
        self._begin(ticket)
        if not call.blocking:
            return Accepted202(activation_id=activation_id)
        return await self._wait(ticket, call.wait_s)

    def check_queue(self, call: Call) -> None:
        """Look whether a call that will be promised finds a queue where it may wait. Raises PoolOverloaded where it may not."""
        plan = None if call.action.is_composed else self._planner.find(call.identity.namespace, call.action)
        if plan is not None and not self._pool.is_ready(plan.key):
            self._check_queue(call, plan)

    def _check_queue(self, call: Call, plan: Plan) -> None:
        """Refuse what may not even wait, before anything is made of it. What a container waits for may in any case."""
        if call.origin is not None and call.blocking:
            return
        refusal = self._pool.refusal(plan.key, coming=self._promised.get(plan.key.digest, 0))
        if refusal is not None:
            self._note_refusal(call, refusal)
            raise refusal

    @contextmanager
    def _coming(self, plan: Plan | None) -> Iterator[None]:
        """Count one that is being promised while the disk takes its time, so that those after it do not find its place free."""
        if plan is None:
            yield
            return
        promised, digest = self._promised, plan.key.digest
        promised[digest] = promised.get(digest, 0) + 1
        try:
            yield
        finally:
            promised[digest] -= 1
            if not promised[digest]:
                del promised[digest]

    def _note_refusal(self, call: Call, refusal: PoolOverloaded) -> None:
        if isinstance(refusal, TooManyWaiting):  # a full node's refusals are counted where they are answered
            self._on_throttled(call.identity.namespace.name, refusal.code)

    async def run_promised(
        self, calls: Sequence[tuple[ActivationId, Call]], promise: Callable[[Sequence[Accepted]], Awaitable[None]]
    ) -> None:
        """Have several calls promised together, then run them; nobody waits for their ends.

        Args:
            calls: each with its own id.
            promise: makes them durable, all or none.

        Raises:
            PoolClosed, JournalFull: refused; nothing was done.
        """
        if self._stopping:
            raise PoolClosed
        if not self._recorder.room(len(self._in_flight) + len(calls) + 1):
            raise JournalFull
        wall = time.time()
        tickets = [Ticket(activation_id, call, wall, True, Trace(received=call.received)) for activation_id, call in calls]
        for ticket in tickets:
            self._in_flight.enter(ticket)
        try:
            await promise([self._accepted(ticket, None) for ticket in tickets])
        except BaseException:
            for ticket in tickets:
                self._in_flight.leave(ticket)
            raise
        for ticket in tickets:
            self._begin(ticket)

    def new_id(self) -> ActivationId:
        """Make an activation id."""
        return self._ids.new(time.time())

    def in_flight(self, namespace: str) -> int:
        """Activations of a namespace that have not ended."""
        return self._in_flight.count(namespace)

    def cancel(self, activation_id: ActivationId, *, namespace: str | None = None) -> str | None:
        """End an activation now: what is queued never runs, what runs is killed, recorded and billed to this moment.

        Args:
            activation_id: of one in flight.
            namespace: None cancels anybody's.

        Returns:
            What it was: `queued` or `running`; None when there is none such, or it has ended already.
        """
        ticket = self._in_flight.find(activation_id)
        if ticket is None or (ticket.task is None and ticket.short is None) or ticket.done is not None:
            return None
        if namespace not in {None, ticket.call.identity.namespace.name}:
            return None
        if ticket.short is not None:
            ticket.cancelled = True
            ticket.short.cancel()
            return "running" if ticket.trace.granted else "queued"
        assert ticket.task is not None
        course = ticket.course
        if course is not None:  # it ends when the part that runs has ended
            course.cancelled = True
            if course.running is not None:
                self.cancel(course.running)
            return "running"
        if not ticket.cancelled:
            ticket.cancelled = True
            if ticket.trace.planned:  # else it looks itself, when it begins
                self._loop.call_soon(ticket.task.cancel)  # not now: a task that has not begun would never, nor record anything
        return "running" if ticket.trace.granted else "queued"

    async def wait_recorded(self, activation_id: ActivationId) -> None:
        """Wait until an activation in flight has its record; who is told that it was cancelled can rely on it, whatever comes."""
        ticket = self._in_flight.find(activation_id)
        if ticket is not None and ticket.done is None:
            waiter = self._loop.create_future()
            ticket.waiters.append(waiter)
            await waiter

    def ids_in_flight(self) -> Sequence[ActivationId]:
        """List the activations of all namespaces that have not ended, the parts of composed ones too."""
        return [ticket.activation_id for ticket in self._in_flight]

    @property
    def total_in_flight(self) -> int:
        """Activations of all namespaces that have not ended."""
        return len(self._in_flight)

    def resume(self, accepted: Accepted, call: Call) -> None:
        """Run what an earlier daemon accepted and had not begun."""
        ticket = Ticket(accepted.activation_id, call, time.time(), True, Trace(received=call.received))
        self._in_flight.enter(ticket)
        self._begin(ticket)

    # ---- beginning and end

    def refuse(self) -> None:
        """Take no more. What has a container goes on; what waits for one is told, or if promised left to the next daemon."""
        self._stopping = True
        self._pool.stop_starting()

    async def wait_idle(self) -> None:
        """Wait until nothing is in flight."""
        await self._in_flight.wait_empty()

    def cancel_all(self) -> None:
        """Cancel what is in flight, but leave to the next daemon what was promised and has not begun."""
        for ticket in self._in_flight:
            ticket.left = ticket.durable and not ticket.trace.granted and not ticket.cancelled and not ticket.composes
            self.cancel(ticket.activation_id)

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
                parts = await self._recorder.parts_of(each.facts.namespace, each.activation_id, since_ms=since_ms)
            lost_one = each.record(parts, node=self._node)
            await self._record(lost_one, [], stored=each.stored)
            self._on_finished(lost_one)
        return len(order)

    # ---- one activation

    async def _conduct(self, ticket: Ticket) -> None:
        """The whole way of one activation. Raises only bugs."""
        await self._end_somehow(ticket, self._find_container)

    async def _find_container(self, ticket: Ticket) -> None:
        """Plan, then have the work done in a container."""
        call, trace = ticket.call, ticket.trace
        trace.planned = time.monotonic()
        if ticket.cancelled:
            raise asyncio.CancelledError
        plan = ticket.plan or self._planner.find(call.identity.namespace, call.action)
        if plan is None:
            plan = await self._planner.make(call.identity.namespace, call.action)
        trace.pulled = time.monotonic()
        if call.origin is None:
            await self._with_a_container(ticket, plan)
        else:
            await self._for_a_container(ticket, plan, call.origin)

    # ---- for the short way: see `LongWay`

    def start_over(self, ticket: Ticket) -> asyncio.Task[None]:
        """See `LongWay`."""
        return self._go_long(ticket, self._find_container)

    def fail(self, ticket: Ticket, error: Exception) -> asyncio.Task[None]:
        """See `LongWay`."""

        async def rest(_: Ticket) -> None:
            raise error

        return self._go_long(ticket, rest)

    def take_over(self, ticket: Ticket, lease: Lease) -> asyncio.Task[None]:
        """See `LongWay`."""

        async def rest(ticket: Ticket) -> None:
            plan = ticket.plan
            assert plan is not None, "it was leased by it"
            try:
                with self._pool.held(ticket.activation_id, lease):
                    await self._in_a_container(ticket, plan, lease)
            except ThawFailed:
                await self._with_a_container(ticket, plan)

        return self._go_long(ticket, rest)

    def go_on(self, ticket: Ticket, lease: Lease, answer: asyncio.Future[Response]) -> asyncio.Task[None]:
        """See `LongWay`."""

        async def rest(ticket: Ticket) -> None:
            timeout_ms, limit_bytes = ticket.call.action.limits.timeout, self._result_bytes()
            work = outcome_of(answer, timeout_ms=timeout_ms, limit_bytes=limit_bytes)
            with self._pool.held(ticket.activation_id, lease):
                outcome = await self._measured(ticket, lease, work)
                await self._end(ticket, outcome, logs=take_lines(ticket, lease))

        return self._go_long(ticket, rest)

    def end_late(self, ticket: Ticket, lease: Lease, outcome: Outcome, lines: list[str]) -> asyncio.Task[None]:
        """See `LongWay`."""

        async def rest(ticket: Ticket) -> None:
            with self._pool.held(ticket.activation_id, lease):
                await self._end(ticket, outcome, logs=lines)

        return self._go_long(ticket, rest)

    def _go_long(self, ticket: Ticket, rest: Callable[[Ticket], Awaitable[None]]) -> asyncio.Task[None]:
        way = self._end_somehow(ticket, rest)
        try:
            return self._group.create_task(way, name=f"activation {ticket.activation_id}")
        except RuntimeError:  # the group is being cancelled: a bug elsewhere ends the daemon
            way.close()
            raise

    async def _end_somehow(self, ticket: Ticket, work: Callable[[Ticket], Awaitable[None]]) -> None:
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
                await self._fail(ticket, Status.APPLICATION_ERROR, "The activation was cancelled.", "cancelled")
        except (MemoryNeverAvailable, LimitsLowered) as error:
            await self._fail(ticket, Status.APPLICATION_ERROR, str(error), error.code)
        except ActionError as error:
            await self._fail(ticket, Status.DEVELOPER_ERROR, str(error), error.code)
        except PlatformError as error:
            await self._fail_by_us(ticket, error)
        finally:
            self._in_flight.leave(ticket)

    async def _fail_by_us(self, ticket: Ticket, error: PlatformError) -> None:
        """End an activation that the platform failed."""
        if isinstance(error, PoolOverloaded) and not ticket.durable:  # as by `_check_queue`, which did not know its plan yet
            self._note_refusal(ticket.call, error)
            ticket.resolve(None, error)
            return
        error.activation_id = ticket.activation_id
        if isinstance(error, PoolClosed) and ticket.durable and not ticket.trace.granted:
            ticket.resolve(None, error)  # promised and not begun: the next daemon finds it in the journal and runs it
        else:
            await self._fail(ticket, Status.INTERNAL_ERROR, str(error), error.code, error)

    async def _compose(self, ticket: Ticket, course: Course) -> None:
        """The whole way of a sequence or a composition. Raises only bugs."""
        try:
            try:
                if ticket.durable:
                    await self._recorder.begun(ticket.activation_id)
                else:
                    self._recorder.note_begun(self._accepted(ticket, None, payload=_NOTHING))
            except PlatformError as error:  # the journal cannot say that it began: then it must not
                error.activation_id = ticket.activation_id
                await self._fail(ticket, Status.INTERNAL_ERROR, str(error), error.code, error)
                return
            outcome = await self._composer.conduct(course)
            activation = finished_composition(course, outcome, node=self._node, wall=ticket.wall)
            await self._record(activation, [], stored=ticket.call.identity.namespace.limits.store_activations)
            ticket.resolve(activation)
            self._on_finished(activation)
        finally:
            self._in_flight.leave(ticket)

    async def _run_part(self, course: Course, call: Call) -> Activation:
        """Run one part of a sequence or composition, and wait for its end."""
        if not self._recorder.room(len(self._in_flight) + 1):
            raise JournalFull
        wall = time.time()
        ticket = Ticket(self._ids.new(wall), call, wall, False, Trace(received=call.received))
        course.running = ticket.activation_id
        self._in_flight.enter(ticket)
        self._begin(ticket)
        waiter = self._loop.create_future()
        ticket.waiters.append(waiter)
        await waiter
        assert ticket.done is not None, "what was not promised has a record"
        return ticket.done

    async def _conduct_builtin(self, ticket: Ticket) -> None:
        """The whole way of what the daemon carries out itself: no container, else as `_conduct`. Raises only bugs."""
        call, trace = ticket.call, ticket.trace
        try:
            if ticket.durable:
                await self._recorder.begun(ticket.activation_id)
            elif call.within is not None:
                self._recorder.part_begins(self._accepted(ticket, None, payload=_NOTHING))
            trace.planned = trace.pulled = trace.granted = trace.run_began = time.monotonic()
            arguments, _ = merge_arguments(self._vault.open(call.action.parameters), call.payload)
            result = await self._builtins.get(call.action.full_path, _not_provided)(call.identity, arguments)
            trace.ended = time.monotonic()
            await self._end(ticket, Outcome(status=Status.SUCCESS, result=result, response_bytes=len(result)), logs=[])
        except asyncio.CancelledError:
            if not ticket.cancelled or ticket.task is None:
                raise
            ticket.task.uncancel()
            await self._fail(ticket, Status.APPLICATION_ERROR, "The activation was cancelled.", "cancelled")
        except ActionError as error:
            await self._fail(ticket, Status.APPLICATION_ERROR, str(error), "application-error")
        except PlatformError as error:
            error.activation_id = ticket.activation_id
            await self._fail(ticket, Status.INTERNAL_ERROR, str(error), error.code, error)
        finally:
            self._in_flight.leave(ticket)

    async def _for_a_container(self, ticket: Ticket, plan: Plan, origin: ContainerId) -> None:
        """As `_with_a_container`, for a container that waits for it."""
        if not ticket.call.blocking:
            await self._with_a_container(ticket, plan)
            return
        self._nesting.enter(ticket.activation_id, NestedCall(origin, plan.key))
        try:
            await self._with_a_container(ticket, plan)
        finally:
            self._nesting.leave(ticket.activation_id)

    async def _with_a_container(self, ticket: Ticket, plan: Plan) -> None:
        """Lease a container, have the work done, record it, answer. A container that would not thaw is replaced."""
        activation_id = ticket.activation_id
        for attempt in range(1, THAW_ATTEMPTS + 1):
            deadline = self._loop.time() + self._max_wait_s()
            try:
                async with self._pool.lease(
                    activation_id, plan.key, facts=plan.facts, deadline=deadline, standing=ticket.standing
                ) as lease:
                    await self._in_a_container(ticket, plan, lease)
            except ThawFailed:
                if attempt == THAW_ATTEMPTS:
                    raise
            else:
                return

    async def _in_a_container(self, ticket: Ticket, plan: Plan, lease: Lease) -> None:
        """Have the work done, record it, answer."""
        outcome = await self._serve(ticket, plan, lease)
        if not lease.logs.come_late:
            await self._end(ticket, outcome, logs=take_lines(ticket, lease))
            return
        await self._end(ticket, outcome, logs=None)
        await lease.logs.wait_complete(self._loop.time() + LOG_DEADLINE_S)
        self._recorder.logs(ticket.activation_id, lease.logs.end(ticket.activation_id))

    async def _serve(self, ticket: Ticket, plan: Plan, lease: Lease) -> Outcome:
        """Have the container do the work, and read what it cost."""
        call, trace, action = ticket.call, ticket.trace, ticket.call.action
        trace.granted = time.monotonic()
        trace.created_from, trace.created_to = lease.created_between
        trace.start_kind, trace.container = lease.start_kind, lease.container_id
        if ticket.durable:
            await self._recorder.begun(ticket.activation_id)
        elif call.within is not None:
            self._recorder.part_begins(self._accepted(ticket, None, payload=_NOTHING))
        lease.logs.begin(ticket.activation_id, limit_bytes=action.limits.logs * MIB)
        arguments, environment = merge_arguments(self._vault.open(action.parameters), call.payload)
        return await self._measured(ticket, lease, self._work(ticket, plan, lease, arguments, environment))

    async def _work(
        self, ticket: Ticket, plan: Plan, lease: Lease, arguments: msgspec.Raw, environment: dict[str, str]
    ) -> Outcome:
        """/init, where it has not its code, then /run."""
        if lease.needs_init:
            if plan.stems:
                self._pool.want_stems(plan.key.spec, plan.stems, plan.reactive)
            outcome = await self._initialise(ticket, plan, lease, environment)
            if outcome is not None:
                return outcome
        return await self._run(ticket, plan, lease, arguments)

    async def _measured(self, ticket: Ticket, lease: Lease, work: Coroutine[Any, Any, Outcome]) -> Outcome:
        """Have the work done, and read what it cost, whatever becomes of it."""
        try:
            outcome = await work
            lease.clean = outcome.keep
        finally:
            read_counters(ticket, lease)
        usage = ticket.trace.usage
        if not outcome.keep and not outcome.timed_out and (await lease.was_out_of_memory() if usage is None else usage.oom_kills):
            sentence = f"The action exhausted its memory and was aborted: its limit is {ticket.call.action.limits.memory} MB."
            return Outcome.failure(Status.DEVELOPER_ERROR, sentence, "oom")
        return outcome

    async def _initialise(self, ticket: Ticket, plan: Plan, lease: Lease, environment: dict[str, str]) -> Outcome | None:
        """Send /init; None when the container is ready to run."""
        action, timeout_ms = ticket.call.action, ticket.call.action.limits.timeout
        executable = action.exec
        ticket.trace.init_began = ticket.trace.granted
        body = init_body(
            name=action.name,
            main=executable.main,
            code=await self._in_flight.code.read(executable.code) if executable.code and plan.mounted_code is None else None,
            code_path=MOUNT_TARGET if plan.mounted_code is not None else None,
            binary=executable.binary,
            environment=environment | self._context(ticket, plan),
        )
        deadline = self._loop.time() + timeout_ms / 1000
        return await initialise(lease, body, deadline=deadline, timeout_ms=timeout_ms)

    def _context(self, ticket: Ticket, plan: Plan) -> dict[str, str]:
        """What /init tells the action of its surroundings."""
        call = ticket.call
        context = {
            "__OW_NAMESPACE": call.identity.namespace.name,
            "__OW_ACTION_NAME": plan.action_name,
            "__OW_ACTION_VERSION": call.action.version,
            "__OW_ACTIVATION_ID": ticket.activation_id,
            "__OW_TRANSACTION_ID": call.transaction,
            "__OW_DEADLINE": str(int(time.time() * 1000) + call.action.limits.timeout),
        }
        if plan.gives_api_key:
            context["__OW_API_KEY"] = call.identity.api_key
        return context

    async def _run(self, ticket: Ticket, plan: Plan, lease: Lease, arguments: msgspec.Raw) -> Outcome:
        """Send /run."""
        call, timeout_ms = ticket.call, ticket.call.action.limits.timeout
        body = run_body(
            plan.prefix,
            arguments,
            activation_id=ticket.activation_id,
            transaction=call.transaction,
            deadline_ms=int(time.time() * 1000) + timeout_ms,
            api_key=call.identity.api_key if plan.gives_api_key else None,
        )
        deadline = self._loop.time() + timeout_ms / 1000
        ticket.trace.run_began = time.monotonic()
        return await run(lease, body, deadline=deadline, timeout_ms=timeout_ms, limit_bytes=self._result_bytes())

    # ---- the end of one

    async def _fail(self, ticket: Ticket, status: Status, sentence: str, reason: str, error: InvokerError | None = None) -> None:
        """End an activation that got no answer from its action."""
        if ticket.done is None:
            ticket.trace.ended = ticket.trace.ended or time.monotonic()
            await self._end(ticket, Outcome.failure(status, sentence, reason), logs=[], error=error)

    def _on_bug(self, error: Exception) -> None:
        """Bring the daemon down, as it would in a task of the group."""
        bug = _raise(error)
        try:
            self._group.create_task(bug, name="bug")
        except RuntimeError:  # it ends already
            bug.close()
            _log.exception("a call failed", exc_info=error)

    async def _end(self, ticket: Ticket, outcome: Outcome, *, logs: list[str] | None, error: InvokerError | None = None) -> None:
        """Write the finished record, then answer: in this order, so that no answer is without its record."""
        activation = finished_activation(ticket, outcome, node=self._node)
        await self._record(activation, logs, stored=ticket.call.identity.namespace.limits.store_activations)
        ticket.resolve(activation, error)
        self._on_finished(activation)

    async def _record(self, activation: Activation, logs: list[str] | None, *, stored: bool | None = None) -> None:
        try:
            write_record(self._recorder, activation, logs, stored=stored)
        except RecordTooLarge:
            await self._recorder.finish_large(activation, logs=logs)

    def _begin(self, ticket: Ticket) -> None:
        call = ticket.call
        if ticket.composes:
            ticket.course = Course(ticket.activation_id, call)
            way = self._compose(ticket, ticket.course)
        elif call.action.exec.kind == BUILTIN:
            way = self._conduct_builtin(ticket)
        else:
            way = self._conduct(ticket)
        ticket.task = self._group.create_task(way, name=f"activation {ticket.activation_id}")

    async def _wait(self, ticket: Ticket, wait_s: float) -> Activation | Accepted202:
        """Wait for an activation, or for its id alone once the time is up."""
        if ticket.done is None:
            waiter = self._loop.create_future()
            ticket.waiters.append(waiter)
            timer = self._loop.call_later(wait_s, release, waiter)
            try:
                await waiter
            finally:
                timer.cancel()
        if ticket.error is not None:
            raise ticket.error
        return ticket.done or Accepted202(activation_id=ticket.activation_id)

    async def _repeat(self, activation_id: ActivationId, call: Call, *, same: bool) -> Activation | Accepted202:
        """Answer a call whose idempotency key was used before with the first activation."""
        if not same:
            raise IdempotencyConflict
        if not call.blocking:
            return Accepted202(activation_id=activation_id)
        ticket = self._in_flight.find(activation_id)
        if ticket is not None:
            return await self._wait(ticket, call.wait_s)
        activation = await self._recorder.get(call.identity.namespace.name, activation_id)
        return activation or Accepted202(activation_id=activation_id)

    def _accepted(self, ticket: Ticket, digest: str | None, *, payload: msgspec.Raw | None = None) -> Accepted:
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


async def _raise(error: Exception) -> None:
    raise error


async def _not_provided(_identity: Identity, _arguments: msgspec.Raw) -> msgspec.Raw:
    raise ActionError("This version of the server does not provide the action any more.")
