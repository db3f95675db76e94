import time

import msgspec
import pytest

from invoker.activation import Status
from invoker.errors import IdempotencyConflict
from invoker.model import Binding, Package


def annotations(document):
    return {each["key"]: each["value"] for each in document["annotations"]}


# --- create, read, update, delete


async def test_a_created_action_is_answered_whole_and_read_back_the_same(site):
    created = await site.put_hello(parameters=[{"key": "a", "value": {"x": "<&>"}}], annotations=[{"key": "d", "value": "é"}])
    assert set(created) == {
        *("namespace", "name", "exec", "parameters", "limits", "version", "publish", "annotations", "updated")
    }
    assert created["exec"] == {"kind": "python:3", "code": "def main(args): return args", "binary": False}
    assert created["version"] == "0.0.1"
    assert created["updated"] == int(site.now * 1000)
    assert annotations(created) == {"d": "é", "provide-api-key": False, "exec": "python:3"}
    assert (await site.ask("GET", "actions/hello")).json == created


async def test_code_is_left_out_when_it_is_not_wanted(site):
    await site.put_hello()
    assert (await site.ask("GET", "actions/hello?code=false")).json["exec"] == {"kind": "python:3", "binary": False}


async def test_default_kinds_are_resolved(site):
    for kind, resolved in (("python:default", "python:3"), ("nodejs:default", "nodejs:20")):
        body = (await site.put_hello(exec={"kind": kind, "code": "x"}))["exec"]
        assert body["kind"] == resolved


async def test_a_black_box_and_a_native_action(site):
    box = await site.ask("PUT", "actions/box", {"exec": {"kind": "blackbox", "image": "example/none:1"}})
    assert box.json["exec"] == {"kind": "blackbox", "image": "example/none:1", "binary": False}
    assert (await site.ask("GET", "actions/box")).json["exec"] == box.json["exec"]
    native = await site.ask(
        "PUT", "actions/native", {"exec": {"kind": "blackbox", "image": "openwhisk/dockerskeleton", "code": "UEsDBA=="}}
    )
    assert native.json["exec"]["binary"] is True
    assert native.json["exec"]["code"] == "UEsDBA=="


async def test_an_existing_action_is_kept_unless_overwrite_is_said(site):
    await site.put_hello()
    again = {"exec": {"kind": "python:3", "code": "new"}}
    refused = await site.ask("PUT", "actions/hello", again)
    assert refused.status == 409
    assert "resource already exists" in refused.error
    updated = (await site.ask("PUT", "actions/hello?overwrite=true", again)).json
    assert (updated["version"], updated["exec"]["code"]) == ("0.0.2", "new")


async def test_an_update_without_exec_answers_with_the_code_that_is_kept(site):
    before = await site.put_hello()
    after = (await site.ask("PUT", "actions/hello?overwrite=true", {"publish": True})).json
    assert after["exec"] == before["exec"]
    assert after["publish"] is True
    assert after["updated"] > before["updated"]


async def test_a_deleted_action_is_answered_once_more_and_gone(site):
    created = await site.put_hello()
    assert (await site.ask("DELETE", "actions/hello")).json == created
    for method in ("DELETE", "GET", "POST"):
        gone = await site.ask(method, "actions/hello")
        assert gone.status == 404
        assert gone.error == "The requested resource does not exist."


async def test_a_lost_race_is_409_in_the_words_that_clients_retry_on(site):
    await site.put_hello()

    def overtake(entity):
        site.entities.add(msgspec.structs.replace(site.entities.get(entity.namespace, entity.path), revision="other"))

    site.entities.before_put = overtake
    answered = await site.ask("PUT", "actions/hello?overwrite=true", {"publish": True})
    assert answered.status == 409
    assert "Concurrent modification to resource detected" in answered.error


async def test_a_name_of_another_collection_is_409_for_every_method(site):
    site.entities.add(Package(namespace="guest", path="p", revision="r", updated=1))
    for method in ("GET", "DELETE", "POST", "PUT"):
        body = {"exec": {"kind": "python:3", "code": "x"}} if method == "PUT" else None
        answered = await site.ask(method, "actions/p?overwrite=true", body)
        assert answered.status == 409
        assert "exists but is not in this collection" in answered.error


async def test_an_action_in_a_package_needs_the_package(site):
    body = {"exec": {"kind": "python:3", "code": "x"}}
    assert (await site.ask("PUT", "actions/p/a", body)).status == 404
    assert (await site.ask("GET", "actions/p/")).status == 404
    site.entities.add(Package(namespace="guest", path="p", revision="r", updated=1))
    created = await site.ask("PUT", "actions/p/a", body)
    assert (created.json["namespace"], created.json["name"]) == ("guest/p", "a")
    assert [each["name"] for each in (await site.ask("GET", "actions/p/?limit=30&skip=0")).json] == ["a"]


async def test_an_action_is_called_through_a_binding_with_what_it_inherits(site):
    bound = Binding(namespace="guest", name="p")
    site.entities.add(Package(namespace="guest", path="p", revision="r", updated=1))
    site.entities.add(Package(namespace="guest", path="b", revision="r", updated=1, binding=bound))
    await site.ask("PUT", "actions/p/a", {"exec": {"kind": "python:3", "code": "x"}})
    assert (await site.ask("POST", "actions/b/a")).status == 202
    (call,) = site.invoker.calls
    assert (call.action.full_path, call.binding) == ("guest/p/a", "guest/b")
    read = (await site.ask("GET", "actions/b/a")).json
    assert (read["namespace"], read["binding"]) == ("guest/p", "guest/b")


@pytest.mark.parametrize("name", ["hello%20world", "a@b.c&d-e", "x" * 256, "Hello"])
async def test_names_with_unusual_characters(site, name):
    from urllib.parse import unquote

    body = {"exec": {"kind": "python:3", "code": "x"}}
    assert (await site.ask("PUT", f"actions/{name}", body)).json["name"] == unquote(name)
    assert (await site.ask("GET", f"actions/{name}")).status == 200


@pytest.mark.parametrize("name", ["%20", "hi+there", "$hola", "dora%3F", "|dora|dora%3F", "x" * 257, "a%2Fb", "%ff"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST"])
async def test_names_that_could_not_exist_are_400(site, method, name):
    body = {"exec": {"kind": "python:3", "code": "x"}} if method == "PUT" else None
    assert (await site.ask(method, f"actions/{name}", body)).status == 400


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"exec": {"kind": "cobol:1", "code": "x"}}, 400, "runtime 'cobol:1' is not supported by this platform"),
        ({"exec": {"kind": "python:2", "code": "x"}}, 400, "runtime is no longer supported"),
        ({"exec": {"kind": "java:8", "code": "x"}}, 400, "'main'"),
        ({"exec": {"kind": "blackbox", "image": "UPPER/case"}}, 400, "could not parse image name"),
        ({"exec": {"code": "x"}}, 400, "The request content was malformed:\n"),
        ({}, 400, "exec undefined"),
        ({"exec": {"kind": "python:3", "code": "x"}, "limits": {"memory": 513}}, 400, "allowed threshold of 512 MB"),
        ({"exec": {"kind": "python:3", "code": "x"}, "limits": {"instances": 31}}, 400, "namespace concurrency of 30"),
        ({"exec": {"kind": "python:3", "code": "x"}, "version": ""}, 400, "malformed"),
        (
            {"exec": {"kind": "python:3", "code": "x"}, "parameters": [{"key": "a", "value": "x" * 2**20}]},
            413,
            "parameters larger",
        ),
        (b"{", 400, "The request content was malformed:\n"),
        (b"", 400, "The request content was malformed:\n"),
        (None, 400, "The request content was malformed:\n"),
    ],
)
async def test_a_body_that_cannot_be_written_leaves_nothing_behind(site, body, status, words):
    answered = await site.ask("PUT", "actions/a", body)
    assert answered.status == status
    assert words in answered.error
    assert site.entities.everything() == {}


async def test_a_body_needs_a_type_and_it_is_json(site):
    body = {"exec": {"kind": "python:3", "code": "x"}}
    missing = await site.ask("PUT", "actions/a", body, json_type=False)
    other = await site.ask("PUT", "actions/a", body, headers={"Content-Type": "text/plain"})
    assert (missing.status, other.status) == (415, 415)
    assert "The request's Content-Type [text/plain] is not supported. Expected:\napplication/json" in other.error


async def test_the_type_may_name_a_charset(site):
    body = {"exec": {"kind": "python:3", "code": "x"}}
    answered = await site.ask("PUT", "actions/a", body, headers={"Content-Type": "application/json; charset=UTF-8"})
    assert answered.status == 200


async def test_code_over_the_limit_is_413(site):
    site.limits = site.limits.of_profile("openwhisk", code_bytes=2000)
    answered = await site.ask("PUT", "actions/a", {"exec": {"kind": "python:3", "code": "x" * 2001}})
    assert answered.status == 413
    assert "exec larger than allowed: 2001 > 2000 bytes." in answered.error


async def test_megabytes_of_code_survive(site):
    code = "A" * 4_000_000
    await site.ask("PUT", "actions/a", {"exec": {"kind": "python:3", "code": code}})
    exec_ = (await site.ask("GET", "actions/a")).json["exec"]
    assert (exec_["code"], exec_["binary"]) == (code, True)


async def test_a_deprecated_action_can_be_read_and_deleted_only(site):
    await site.put_hello()
    action = site.entities.get("guest", "hello")
    site.entities.add(msgspec.structs.replace(action, exec=msgspec.structs.replace(action.exec, kind="python:2")))
    for method, body in (("PUT", {"publish": True}), ("POST", None)):
        refused = await site.ask(method, "actions/hello?overwrite=true", body)
        assert refused.status == 400
        assert "runtime is no longer supported" in refused.error
    for method in ("GET", "DELETE"):
        assert (await site.ask(method, "actions/hello")).status == 200


# --- lists


async def test_lists_are_pages_of_summaries_last_written_first(site):
    for number in range(3):
        site.now += 1
        await site.ask("PUT", f"actions/a{number}", {"exec": {"kind": "python:3", "code": "x"}})
    whole = (await site.ask("GET", "actions")).json
    assert [each["name"] for each in whole] == ["a2", "a1", "a0"]
    assert whole[0]["exec"] == {"binary": False}
    assert [each["name"] for each in (await site.ask("GET", "actions/?limit=1&skip=1&docs=true")).json] == ["a1"]
    assert (await site.ask("GET", "actions?count=TRUE")).json == {"actions": 3}
    assert (await site.ask("GET", "actions?count=true&skip=2")).json == {"actions": 1}
    assert (await site.ask("GET", "actions?count=true&skip=9")).json == {"actions": 0}


@pytest.mark.parametrize("query", ["limit=201", "limit=-1", "limit=x", "skip=-1", "count=maybe"])
async def test_a_page_out_of_range_is_400(site, query):
    answered = await site.ask("GET", f"actions?{query}")
    assert answered.status == 400
    assert f"The query parameter '{query.partition('=')[0]}' was malformed:\n" in answered.error


# --- invoke


async def test_a_call_is_accepted_with_the_id_alone(site):
    await site.put_hello()
    answered = await site.ask("POST", "actions/hello?result=true", {"a": 1})
    assert (answered.status, answered.text) == (202, '{"activationId":"' + "0" * 32 + '"}')
    assert answered.headers["x-openwhisk-activation-id"] == "0" * 32


async def test_the_invoker_is_handed_all_that_it_needs(site):
    await site.put_hello()
    before = time.monotonic()
    payload = b'{"a" : 1.10e5}'
    await site.ask(
        "POST",
        "actions/hello?blocking=true&timeout=1500",
        payload,
        headers={"X-Request-ID": "tid", "Idempotency-Key": "once"},
    )
    (call,) = site.invoker.calls
    assert call.identity.namespace.name == "guest"
    assert call.identity.api_key.startswith(call.identity.namespace.uuid + ":")
    assert call.action.path == "hello"
    assert (bytes(call.payload), call.payload_bytes) == (payload, len(payload))
    assert (call.transaction, call.idempotency_key) == ("tid", "once")
    assert (call.blocking, call.wait_s) == (True, 1.5)
    assert before < call.received < time.monotonic()
    assert min(call.authenticate_us, call.authorise_us) >= 0
    assert call.authenticate_us + call.authorise_us < (time.monotonic() - before) * 1e6


@pytest.mark.parametrize("body", [None, b"", b"{}"])
async def test_no_body_is_no_arguments(site, body):
    await site.put_hello()
    assert (await site.ask("POST", "actions/hello", body)).status == 202
    assert bytes(site.invoker.calls[0].payload) == b"{}"


@pytest.mark.parametrize(
    ("status", "http"),
    [
        (Status.SUCCESS, 200),
        (Status.APPLICATION_ERROR, 502),
        (Status.DEVELOPER_ERROR, 502),
        (Status.INTERNAL_ERROR, 500),
    ],
)
async def test_a_blocking_call_is_answered_with_the_record_or_the_result(site, make_activation, status, http):
    await site.put_hello()
    activation = make_activation(status=status)
    site.invoker.answer = lambda _: activation
    whole = await site.ask("POST", "actions/hello?blocking=true", {})
    assert whole.status == http
    assert whole.json["activationId"] == activation.activation_id == whole.headers["x-openwhisk-activation-id"]
    assert whole.json["logs"] == []
    # Clients tell failures apart by this header: it is the record's outcome.
    assert whole.headers.get("X-Invokerd-Reason") == (None if http == 200 else activation.meter.outcome)
    bare = await site.ask("POST", "actions/hello?blocking=true&result=true", {})
    assert (bare.status, bare.text) == (http, '{"big": 1.10e5, "text": "\\u00e9"}')
    assert bare.headers["x-openwhisk-activation-id"] == activation.activation_id
    assert bare.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("query", ["blocking=true", "blocking=true&result=true"])
async def test_an_array_is_answered_bare(site, make_activation, query):
    await site.put_hello()
    site.invoker.answer = lambda _: make_activation(result=msgspec.Raw(b"[1, 2]"))
    answered = await site.ask("POST", f"actions/hello?{query}", {})
    assert (answered.status, answered.text) == (200, "[1, 2]")


async def test_the_record_of_a_call_has_its_cost(site, make_activation):
    await site.put_hello()
    site.cost = {"amount": "0.000001234", "currency": "EUR", "plan": "p"}
    site.invoker.answer = lambda _: make_activation()
    answered = await site.ask("POST", "actions/hello?blocking=true", {})
    assert annotations(answered.json)["cost"] == site.cost


@pytest.mark.parametrize("body", [b"[1]", b"1", b'"a"', b"{", b'{"a":"\xff"}'])
async def test_a_payload_that_is_no_object_is_400(site, body):
    await site.put_hello()
    answered = await site.ask("POST", "actions/hello", body)
    assert answered.status == 400
    assert "The request content was malformed:\n" in answered.error
    assert site.invoker.calls == []


async def test_a_payload_of_another_type_is_415(site):
    await site.put_hello()
    for headers in ({"Content-Type": "text/plain"}, {}):
        assert (await site.ask("POST", "actions/hello", b"{}", headers=headers, json_type=False)).status == 415


@pytest.mark.parametrize("query", ["timeout=0", "timeout=60001", "timeout=x", "blocking=maybe", "result=2"])
async def test_options_that_cannot_be_are_400(site, query):
    await site.put_hello()
    assert (await site.ask("POST", f"actions/hello?{query}", {})).status == 400


async def test_a_payload_over_the_limit_is_413_before_the_action_is_looked_up(site):
    body = b'{"a":"' + b"x" * 2**20 + b'"}'
    answered = await site.ask("POST", "actions/none", body)
    assert answered.status == 413
    assert answered.error == f"Request larger than allowed: {len(body)} > 1048576 bytes."


async def test_a_payload_of_the_limit_passes(site):
    await site.put_hello()
    body = b'{"a":"' + b"x" * (2**20 - 8) + b'"}'
    assert len(body) == 2**20
    assert (await site.ask("POST", "actions/hello", body)).status == 202
    assert site.invoker.calls[0].payload_bytes == 2**20


async def test_an_idempotency_key_that_meets_another_body_is_409(site):
    def conflict(_):
        raise IdempotencyConflict

    await site.put_hello()
    site.invoker.answer = conflict
    answered = await site.ask("POST", "actions/hello", {}, headers={"Idempotency-Key": "k"})
    assert answered.status == 409
    assert (await site.ask("POST", "actions/hello", {}, headers={"Idempotency-Key": "k" * 257})).status == 400


async def test_the_minute_is_counted_before_rights_and_existence(site):
    site.grant(invocations_per_minute=2)
    assert (await site.ask("POST", "actions/none")).status == 404
    assert (await site.ask("POST", "/api/v1/namespaces/other/actions/x")).status == 403
    refused = await site.ask("POST", "actions/none")
    assert refused.status == 429
    assert "requests in the last minute (count: 3, allowed: 2)" in refused.error
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    site.now += 60
    assert (await site.ask("POST", "actions/none")).status == 404


async def test_reading_is_not_counted(site):
    site.grant(invocations_per_minute=0)
    assert (await site.ask("GET", "actions")).status == 200
    assert "allowed: 0" in (await site.ask("POST", "actions/none")).error


async def test_too_many_in_flight_are_429_with_both_numbers(site):
    await site.put_hello()
    site.invoker.running = 30
    refused = await site.ask("POST", "actions/hello")
    assert refused.status == 429
    assert "concurrent requests in flight (count: 30, allowed: 30)" in refused.error
    site.invoker.running = 29
    assert (await site.ask("POST", "actions/hello")).status == 202


# --- long code


async def test_long_code_is_written_answered_and_read_back_as_short_code_is(site):
    code = '# é 😀 "quoted"\n' * 300_000
    created = await site.ask("PUT", "actions/long", {"exec": {"kind": "python:3", "code": code}})
    assert (created.status, created.json["exec"]) == (200, {"kind": "python:3", "code": code, "binary": False})
    assert (await site.ask("GET", "actions/long")).text == created.text
    kept = await site.ask("PUT", "actions/long?overwrite=true", {"publish": True})
    assert kept.json["exec"] == created.json["exec"]
    assert (await site.ask("DELETE", "actions/long")).json["exec"] == created.json["exec"]
