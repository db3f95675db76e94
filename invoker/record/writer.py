"""The writer: one thread that moves records of the journal into the ledger and the activation store.

Records come to it in memory, right after they were appended; what an earlier daemon left is read from the files. It
commits in groups: while one commit waits for the disk the next group gathers. All statements take a whole group as one
JSON text, so that SQLite works through it without holding Python's lock, and the event loop goes on.

A full or failing disk stops nothing: the group is kept and tried again. Meanwhile the journal's segments are not
released, the queue grows to its bound, and admission refuses new work (`Recorder.room`).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from invoker.activation import Accepted
from invoker.record.activations import ActivationDatabase, Retention
from invoker.record.corruption import StoreBroken, StoreCorrupt, broken, is_corruption
from invoker.record.entries import Entry, FinishedEntry, LogsEntry, TickEntry, decode_record
from invoker.record.journal import read_records
from invoker.record.ledger import Ledger
from invoker.record.rows import ActivationBatch, IdempotencyRow, Rows

log = logging.getLogger(__name__)

#: Bounds of one group.
_GROUP_RECORDS = 1000
_GROUP_BYTES = 4 * 1024 * 1024
#: Between two looks at age and size of what is stored, where the first found more than it may delete at once and nothing is
#: written meanwhile, and how much may arrive before the next look. Under load there is a look for each group: each deletes more
#: than a group adds.
_RETAIN_S = 60.0
_RETAIN_MORE_S = 0.1
_RETAIN_BYTES = 64 * 1024 * 1024
#: Between two checkpoints, while something is written.
_CHECKPOINT_S = 1.0
#: How often an activation database may be begun anew, by one daemon: then it is the disk.
_RENEWALS = 3
#: After a failed commit.
_RETRY_S = 0.5
_LOST = ("0000-00-00T00:00:00.000000000Z stderr: invokerd: the log lines of this activation were lost: the daemon was killed",)


class Written(NamedTuple):
    """A record that stands in the journal, or log lines that do not.

    Attributes:
        entries: what it says.
        position: up to which sequence everything has been handed to the writer, this included.
        size: bytes of the record.
        sequence: of the record; 0 for log lines that do not stand in the journal.
    """

    entries: Sequence[Entry]
    position: int
    size: int
    sequence: int = 0


class Restored(NamedTuple):
    """What the databases hold after the replay.

    Attributes:
        position: up to which sequence of the journal both are.
        unbegun: promises that never began.
        begun: promises that may have run.
        keys: idempotency keys that still count, oldest first.
        ticks: how far each alarm has come.
    """

    position: int
    unbegun: list[Accepted]
    begun: list[Accepted]
    keys: list[IdempotencyRow]
    ticks: list[TickEntry]


class Follower(Protocol):
    """What follows the journal and writes the databases: a `Writer` in this process, or one in its own."""

    @property
    def failure(self) -> str:
        """Why it has ended though nobody asked it to: nothing more will be committed. Empty while all is well."""

    @property
    def refusal(self) -> str:
        """Why the databases do not take what it writes, again and again; empty as soon as they do."""

    async def start(self) -> Restored:
        """Open the databases, replay the journal, and go on from there."""

    def put(self, written: Written) -> None:
        """Hand over what was appended."""

    def hurry(self) -> None:
        """Commit what there is at once."""

    def renew(self, inode: int) -> None:
        """Begin the activation database anew, unless it is another file already: a reader has found that it is corrupt."""

    async def close(self) -> None:
        """Commit everything and end."""


class Writer:
    """The thread and its queue."""

    def __init__(
        self,
        state_dir: Path,
        *,
        node: str,
        retention: Retention,
        on_committed: Callable[[Sequence[Written]], None],
        release: Callable[[int], None],
        wall_ms: Callable[[], int],
        linger_s: float,
        on_failed: Callable[[Exception], None] | None = None,
        on_refused: Callable[[str], None] | None = None,
    ) -> None:
        """Prepare; `start` begins.

        Args:
            state_dir: holds `journal/`, `ledger/` and `activations.db`.
            node: name of this node.
            retention: bounds of the activation store.
            on_committed: called on the loop with each group that readers now find in the databases.
            release: called with the sequence up to which both databases durably hold the journal.
            wall_ms: wall clock.
            linger_s: how long a group gathers before it is committed.
            on_failed: called on the loop with the bug that ended it after its start.
            on_refused: called on the loop with each `refusal`, and with the empty one after it.
        """
        self._state_dir = state_dir
        self._node = node
        self._retention = retention
        self._on_committed = on_committed
        self._release = release
        self._wall_ms = wall_ms
        self._linger_s = linger_s
        self._on_failed = on_failed
        self._on_refused = on_refused
        self._queue: queue.SimpleQueue[Written | None] = queue.SimpleQueue()
        #: Set to commit what there is at once.
        self._hurry = threading.Event()
        self._stop = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._restored: asyncio.Future[Restored] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="writer")
        self._committed = 0
        self._unretained = 0
        #: Number of the file that a reader has found to be corrupt; 0 is none.
        self._found_corrupt = 0
        self._renewals = 0
        #: Why the thread has ended though nobody asked it to, and nothing more will be committed; empty while all is well.
        self.failure = ""
        #: See `Follower`.
        self.refusal = ""

    # ---- on the loop

    async def start(self) -> Restored:
        """Open the databases, replay the journal, and go on from there.

        Raises:
            StoreTooNew, StoreBroken, JournalTooNew: nothing was changed beyond what could be replayed.
        """
        self._thread.start()
        return await self._restored

    def put(self, written: Written) -> None:
        """Hand over what was appended."""
        self._queue.put(written)

    def hurry(self) -> None:
        """Commit what there is at once."""
        self._hurry.set()

    def renew(self, inode: int) -> None:
        """As `Follower`."""
        self._found_corrupt = inode
        self._queue.put(None)

    async def close(self) -> None:
        """Commit everything and end. What a broken disk does not take stays in the journal for the next start."""
        self._stop.set()
        self._hurry.set()
        self._queue.put(None)
        await asyncio.wait({self._ended})
        self._thread.join()  # also where it has failed: whoever is told so finds its databases closed
        self._ended.result()

    # ---- the thread

    def _run(self) -> None:
        failure: Exception | None = None
        try:
            with (
                contextlib.closing(Ledger(self._state_dir / "ledger", self._node)) as ledger,
                contextlib.closing(ActivationDatabase(self._state_dir / "activations.db", self._retention)) as activations,
            ):
                self._ledger, self._activations = ledger, activations
                try:
                    restored = self._replay()
                except sqlite3.DatabaseError as error:
                    self._renew_after(error)
                    restored = self._replay()
                self._loop.call_soon_threadsafe(self._restored.set_result, restored)
                self._work()
        except sqlite3.Error as error:
            failure = broken(self._state_dir, error)
        except Exception as error:  # noqa: BLE001 - carried to the loop, which tells it
            failure = error
        finally:
            self._loop.call_soon_threadsafe(self._end, failure)

    def _end(self, failure: Exception | None) -> None:
        if failure is None:
            self._ended.set_result(None)
        elif not self._restored.done():
            self._restored.set_exception(failure)
            self._ended.set_result(None)
        else:
            self.failure = str(failure) or type(failure).__name__
            log.critical("the writer of the ledger has failed; the journal keeps everything", exc_info=failure)
            self._ended.set_exception(failure)
            if self._on_failed is not None:
                self._on_failed(failure)

    def _replay(self) -> Restored:
        """Apply what the journal holds beyond the databases, to each what it lacks.

        What one has already it is not given again: old files of the journal may hold a promise and not its end.
        """
        directory = self._state_dir / "journal"
        of_ledger, of_activations = self._ledger.position(), self._activations.position()
        last = position = min(of_ledger, of_activations)
        awaited: dict[str, FinishedEntry] = {}
        for last, group in _grouped(read_records(directory, position), cuts=(of_ledger, of_activations)):
            for entry in group:
                if isinstance(entry, FinishedEntry) and entry.lines is None:
                    awaited[entry.activation.activation_id] = entry
                elif isinstance(entry, LogsEntry):
                    awaited.pop(entry.activation_id, None)
            self._apply_missing(group, last, of_ledger, of_activations)
        # Lines that were on their way when the daemon was killed. Lines that had arrived stay: the first ones count.
        lost = (entry.activation for entry in awaited.values())
        if lines := [LogsEntry(each.activation_id, each.namespace, each.start_ms, _LOST) for each in lost]:
            self._apply(lines, last)
        if of_ledger and not of_activations:  # the database is a new one, and the journal may have promises that were kept
            self._forget_kept()
        unbegun, begun = self._activations.read_pending()
        self._committed = last
        keys, ticks = self._activations.read_idempotency(self._wall_ms()), self._activations.read_ticks()
        return Restored(last, unbegun, begun, keys, ticks)

    def _work(self) -> None:
        checkpoint_at = retain_at = 0.0
        more = False
        while True:
            group = self._gather(idle_s=max(0.0, retain_at - time.monotonic()))
            if group and not self._commit(group):
                return
            now = time.monotonic()
            with self._renewing(), contextlib.suppress(sqlite3.OperationalError):  # a full disk; the next turn tries again
                self._renew_if_asked()
                if now >= checkpoint_at and group:
                    self._checkpoint()
                    checkpoint_at = now + _CHECKPOINT_S
                if now >= retain_at or (more and group) or self._unretained >= _RETAIN_BYTES:
                    more = self._activations.retain(self._wall_ms())
                    self._unretained = 0
                    retain_at = now + (_RETAIN_MORE_S if more else _RETAIN_S)
            if self._stop.is_set() and self._queue.empty():
                break
        with self._renewing(), contextlib.suppress(sqlite3.OperationalError):
            self._checkpoint()

    # ---- an activation database that is corrupt

    @contextlib.contextmanager
    def _renewing(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            self._renew_after(error)

    def _renew_if_asked(self) -> None:
        inode, self._found_corrupt = self._found_corrupt, 0
        if inode and inode == self._activations.inode:
            self._renew_after(StoreCorrupt("a page that a reader asked for cannot be read"))

    def _renew_after(self, error: Exception) -> None:
        """Begin the activation database anew where its file is corrupt, with what the journal still holds.

        Raises:
            Exception: the error itself, when it is another one, or comes again and again.
        """
        self._renewals += 1
        if self._renewals > _RENEWALS or not (isinstance(error, StoreCorrupt) or is_corruption(error)):
            raise error
        self._activations.renew(error)
        records = read_records(self._state_dir / "journal")
        for _, group in _grouped(itertools.takewhile(lambda each: each[0] <= self._committed, records)):
            self._activations.apply(Rows(group).batch, 0)
        self._forget_kept()
        self._activations.apply(ActivationBatch(), self._committed)

    def _forget_kept(self) -> None:
        """Forget promises that the journal still has and that were kept: the ledger knows."""
        self._activations.forget(sorted(self._ledger.find_finished(self._activations.pending_ids())))

    # ----

    def _gather(self, idle_s: float) -> list[Written]:
        """Wait for a record, linger for more, and take what is there; empty when nothing came within `idle_s`."""
        try:
            first = self._queue.get(timeout=idle_s)
        except queue.Empty:
            return []
        if self._queue.qsize() < _GROUP_RECORDS:
            self._hurry.wait(self._linger_s)
        self._hurry.clear()
        if self._stop.is_set():
            self._hurry.set()
        group = [] if first is None else [first]
        size = 0 if first is None else first.size
        with contextlib.suppress(queue.Empty):
            while len(group) < _GROUP_RECORDS and size < _GROUP_BYTES:
                written = self._queue.get_nowait()
                if written is not None:
                    group.append(written)
                    size += written.size
        return group

    def _commit(self, group: list[Written]) -> bool:
        """Commit a group, however often it takes; false when the daemon ends while the disk refuses."""
        entries = [entry for written in group for entry in written.entries]
        told = False
        while True:
            try:
                self._apply(entries, group[-1].position)
            except (sqlite3.DatabaseError, StoreBroken, OSError) as error:
                if not _may_pass(error):
                    if isinstance(error, StoreBroken):
                        raise
                    self._renew_after(error)
                    continue
                if not told:
                    log.error("the databases cannot be written, trying again: %s", error)  # noqa: TRY400 - not a bug of ours
                    self._loop.call_soon_threadsafe(self._tell_refusal, str(error))
                told = True
                if self._stop.wait(_RETRY_S):
                    return False
            else:
                break
        if told:
            self._loop.call_soon_threadsafe(self._tell_refusal, "")
        self._committed = group[-1].position
        self._unretained += sum(written.size for written in group)
        self._loop.call_soon_threadsafe(self._on_committed, group)
        return True

    def _tell_refusal(self, refusal: str) -> None:
        self.refusal = refusal
        if self._on_refused is not None:
            self._on_refused(refusal)

    def _checkpoint(self) -> None:
        """Bring both databases to the disk, and let the journal use again what they hold."""
        committed = self._committed
        self._ledger.checkpoint()
        if self._activations.checkpoint():
            self._release(committed)

    def _apply_missing(self, entries: Sequence[Entry], position: int, of_ledger: int, of_activations: int) -> None:
        rows = Rows(entries)
        if position > of_ledger:
            self._ledger.apply(rows.items, position)
        if position > of_activations:
            self._activations.apply(rows.batch, position)

    def _apply(self, entries: Sequence[Entry], position: int) -> None:
        rows = Rows(entries)
        # The order does not matter: each has its own position, and a repeated row changes nothing.
        self._ledger.apply(rows.items, position)
        self._activations.apply(rows.batch, position)


def _grouped(records: Iterable[tuple[int, bytes]], *, cuts: Sequence[int] = ()) -> Iterator[tuple[int, list[Entry]]]:
    """Gather what records say into groups: for each the sequence of its last record, and the entries.

    Args:
        records: of the journal, each with its sequence, in order.
        cuts: no group goes over one of these sequences.
    """
    group: list[Entry] = []
    size = last = 0
    for sequence, record in records:
        if size >= _GROUP_BYTES or (size and any(last <= cut < sequence for cut in cuts)):
            yield last, group
            group, size = [], 0
        group += decode_record(record)
        last, size = sequence, size + len(record)
    if size:
        yield last, group


def _may_pass(error: Exception) -> bool:
    """Tell whether a disk that is full, or fails, may take it another time; also where the file of a new month was to be made."""
    return isinstance(error.__cause__ if isinstance(error, StoreBroken) else error, sqlite3.OperationalError | OSError)
