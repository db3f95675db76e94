"""Finished records that the databases do not have yet, for readers to find, and those that wait for their logs.

A record becomes visible once its logs are there, at the latest `LOGS_WAIT_S` after its end: clients ask for logs as soon
as they see a record, and take what they get for all there is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from invoker.record.entries import Entry, FinishedEntry, FiredEntry, LogsEntry
from pool.model import ActivationId

#: How long a record waits for its logs before it is shown without them, seconds.
LOGS_WAIT_S = 2.0
#: How long after that late logs are still taken, seconds.
_LATE_LOGS_S = 10.0


class Awaiting(NamedTuple):
    """A record whose logs are awaited, and until when it is hidden, seconds of the clock."""

    namespace: str
    start_ms: int
    hidden_until: float


class Uncommitted:
    """Belongs to one event loop."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Begin empty.

        Args:
            clock: monotonic, seconds.
        """
        self._clock = clock
        #: By activation id.
        self.records: dict[str, FinishedEntry] = {}
        #: Lines that were given apart from their record.
        self.lines: dict[str, Sequence[str]] = {}
        #: Oldest first.
        self._awaiting: dict[str, Awaiting] = {}

    def add(self, entry: FinishedEntry) -> None:
        """Let readers find a finished record before it is committed. The first record of an activation counts."""
        activation = entry.activation
        if activation.activation_id in self.records:
            return
        self.records[activation.activation_id] = entry
        if entry.lines is None:
            now = self._clock()
            # At most as many are forgotten as are added, and one more: nobody waits for it, and it does not grow.
            for each, awaiting in list(itertools.islice(self._awaiting.items(), 2)):
                if awaiting.hidden_until + _LATE_LOGS_S <= now:
                    del self._awaiting[each]
            self._awaiting[activation.activation_id] = Awaiting(activation.namespace, activation.start_ms, now + LOGS_WAIT_S)

    def add_lines(self, activation_id: ActivationId, lines: Sequence[str]) -> Awaiting | None:
        """Add the log lines of a record that waits for them; None when none does: they are not taken. The first lines count."""
        awaiting = self._awaiting.pop(activation_id, None)
        if awaiting is not None:
            self.lines.setdefault(activation_id, lines)
        return awaiting

    def drop(self, activation_id: ActivationId) -> None:
        """Take back a record that could not be made durable."""
        self.records.pop(activation_id, None)

    def forget(self, committed: Iterable[Entry]) -> None:
        """Forget what readers find in the databases now."""
        for entry in committed:
            if isinstance(entry, FinishedEntry | FiredEntry):
                self.records.pop(entry.activation.activation_id, None)
            elif isinstance(entry, LogsEntry):
                self.lines.pop(entry.activation_id, None)

    def lines_of(self, entry: FinishedEntry) -> Sequence[str]:
        """Return what is known of a record's log lines."""
        if entry.lines is not None:
            return entry.lines
        return self.lines.get(entry.activation.activation_id, ())

    def is_hidden(self, activation_id: str) -> bool:
        """Whether a record is not to be shown yet, in memory or in the database."""
        awaiting = self._awaiting.get(activation_id)
        return awaiting is not None and awaiting.hidden_until > self._clock()

    def hidden(self) -> list[str]:
        """List the records that are not to be shown yet."""
        now = self._clock()
        return [activation_id for activation_id, awaiting in self._awaiting.items() if awaiting.hidden_until > now]
