"""The long way: one activation in a task of its own, top to bottom: plan, lease, /init, /run, counters, record, answer.

`conduct` is the whole of it. What the short way (`short.py`) cannot bring to its end goes on here, from where it stands.
What the action does wrong is an outcome; what the platform does wrong is an outcome too, and an error for the caller.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import msgspec

from invoker.activation import Status
from invoker.arguments import merge_arguments
from invoker.code import MOUNT_TARGET
from invoker.ending import Endings, end_lines, read_counters, take_lines
from invoker.in_flight import InFlight
from invoker.model import MIB
from invoker.nesting import NestedCall, Nesting
from invoker.plan import Plan, Planner
from invoker.record.recorder import Recorder
from invoker.runtime import Outcome, init_body, initialise, outcome_of, run, run_body
from invoker.ticket import NO_PAYLOAD, Ticket, promise_of
from invoker.vault import Vault
from pool.connection import Response
from pool.errors import ThawFailed
from pool.lease import Lease
from pool.model import ContainerId, MemoryKill
from pool.pool import Pool

#: A container that would not thaw has run nothing: the activation may have another, this often.
THAW_ATTEMPTS = 3


class LongWay:
    """Conducts activations that have a task. Owns none of its parts."""

    def __init__(
        self,
        *,
        pool: Pool,
        planner: Planner,
        recorder: Recorder,
        vault: Vault,
        in_flight: InFlight,
        endings: Endings,
        group: asyncio.TaskGroup,
        max_wait_s: Callable[[], float],
        result_bytes: Callable[[], int],
    ) -> None:
        """Join the parts; see `Invoker`."""
        self._pool = pool
        self._planner = planner
        self._recorder = recorder
        self._vault = vault
        self._in_flight = in_flight
        self._endings = endings
        self._group = group
        self._max_wait_s = max_wait_s
        self._result_bytes = result_bytes
        self._nesting = Nesting(pool)
        self._loop = asyncio.get_running_loop()

    async def conduct(self, ticket: Ticket) -> None:
        """The whole way of one activation. Raises only bugs."""
        await self._endings.run(ticket, self._find_container)

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
        await self._end(ticket, lease, outcome, take_lines(ticket, lease))

    async def _end(self, ticket: Ticket, lease: Lease, outcome: Outcome, lines: list[str] | None) -> None:
        """Record it, answer, and then, where there are no lines yet, wait for them while it still has its container."""
        await self._endings.end(ticket, outcome, logs=lines)
        if lines is None:
            self._in_flight.count_no_more(ticket)
            try:
                await self._wait_lines(lease)
            finally:  # cancelled, there are some all the same
                self._recorder.logs(ticket.activation_id, end_lines(ticket, lease))

    async def _wait_lines(self, lease: Lease) -> None:
        await lease.logs.wait_complete(self._loop.time() + lease.logs.patience_s)

    async def _serve(self, ticket: Ticket, plan: Plan, lease: Lease) -> Outcome:
        """Have the container do the work, and read what it cost."""
        call, trace, action = ticket.call, ticket.trace, ticket.call.action
        trace.granted = time.monotonic()
        trace.init_began = trace.sent = trace.run_began = trace.ended = 0.0  # of a container before this one, that did not thaw
        trace.created_from, trace.created_to = lease.created_between
        trace.start_kind, trace.container = lease.start_kind, lease.container_id
        if ticket.durable:
            await self._recorder.begun(ticket.activation_id)
        elif call.within is not None:
            self._recorder.part_begins(promise_of(ticket, payload=NO_PAYLOAD))
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
        """Have the work done, and read what it cost, whatever becomes of it, and what it had said when it was cancelled."""
        try:
            try:
                outcome = await work
                lease.clean = outcome.keep
            finally:
                read_counters(ticket, lease)
        except asyncio.CancelledError:
            try:
                if not lease.logs.drain():
                    await self._wait_lines(lease)
            finally:
                ticket.lines = lease.logs.end(ticket.activation_id, complete=False)
            raise
        if outcome.keep or outcome.timed_out:
            return outcome
        kill, memory_mb = await lease.memory_kill(ticket.trace.usage), ticket.call.action.limits.memory
        if kill is MemoryKill.OWN_LIMIT:
            sentence = f"The action exhausted its memory and was aborted: its limit is {memory_mb} MB."
            return Outcome.failure(Status.DEVELOPER_ERROR, sentence, "oom")
        if kill is MemoryKill.ALL_TOGETHER:
            sentence = f"The node ran out of memory and the action was aborted within its own limit of {memory_mb} MB."
            return Outcome.failure(Status.INTERNAL_ERROR, sentence, "node-out-of-memory")
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

    # ---- what the short way cannot bring to its end: each in a task that begins with the loop's next turn

    def start_over(self, ticket: Ticket) -> asyncio.Task[None]:
        """Find a container, then all that comes after it. It has none, and is not in the queue."""
        return self._go_long(ticket, self._find_container)

    def fail(self, ticket: Ticket, error: Exception) -> asyncio.Task[None]:
        """End it: there is no container for it."""

        async def rest(_: Ticket) -> None:
            raise error

        return self._go_long(ticket, rest)

    def take_over(self, ticket: Ticket, lease: Lease) -> asyncio.Task[None]:
        """Have the work done in the container that it got, to which nothing was sent, then all that comes after it."""

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
        """Wait for the response, then all that comes after it."""

        async def rest(ticket: Ticket) -> None:
            timeout_ms, limit_bytes = ticket.call.action.limits.timeout, self._result_bytes()
            work = outcome_of(answer, timeout_ms=timeout_ms, limit_bytes=limit_bytes)
            with self._pool.held(ticket.activation_id, lease):
                outcome = await self._measured(ticket, lease, work)
                await self._end(ticket, lease, outcome, take_lines(ticket, lease))

        return self._go_long(ticket, rest)

    def end_late(self, ticket: Ticket, lease: Lease, outcome: Outcome, lines: list[str] | None) -> asyncio.Task[None]:
        """Write the record, then all that comes after it; counters are taken already, and what lines there are."""

        async def rest(ticket: Ticket) -> None:
            with self._pool.held(ticket.activation_id, lease):
                await self._end(ticket, lease, outcome, lines)

        return self._go_long(ticket, rest)

    def _go_long(self, ticket: Ticket, rest: Callable[[Ticket], Awaitable[None]]) -> asyncio.Task[None]:
        way = self._endings.run(ticket, rest)
        try:
            return self._group.create_task(way, name=f"activation {ticket.activation_id}")
        except RuntimeError:  # the group is being cancelled: a bug elsewhere ends the daemon
            way.close()
            raise
