"""The activations in flight, and what each of them holds meanwhile: its place in its namespace's count, and its code."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from invoker.record.code_files import CodeFiles
from invoker.ticket import Ticket
from pool.model import ActivationId


class InFlight:
    """All and only activations that were taken and have not ended."""

    def __init__(self, code: CodeFiles) -> None:
        """Begin empty.

        Args:
            code: of actions; held for those in flight.
        """
        self.code = code
        self._tickets: dict[ActivationId, Ticket] = {}
        #: By namespace; no zeros.
        self._counts: dict[str, int] = {}
        #: Those that count no more, though they have not ended.
        self._answered: set[ActivationId] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        """How many there are, of all namespaces."""
        return len(self._tickets)

    def __iter__(self) -> Iterator[Ticket]:
        """All of them, as they are now."""
        return iter(list(self._tickets.values()))

    def find(self, activation_id: ActivationId) -> Ticket | None:
        """Find one that has not ended."""
        return self._tickets.get(activation_id)

    def count(self, namespace: str) -> int:
        """How many a namespace has; a sequence counts once, whatever it runs."""
        return self._counts.get(namespace, 0)

    async def wait_empty(self) -> None:
        """Wait until there is none."""
        await self._idle.wait()

    def enter(self, ticket: Ticket) -> None:
        """Take one up."""
        if not self._tickets:
            self._idle.clear()
        self._tickets[ticket.activation_id] = ticket
        call = ticket.call
        if call.within is None:
            namespace = call.identity.namespace.name
            self._counts[namespace] = self._counts.get(namespace, 0) + 1
        if (digest := call.action.exec.code) is not None:
            self.code.hold(digest)

    def leave(self, ticket: Ticket) -> None:
        """It has ended."""
        del self._tickets[ticket.activation_id]
        call = ticket.call
        if (digest := call.action.exec.code) is not None:
            self.code.release(digest)
        if ticket.activation_id in self._answered:
            self._answered.remove(ticket.activation_id)
        elif call.within is None:
            self._count_less(call.identity.namespace.name)
        if not self._tickets:
            self._idle.set()

    def count_no_more(self, ticket: Ticket) -> None:
        """It was answered, and only log lines of it are still to come: its caller may make the next call."""
        if ticket.call.within is None:
            self._answered.add(ticket.activation_id)
            self._count_less(ticket.call.identity.namespace.name)

    def _count_less(self, namespace: str) -> None:
        left = self._counts[namespace] - 1
        if left:
            self._counts[namespace] = left
        else:
            del self._counts[namespace]
