"""POST of a trigger, over HTTP."""

import msgspec
import pytest
from lanes import both, status_of

from invoker.model import Action, Exec, Rule, Trigger


def link(site, name="t"):
    site.entities.add(Trigger(namespace="guest", path=name, revision="r", updated=0, birth="b"))
    site.entities.add(Action(namespace="guest", path="a", revision="r", updated=0, exec=Exec(kind="python:3")))
    site.entities.add(
        Rule(namespace="guest", path="r", revision="r", updated=0, trigger=f"guest/{name}", action="guest/a", link="b")
    )


async def test_a_fire_is_answered_with_the_id_of_its_record(site):
    link(site)
    answered = await site.ask("POST", "triggers/t", {"x": 1}, headers={"X-Mine": "yes"})
    assert answered.status == 202
    (record,) = site.activations.records
    assert answered.json == {"activationId": record.activation_id}
    assert answered.headers["x-openwhisk-activation-id"] == record.activation_id
    ((_, call),) = site.invoker.promised
    told = msgspec.json.decode(call.payload)
    assert told["x"] == 1
    assert told["__ow_headers"]["x-mine"] == "yes"
    assert "authorization" not in told["__ow_headers"]


async def test_a_body_is_not_needed(site):
    link(site, "with spaces")
    assert (await site.ask("POST", "triggers/with%20spaces")).status == 202


async def test_without_an_active_rule_the_answer_is_204_and_empty(site):
    site.entities.add(Trigger(namespace="guest", path="t", revision="r", updated=0, birth="b"))
    answered = await site.ask("POST", "triggers/t", {})
    assert (answered.status, answered.text) == (204, "")
    assert site.activations.records == []


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("missing", {}, 404),
        ("a", {}, 409),
        ("t", [1], 400),
        ("t", "{", 400),
        ("bad%2Fname", {}, 400),
    ],
)
async def test_what_is_refused_fires_nothing(site, path, body, status):
    link(site)
    answered = await site.ask("POST", f"triggers/{path}", body)
    assert answered.status == status
    assert answered.error
    assert site.activations.records == []
    assert site.invoker.promised == []


async def test_a_payload_over_the_limit_is_refused_before_the_look_up(site):
    body = b'{"x":"' + b"x" * site.limits.payload_bytes + b'"}'
    assert (await site.ask("POST", "triggers/missing", body)).status == 413


async def test_fires_have_a_counter_of_their_own(site):
    link(site)
    site.grant(fires_per_minute=2)
    assert [(await site.ask("POST", "triggers/t", {})).status for _ in range(3)] == [202, 202, 429]
    assert len(site.invoker.promised) == 2
    assert (await site.ask("POST", "actions/a", {})).status == 202


async def test_a_foreign_trigger_is_forbidden_whether_or_not_it_exists(site):
    other = site.add_namespace("other")
    link(site)
    for name in ("t", "missing"):
        answered = await site.ask("POST", f"/api/v1/namespaces/guest/triggers/{name}", {}, auth=other)
        assert answered.status == 403
        assert "is not authorized to access 'guest/" in answered.error
    assert site.activations.records == []


async def test_the_record_has_no_end_and_no_annotations(site):
    link(site)
    activation_id = (await site.ask("POST", "triggers/t", {"x": 1})).json["activationId"]
    record = (await site.ask("GET", f"activations/{activation_id}")).json
    assert record["name"] == "t"
    assert record["annotations"] == []
    assert record["response"] == {"status": "success", "success": True, "result": {"x": 1}}
    assert {"end", "duration", "cause"}.isdisjoint(record)
    (summary,) = (await site.ask("GET", "activations?name=t")).json
    assert summary["statusCode"] == 0
    assert {"end", "duration"}.isdisjoint(summary)


async def test_a_header_that_is_no_utf_8_reaches_the_rules_mended(site):
    link(site)
    async with both(site) as lanes:
        for lane in lanes:
            head = (
                f"POST /api/v1/namespaces/_/triggers/t HTTP/1.1\r\nHost: a\r\nAuthorization: {site.auth}\r\nX-Odd: \xff\r\n\r\n"
            )
            (answer,) = await lane.ask_in_turn([head.encode("latin-1")])
            assert status_of(answer) == 202
    assert [msgspec.json.decode(call.payload)["__ow_headers"]["x-odd"] for _, call in site.invoker.promised] == ["\ufffd"] * 2
