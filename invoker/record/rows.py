"""Rows of the activation store, and what entries of the journal come to: rows of it, and rows of the ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import msgspec

from invoker.activation import Accepted, Activation
from invoker.record.entries import (
    AcceptedEntry,
    BegunEntry,
    BilledEntry,
    ContainerEntry,
    Correction,
    Entry,
    FinishedEntry,
    FiredEntry,
    IdleEntry,
    LogsEntry,
    PartEntry,
    TailEntry,
    TickEntry,
    encode_entry,
)
from invoker.record.ledger import LedgerItem

_decode_accepted = msgspec.json.Decoder(Accepted).decode


class RecordRow(NamedTuple):
    """A record. `action` is `[package/]name`, `text` JSON of `Activation` without its result."""

    activation_id: str
    namespace: str
    action: str
    start_ms: int
    text: str

    @classmethod
    def of(cls, activation: Activation) -> Self:
        """Make the row of an activation, whose result is elsewhere."""
        text = msgspec.json.encode(activation).decode("utf-8", "replace")
        return cls(activation.activation_id, activation.namespace, activation.path.partition("/")[2], activation.start_ms, text)


class TextRow(NamedTuple):
    """A result or the log lines of an activation, as JSON text: SQLite must not parse what users nest."""

    activation_id: str
    namespace: str
    start_ms: int
    text: str


def bytes_of(text: str) -> int:
    """How many bytes a text takes in a database. Most are plain ASCII, which is known without a look at them."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def with_bytes(rows: Iterable[RecordRow | TextRow]) -> Iterator[tuple[str | int, ...]]:
    """Make of each row what its INSERT takes: the row, and the bytes of its text."""
    return ((*row, bytes_of(row.text)) for row in rows)


def read_promise(text: bytes | str, payload: bytes | str) -> Accepted:
    """Read a promise as it stands in the database. Raises msgspec.MsgspecError where it cannot be read."""
    return msgspec.structs.replace(_decode_accepted(text), payload=msgspec.Raw(payload))


class PendingRow(msgspec.Struct, frozen=True):
    """A promise, its payload apart."""

    activation_id: str
    accepted: Accepted
    payload: str

    @classmethod
    def of(cls, entry: AcceptedEntry) -> Self:
        """Make the row of a promise."""
        return cls(entry.accepted.activation_id, entry.accepted, entry.payload)


class IdempotencyRow(msgspec.Struct, frozen=True):
    """An idempotency key and the first activation it stood for."""

    namespace: str
    action: str
    key: str
    activation_id: str
    body_sha256: str
    accepted_ms: int


@dataclass(slots=True)
class ActivationBatch:
    """What is to be written in one transaction.

    Attributes:
        records: without results.
        results, logs: texts apart.
        pending: promises made.
        begun: ids of promises that may have run.
        kept: ids of promises that have a record now.
        keys: idempotency keys.
        ticks: how far alarms have come, in order.
    """

    records: list[RecordRow] = field(default_factory=list)
    results: list[TextRow] = field(default_factory=list)
    logs: list[TextRow] = field(default_factory=list)
    pending: list[PendingRow] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    keys: list[IdempotencyRow] = field(default_factory=list)
    ticks: list[TickEntry] = field(default_factory=list)


class Rows:
    """The rows of one group of entries.

    Attributes:
        items: of the ledger, in the order of the entries.
        batch: of the activation store.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.items: list[LedgerItem] = []
        self.batch = ActivationBatch()
        for entry in entries:
            _ADD[type(entry)](self, entry)

    def finished(self, entry: FinishedEntry) -> None:
        """An activation ended: it is billed, has a record, and is nobody's promise any more."""
        self.items.append(LedgerItem.finished(entry.activation))
        self.batch.kept.append(entry.activation.activation_id)
        self._record(entry)

    def _record(self, entry: FinishedEntry) -> None:
        activation, batch = entry.activation, self.batch
        activation_id, namespace, start_ms = activation.activation_id, activation.namespace, activation.start_ms
        batch.records.append(RecordRow.of(activation))
        if entry.result is not None:
            batch.results.append(TextRow(activation_id, namespace, start_ms, entry.result))
        if entry.lines:
            batch.logs.append(TextRow(activation_id, namespace, start_ms, encode_entry(entry.lines).decode()))

    def billed(self, entry: BilledEntry) -> None:
        """The same of a namespace that keeps no records."""
        self.items.append(LedgerItem.finished(entry.activation))
        self.batch.kept.append(entry.activation.activation_id)

    def logs(self, entry: LogsEntry) -> None:
        """Log lines came after their record."""
        if entry.lines:
            row = TextRow(entry.activation_id, entry.namespace, entry.at_ms, encode_entry(entry.lines).decode())
            self.batch.logs.append(row)

    def accepted(self, entry: AcceptedEntry) -> None:
        """An activation was promised."""
        accepted = entry.accepted
        self.items.append(LedgerItem("accepted", accepted.accepted_ms, accepted.activation_id, encode_entry(accepted)))
        self.batch.pending.append(PendingRow.of(entry))
        if (row := idempotency_row(accepted)) is not None:
            self.batch.keys.append(row)

    def fired(self, entry: FiredEntry) -> None:
        """A trigger's record costs nothing and is not billed; what its rules run is."""
        if entry.stored:
            self._record(entry.record)
        for accepted in entry.promised:
            self.accepted(AcceptedEntry(accepted, entry.payload))
        if entry.tick is not None:
            self.tick(entry.tick)

    def tick(self, entry: TickEntry) -> None:
        """An alarm has come so far."""
        self.batch.ticks.append(entry)

    def begun(self, entry: BegunEntry) -> None:
        """A promised activation may have run from now on."""
        self.items.append(LedgerItem("begun", entry.at_ms, entry.activation_id, encode_entry(entry)))
        self.batch.begun.append(entry.activation_id)

    def part(self, entry: PartEntry) -> None:
        """The ledger does not have it: its row is the one of the end."""
        accepted = entry.accepted
        self.batch.pending.append(PendingRow(accepted.activation_id, accepted, "null"))
        self.batch.begun.append(accepted.activation_id)

    def tail(self, entry: TailEntry) -> None:
        """CPU time came after a reply."""
        self.items.append(LedgerItem("tail", entry.at_ms, entry.activation_id, encode_entry(entry)))

    def idle(self, entry: IdleEntry) -> None:
        """A container held memory for nobody's call."""
        self.items.append(LedgerItem("idle", entry.at_ms, entry.container, encode_entry(entry)))

    def container(self, entry: ContainerEntry) -> None:
        """A container was made, or went."""
        self.items.append(LedgerItem("container", entry.at_ms, entry.container, encode_entry(entry)))

    def correction(self, entry: Correction) -> None:
        """What was billed is put right."""
        self.items.append(LedgerItem("correction", entry.at_ms, entry.subject, encode_entry(entry)))


_ADD: dict[type[Entry], Callable[[Rows, Any], None]] = {
    AcceptedEntry: Rows.accepted,
    BegunEntry: Rows.begun,
    PartEntry: Rows.part,
    FinishedEntry: Rows.finished,
    BilledEntry: Rows.billed,
    FiredEntry: Rows.fired,
    LogsEntry: Rows.logs,
    TailEntry: Rows.tail,
    TickEntry: Rows.tick,
    IdleEntry: Rows.idle,
    ContainerEntry: Rows.container,
    Correction: Rows.correction,
}


def idempotency_row(accepted: Accepted) -> IdempotencyRow | None:
    """Make the row of a promise's idempotency key; None without a key."""
    if accepted.idempotency_key is None:
        return None
    return IdempotencyRow(
        accepted.namespace,
        accepted.path,
        accepted.idempotency_key,
        accepted.activation_id,
        accepted.body_sha256 or "",
        accepted.accepted_ms,
    )
