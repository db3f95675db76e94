"""The way of a sequence or a composition: begun on record, its parts run one after the other, its own record, answer.

What runs next is decided by `composition.py`; each part is an activation that goes its own way.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from invoker.activation import Activation, Status
from invoker.composition import Composer, Course, Resolve, finished_composition
from invoker.ending import Endings
from invoker.errors import JournalFull
from invoker.ids import ActivationIds
from invoker.in_flight import InFlight
from invoker.invocation import Call
from invoker.record.recorder import Recorder
from invoker.ticket import NO_PAYLOAD, Ticket, Trace, promise_of
from pool.errors import PlatformError


class ComposedWay:
    """Conducts sequences and compositions. Owns none of its parts."""

    def __init__(
        self,
        *,
        resolve: Resolve,
        recorder: Recorder,
        in_flight: InFlight,
        ids: ActivationIds,
        endings: Endings,
        node: str,
        begin: Callable[[Ticket], None],
    ) -> None:
        """Join the parts; see `Invoker`.

        Args:
            resolve: finds what is to be run.
            recorder: is told that it began.
            in_flight: where each part is entered.
            ids: of the parts.
            endings: write the records.
            node: in every record.
            begin: has a part go its way.
        """
        self._composer = Composer(resolve, self._run_part)
        self._recorder = recorder
        self._in_flight = in_flight
        self._ids = ids
        self._endings = endings
        self._node = node
        self._begin = begin

    async def conduct(self, ticket: Ticket, course: Course) -> None:
        """The whole way of a sequence or a composition. Raises only bugs."""
        try:
            try:
                if ticket.durable:
                    await self._recorder.begun(ticket.activation_id)
                else:
                    self._recorder.note_begun(promise_of(ticket, payload=NO_PAYLOAD))
            except PlatformError as error:  # the journal cannot say that it began: then it must not
                error.activation_id = ticket.activation_id
                await self._endings.fail(ticket, Status.INTERNAL_ERROR, str(error), error.code, error)
                return
            outcome = await self._composer.conduct(course)
            activation = finished_composition(course, outcome, node=self._node, wall=ticket.wall)
            await self._endings.finish(ticket, activation, logs=[])
        finally:
            course.coming.close()
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
        loop = asyncio.get_running_loop()
        loop.call_soon(course.coming.close)  # after the first step of the part, by which it has a container or waits for one
        waiter = loop.create_future()
        ticket.waiters.append(waiter)
        await waiter
        assert ticket.done is not None, "what was not promised has a record"
        return ticket.done
