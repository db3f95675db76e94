"""Rows ACT that are decided before anything runs: what an invocation may ask for, and what is refused."""

import pytest

from invoker.invocation import Accepted202
from pool.errors import EngineUnavailable
from pool.model import ActivationId

ID = "0123456789abcdef" * 2


@pytest.fixture
async def hello(site):
    await site.put_hello()
    site.invoker.answer = lambda call: Accepted202(activation_id=ActivationId(ID))
    return site


async def refused(site, before, *, body=None, query="blocking=true", json_type=True, headers=None):
    """Ask for an invocation that must be refused: nothing is begun, and no entity has changed."""
    answer = await site.ask("POST", f"actions/hello?{query}", body, json_type=json_type, headers=headers)
    assert site.invoker.calls == []
    assert "x-openwhisk-activation-id" not in answer.headers
    assert (await site.ask("GET", "actions/hello")).json == before
    return answer.status, answer.error


@pytest.mark.parametrize("body", ["{", "nonsense", "[1, 2]", "42", '"text"', "null", '{"a": 1} {"b": 2}'])
async def test_ACT_19_a_payload_that_is_no_json_object_is_400(hello, body):
    before = (await hello.ask("GET", "actions/hello")).json
    status, error = await refused(hello, before, body=body)
    assert status == 400
    assert error.startswith("The request content was malformed")


@pytest.mark.parametrize("content_type", ["text/plain", "application/xml", "application/x-www-form-urlencoded"])
async def test_ACT_19_a_payload_of_another_type_is_415(hello, content_type):
    before = (await hello.ask("GET", "actions/hello")).json
    status, error = await refused(hello, before, body='{"a": 1}', headers={"Content-Type": content_type})
    assert (status, error) == (
        415,
        f"The request's Content-Type [{content_type}] is not supported. Expected:\napplication/json",
    )


async def test_ACT_19_no_payload_at_all_needs_no_type(hello):
    assert (await hello.ask("POST", "actions/hello", json_type=False)).status == 202
    (call,) = hello.invoker.calls
    assert bytes(call.payload) == b"{}"


@pytest.mark.parametrize("timeout", ["0", "-1", "60001", "1e3", "1.5", "many", "", "99999999999999999999"])
async def test_ACT_20_a_timeout_outside_of_a_minute_is_400(hello, timeout):
    before = (await hello.ask("GET", "actions/hello")).json
    status, error = await refused(hello, before, query=f"blocking=true&timeout={timeout}")
    assert status == 400
    assert error.startswith("The query parameter 'timeout' was malformed")
    assert "milliseconds up to 60000." in error


@pytest.mark.parametrize(("query", "wait_s"), [("timeout=1", 0.001), ("timeout=60000", 60.0), ("", 60.0)])
async def test_ACT_20_a_timeout_within_a_minute_is_waited_for(hello, query, wait_s):
    assert (await hello.ask("POST", f"actions/hello?blocking=true&{query}", {})).status == 202
    (call,) = hello.invoker.calls
    assert (call.blocking, call.wait_s) == (True, wait_s)


@pytest.mark.parametrize("name", ["blocking", "result"])
async def test_ACT_20_a_truth_value_that_is_none_is_400(hello, name):
    before = (await hello.ask("GET", "actions/hello")).json
    status, error = await refused(hello, before, query=f"{name}=perhaps")
    assert status == 400
    assert error.startswith(f"The query parameter '{name}' was malformed")


async def test_ACT_22_without_a_healthy_executor_the_answer_is_503_and_when_to_come_again(hello):
    def unavailable(call):
        raise EngineUnavailable("the container engine does not answer")

    hello.invoker.answer = unavailable
    answer = await hello.ask("POST", "actions/hello?blocking=true", {})
    assert (answer.status, int(answer.headers["Retry-After"]) >= 1) == (503, True)
    assert answer.error
