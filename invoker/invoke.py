"""READ THIS FIRST: what becomes of a call.

`Invoker.invoke` takes a call that was authenticated and admitted, promises it where it must be, and gives it one of four ways:

- `long.py`: a task that leases a container and has the work done in it; the whole way, top to bottom;
- `short.py`: the second half of that without a task, which most calls need only; taken by `find_short`, not by `invoke`;
- `composed.py`: a sequence or a composition, each part of which goes its own way;
- `builtin.py`: what the daemon carries out itself.

All end by `ending.py`. Whatever happens, exactly one finished record is written; none of a call that was refused before it could
even wait (`places.py`).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

import msgspec

from invoker.activation import Accepted, Activation
from invoker.arguments import merge_arguments, refuse_final
from invoker.builtin import BuiltinWay
from invoker.composed import ComposedWay
from invoker.composition import Course, Resolve
from invoker.ending import Endings
from invoker.errors import IdempotencyConflict, JournalFull
from invoker.ids import ActivationIds
from invoker.in_flight import InFlight
from invoker.invocation import Accepted202, Builtin, Call
from invoker.long import LongWay
from invoker.lost import Lost
from invoker.manifest import BUILTIN
from invoker.model import Action, Identity
from invoker.places import Places
from invoker.plan import Planner
from invoker.record.code_files import CodeFiles
from invoker.record.recorder import Recorder
from invoker.short import ShortPlan, ShortWay
from invoker.ticket import Ticket, Trace, promise_of, release
from invoker.vault import Vault
from pool.errors import InvokerError, PoolClosed
from pool.model import ActivationId, LogTransport
from pool.pool import Pool

_log = logging.getLogger(__name__)


class Invoker:
    """Takes calls and gives them their ways."""

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
        self._stopping = False
        self._ids = ids = ActivationIds()
        self._in_flight = in_flight = InFlight(code)
        self._endings = endings = Endings(
            recorder=recorder, in_flight=in_flight, node=node, on_finished=on_finished, on_throttled=on_throttled
        )
        self._places = places = Places(pool, planner, resolve, endings.note_refusal)
        #: Look whether a call that will be promised finds a queue where it may wait. Raises PoolOverloaded where it may not.
        self.check_queue = places.check_first
        self._long_way = LongWay(
            pool=pool,
            planner=planner,
            recorder=recorder,
            vault=vault,
            in_flight=in_flight,
            endings=endings,
            group=group,
            max_wait_s=max_wait_s,
            result_bytes=result_bytes,
        )
        self._composed_way = ComposedWay(
            resolve=resolve,
            recorder=recorder,
            in_flight=in_flight,
            ids=ids,
            endings=endings,
            node=node,
            begin=self._begin,
        )
        self._builtin_way = BuiltinWay(builtins, recorder=recorder, vault=vault, endings=endings)
        short_way = ShortWay(
            pool=pool,
            recorder=recorder,
            in_flight=in_flight,
            ids=ids,
            node=node,
            check_queue=places.check,
            max_wait_s=max_wait_s,
            result_bytes=result_bytes,
            on_finished=on_finished,
            long_way=self._long_way,
            on_bug=self._on_bug,
        )
        #: Run an action as `find_short` found in the same breath.
        self.start_short = short_way.start

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
        composed = call.action.is_composed
        plan = self._places.plan_first(call) if composed else self._planner.find(call.identity.namespace, call.action)
        ready = plan is not None and self._pool.is_ready(plan.key)
        if plan is not None and (not ready or ((durable or composed) and self._places.has_coming(plan))):
            self._places.check(call, plan)
        wall = time.time()
        activation_id = self._ids.new(wall)
        ticket = Ticket(activation_id, call, wall, durable, Trace(received=call.received), None if composed else plan)
        self._in_flight.enter(ticket)
        if composed:
            ticket.course = Course(activation_id, call)
            ticket.course.coming.enter_context(self._places.keep(plan))
        if durable:
            await self._promise(ticket, digest)
        self._begin(ticket)
        if not call.blocking:
            return Accepted202(activation_id=activation_id)
        return await self._wait(ticket, call.wait_s)

    async def _promise(self, ticket: Ticket, digest: str | None) -> None:
        """Make an activation durable; where that fails it was never there."""
        call = ticket.call
        try:
            with self._places.keep(ticket.plan):
                # Sealed: callers give keys to the actions they trust, as to a feed.
                written = self._vault.seal_payload(call.identity.namespace.name, call.payload)
                await self._recorder.accepted(promise_of(ticket, payload=written, digest=digest))
        except BaseException:
            if ticket.course is not None:
                ticket.course.coming.close()
            self._in_flight.leave(ticket)
            ticket.release_waiters()
            raise

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
            await promise([promise_of(ticket) for ticket in tickets])
        except BaseException:
            for ticket in tickets:
                self._in_flight.leave(ticket)
                ticket.release_waiters()
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
        if ticket is None or ticket.done is not None:
            return None
        if namespace not in {None, ticket.call.identity.namespace.name}:
            return None
        if ticket.short is not None:
            ticket.cancelled = True
            ticket.short.cancel()
            return "running" if ticket.trace.granted else "queued"
        course = ticket.course
        if course is not None:  # it ends when the part that runs has ended
            course.cancelled = True
            if course.running is not None:
                self.cancel(course.running)
            return "running"
        if not ticket.cancelled:
            ticket.cancelled = True
            if ticket.trace.planned:  # else it looks itself, when it begins
                assert ticket.task is not None
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

    async def record_lost(self, lost: Iterable[Lost]) -> int:
        """End what an earlier daemon had begun; see `Endings.record_lost`."""
        return await self._endings.record_lost(lost)

    async def wait_idle(self) -> None:
        """Wait until nothing is in flight."""
        await self._in_flight.wait_empty()

    def cancel_all(self) -> None:
        """Cancel what is in flight, but leave to the next daemon what was promised and has not begun."""
        for ticket in self._in_flight:
            ticket.left = ticket.durable and not ticket.trace.granted and not ticket.cancelled and not ticket.composes
            self.cancel(ticket.activation_id)

    def _on_bug(self, error: Exception) -> None:
        """Bring the daemon down, as it would in a task of the group."""
        bug = _raise(error)
        try:
            self._group.create_task(bug, name="bug")
        except RuntimeError:  # it ends already
            bug.close()
            _log.exception("a call failed", exc_info=error)

    def _begin(self, ticket: Ticket) -> None:
        """Give an activation its way, in a task of its own."""
        call = ticket.call
        if ticket.composes:
            course = ticket.course = ticket.course or Course(ticket.activation_id, call)
            course.cancelled |= ticket.cancelled
            way = self._composed_way.conduct(ticket, course)
        elif call.action.exec.kind == BUILTIN:
            way = self._builtin_way.conduct(ticket)
        else:
            way = self._long_way.conduct(ticket)
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
        activation = await self._recorder.records.get(call.identity.namespace.name, activation_id)
        return activation or Accepted202(activation_id=activation_id)


async def _raise(error: Exception) -> None:
    raise error
