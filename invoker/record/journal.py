"""The journal: what was written here is true, whatever happens next.

`append` copies the record into the mapped file, on the event loop: after it the record survives `kill -9`. The journal's
thread syncs in groups, at most `sync_s` behind: after that it survives a power cut. Bodies longer than a page are written by
the thread.

Nothing here may need the disk to grow. Segments are allocated ahead, and a part of them is kept for the records of work
that was admitted already: a full disk refuses new work (`has_room`), never the record of work that was done.
Segments whose records are in both databases (`release`) are used again.

Opening always begins a new segment: a torn tail stays where it is and is never built upon.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import logging
import os
import queue
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from invoker.errors import JournalFull
from invoker.record.disk import sync
from invoker.record.segment import FRAME_BYTES, INLINE_BYTES, START_BYTES, Allocate, Segment, frame_head, frame_tail
from pool.errors import InvokerError, PlatformError

log = logging.getLogger(__name__)

#: Longest record that `append` takes.
INLINE_RECORD_BYTES = INLINE_BYTES - FRAME_BYTES
_NAME = re.compile(r"\d{8}\.seg")
#: How often a full disk is asked whether it has room for a segment again, s.
_ASK_AGAIN_S = 0.5


class RecordTooLarge(InvokerError):
    """The record does not fit into one page: it takes the way of the large ones."""

    code = "record-too-large"


class JournalBroken(PlatformError):
    """The journal cannot be written any more: the disk failed. Nothing new is accepted."""

    code = "journal-broken"


class _Job(Enum):
    """What the thread is asked to do."""

    SYNC_SOON = "sync soon"
    SYNC_NOW = "sync now"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class _Body:
    """A large body for the thread to write, and whom to tell, on the loop."""

    segment: Segment
    offset: int
    record: bytes
    done: Callable[[OSError | None], None]


class Journal:
    """The open journal. One event loop appends; `release` may be called from any thread."""

    def __init__(
        self,
        directory: Path,
        *,
        applied: int = 0,
        segment_bytes: int = 16 * 1024 * 1024,
        reserve_bytes: int | None = None,
        spares: int = 2,
        sync_s: float = 0.05,
        allocate: Allocate = os.posix_fallocate,
    ) -> None:
        """Open or make it. Blocks: it reads what is there, and allocates.

        Args:
            directory: of the segments.
            applied: sequence up to which both databases hold the records.
            segment_bytes: size of a segment.
            reserve_bytes: kept for records of work that was admitted; a quarter of a segment unless given.
            spares: segments to keep ready.
            sync_s: how far the disk may be behind, seconds.
            allocate: takes bytes of the disk for a descriptor.

        Raises:
            OSError: the directory cannot be used.
            JournalTooNew: it was written by a newer version.
        """
        #: Told how long each append held the loop, seconds. May not raise.
        self.on_write: Callable[[float], None] | None = None
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._reserve = (segment_bytes // 4 if reserve_bytes is None else reserve_bytes) // INLINE_BYTES
        self._wanted_spares = spares
        self._sync_s = sync_s
        self._allocate = allocate
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        left = _segments(directory)
        self._names = itertools.count(1 + max((int(segment.path.stem) for segment in left), default=0))
        #: Full segments whose records are not all in both databases; oldest first. Only the thread takes from it.
        self._used: deque[Segment] = deque(segment for segment in left if segment.last > applied)
        #: Ready to be written. The thread adds, the loop takes.
        self._spares: deque[Segment] = deque()
        for segment in left:
            if segment.last <= applied:
                self._recycle(segment)
        #: Last sequence given out; never one that was given out before, nor one that a database knows.
        self._appended = max((segment.last for segment in left), default=0)
        self._appended = max(self._appended, applied)
        self._synced = self._appended
        self._released = applied
        self._jobs: queue.SimpleQueue[_Job | _Body] = queue.SimpleQueue()
        #: The thread was asked to sync, or will do so in any case.
        self._nudged = False
        #: There was something to sync, the last time.
        self._advances = False
        self._stopping = False
        self._failure: OSError | None = None
        self._refusal = ""
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        if not self._spares:
            self._spares.append(self._make(segment_bytes, zeroed=True))
        self._current = self._spares.popleft()
        self._current.begin(self._appended + 1)
        self._stock()
        sync(directory)
        self._loop = asyncio.get_running_loop()
        self._stopped: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="journal")
        self._thread.start()

    # ---- on the loop

    @property
    def position(self) -> int:
        """Sequence of the last record appended."""
        return self._appended

    @property
    def refusal(self) -> str:
        """Why the disk has no room for a further segment, though what is there may still do; empty while it has."""
        return self._refusal

    def append(self, record: bytes) -> int:
        """Write a record of at most `INLINE_RECORD_BYTES` bytes: one synchronous write.

        Returns:
            Its sequence.

        Raises:
            RecordTooLarge: use `start_large`.
            JournalFull: nothing is left, not even of the reserve.
        """
        size = FRAME_BYTES + len(record)
        if size > INLINE_BYTES:
            raise RecordTooLarge
        began = time.monotonic()
        segment = self._current
        if segment.end + size > segment.size:
            segment = self._next_segment()
        sequence = self._appended + 1
        segment.write(frame_head(sequence, len(record)) + record + frame_tail(record))
        self._advance(segment, sequence, size)
        if not self._nudged:
            self._nudged = True
            self._jobs.put(_Job.SYNC_SOON)
        if self.on_write is not None:
            self.on_write(time.monotonic() - began)
        return sequence

    def start_large(self, record: bytes, done: Callable[[OSError | None], None]) -> int:
        """Give a record of any size its place now, and have the thread write it.

        Args:
            record: what to write.
            done: called on the loop once it survives `kill -9`, or with the error. It is called whatever becomes of the caller.

        Returns:
            Its sequence.

        Raises:
            JournalFull: only what is kept for admitted work is left.
        """
        size = FRAME_BYTES + len(record)
        segment = self._segment_for_large(size)
        sequence = self._appended + 1
        head = frame_head(sequence, len(record))
        segment.write(head)
        offset = segment.end + len(head)
        self._advance(segment, sequence, size)
        self._jobs.put(_Body(segment, offset, record, done))
        return sequence

    async def wait_synced(self, position: int) -> None:
        """Wait until all records up to `position` survive a power cut; asks for it at once.

        Raises:
            JournalBroken: the disk failed.
        """
        if position <= self._synced:
            return
        self._raise_failure()
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters.append((position, waiter))
        self._jobs.put(_Job.SYNC_NOW)
        await waiter

    def has_room(self, records: int = 1) -> bool:
        """Tell whether new work may be taken: `records` more of a page each fit, and what is reserved stays."""
        return self._failure is None and self._slots() - records >= self._reserve

    async def close(self) -> None:
        """Sync everything and end the thread. The files stay. Safe to repeat."""
        if not self._thread.is_alive():
            return
        self._jobs.put(_Job.STOP)
        await self._stopped
        self._thread.join()
        for segment in (*self._used, *self._spares, self._current):
            segment.close()
        self._used.clear()
        self._spares.clear()

    # ---- from any thread

    def release(self, position: int) -> None:
        """Say that both databases durably hold all records up to `position`."""
        self._released = max(self._released, position)
        self._jobs.put(_Job.SYNC_SOON)

    # ---- places

    def _slots(self) -> int:
        """How many more pages fit, counted so that it holds whatever their order."""
        spare = (self._segment_bytes - START_BYTES) // INLINE_BYTES
        return (self._current.size - self._current.end) // INLINE_BYTES + len(self._spares) * spare

    def _next_segment(self) -> Segment:
        """Go on in the next segment. Rarely the thread has none ready: then one is made here, without its zeros."""
        try:
            segment = self._spares.popleft()
        except IndexError:
            segment = self._make_here(self._segment_bytes)
        return self._switch_to(segment)

    def _segment_for_large(self, size: int) -> Segment:
        """Find a place that leaves the reserve alone."""
        current = self._current
        left = self._slots() - -(-size // INLINE_BYTES)
        fits = current.end + size <= current.size
        if fits and left >= self._reserve:
            return current
        wasted = (current.size - current.end) // INLINE_BYTES
        if not fits and size <= self._segment_bytes - START_BYTES and left - wasted >= self._reserve:
            return self._next_segment()
        # One of its own, large enough to hold the reserve too: what is left of the present one is given up for it.
        return self._switch_to(self._make_here(max(self._segment_bytes, START_BYTES + size + (self._reserve + 1) * INLINE_BYTES)))

    def _make_here(self, size: int) -> Segment:
        try:
            return self._make(size, zeroed=False)
        except OSError as error:
            raise JournalFull from error

    def _switch_to(self, segment: Segment) -> Segment:
        try:
            segment.begin(self._appended + 1)
        except OSError as error:
            raise JournalFull from error
        self._current.finish()
        self._used.append(self._current)
        self._current = segment
        return segment

    def _advance(self, segment: Segment, sequence: int, size: int) -> None:
        segment.end += size
        segment.last = sequence
        self._appended = sequence

    def _make(self, size: int, *, zeroed: bool) -> Segment:
        return Segment.create(self._directory / f"{next(self._names):08d}.seg", size, self._allocate, zeroed=zeroed)

    def _recycle(self, segment: Segment) -> None:
        """Keep a segment that is not needed any more as a spare, or delete it."""
        if segment.size == self._segment_bytes and len(self._spares) < self._wanted_spares:
            self._spares.append(segment)
        else:
            segment.remove()

    # ---- the thread

    def _run(self) -> None:
        while not self._stopping:
            self._collect()
            self._sync()
            self._take_back()
            self._stock()
        self._sync()  # what was appended between the last look and the request to stop
        self._loop.call_soon_threadsafe(self._stopped.set_result, None)

    def _collect(self) -> None:
        """Take jobs until a sync is due, or the disk is to be asked again.

        While records come the next sync is due without being asked for: to wake the thread costs the loop more than an append.
        """
        due = time.monotonic() + self._sync_s
        idle_s = _ASK_AGAIN_S if self._refusal else None
        try:
            job = self._jobs.get(timeout=self._sync_s if self._advances else idle_s)
        except queue.Empty:
            return
        if not self._advances:
            due = time.monotonic() + self._sync_s
        with contextlib.suppress(queue.Empty):
            while self._take(job):
                job = self._jobs.get(timeout=max(0.0, due - time.monotonic()))

    def _take(self, job: _Job | _Body) -> bool:
        """Do a job; false when a sync is due at once."""
        if isinstance(job, _Body):
            self._write_body(job)
            return True
        self._stopping = self._stopping or job is _Job.STOP
        return job is _Job.SYNC_SOON

    def _write_body(self, body: _Body) -> None:
        failure: OSError | None = None
        data = memoryview(body.record + frame_tail(body.record))
        written = 0
        try:
            while written < len(data):
                written += os.pwrite(body.segment.fd, data[written:], body.offset + written)
        except OSError as error:
            failure = error
        self._loop.call_soon_threadsafe(body.done, failure)

    def _sync(self) -> None:
        """Bring all that is written to the disk, then say so."""
        if self._appended == self._synced:
            self._nudged = False  # before the look at what is appended: a later append asks again
        target = self._appended
        self._advances = target > self._synced and self._failure is None
        # Each body up to `target` was queued before its sequence was given out: it is in the queue, or written.
        with contextlib.suppress(queue.Empty):
            while True:
                self._take(self._jobs.get_nowait())
        try:
            current = self._current  # before the used ones: whatever the loop does meanwhile, none is missed
            for segment in (*self._used, current):
                if (end := segment.end) > segment.synced:
                    os.fdatasync(segment.fd)
                    segment.synced = end
        except OSError as error:
            # After a failed sync the kernel may have dropped the pages: no later success would mean anything.
            log.critical("the journal cannot be synced: %s", error)
            self._failure = error
        else:
            if self._failure is None:
                self._synced = target
        if self._waiters:
            self._loop.call_soon_threadsafe(self._tell_waiters)

    def _take_back(self) -> None:
        """Make spares of segments whose records are in both databases."""
        while self._used and self._used[0].last <= self._released and self._used[0].synced >= self._used[0].end:
            self._recycle(self._used.popleft())

    def _stock(self) -> None:
        """Have as many spares as wanted, if the disk allows."""
        try:
            while len(self._spares) < self._wanted_spares:
                self._spares.append(self._make(self._segment_bytes, zeroed=True))
                sync(self._directory)
        except OSError as error:
            refusal = f"no room for another journal segment in {self._directory}: {os.strerror(error.errno or errno.EIO)}"
            if not self._refusal:
                log.warning("%s", refusal)
            self._refusal = refusal
        else:
            self._refusal = ""

    # ---- on the loop, at the thread's call

    def _tell_waiters(self) -> None:
        waiting = self._waiters
        self._waiters = []
        for position, waiter in waiting:
            if waiter.done():
                continue
            if position <= self._synced:
                waiter.set_result(None)
            elif self._failure is not None:
                waiter.set_exception(JournalBroken())
            else:
                self._waiters.append((position, waiter))

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise JournalBroken from self._failure


def read_records(directory: Path, after: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield (sequence, record) of all whole records behind the sequence `after`, in order. Reads files, blocks.

    A record whose body never arrived is stepped over: nobody was told that it had been written.
    """
    segments = _segments(directory)
    try:
        for segment in segments:
            for frame in segment.frames() if segment.last > after else ():
                if frame.body is None:
                    log.warning("record %d of the journal is not whole: the daemon ended while it was written", frame.sequence)
                elif frame.sequence > after:
                    yield frame.sequence, frame.body
    finally:
        for segment in segments:
            segment.close()


def _segments(directory: Path) -> list[Segment]:
    """Open all segments, oldest first. Those that never began come before all others."""
    if not directory.is_dir():
        return []
    found = [Segment.open(path) for path in sorted(directory.iterdir()) if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda segment: segment.first)
