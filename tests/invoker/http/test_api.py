import asyncio
import socket
from pathlib import Path

import msgspec
import pytest
from aiohttp import ClientSession, UnixConnector, web

from invoker.health import Check, Health
from invoker.http.api import build_server
from invoker.record.corruption import StoreCorrupt
from pool.errors import EngineUnavailable, PoolClosed, PoolOverloaded

CHALLENGE = 'Basic realm="OpenWhisk secure realm",charset=UTF-8'


async def raw(site, text):
    """Send bytes on a socket of their own; return all that comes until the server closes it."""
    host, port = site.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(text)
    await writer.drain()
    answer = await asyncio.wait_for(reader.read(), 30)
    writer.close()
    await writer.wait_closed()
    return answer


# --- who asks


async def test_no_credentials_are_challenged(site):
    answered = await site.ask("GET", "actions", auth=False)
    assert answered.status == 401
    assert "requires authentication" in answered.error
    assert answered.headers["WWW-Authenticate"] == CHALLENGE


async def test_wrong_credentials_get_another_sentence(site):
    answered = await site.ask("GET", "actions", auth="Basic bm86Ym9keQ==")
    assert answered.status == 401
    assert "The supplied authentication is invalid" in answered.error
    assert answered.headers["WWW-Authenticate"] == CHALLENGE


async def test_a_blocked_namespace_gets_401(site):
    blocked = site.add_namespace("blocked", blocked=True)
    assert (await site.ask("GET", "actions", auth=blocked)).status == 401


@pytest.mark.parametrize("path", ["/api/v1/namespaces/_/nothing", "/api/v1/nothing", "/api/v1/web/guest/x"])
async def test_below_the_api_credentials_come_before_the_route(site, path):
    assert (await site.ask("GET", path, auth=False)).status == 401
    assert (await site.ask("GET", path)).status == 404


@pytest.mark.parametrize("path", ["/ping", "/health", "/ready", "/", "/api/v1", "/api/v1/"])
async def test_the_node_is_described_without_credentials(site, path):
    assert (await site.ask("GET", path, auth=False)).status == 200


# --- the envelope


async def test_a_given_request_id_comes_back_and_is_the_code_of_an_error(site):
    answered = await site.ask("GET", "actions/none", headers={"X-Request-ID": "my-id"})
    assert answered.headers["X-Request-ID"] == answered.json["code"] == "my-id"


@pytest.mark.parametrize("given", ["sid_1", "x" * 257, ""])
async def test_a_request_id_that_cannot_be_used_is_replaced(site, given):
    answered = await site.ask("GET", "/ping", headers={"X-Request-ID": given})
    assert len(answered.headers["X-Request-ID"]) == 32
    assert answered.headers["X-Request-ID"] != given


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "nothing", 404, "could not be found"),
        ("GET", "/api/v1/namespaces/_", 404, "could not be found"),
        ("GET", "/api/v1/namespaces/guest", 404, "could not be found"),
        ("GET", "/api/v1/namespaces//actions", 404, "could not be found"),
        ("GET", "actions/a/b/c", 404, "could not be found"),
        ("GET", "actions//b", 404, "could not be found"),
        ("POST", "actions/p/", 404, "could not be found"),
        ("POST", "/api/v1/namespaces", 404, "could not be found"),
        ("PUT", "actions", 404, "could not be found"),
        ("DELETE", "actions/", 404, "could not be found"),
        ("PATCH", "actions/a", 404, "could not be found"),
        ("DELETE", "activations/x", 404, "could not be found"),
        ("PUT", "limits", 404, "could not be found"),
        ("POST", "packages/p", 404, "could not be found"),
        ("POST", "packages/refresh", 404, "could not be found"),
        ("GET", "/nowhere", 405, "supported methods: OPTIONS"),
        ("GET", "/api", 405, "supported methods: OPTIONS"),
        ("GET", "/api/v2/x", 405, "supported methods: OPTIONS"),
        ("POST", "/", 405, "supported methods: OPTIONS, GET"),
        ("TRACE", "actions", 405, "supported methods"),
    ],
)
async def test_what_is_not_routed_is_answered_in_the_apis_form(site, method, path, status, words):
    answered = await site.ask(method, path)
    assert answered.status == status
    assert words in answered.error
    assert answered.headers["Content-Type"] == "application/json"
    assert ("Allow" in answered.headers) == (status == 405)


async def test_head_is_not_derived_from_get(site):
    assert (await site.ask("HEAD", "actions")).status == 404


async def test_json_is_of_exactly_this_type(site):
    for path in ("/", "/api/v1", "actions", "actions/none", "/health"):
        assert (await site.ask("GET", path)).headers["Content-Type"] == "application/json"


async def test_a_client_that_takes_no_json_gets_406(site):
    answered = await site.ask("GET", "actions", headers={"Accept": "text/html"})
    assert answered.status == 406
    assert "application/json" in answered.error


async def test_a_bug_is_a_500_in_the_apis_form_and_the_connection_lives_on(site, caplog):
    def fail(_):
        raise ZeroDivisionError("secret detail")

    site.entities.get = lambda *_: fail(None)
    answered = await site.ask("GET", "actions/hello")
    assert answered.status == 500
    assert answered.error == "There was an internal server error."
    assert "secret detail" in caplog.text
    assert (await site.ask("GET", "/ping")).text == "pong"


@pytest.mark.parametrize(
    ("error", "status", "retry"),
    [(PoolOverloaded(retry_after_s=3.0), 503, "3"), (PoolClosed(), 503, "5"), (EngineUnavailable(), 503, "5")],
)
async def test_what_the_node_cannot_do_now_is_503_with_a_time_to_come_back(site, error, status, retry):
    def fail(_):
        raise error

    await site.put_hello()
    site.invoker.answer = fail
    answered = await site.ask("POST", "actions/hello")
    assert (answered.status, answered.headers["Retry-After"]) == (status, retry)
    assert answered.error == str(error)


@pytest.mark.parametrize(
    "text", [b"rubbish\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n"]
)
async def test_what_is_no_http_is_answered_in_the_apis_form_too(site, text):
    head, _, body = (await raw(site, text)).partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400"))
    assert b"Content-Type: application/json\r\n" in head + b"\r\n"
    assert set(msgspec.json.decode(body)) == {"error", "code"}


async def test_pipelined_requests_are_answered_in_order(site):
    one = b"GET /ping HTTP/1.1\r\nHost: a\r\nX-Request-ID: %b\r\n%b\r\n"
    answer = await raw(site, one % (b"first", b"") + one % (b"second", b"Connection: close\r\n"))
    assert answer.count(b"pong") == 2
    assert answer.index(b"first") < answer.index(b"second")


async def test_the_api_works_on_a_unix_socket(site, tmp_path):
    runner = web.ServerRunner(build_server(site.services()))
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "api.sock")).start()
    async with (
        ClientSession(connector=UnixConnector(str(tmp_path / "api.sock"))) as session,
        session.get("http://node/api/v1/namespaces", headers={"Authorization": site.auth}) as response,
    ):
        assert await response.json() == ["guest"]
    await runner.cleanup()


# --- CORS


@pytest.mark.parametrize("path", ["/api/v1", "/api/v1/nonsense/x", "/api/v1/namespaces/_/actions"])
async def test_options_below_the_api_need_no_credentials(site, path):
    answered = await site.ask("OPTIONS", path, auth=False)
    assert (answered.status, answered.text, answered.headers["Content-Type"]) == (200, "OK", "text/plain")
    assert answered.headers["Access-Control-Allow-Methods"] == "GET, DELETE, POST, PUT, HEAD"


@pytest.mark.parametrize("path", ["/", "/api", "/nowhere"])
async def test_options_outside_have_other_methods(site, path):
    answered = await site.ask("OPTIONS", path, auth=False)
    assert (answered.status, answered.text) == (200, "OK")
    assert answered.headers["Access-Control-Allow-Methods"] == "OPTIONS, GET, POST"


async def test_entity_answers_carry_cors_headers_the_404_included(site):
    await site.put_hello()
    for path, status in (("actions/hello", 200), ("actions", 200), ("actions/none", 404), ("/api/v1", 200)):
        answered = await site.ask("GET", path)
        assert answered.status == status
        assert answered.headers["Access-Control-Allow-Origin"] == "*"
        assert answered.headers["Access-Control-Allow-Headers"] == (
            "Authorization, Origin, X-Requested-With, Content-Type, Accept, User-Agent"
        )


async def test_what_is_refused_at_the_door_carries_none(site):
    await site.put_hello()
    refused = [
        (await site.ask("GET", "actions", auth=False), 401),
        (await site.ask("GET", "actions", headers={"Accept": "text/html"}), 406),
        (await site.ask("PUT", "actions/a", "x", headers={"Content-Type": "text/plain"}), 415),
        (await site.ask("PUT", "actions/a", "x"), 400),
        (await site.ask("GET", "actions?limit=x"), 400),
        (await site.ask("GET", "nothing"), 404),
        (await site.ask("GET", "/nowhere"), 405),
    ]
    for answered, status in refused:
        assert answered.status == status
        assert "Access-Control-Allow-Origin" not in answered.headers


# --- rights


async def test_another_namespace_is_forbidden_by_name(site):
    for method, path in [("GET", "actions/x"), ("PUT", "actions/x"), ("POST", "actions/x"), ("GET", "activations/x")]:
        answered = await site.ask(method, f"/api/v1/namespaces/other/{path}")
        assert answered.status == 403
        assert "is not authorized to access 'other/x'" in answered.error
    assert (await site.ask("GET", "/api/v1/namespaces/other/limits")).status == 403


async def test_the_own_namespace_is_reached_by_name_and_by_underscore(site):
    await site.put_hello()
    for namespace in ("_", "guest"):
        answered = await site.ask("GET", f"/api/v1/namespaces/{namespace}/actions/hello")
        assert answered.json["namespace"] == "guest"


async def test_packages_of_another_namespace_may_be_listed(site):
    answered = await site.ask("GET", "/api/v1/namespaces/other/packages")
    assert (answered.status, answered.json) == (200, [])


async def test_a_namespace_that_could_not_exist_is_400(site):
    answered = await site.ask("GET", "/api/v1/namespaces/$x/actions")
    assert answered.status == 400
    assert "namespace contains illegal characters" in answered.error


# --- the node


async def test_ping_answers_pong(site):
    answered = await site.ask("GET", "/ping", auth=False)
    assert (answered.text, answered.headers["Content-Type"]) == ("pong", "text/plain")


async def test_the_api_document_has_its_build_as_strings(site):
    info = (await site.ask("GET", "/api/v1", auth=False)).json
    assert info == {
        "description": "OpenWhisk API",
        "api_version": "1.0.0",
        "api_version_path": "v1",
        "build": "2026-01-01",
        "buildno": "0.1.0",
        "swagger_paths": {"ui": "/docs", "api-docs": "/api-docs"},
    }


async def test_health_is_503_when_a_check_fails_and_says_which(site):
    assert (await site.ask("GET", "/health", auth=False)).json["ok"] is True
    site.health = Health(checks=(Check(name="engine", ok=False, detail="start it"),))
    for path in ("/health", "/ready"):
        answered = await site.ask("GET", path, auth=False)
        assert answered.status == 503
        assert answered.json == {"ok": False, "checks": [{"name": "engine", "ok": False, "detail": "start it", "warning": False}]}


async def test_a_client_that_hangs_up_does_not_end_the_call(site):
    await site.put_hello()
    begun, go_on, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
    accepted = site.invoker.answer

    async def invoke(call):
        begun.set()
        await go_on.wait()
        ended.set()
        return accepted(call)

    site.invoker.invoke = invoke
    host, port = site.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(
            f"POST /api/v1/namespaces/_/actions/hello HTTP/1.1\r\nHost: a\r\nAuthorization: {site.auth}\r\n\r\n".encode()
        )
        await asyncio.wait_for(begun.wait(), 30)
    assert (await site.ask("GET", "/ping")).text == "pong"  # the server has seen the end of that connection by now
    go_on.set()
    await asyncio.wait_for(ended.wait(), 30)


async def test_a_line_that_is_too_long_is_refused_and_not_repeated(site):
    for target, headers in (("a" * 9000, {}), ("x", {"X-Long": "a" * 9000})):
        refused = await site.ask("GET", f"actions/{target}", headers=headers)
        assert (refused.status, "longer than 8190 bytes" in refused.error) == (400, True)
        assert "aaaa" not in refused.text


async def test_a_target_with_scheme_and_host_is_the_same(site):
    await site.put_hello()
    host = site.url.removeprefix("http://").partition(":")
    for method, path in (("GET", "actions/hello"), ("POST", "actions/hello")):
        reader, writer = await asyncio.open_connection(host[0], int(host[2]))
        head = f"{method} {site.url}/api/v1/namespaces/_/{path} HTTP/1.1\r\nHost: x\r\nAuthorization: {site.auth}\r\n"
        writer.write(f"{head}Content-Type: application/json\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        answered = (await reader.read()).decode()
        writer.close()
        assert answered.split(" ")[1] == {"GET": "200", "POST": "202"}[method], answered


@pytest.mark.parametrize("told", [None, "Ask again."])
async def test_users_are_not_told_where_a_broken_database_is(site, told, caplog):
    error = StoreCorrupt.found(Path("/var/lib/invokerd/entities.db"), "malformed")
    if told is not None:
        error.told = told

    async def broken(*_, **__):
        raise error

    site.activations.get = broken
    answered = await site.ask("GET", "activations/" + "a" * 32)
    assert (answered.status, answered.error) == (500, told or "The database cannot be read or written.")
    assert "/var/lib/invokerd/entities.db is corrupt" in caplog.text, "the operator is"
