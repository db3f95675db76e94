"""The tables of the container contract, row by row."""

from __future__ import annotations

import msgspec
import pytest

from invoker.activation import Status
from invoker.runtime import Outcome, classify_init, classify_run, init_body, run_body, run_prefix
from pool.connection import Response


def response(status: int, body: bytes, length: int | None = None) -> Response:
    return Response(status=status, body=bytearray(body), length=len(body) if length is None else length)


def error_of(outcome: Outcome) -> object:
    assert outcome.result is not None
    return msgspec.json.decode(outcome.result)["error"]


def test_init_that_succeeds_goes_on_to_run():
    assert classify_init(response(200, b"OK")) is None


def test_init_error_is_the_developers_with_the_runtimes_words():
    outcome = classify_init(response(502, b'{"error":"Initialization has failed due to: SyntaxError"}'))
    assert outcome is not None
    assert (outcome.status, outcome.keep) == (Status.DEVELOPER_ERROR, False)
    assert error_of(outcome) == "Initialization has failed due to: SyntaxError"


def test_init_error_without_words_says_what_failed():
    outcome = classify_init(response(500, b"boom"))
    assert outcome is not None
    assert error_of(outcome) == "The action failed during initialization: boom"


@pytest.mark.parametrize(
    ("body", "status", "result", "keep"),
    [
        (b'{"a":1}\n', Status.SUCCESS, b'{"a":1}', True),
        (b"{}", Status.SUCCESS, b"{}", True),
        (b'[1,{"error":2}]', Status.SUCCESS, b'[1,{"error":2}]', True),
        (b'{"a":1,"error":"no"}', Status.APPLICATION_ERROR, b'{"error":"no"}', True),
        (b'{"error":null}', Status.APPLICATION_ERROR, b'{"error":null}', True),
        (b'{"error":{}}', Status.APPLICATION_ERROR, b'{"error":{}}', True),
    ],
)
def test_answer_200(body: bytes, status: Status, result: bytes, keep: bool):
    outcome = classify_run(response(200, body), 1000)
    assert (outcome.status, bytes(outcome.result or b""), outcome.keep) == (status, result, keep)
    assert outcome.size == len(body)


@pytest.mark.parametrize("body", [b"null", b"1", b'"text"', b"", b"{", b'{"a":\xff}', b"not json", b'{"a":1} trailing'])
def test_answer_200_that_is_no_object_and_no_array_is_the_developers_error(body: bytes):
    outcome = classify_run(response(200, body), 1000)
    assert (outcome.status, outcome.keep) == (Status.DEVELOPER_ERROR, False)
    assert "did not produce a valid JSON or JSON Array response" in str(error_of(outcome))


def test_answer_that_is_not_200_is_the_developers_error_with_its_words():
    outcome = classify_run(response(502, b'{"error":"An error has occurred: x"}'), 1000)
    assert (outcome.status, error_of(outcome), outcome.keep) == (Status.DEVELOPER_ERROR, "An error has occurred: x", False)


def test_answer_beyond_the_limit_is_an_application_error_with_its_beginning_and_the_container_is_kept():
    outcome = classify_run(response(200, b"x" * 10, length=11), 10)
    assert (outcome.status, outcome.size, outcome.keep) == (Status.APPLICATION_ERROR, 11, True)
    assert "exceeded the allowed length: 11 > 10 bytes." in str(error_of(outcome))
    assert str(error_of(outcome)).endswith("The truncated response was: xxxxxxxxxx")


def test_size_counts_characters_and_not_bytes():
    assert classify_run(response(200, '{"a":"é"}'.encode()), 1000).size == 9


def test_run_body_is_one_line_and_every_value_but_the_arguments_is_a_string():
    prefix = run_prefix(namespace="anna", action_name="/anna/p/a", version="0.0.1")
    body = run_body(
        prefix, msgspec.Raw(b'{"x":1}'), activation_id="1" * 32, transaction='t"\n', deadline_ms=1_700_000_000_000, api_key="u:k"
    )
    assert b"\n" not in body
    decoded = msgspec.json.decode(body)
    assert decoded.pop("value") == {"x": 1}
    assert decoded == {
        "namespace": "anna",
        "action_name": "/anna/p/a",
        "action_version": "0.0.1",
        "activation_id": "1" * 32,
        "transaction_id": 't"\n',
        "deadline": "1700000000000",
        "api_key": "u:k",
    }


def test_action_without_a_right_to_the_key_does_not_get_it():
    body = run_body(b'{"a":"b",', msgspec.Raw(b"{}"), activation_id="1", transaction="t", deadline_ms=1, api_key=None)
    assert "api_key" not in msgspec.json.decode(body)


def test_init_body_holds_code_or_a_path_and_no_code_where_there_is_none():
    common = {"name": "a", "main": None, "binary": True, "environment": {"A": ""}}
    inline = msgspec.json.decode(init_body(code="Zm9v", code_path=None, **common))["value"]
    assert inline == {"name": "a", "main": "main", "binary": True, "env": {"A": ""}, "code": "Zm9v"}
    mounted = msgspec.json.decode(init_body(code=None, code_path="/mnt/code", **common))["value"]
    assert (mounted["code_path"], "code" in mounted) == ("/mnt/code", False)
    assert "code" not in msgspec.json.decode(init_body(code=None, code_path=None, **common))["value"]
