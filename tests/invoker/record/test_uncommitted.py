"""What readers find before it is committed, and what is not shown yet."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from invoker.record.entries import FinishedEntry, LogsEntry
from invoker.record.uncommitted import LOGS_WAIT_S, Uncommitted
from pool.model import ActivationId

A, B = ActivationId("a" * 32), ActivationId("b" * 32)


@pytest.fixture
def clock():
    return SimpleNamespace(now=100.0)


@pytest.fixture
def uncommitted(clock):
    return Uncommitted(lambda: clock.now)


@pytest.fixture
def entry(make_activation):
    def make(activation_id: ActivationId, lines: list[str] | None, **fields: Any) -> FinishedEntry:
        return FinishedEntry.of(make_activation(activation_id=activation_id, **fields), lines)

    return make


def test_a_record_without_lines_is_hidden_until_they_come(uncommitted, entry):
    uncommitted.add(entry(A, None, start_ms=7))
    uncommitted.add(entry(B, ["b"]))
    assert uncommitted.hidden() == [A]
    assert uncommitted.is_hidden(A)
    assert not uncommitted.is_hidden(B)
    awaiting = uncommitted.add_lines(A, ["late"])
    assert (awaiting.namespace, awaiting.start_ms) == (uncommitted.records[A].activation.namespace, 7)
    assert uncommitted.hidden() == []
    assert [list(uncommitted.lines_of(each)) for each in uncommitted.records.values()] == [["late"], ["b"]]


def test_a_record_is_shown_without_its_lines_in_the_end_and_still_takes_them(uncommitted, entry, clock):
    uncommitted.add(entry(A, None))
    clock.now += LOGS_WAIT_S
    assert not uncommitted.is_hidden(A)
    assert uncommitted.hidden() == []
    assert uncommitted.lines_of(uncommitted.records[A]) == ()
    assert uncommitted.add_lines(A, ["late"]) is not None
    assert uncommitted.lines_of(uncommitted.records[A]) == ["late"]


def test_lines_that_nobody_waits_for_are_not_taken(uncommitted, entry, clock):
    uncommitted.add(entry(A, None))
    clock.now += 3600.0
    uncommitted.add(entry(B, None))
    assert uncommitted.add_lines(A, ["much too late"]) is None, "an hour is over"
    assert uncommitted.add_lines(B, ["first"]) is not None
    assert uncommitted.add_lines(B, ["second"]) is None
    assert uncommitted.lines == {B: ["first"]}


def test_the_first_record_of_an_activation_counts(uncommitted, entry):
    uncommitted.add(entry(A, ["first"]))
    uncommitted.add(entry(A, None))
    assert uncommitted.records[A].lines == ["first"]
    assert not uncommitted.is_hidden(A)


def test_what_is_committed_or_was_not_durable_is_forgotten(uncommitted, entry):
    first = entry(A, None)
    uncommitted.add(first)
    uncommitted.add_lines(A, ["late"])
    uncommitted.add(entry(B, []))
    uncommitted.forget([first])
    assert (list(uncommitted.records), uncommitted.lines) == ([B], {A: ["late"]})
    uncommitted.forget([LogsEntry(A, "anna", 7, ["late"])])
    assert uncommitted.lines == {}
    uncommitted.drop(B)
    uncommitted.drop(B)
    assert uncommitted.records == {}
