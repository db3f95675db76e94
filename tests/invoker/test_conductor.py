"""The conductor's loop: values in, the next step out."""

import msgspec
import pytest
from activations import finished as run

from invoker.activation import Status
from invoker.conductor import (
    COMPOSITION_LENGTH,
    CONDUCTOR_RUNS,
    TOO_LONG,
    Conductor,
    Counts,
    Finish,
    RunComponent,
    RunConductor,
    candidates,
    fields_of,
)


def raw(value):
    return msgspec.Raw(value if isinstance(value, bytes) else msgspec.json.encode(value))


def payload(step):
    assert isinstance(step, (RunConductor, RunComponent)), step
    return msgspec.json.decode(step.payload)


def result(step):
    assert isinstance(step, Finish), step
    return msgspec.json.decode(step.outcome.result)


def begun(text=b'{"n":1}'):
    conductor = Conductor(Counts())
    step = conductor.begin(raw(text))
    assert isinstance(step, RunConductor)
    return conductor


def test_it_begins_with_the_callers_payload_as_it_came():
    step = Conductor(Counts()).begin(raw(b'{"n": 12345678901234567890}'))
    assert isinstance(step, RunConductor)
    assert bytes(step.payload) == b'{"n": 12345678901234567890}'


def test_without_an_action_it_ends_with_the_params_or_else_with_the_whole_result():
    assert result(begun().after_conductor(run({"params": {"a": 1}, "state": {"s": 1}}))) == {"a": 1}
    assert result(begun().after_conductor(run({"b": 2}))) == {"b": 2}


def test_params_and_state_that_are_no_objects_are_boxed():
    conductor = begun()
    step = conductor.after_conductor(run({"action": "echo", "params": 7, "state": [1]}))
    assert payload(step) == {"value": 7}
    assert payload(conductor.after_component(run({"x": 1}))) == {"x": 1, "state": [1]}
    assert result(begun().after_conductor(run({"params": "p"}))) == {"value": "p"}


def test_an_action_without_params_gets_nothing_but_its_own():
    step = begun().after_conductor(run({"action": "echo"}))
    assert isinstance(step, RunComponent)
    assert (step.name, payload(step)) == ("echo", {})


def test_the_state_wins_over_the_components_result_and_is_forgotten_when_it_is_not_given_again():
    conductor = begun()
    conductor.after_conductor(run({"action": "echo", "state": {"x": "state", "y": 1}}))
    assert payload(conductor.after_component(run({"x": "result", "z": 2}))) == {"x": "state", "y": 1, "z": 2}
    conductor.after_conductor(run({"action": "echo"}))
    assert payload(conductor.after_component(run({"x": "result"}))) == {"x": "result"}


def test_a_components_error_is_the_conductors_to_judge():
    conductor = begun()
    conductor.after_conductor(run({"action": "echo", "state": {"s": 1}}))
    step = conductor.after_component(run({"error": "bad"}, Status.DEVELOPER_ERROR))
    assert isinstance(step, RunConductor)
    assert payload(step) == {"error": "bad", "s": 1}


@pytest.mark.parametrize("name", [{"a": 1}, 7, None, ["echo"]])
def test_an_action_that_is_no_name_is_told_to_the_conductor_with_its_state(name):
    step = begun().after_conductor(run({"action": name, "state": {"s": 1}}))
    assert isinstance(step, RunConductor)
    told = payload(step)
    assert "parse action name from json value" in told["error"]
    assert told["s"] == 1


def test_a_conductor_that_fails_ends_the_composition_with_its_own_error():
    step = begun().after_conductor(run({"error": "broken"}, Status.DEVELOPER_ERROR, "crashed"))
    assert isinstance(step, Finish)
    assert (step.outcome.status, step.outcome.reason) == (Status.DEVELOPER_ERROR, "crashed")
    assert result(step) == {"error": "broken"}


def test_a_result_that_is_no_object_ends_it():
    assert result(begun().after_conductor(run([1, 2]))) == [1, 2]


def test_one_action_too_many_is_refused_and_the_conductor_may_still_end_it():
    conductor = begun()
    for _ in range(COMPOSITION_LENGTH):
        assert isinstance(conductor.after_conductor(run({"action": "echo"})), RunComponent)
        conductor.count_component()
        conductor.after_component(run({}))
    step = conductor.after_conductor(run({"action": "echo"}))
    assert payload(step) == {"error": TOO_LONG}
    assert result(conductor.after_conductor(run({"ended": True}))) == {"ended": True}


def test_one_run_of_the_conductor_too_many_ends_the_composition():
    conductor = begun()
    step = None
    for _ in range(CONDUCTOR_RUNS - 1):
        step = conductor.refused("no such action")
        assert isinstance(step, RunConductor)
    step = conductor.refused("no such action")
    assert isinstance(step, Finish)
    assert (step.outcome.status, step.outcome.reason) == (Status.APPLICATION_ERROR, "composition-too-long")
    assert result(step) == {"error": TOO_LONG}


def test_a_composition_inside_counts_with_the_one_around_it():
    counts = Counts(components=COMPOSITION_LENGTH)
    conductor = Conductor(counts)
    conductor.begin(raw({}))
    assert payload(conductor.after_conductor(run({"action": "echo"}))) == {"error": TOO_LONG}
    assert counts.conductor_runs == 2


def test_numbers_beyond_2_53_and_spelling_survive_state_and_params():
    conductor = begun()
    step = conductor.after_conductor(run(b'{"action":"echo","params":{"n":12345678901234567890},"state":{"d":1.10}}'))
    assert bytes(step.payload) == b'{"n":12345678901234567890}'
    assert bytes(conductor.after_component(run(b'{"m":1e400}')).payload) == b'{"m":1e400,"d":1.10}'


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("echo", ["anna/echo"]),
        ("p/echo", ["anna/p/echo", "p/echo"]),
        ("/bob/echo", ["bob/echo"]),
        ("/bob/p/echo", ["bob/p/echo"]),
        ("bob/p/echo", ["bob/p/echo"]),
        ("/_/echo", ["anna/echo"]),
        ("_/p/echo", ["anna/p/echo"]),
        ("", []),
        ("/", []),
        ("/echo", []),
        ("a//b", []),
        ("a/b/c/d", []),
    ],
)
def test_names_as_conductors_give_them(name, paths):
    assert candidates(name, "anna") == paths


def test_fields_of_what_is_no_object_are_none():
    assert fields_of(None) == {}
    assert fields_of(raw(b"[1]")) == {}
    assert fields_of(raw(b' {"a": 1}')).keys() == {"a"}
