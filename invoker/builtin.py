"""The way of an action that the daemon carries out itself, as the feeds of `whisk.system`: no container, else as every other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

import msgspec

from invoker.activation import Status
from invoker.arguments import merge_arguments
from invoker.ending import Endings
from invoker.invocation import Builtin
from invoker.model import Identity
from invoker.record.recorder import Recorder
from invoker.runtime import Outcome
from invoker.ticket import NO_PAYLOAD, Ticket, promise_of
from invoker.vault import Vault
from pool.errors import ActionError


class BuiltinWay:
    """Conducts built-in actions. Owns none of its parts."""

    def __init__(self, builtins: Mapping[str, Builtin], *, recorder: Recorder, vault: Vault, endings: Endings) -> None:
        """Join the parts; see `Invoker`."""
        self._builtins = builtins
        self._recorder = recorder
        self._vault = vault
        self._endings = endings

    async def conduct(self, ticket: Ticket) -> None:
        """The whole way of what the daemon carries out itself. Raises only bugs."""
        await self._endings.run(ticket, self._carry_out)

    async def _carry_out(self, ticket: Ticket) -> None:
        call, trace = ticket.call, ticket.trace
        trace.planned = trace.pulled = time.monotonic()
        if ticket.cancelled:
            raise asyncio.CancelledError
        if ticket.durable:
            await self._recorder.begun(ticket.activation_id)
        elif call.within is not None:
            self._recorder.part_begins(promise_of(ticket, payload=NO_PAYLOAD))
        trace.granted = trace.run_began = time.monotonic()
        arguments, _ = merge_arguments(self._vault.open(call.action.parameters), call.payload)
        try:
            result = await self._builtins.get(call.action.full_path, _not_provided)(call.identity, arguments)
        except ActionError as error:
            outcome = Outcome.failure(Status.APPLICATION_ERROR, str(error), "application-error")
        else:
            outcome = Outcome(status=Status.SUCCESS, result=result, response_bytes=len(result))
        trace.ended = time.monotonic()
        await self._endings.end(ticket, outcome, logs=[])


async def _not_provided(_identity: Identity, _arguments: msgspec.Raw) -> msgspec.Raw:
    raise ActionError("This version of the server does not provide the action any more.")
