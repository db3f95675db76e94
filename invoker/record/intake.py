"""The intake: entries go into the journal here, and at once, in memory, to the writer.

It joins what may wait to the next record, keeps large records whose bodies are still on their way from being overtaken
by the journal's position, and knows what the writer has committed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from invoker.errors import JournalFull
from invoker.record.entries import Entry, encode_entry, join_entries
from invoker.record.journal import INLINE_RECORD_BYTES, Journal
from invoker.record.writer import Follower, Written

#: Longest encoded entry that goes into a record of one page, alone.
INLINE_ENTRY_BYTES = INLINE_RECORD_BYTES - 2
#: How long an entry may wait for another record to travel with, seconds.
_DEFER_S = 1.0
#: How long to wait for a commit, seconds.
_COMMIT_WAIT_S = 5.0


class Lag(NamedTuple):
    """How far the databases are behind the journal: records, and the age of the oldest, seconds."""

    rows: int
    seconds: float


class Intake:
    """Belongs to one event loop."""

    def __init__(self, journal: Journal, writer: Follower, clock: Callable[[], float]) -> None:
        """Join a journal and the writer that follows it.

        Args:
            journal: open.
            writer: started.
            clock: monotonic, seconds.
        """
        self._journal = journal
        self._writer = writer
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        #: Entries that wait for another record, and their encoding; and the sum of the latter's lengths.
        self._deferred: list[tuple[Entry, bytes]] = []
        self._deferred_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        #: Sequences of large records whose bodies are being written.
        self._writing: set[int] = set()
        #: When each record that is not committed was handed to the writer; their bytes.
        self._queued: deque[float] = deque()
        self._queued_bytes = 0
        self._handed = self._committed = 0
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []

    # ---- in

    def append(self, entry: Entry, encoded: bytes) -> int:
        """Append an entry of at most `INLINE_ENTRY_BYTES`, with what was deferred where that fits.

        Returns:
            The sequence of its record.

        Raises:
            JournalFull: nothing was written.
        """
        if not self._deferred:
            position = self._journal.append(b"[" + encoded + b"]")
            self._hand_over((entry,), len(encoded), position)
            return position
        if self._deferred_bytes + len(encoded) > INLINE_ENTRY_BYTES:
            self.flush()
            position = self._journal.append(b"[" + encoded + b"]")
            self._hand_over((entry,), len(encoded), position)
            return position
        together = [*self._deferred, (entry, encoded)]
        position = self._journal.append(join_entries([each for _, each in together]))
        self._hand_over([each for each, _ in together], self._deferred_bytes + len(encoded), position)
        self._clear_deferred()
        return position

    def start_large(self, entry: Entry, encoded: bytes, done: Callable[[OSError | None], None]) -> int:
        """Append an entry of any size. Its body is written by the journal's thread, whatever becomes of the caller.

        Args:
            entry: what to write.
            encoded: the same.
            done: called on the loop when it survives `kill -9`, or with the error.

        Returns:
            The sequence of its record.

        Raises:
            JournalFull: nothing was written.
        """

        def written(error: OSError | None) -> None:
            self._writing.discard(sequence)
            if error is None:
                self._hand_over((entry,), len(encoded), sequence)
            done(error)

        sequence = self._journal.start_large(join_entries([encoded]), written)
        self._writing.add(sequence)
        return sequence

    def append_any(self, entry: Entry) -> int:
        """Append an entry of any size, for callers that wait for the sync anyway. Returns its sequence.

        Raises:
            JournalFull: nothing was written.
        """
        encoded = encode_entry(entry)
        if len(encoded) <= INLINE_ENTRY_BYTES:
            return self.append(entry, encoded)
        return self.start_large(entry, encoded, lambda _: None)

    def pass_by(self, entry: Entry, size: int) -> None:
        """Hand an entry to the writer that does not go through the journal."""
        self._hand_over((entry,), size, 0)

    def defer(self, entry: Entry) -> None:
        """Write a small entry with the next record, or within a second."""
        encoded = encode_entry(entry)
        if self._deferred_bytes + len(encoded) > INLINE_ENTRY_BYTES:
            self.flush()
        self._deferred.append((entry, encoded))
        self._deferred_bytes += len(encoded) + 1
        if self._timer is None:
            self._timer = self._loop.call_later(_DEFER_S, self.flush)

    def flush(self) -> None:
        """Write what was deferred as a record of its own. What the journal has no room for is tried again."""
        if not self._deferred:
            return
        waiting = self._deferred
        try:
            if self._deferred_bytes <= INLINE_ENTRY_BYTES:
                position = self._journal.append(join_entries([each for _, each in waiting]))
                self._hand_over([each for each, _ in waiting], self._deferred_bytes, position)
            else:
                for entry, encoded in waiting:
                    position = self._journal.append(join_entries([encoded]))
                    self._hand_over((entry,), len(encoded), position)
        except JournalFull:
            # Entries that went in already are repeated then, which changes nothing.
            self._cancel_timer()
            self._timer = self._loop.call_later(_DEFER_S, self.flush)
        else:
            self._clear_deferred()

    # ---- what became of it

    def has_capacity(self, records: int, size: int) -> bool:
        """Tell whether fewer than so many records, and bytes of them, wait for the writer, and the writer works."""
        return not self._writer.failure and len(self._queued) < records and self._queued_bytes < size

    def lag(self) -> Lag:
        """Tell how far the databases are behind."""
        if not self._queued:
            return Lag(0, 0.0)
        return Lag(len(self._queued), max(0.0, self._clock() - self._queued[0]))

    async def wait_committed(self) -> None:
        """Wait until readers of the databases find all that went in before; on a broken disk not for ever."""
        if self._committed >= self._handed or self._writer.failure:
            return
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters.append((self._handed, waiter))
        self._writer.hurry()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_COMMIT_WAIT_S):
                await waiter

    def on_committed(self, group: Sequence[Written]) -> None:
        """Take note of a group that the writer has committed."""
        for written in group:
            self._queued.popleft()
            self._queued_bytes -= written.size
        self._committed += len(group)
        waiting, self._waiters = self._waiters, []
        for upto, waiter in waiting:
            if upto > self._committed:
                self._waiters.append((upto, waiter))
                self._writer.hurry()
            elif not waiter.done():
                waiter.set_result(None)

    def close(self) -> None:
        """Write what was deferred, for the last time."""
        self.flush()
        self._cancel_timer()

    # ----

    def _hand_over(self, entries: Sequence[Entry], size: int, sequence: int) -> None:
        # A record whose body is still being written is not with the writer yet: the position stays before it.
        position = min(self._writing) - 1 if self._writing else self._journal.position
        self._queued.append(self._clock())
        self._queued_bytes += size
        self._handed += 1
        self._writer.put(Written(entries, position, size, sequence))

    def _clear_deferred(self) -> None:
        self._deferred = []
        self._deferred_bytes = 0
        self._cancel_timer()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
