"""What each entry of the journal comes to: which rows of the ledger, and which of the activation store."""

from __future__ import annotations

import dataclasses
import sqlite3
import typing
from contextlib import closing

import msgspec
import pytest

from invoker.activation import Accepted, Activation, Status
from invoker.model import Limits
from invoker.record import entries
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
)
from invoker.record.rows import RecordRow, Rows, TextRow, bytes_of, idempotency_row, with_bytes

ENDED = Activation(
    activation_id="a1", node="n", namespace="g", subject="g", path="g/a", version="0.0.1", kind="k",
    limits=Limits(), start_ms=5, end_ms=6, status=Status.SUCCESS,
)  # fmt: skip
PROMISED = Accepted(
    activation_id="a2", namespace="g", subject="g", path="g/a", payload=msgspec.Raw(b"null"), transaction="t", accepted_ms=7
)
KEYED = msgspec.structs.replace(PROMISED, idempotency_key="k", body_sha256="ff")
TICK = TickEntry("alarm", 8, 1)

#: Each entry, the types of its rows in the ledger, and the lists of the activation store that have a row of it.
CASES: dict[str, tuple[Entry, list[str], set[str]]] = {
    "accepted": (AcceptedEntry(PROMISED, "{}"), ["accepted"], {"pending"}),
    "accepted with a key": (AcceptedEntry(KEYED, "{}"), ["accepted"], {"pending", "keys"}),
    "begun": (BegunEntry("a2", "g", "g/a", 8), ["begun"], {"begun"}),
    "part": (PartEntry(PROMISED), [], {"pending", "begun"}),
    "finished": (FinishedEntry(ENDED, "1", ["line"]), ["finished"], {"records", "results", "logs", "kept"}),
    "finished before its logs": (FinishedEntry(ENDED, None, None), ["finished"], {"records", "kept"}),
    "billed": (BilledEntry(ENDED), ["finished"], {"kept"}),
    "fired": (FiredEntry(ENDED, "{}", ["line"], [KEYED], "{}", TICK), ["accepted"],
              {"records", "results", "logs", "pending", "keys", "ticks"}),
    "fired where nothing is stored": (FiredEntry(ENDED, "{}", [], [PROMISED], "{}", stored=False), ["accepted"], {"pending"}),
    "logs": (LogsEntry("a1", "g", 5, ["line"]), [], {"logs"}),
    "no logs": (LogsEntry("a1", "g", 5, []), [], set()),
    "tail": (TailEntry("a1", "g", "g/a", 9, 5, 1), ["tail"], set()),
    "tick": (TICK, [], {"ticks"}),
    "idle": (IdleEntry("c", "g", "g/a", 1, 2, 0, 5, 1), ["idle"], set()),
    "container": (ContainerEntry("c", "g", "", "created", 0, 5, 1), ["container"], set()),
    "correction": (Correction(subject="a1", namespace="g", key=1, reason="r", author="a", at_ms=5), ["correction"], set()),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_entry_comes_to_these_rows(name):
    entry, in_ledger, in_store = CASES[name]
    rows = Rows([entry])
    assert [item.type for item in rows.items] == in_ledger
    assert {each.name for each in dataclasses.fields(rows.batch) if getattr(rows.batch, each.name)} == in_store


def test_every_type_of_entry_is_tried_above():
    assert {type(entry) for entry, _, _ in CASES.values()} == set(typing.get_args(entries.Entry))


def test_the_rows_of_a_group_stand_in_the_order_of_its_entries():
    rows = Rows([CASES["begun"][0], CASES["finished"][0], CASES["tail"][0]])
    assert [(item.type, item.subject, item.at_ms) for item in rows.items] == [
        ("begun", "a2", 8),
        ("finished", "a1", 5),
        ("tail", "a1", 5),
    ]


def test_a_promise_keeps_its_payload_and_a_part_has_none():
    rows = Rows([AcceptedEntry(PROMISED, '{"n":1}'), PartEntry(PROMISED)])
    assert [row.payload for row in rows.batch.pending] == ['{"n":1}', "null"]


def test_a_key_is_kept_for_the_first_activation_with_what_was_asked():
    assert idempotency_row(PROMISED) is None
    row = idempotency_row(KEYED)
    assert (row.namespace, row.action, row.key, row.activation_id) == ("g", "g/a", "k", "a2")
    assert (row.body_sha256, row.accepted_ms) == ("ff", 7)


@pytest.mark.parametrize("text", ["", '{"a":1}', '"\u00e4\u20ac\U0001f980"', "a\x00b"])
def test_the_bytes_beside_a_text_are_those_that_the_database_counts(text):
    with closing(sqlite3.connect(":memory:")) as connection:
        assert connection.execute("SELECT length(CAST(? AS BLOB))", (text,)).fetchone() == (bytes_of(text),)


def test_a_row_is_inserted_with_its_bytes_behind_it():
    record, result = RecordRow("a1", "anna", "a", 5, "\u00e4"), TextRow("a1", "anna", 5, "null")
    assert list(with_bytes([record, result])) == [("a1", "anna", "a", 5, "\u00e4", 2), ("a1", "anna", 5, "null", 4)]
