"""The way through a sequence: values in, the next step out."""

import msgspec
import pytest
from activations import finished as run

from invoker.activation import Status
from invoker.runtime import Outcome
from invoker.sequence import SEQUENCE_LENGTH, TOO_LONG, Length, RunNext, Sequence


def begun(components=3):
    sequence = Sequence(components, Length())
    assert sequence.begin(msgspec.Raw(b"{}")) == RunNext(0, msgspec.Raw(b"{}"))
    return sequence


def test_an_error_in_the_callers_payload_is_passed_on():
    step = Sequence(2, Length()).begin(msgspec.Raw(b'{"error":"mine"}'))
    assert step == RunNext(0, msgspec.Raw(b'{"error":"mine"}'))


@pytest.mark.parametrize("text", [b'{"n": 12345678901234567890}', b"[1, 2.50]"])
def test_each_result_is_the_next_payload_as_it_came(text):
    step = begun().after(run(text))
    assert isinstance(step, RunNext)
    assert (step.index, bytes(step.payload)) == (1, text)


def test_the_last_result_is_the_sequences():
    sequence = begun(2)
    sequence.after(run({"a": 1}))
    ended = sequence.after(run({"b": 2}, size=8))
    assert isinstance(ended, Outcome)
    assert (ended.status, bytes(ended.result), ended.size, ended.reason) == (Status.SUCCESS, b'{"b":2}', 8, "ok")


@pytest.mark.parametrize(
    ("status", "outcome"), [(Status.APPLICATION_ERROR, "application-error"), (Status.DEVELOPER_ERROR, "crashed")]
)
def test_an_error_ends_it_with_its_status_and_result(status, outcome):
    ended = begun().after(run({"error": "bad"}, status, outcome))
    assert isinstance(ended, Outcome)
    assert (ended.status, bytes(ended.result), ended.reason) == (status, b'{"error":"bad"}', outcome)


def test_an_error_that_a_composition_ended_with_is_an_error_of_the_sequence():
    ended = begun().after(run({"error": "said", "more": 1}))
    assert isinstance(ended, Outcome)
    assert (ended.status, bytes(ended.result)) == (Status.APPLICATION_ERROR, b'{"error":"said"}')


def test_one_action_too_many_ends_it_before_it_runs_also_when_they_are_in_sequences_inside():
    length = Length()
    outer, inner = Sequence(2, length), Sequence(SEQUENCE_LENGTH, length)
    assert all(inner.count_action() is None for _ in range(SEQUENCE_LENGTH))
    ended = outer.count_action()
    assert ended is not None
    assert (ended.status, ended.reason) == (Status.APPLICATION_ERROR, "sequence-too-long")
    assert msgspec.json.decode(ended.result) == {"error": TOO_LONG}
    assert length.actions == SEQUENCE_LENGTH
