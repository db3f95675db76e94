from __future__ import annotations

import msgspec
import pytest

from invoker.arguments import environment_text, merge_arguments, refuse_final
from invoker.errors import ParametersNotAllowed
from invoker.model import Action, Annotation, Exec, Parameter


def raw(text: str) -> msgspec.Raw:
    return msgspec.Raw(text.encode())


def action(*parameters: Parameter, final: bool = False) -> Action:
    annotations = (Annotation(key="final", value=raw("true")),) if final else ()
    return Action(
        namespace="anna",
        path="a",
        revision="1",
        updated=0,
        exec=Exec(kind="python:3"),
        parameters=parameters,
        annotations=annotations,
    )


def test_payload_is_passed_on_untouched_where_nothing_is_bound():
    payload = raw('{ "x" : 12345678901234567890.5 }')
    merged, environment = merge_arguments((), payload)
    assert merged is payload
    assert environment == {}


def test_payload_wins_over_bound_parameters_and_numbers_keep_every_digit():
    merged, _ = merge_arguments(
        (Parameter(key="a", value=raw("1")), Parameter(key="big", value=raw("123456789012345678901234567890"))), raw('{"a":2}')
    )
    assert bytes(merged) == b'{"a":2,"big":123456789012345678901234567890}'


def test_init_parameters_go_to_the_environment_also_when_the_payload_gives_the_value():
    parameters = (Parameter(key="SECRET", value=raw('"bound"'), init=True), Parameter(key="x", value=raw("1")))
    merged, environment = merge_arguments(parameters, raw('{"SECRET":"mine"}'))
    assert bytes(merged) == b'{"x":1}'
    assert environment == {"SECRET": "mine"}


@pytest.mark.parametrize(
    ("value", "text"),
    [('"a b"', "a b"), ("null", ""), ("1.50", "1.50"), ("true", "true"), ('[1,"é"]', '[1,"é"]'), ('{"a":1}', '{"a":1}')],
)
def test_environment_text(value: str, text: str):
    assert environment_text(raw(value)) == text


def test_final_action_refuses_an_override_but_not_of_a_null():
    final = action(Parameter(key="a", value=raw("1")), Parameter(key="free", value=raw("null")), final=True)
    with pytest.raises(ParametersNotAllowed, match="parameters that are not allowed"):
        refuse_final(final, raw('{"a":2}'))
    refuse_final(final, raw('{"free":2}'))
    refuse_final(action(Parameter(key="a", value=raw("1"))), raw('{"a":2}'))


def test_a_number_that_is_too_large_for_one_goes_to_the_environment_as_it_was_written():
    assert environment_text(msgspec.Raw(b"1e999")) == "1e999"
