"""What the daemon and the writer's process tell each other: JSON messages, each behind its length, over a socket pair."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

import msgspec

from invoker.record.activations import Retention
from invoker.record.entries import AcceptedEntry, LogsEntry, TickEntry
from invoker.record.rows import IdempotencyRow

_LENGTH = struct.Struct("!I")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the writer's process is started with.

    Attributes:
        state_dir: holds `journal/`, `ledger/` and `activations.db`.
        node: name of this node.
        retention: bounds of the activation store.
        log_level: name of a level of `logging`.
    """

    state_dir: str
    node: str
    retention: Retention
    log_level: str


# ---- to the writer


class Upto(msgspec.Struct, frozen=True, tag="upto"):
    """Every record of the journal up to this one may be read."""

    position: int


class Aside(msgspec.Struct, frozen=True, tag="aside"):
    """Log lines that do not go through the journal."""

    entry: LogsEntry


class Renew(msgspec.Struct, frozen=True, tag="renew"):
    """A reader has found the activation database, the file of this number, to be corrupt."""

    inode: int


class End(msgspec.Struct, frozen=True, tag="end"):
    """Commit everything and end."""


# ---- from the writer


class Started(msgspec.Struct, frozen=True, tag="started"):
    """The journal is replayed. `writer.Restored`, payloads apart."""

    position: int
    unbegun: Sequence[AcceptedEntry]
    begun: Sequence[AcceptedEntry]
    keys: Sequence[IdempotencyRow]
    ticks: Sequence[TickEntry]


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The writer cannot begin, or has ended by a bug: `code` of the error, or its class, and its words."""

    code: str
    message: str


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The databases do not take what is written, for this reason, and it is tried again; empty: they do now."""

    reason: str


class Committed(msgspec.Struct, frozen=True, tag="committed"):
    """Readers of the databases find all records up to `position` now, and the first `asides` ones told aside."""

    position: int
    asides: int


class Released(msgspec.Struct, frozen=True, tag="released"):
    """Both databases durably hold all records up to `position`."""

    position: int


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """Everything is committed that the disk takes; the process ends."""


ToWriter = Upto | Aside | Renew | End
FromWriter = Started | Failed | Refused | Committed | Released | Ended

decode_to_writer = msgspec.json.Decoder(ToWriter).decode
decode_from_writer = msgspec.json.Decoder(FromWriter).decode
_encode = msgspec.json.Encoder().encode


def pack(message: ToWriter | FromWriter) -> bytes:
    """Encode a message with its length."""
    body = _encode(message)
    return _LENGTH.pack(len(body)) + body


class Unpacker:
    """Cuts a stream into the bodies of messages, however the reads fall."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take what one read returned; yield the messages that are complete."""
        rest = self._rest
        rest += data
        while len(rest) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(rest)[0]
            if len(rest) < end:
                return
            body = bytes(rest[_LENGTH.size : end])
            del rest[:end]
            yield body
