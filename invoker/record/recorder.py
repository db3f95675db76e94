"""The recorder: the face of journal, ledger and activation store. What it has taken is true after a crash.

The warm path is `finish`: encode, one write to the journal, one entry in a queue; no SQLite, no waiting. Readers see
their own writes: what the writer has not committed yet is found in memory, and a list waits for the commit.

Memory is bounded: `room` refuses new work while more than `max_queued` records, or `max_queued_bytes`, wait for the
writer; what was admitted before may still end, and its number is bounded by admission.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import msgspec

from invoker.activation import Accepted, Activation
from invoker.errors import JournalFull
from invoker.record.activations import ActivationReader, Retention
from invoker.record.damage import Damage
from invoker.record.entries import (
    AcceptedEntry,
    BegunEntry,
    BilledEntry,
    ContainerEntry,
    Correction,
    FinishedEntry,
    FiredEntry,
    IdleEntry,
    LogsEntry,
    PartEntry,
    TailEntry,
    TickEntry,
    encode_entry,
    split_byte_us,
)
from invoker.record.idempotency import IdempotencyKeys
from invoker.record.intake import INLINE_ENTRY_BYTES, Intake, Lag
from invoker.record.journal import Journal, JournalBroken, RecordTooLarge
from invoker.record.records import Records
from invoker.record.rows import idempotency_row
from invoker.record.segment import Allocate
from invoker.record.uncommitted import Uncommitted
from invoker.record.writer import Follower, Restored, Writer, Written
from invoker.record.writer_client import WriterProcess
from pool.model import ActivationId, ContainerId

__all__ = ["Lag", "RecordTooLarge", "Recorder", "Recovery"]

_RESULT_NOT_KEPT = msgspec.Raw(b'{"error":"The result was not kept: the disk of the node is full."}')


class Recovery(NamedTuple):
    """What an earlier daemon had promised and not finished.

    Attributes:
        unbegun: never reached a container: to be run.
        begun: may have run: to be ended as lost, never run again.
    """

    unbegun: list[Accepted]
    begun: list[Accepted]


class Recorder:
    """Open with `Recorder.open`; one event loop uses it."""

    def __init__(
        self,
        state_dir: Path,
        *,
        journal: Journal,
        writer: Follower,
        intake: Intake,
        reader: ActivationReader,
        restored: Restored,
        clock: Callable[[], float],
        wall_ms: Callable[[], int],
        max_queued: int,
        max_queued_bytes: int,
    ) -> None:
        """Join the parts; `open` makes them."""
        self._journal = journal
        self._writer = writer
        self._intake = intake
        self._reader = reader
        self._clock = clock
        self._wall_ms = wall_ms
        self._max_queued = max_queued
        self._max_queued_bytes = max_queued_bytes
        self.recovery = Recovery(restored.unbegun, restored.begun)
        #: How far each alarm had come when the recorder was opened, by alarm id.
        self.ticks = {each.alarm_id: each for each in restored.ticks}
        #: Promises without a finished record.
        self._open = {each.activation_id: each for each in (*restored.unbegun, *restored.begun)}
        self._uncommitted = Uncommitted(clock)
        #: What readers find.
        self.records = Records(state_dir / "ledger", reader, intake, self._uncommitted)
        self._keys = IdempotencyKeys(restored.keys, wall_ms)
        #: Last number given to a row that has a part.
        self._part = 0

    @classmethod
    async def open(
        cls,
        state_dir: Path,
        *,
        node: str,
        retention: Retention | None = None,
        segment_bytes: int = 16 * 1024 * 1024,
        reserve_bytes: int | None = None,
        max_queued: int = 50_000,
        max_queued_bytes: int = 256 * 1024 * 1024,
        linger_s: float = 0.01,
        apart: bool = False,
        damage: Damage | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        allocate: Allocate = os.posix_fallocate,
    ) -> Self:
        """Open the stores, and replay what the journal holds beyond them.

        Args:
            state_dir: the caller holds its lock.
            node: name of this node, in every row.
            retention: bounds of the activation store.
            segment_bytes: size of a journal segment.
            reserve_bytes: of the journal, kept for what was admitted; a quarter of a segment unless given.
            max_queued: records that may wait for the writer before new work is refused.
            max_queued_bytes: the same in bytes.
            linger_s: how long the writer gathers records before it commits them.
            damage: keeps rows that cannot be read; by default in `state_dir`.
            apart: whether the writer runs in a process of its own, as in the daemon, or in a thread.
            clock: monotonic, seconds.
            wall_ms: wall clock, milliseconds.
            allocate: takes bytes of the disk, for tests.

        Raises:
            StoreTooNew, StoreBroken, JournalTooNew, OSError: it cannot be used.
        """
        recorder: Self
        journal: Journal

        def on_committed(group: Sequence[Written]) -> None:
            recorder._on_committed(group)

        def release(position: int) -> None:
            journal.release(position)

        writer: Follower
        if apart:
            writer = WriterProcess(
                state_dir,
                node=node,
                retention=retention or Retention(),
                on_committed=on_committed,
                release=release,
                linger_s=linger_s,
            )
        else:
            writer = Writer(
                state_dir,
                node=node,
                retention=retention or Retention(),
                on_committed=on_committed,
                release=release,
                wall_ms=wall_ms,
                linger_s=linger_s,
            )
        async with contextlib.AsyncExitStack() as parts:
            parts.push_async_callback(writer.close)
            restored = await writer.start()
            # Nothing is handed to the writer before there is a recorder, so neither callback comes before its time.
            journal = Journal(
                state_dir / "journal",
                applied=restored.position,
                segment_bytes=segment_bytes,
                reserve_bytes=reserve_bytes,
                allocate=allocate,
            )
            parts.push_async_callback(journal.close)
            recorder = cls(
                state_dir,
                journal=journal,
                writer=writer,
                intake=Intake(journal, writer, clock),
                reader=await ActivationReader.open(state_dir / "activations.db", damage, writer.renew),
                restored=restored,
                clock=clock,
                wall_ms=wall_ms,
                max_queued=max_queued,
                max_queued_bytes=max_queued_bytes,
            )
            parts.pop_all()
        return recorder

    async def close(self) -> None:
        """Write what was deferred, commit everything, end all threads.

        Raises:
            JournalBroken: the disk failed.
            Exception: the bug that ended the writer; the journal has everything.
        """
        async with contextlib.AsyncExitStack() as parts:
            parts.push_async_callback(self._reader.close)
            parts.push_async_callback(self._journal.close)
            parts.push_async_callback(self._writer.close)
            self._intake.close()
            # The bodies of large records are handed to the writer before this returns.
            await self._journal.wait_synced(self._journal.position)

    # ---- the life of an activation

    async def accepted(self, accepted: Accepted) -> None:
        """Promise an activation. Durable when it returns, also over a power cut.

        Its idempotency key counts from the call on, before this waits.

        Raises:
            JournalFull, JournalBroken: it was not promised.
        """
        if not self.room():
            raise JournalFull
        entry = AcceptedEntry.of(accepted)
        row = idempotency_row(accepted)
        if row is not None:
            self._keys.add(row)
        try:
            position = self._intake.append_any(entry)
            self._open[accepted.activation_id] = entry.accepted
            await self._journal.wait_synced(position)
        except (JournalFull, JournalBroken):
            self._open.pop(accepted.activation_id, None)
            if row is not None:
                self._keys.take_back(row)
            raise

    async def fired(
        self,
        activation: Activation,
        *,
        lines: Sequence[str],
        promised: Sequence[Accepted],
        payload: msgspec.Raw,
        tick: TickEntry | None,
        stored: bool = True,
    ) -> None:
        """Write a trigger's record, and promise what its rules run: all or nothing. Durable when it returns, as `accepted`.

        Args:
            activation: of the trigger, with its result.
            lines: its log lines.
            promised: what is to run; their payloads are not looked at.
            payload: JSON text that each of them is called with.
            tick: of an alarm, remembered in the same record.
            stored: false for a namespace that keeps no records: only what is promised counts.

        Raises:
            JournalFull, JournalBroken: nothing of it counts.
        """
        if not self.room():
            raise JournalFull
        entry = FiredEntry.of(activation, lines, promised, payload, tick, stored=stored)
        try:
            position = self._intake.append_any(entry)
            self._open.update((each.activation_id, each) for each in entry.promised)
            if stored:
                self._uncommitted.add(entry.record)
            await self._journal.wait_synced(position)
        except (JournalFull, JournalBroken):
            self._uncommitted.drop(activation.activation_id)
            for each in promised:
                self._open.pop(each.activation_id, None)
            raise

    async def ticked(self, tick: TickEntry) -> None:
        """Write how far an alarm has come whose tick fired nothing. Durable when it returns.

        Raises:
            JournalFull, JournalBroken: it was not written.
        """
        await self._journal.wait_synced(self._intake.append_any(tick))

    def forget_alarm(self, alarm_id: str) -> None:
        """Forget how far an alarm came that is no more. Written within a second."""
        self._intake.defer(TickEntry(alarm_id, 0, 0, gone=True))

    async def begun(self, activation_id: ActivationId) -> None:
        """Say that a promised activation may run from now on. Durable when it returns.

        Raises:
            JournalFull, JournalBroken: it was not written; do not run it.
        """
        promise = self._open.get(activation_id)
        namespace, path = ("", "") if promise is None else (promise.namespace, promise.path)
        position = self._intake.append_any(BegunEntry(activation_id, namespace, path, self._wall_ms()))
        await self._journal.wait_synced(position)

    def note_begun(self, accepted: Accepted) -> None:
        """Say that something began that was not promised. It survives `kill -9` when this returns: the next daemon ends it.

        Raises:
            JournalFull: it was not written.
        """
        entry = AcceptedEntry.of(accepted)
        self._intake.append_any(entry)
        self._open[accepted.activation_id] = entry.accepted
        begun = BegunEntry(accepted.activation_id, accepted.namespace, accepted.path, self._wall_ms())
        self._intake.append_any(begun)

    def part_begins(self, accepted: Accepted) -> None:
        """Say that a part of a sequence or composition begins. It survives `kill -9` when this returns.

        Raises:
            JournalFull: it was not written.
        """
        self._intake.append_any(PartEntry.of(accepted))

    def finish(self, activation: Activation, *, logs: Sequence[str] | None = None) -> None:
        """Write the end of an activation. It survives `kill -9` when this returns.

        Args:
            activation: with its result.
            logs: all of its log lines; None when `logs` brings them later.

        Raises:
            RecordTooLarge: nothing was written: use `finish_large`.
            JournalFull: not even the reserve is left.
        """
        # Lines that would not fit anyway are not encoded to find out.
        if not logs or sum(map(len, logs)) <= INLINE_ENTRY_BYTES:
            entry = FinishedEntry.of(activation, logs)
            encoded = encode_entry(entry)
            if len(encoded) <= INLINE_ENTRY_BYTES:
                self._intake.append(entry, encoded)
                self._open.pop(activation.activation_id, None)
                self._uncommitted.add(entry)
                return
        if not logs:
            raise RecordTooLarge
        self.finish(activation)
        self.logs(activation.activation_id, logs)

    def finish_unstored(self, activation: Activation) -> None:
        """Write the end of an activation of which only the bill is kept. It survives `kill -9` when this returns.

        Raises:
            JournalFull: not even the reserve is left.
        """
        entry = BilledEntry(msgspec.structs.replace(activation, result=None))
        self._intake.append_any(entry)
        self._open.pop(activation.activation_id, None)

    async def finish_large(self, activation: Activation, *, logs: Sequence[str] | None = None) -> None:
        """Write the end of an activation of any size. It survives `kill -9` when this returns.

        On a full disk the record is kept without the result, and says so in the result's place. Once called, the record
        is written even if the caller is cancelled.

        Raises:
            JournalFull: not even the reserve is left.
            JournalBroken: the disk failed.
        """
        entry = FinishedEntry.of(activation, None)
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(error: OSError | None) -> None:
            if error is None:
                self._open.pop(activation.activation_id, None)
                self._uncommitted.add(entry)
                if logs is not None:
                    self.logs(activation.activation_id, logs)
            if waiter.done():
                return  # the caller was cancelled meanwhile
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(JournalBroken(str(error)))

        try:
            self._intake.start_large(entry, encode_entry(entry), done)
        except JournalFull:
            self.finish(msgspec.structs.replace(activation, result=_RESULT_NOT_KEPT), logs=logs)
        else:
            await waiter

    def logs(self, activation_id: ActivationId, lines: Sequence[str]) -> None:
        """Give the log lines of an activation that was finished without them. The first lines given count.

        Few lines go through the journal. Many go to the store at once: a crash within that moment loses them, and the
        record says so.
        """
        record = self._uncommitted.add_lines(activation_id, lines)
        if record is None:
            return
        entry = LogsEntry(activation_id, record.namespace, record.start_ms, lines)
        size = sum(map(len, lines))
        if size <= INLINE_ENTRY_BYTES:
            encoded = encode_entry(entry)
            if len(encoded) <= INLINE_ENTRY_BYTES:
                with contextlib.suppress(JournalFull):
                    self._intake.append(entry, encoded)
                    return
        self._intake.pass_by(entry, size)

    # ---- what goes with the next record

    def tail(self, activation_id: ActivationId, namespace: str, cpu_us: int, *, path: str = "") -> None:
        """Book CPU time that an activation used after its reply. Written with the next record, within a second."""
        self._intake.defer(TailEntry(activation_id, namespace, path, cpu_us, self._wall_ms(), self._next_part()))

    def idle(self, container: ContainerId, namespace: str, byte_us: int, *, cpu_us: int = 0, path: str = "") -> None:
        """Book memory that a container held while nothing ran in it, byte-microseconds. Written within a second."""
        mib_us, rest = split_byte_us(byte_us)
        self._intake.defer(IdleEntry(container, namespace, path, mib_us, rest, cpu_us, self._wall_ms(), self._next_part()))

    def container(self, container: ContainerId, namespace: str, fact: str, *, cpu_us: int = 0, path: str = "") -> None:
        """Note that a container was `created` or `removed`. Written within a second."""
        self._intake.defer(ContainerEntry(container, namespace, path, fact, cpu_us, self._wall_ms(), self._next_part()))

    async def correction(self, correction: Correction) -> None:
        """Correct a bill by a row of its own. Durable when it returns; repeating its key changes nothing.

        Raises:
            JournalFull, JournalBroken: it was not written.
        """
        await self._journal.wait_synced(self._intake.append_any(correction))

    # ---- how it fares

    def find_idempotent(self, namespace: str, path: str, key: str) -> tuple[ActivationId, str] | None:
        """Find (activation id, SHA-256 of the body) of the first call with this key; None when 24 h are over."""
        row = self._keys.find(namespace, path, key)
        return None if row is None else (ActivationId(row.activation_id), row.body_sha256)

    def room(self, records: int = 1) -> bool:
        """Tell whether new work may be taken: `records` more can be written, and the writer keeps up."""
        return self._intake.has_capacity(self._max_queued, self._max_queued_bytes) and self._journal.has_room(records)

    @property
    def failure(self) -> str:
        """Why nothing is written to the databases any more; empty while all is well."""
        return self._writer.failure

    @property
    def refusal(self) -> str:
        """Why the disk does not take a write just now, which is tried again until it does; empty while it takes all."""
        return self._writer.refusal or self._journal.refusal

    def on_journal_write(self, told: Callable[[float], None]) -> None:
        """Tell `told` from now on how long each write to the journal held the loop, seconds. It may not raise."""
        self._journal.on_write = told

    def lag(self) -> Lag:
        """Tell how far the databases are behind."""
        return self._intake.lag()

    def _on_committed(self, group: Sequence[Written]) -> None:
        """Forget what readers find in the databases now."""
        for written in group:
            self._uncommitted.forget(written.entries)
        self._intake.on_committed(group)

    def _next_part(self) -> int:
        """Number a row: never twice, and not over restarts either, because it begins at the wall clock."""
        self._part = max(self._part + 1, self._wall_ms() * 1000)
        return self._part
