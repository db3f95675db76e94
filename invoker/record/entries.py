"""What stands in a record of the journal: a JSON array of entries, each of one of these types.

An entry is a fact, complete in itself: applying it twice, or after later ones of other subjects, changes nothing.
JSON of users' making stands in it as a string: however deep they nest, and whatever they break, the journal can be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import msgspec

from invoker.activation import Accepted, Activation
from invoker.model import MIB

#: Bits of a byte count below one MiB.
_MIB_BITS = MIB.bit_length() - 1
_NULL = msgspec.Raw(b"null")


class AcceptedEntry(msgspec.Struct, frozen=True, tag="accepted"):
    """An activation was promised. `payload` is the payload's JSON text, which `accepted` then lacks."""

    accepted: Accepted
    payload: str

    @classmethod
    def of(cls, accepted: Accepted) -> Self:
        """Take the payload out."""
        return cls(msgspec.structs.replace(accepted, payload=_NULL), _text(accepted.payload))


class TickEntry(msgspec.Struct, frozen=True, tag="tick"):
    """An alarm has come so far; alone where no rule listened, else in the entry of what it fired.

    Attributes:
        alarm_id: of the alarm.
        at_ms: the moment that the tick was scheduled for.
        fired: how many ticks have fired, this one included.
        gone: the alarm is no more: forget how far it came.
    """

    alarm_id: str
    at_ms: int
    fired: int
    gone: bool = False


class FiredEntry(msgspec.Struct, frozen=True, tag="fired"):
    """A trigger fired: its record, and what its rules have promised, all or nothing.

    Attributes:
        activation: of the trigger, without the result.
        result: the result's JSON text.
        lines: what became of each rule.
        promised: activations of actions, without payload: they have the same.
        payload: its JSON text.
        tick: what an alarm wants remembered with it.
        stored: false where the namespace keeps no records.
    """

    activation: Activation
    result: str
    lines: Sequence[str]
    promised: Sequence[Accepted]
    payload: str
    tick: TickEntry | None = None
    stored: bool = True

    @classmethod
    def of(
        cls,
        activation: Activation,
        lines: Sequence[str],
        promised: Sequence[Accepted],
        payload: msgspec.Raw,
        tick: TickEntry | None,
        *,
        stored: bool,
    ) -> Self:
        """Take the texts out."""
        record = FinishedEntry.of(activation, lines)
        bare = [msgspec.structs.replace(each, payload=_NULL) for each in promised]
        return cls(record.activation, record.result or "null", lines, bare, _text(payload), tick, stored)

    @property
    def record(self) -> FinishedEntry:
        """The trigger's record, as it stands in the journal for an action."""
        return FinishedEntry(self.activation, self.result, self.lines)


class BegunEntry(msgspec.Struct, frozen=True, tag="begun"):
    """A promised activation is about to reach its container: from now on it may have run."""

    activation_id: str
    namespace: str
    path: str
    at_ms: int


class PartEntry(msgspec.Struct, frozen=True, tag="part"):
    """A part of a sequence or composition begins; nobody was promised it. Should it be lost, this tells what it was part of."""

    accepted: Accepted

    @classmethod
    def of(cls, accepted: Accepted) -> Self:
        """Leave the payload out: a part that had begun is never run again."""
        return cls(msgspec.structs.replace(accepted, payload=_NULL))


class FinishedEntry(msgspec.Struct, frozen=True, tag="finished"):
    """An activation ended.

    Attributes:
        activation: without the result.
        result: the result's JSON text.
        lines: its log lines; None when they come later.
    """

    activation: Activation
    result: str | None = None
    lines: Sequence[str] | None = None

    @classmethod
    def of(cls, activation: Activation, lines: Sequence[str] | None) -> Self:
        """Take the result out."""
        if activation.result is None:
            return cls(activation, None, lines)
        return cls(msgspec.structs.replace(activation, result=None), _text(activation.result), lines)


class BilledEntry(msgspec.Struct, frozen=True, tag="billed"):
    """An activation ended, and nothing but its bill is kept: its namespace stores no records. Without the result."""

    activation: Activation


class LogsEntry(msgspec.Struct, frozen=True, tag="logs"):
    """The log lines of an activation that ended before."""

    activation_id: str
    namespace: str
    at_ms: int
    lines: Sequence[str]


class TailEntry(msgspec.Struct, frozen=True, tag="tail"):
    """CPU time that an activation used after its reply. `part` tells several of one activation apart."""

    activation_id: str
    namespace: str
    path: str
    cpu_us: int
    at_ms: int
    part: int


class IdleEntry(msgspec.Struct, frozen=True, tag="idle"):
    """Memory that a container held for a namespace while nothing ran in it.

    The product is kept in two numbers, because byte-microseconds of one large container overflow 64 bits within minutes.

    Attributes:
        memory_mib_us: whole MiB-microseconds.
        memory_byte_us: the rest, byte-microseconds, below one MiB-microsecond.
        cpu_us: CPU time it used meanwhile.
    """

    container: str
    namespace: str
    path: str
    memory_mib_us: int
    memory_byte_us: int
    cpu_us: int
    at_ms: int
    part: int


class ContainerEntry(msgspec.Struct, frozen=True, tag="container"):
    """A container was created or removed: `fact`. `cpu_us` is all the CPU time it had used by then."""

    container: str
    namespace: str
    path: str
    fact: str
    cpu_us: int
    at_ms: int
    part: int


class Correction(msgspec.Struct, frozen=True, kw_only=True, tag="correction"):
    """A change of what is billed, by a person, beside the row that stays as it is. Numbers are differences.

    Attributes:
        subject: activation or container it corrects.
        namespace, path: whose bill changes.
        key: of this correction: the same key for the same subject counts once.
        reason, author: for the reader of the bill.
        at_ms: wall clock of what is corrected, so that it is filed with it.
    """

    subject: str
    namespace: str
    path: str = ""
    key: int
    reason: str
    author: str
    at_ms: int
    billed_us: int = 0
    cpu_us: int = 0
    memory_mib_us: int = 0


Entry = (
    AcceptedEntry
    | BegunEntry
    | PartEntry
    | FinishedEntry
    | BilledEntry
    | FiredEntry
    | LogsEntry
    | TailEntry
    | TickEntry
    | IdleEntry
    | ContainerEntry
    | Correction
)

encode_entry = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[Entry]).decode


def join_entries(encoded: Sequence[bytes]) -> bytes:
    """Make one record of encoded entries."""
    return b"[" + b",".join(encoded) + b"]"


def decode_record(record: bytes) -> list[Entry]:
    """Read a record.

    Raises:
        msgspec.MsgspecError: it has an entry that this version does not know.
    """
    return _decode(record)


def split_byte_us(byte_us: int) -> tuple[int, int]:
    """Split byte-microseconds into whole MiB-microseconds and the rest."""
    return byte_us >> _MIB_BITS, byte_us & (MIB - 1)


def _text(raw: msgspec.Raw) -> str:
    return bytes(raw).decode("utf-8", "replace")
