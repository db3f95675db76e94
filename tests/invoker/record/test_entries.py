"""Entries: what goes into a record comes out of it."""

import msgspec
import pytest

from invoker.activation import Accepted
from invoker.model import MIB
from invoker.record.entries import (
    AcceptedEntry,
    BegunEntry,
    ContainerEntry,
    Correction,
    IdleEntry,
    LogsEntry,
    TailEntry,
    decode_record,
    encode_entry,
    join_entries,
    split_byte_us,
)

PROMISE = Accepted(
    activation_id="a" * 32, namespace="n", subject="n", path="n/a", payload=msgspec.Raw(b"{}"), transaction="t", accepted_ms=1
)


def test_every_type_of_entry_survives_a_record():
    entries = [
        AcceptedEntry.of(PROMISE),
        BegunEntry("a" * 32, "n", "n/a", 2),
        LogsEntry("a" * 32, "n", 3, ["line"]),
        TailEntry("a" * 32, "n", "n/a", 10, 4, 1),
        IdleEntry("c", "n", "n/a", 5, 6, 7, 8, 2),
        ContainerEntry("c", "n", "n/a", "created", 0, 9, 3),
        Correction(subject="a" * 32, namespace="n", key=1, reason="r", author="a", at_ms=10),
    ]
    decoded = decode_record(join_entries([encode_entry(each) for each in entries]))
    assert encode_entry(decoded) == encode_entry(entries)


def test_a_payload_that_no_parser_takes_is_kept_as_text():
    deep = msgspec.Raw(b"[" * 5000 + b"]" * 5000)
    record = join_entries([encode_entry(AcceptedEntry.of(msgspec.structs.replace(PROMISE, payload=deep)))])
    assert decode_record(record)[0].payload == bytes(deep).decode()


def test_an_unknown_entry_is_refused_not_passed_over():
    with pytest.raises(msgspec.ValidationError):
        decode_record(b'[{"type":"from-the-future"}]')


def test_byte_microseconds_are_split_without_loss():
    whole, rest = split_byte_us(20 * 10**9 * 3600 * 10**6 + 7)
    assert whole * MIB + rest == 20 * 10**9 * 3600 * 10**6 + 7
    assert rest < MIB
    assert whole < 2**63
