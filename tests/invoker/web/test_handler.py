"""The way of a request to a web action: who is billed, what is refused in which order, and that nothing runs then."""

import asyncio
from base64 import b64encode

import msgspec
import pytest

from invoker.activation import Status
from invoker.invocation import Accepted202
from pool.errors import PlatformError, PoolOverloaded

URL = "/api/v1/web/guest/default/hello"
CORS = "Access-Control-Allow-Origin"


@pytest.fixture
def answers(site, make_activation):
    """Scripts the action's result."""

    def script(result, status=Status.SUCCESS):
        raw = msgspec.Raw(msgspec.json.encode(result))
        site.invoker.answer = lambda _: make_activation(result=raw, status=status)

    return script


@pytest.fixture
async def web_action(site, answers):
    """Makes the action `hello`; it is exported."""

    async def put(parameters=(), **annotations):
        entries = {"web-export": True} | {name.replace("_", "-"): value for name, value in annotations.items()}
        answers({"body": "hi"})
        await site.put_hello(
            annotations=[{"key": key, "value": value} for key, value in entries.items()], parameters=list(parameters)
        )

    return put


def arguments(site):
    return msgspec.json.decode(site.invoker.calls[-1].payload)


async def test_it_runs_as_the_owner_whoever_calls(site, web_action):
    await web_action()
    other = site.add_namespace("other")
    assert (await site.ask("GET", URL, auth=other)).text == "hi"
    call = site.invoker.calls[-1]
    assert call.identity.namespace.name == "guest"
    assert site.authenticator.identify(_basic(call.identity.api_key)).namespace.name == "guest"
    assert (call.blocking, call.wait_s) == (True, 60)
    assert arguments(site)["__ow_user"] == "other"


async def test_bad_credentials_are_those_of_nobody(site, web_action):
    await web_action()
    for auth in ("Basic bm86Ym9keQ==", "Bearer x", "nonsense", False):
        assert (await site.ask("GET", URL, auth=auth)).status == 200
        assert "__ow_user" not in arguments(site)


@pytest.mark.parametrize("exported", [False, "true", 1, None])
async def test_only_true_exports(site, web_action, exported):
    await web_action(web_export=exported)
    answered = await site.ask("GET", URL, auth=False)
    assert (answered.status, answered.error) == (404, "The requested resource does not exist.")
    assert CORS not in answered.headers
    assert not site.invoker.calls


@pytest.mark.parametrize(
    "path", ["nobody/default/hello", "_/default/hello", "guest/default/none", "guest/none/hello", "guest/default/a%2Fb"]
)
async def test_what_is_not_there_is_404_whatever_is_missing(site, web_action, path):
    await web_action()
    answered = await site.ask("GET", f"/api/v1/web/{path}.json", auth=False)
    assert (answered.status, answered.error) == (404, "The requested resource does not exist.")


async def test_a_blocked_owner_serves_nothing(site, web_action):
    await web_action()
    site.entities.add_namespace(msgspec.structs.replace(site.entities.get_namespace("guest"), blocked=True))
    assert (await site.ask("GET", URL, auth=False)).status == 404


@pytest.mark.parametrize("method", ["TRACE", "PROPFIND", "LINK"])
async def test_other_methods_are_405(site, web_action, method):
    await web_action()
    answered = await site.ask(method, URL)
    assert answered.status == 405
    assert answered.headers["Allow"] == "GET, DELETE, POST, PUT, HEAD, OPTIONS, PATCH"


async def test_the_owners_minute_is_counted(site, web_action):
    await web_action()
    site.grant(invocations_per_minute=1)
    assert (await site.ask("GET", URL, auth=site.add_namespace("other"))).status == 200
    answered = await site.ask("GET", URL, auth=False)
    assert answered.status == 429
    assert "Retry-After" in answered.headers
    assert CORS in answered.headers
    assert len(site.invoker.calls) == 1


async def test_the_owners_cpu_time_is_looked_at(site, web_action):
    await web_action()
    site.grant(cpu_seconds_per_window=1)
    site.use(1)
    answered = await site.ask("GET", URL, auth=site.add_namespace("other"))
    assert (answered.status, "CPU time" in answered.json["error"]) == (429, True)
    assert 3600 <= int(answered.headers["Retry-After"]) <= 3660
    assert not site.invoker.calls


async def test_what_the_owner_has_in_flight_is_counted(site, web_action):
    await web_action()
    site.invoker.running = 30
    assert (await site.ask("GET", URL, auth=False)).status == 429
    assert not site.invoker.calls


async def test_a_body_over_the_limit_is_refused_by_its_length(site, web_action):
    await web_action()
    answered = await site.ask("POST", URL, b"x" * (2**20 + 1), auth=False)
    assert answered.status == 413
    assert answered.error == f"Request larger than allowed: {2**20 + 1} > {2**20} bytes."
    assert not site.invoker.calls


async def test_every_answer_once_the_action_is_found_may_be_read_by_any_page(site, web_action, answers):
    await web_action()
    asked = {"Access-Control-Request-Headers": "x-custom, authorization"}
    assert (await site.ask("GET", URL, headers=asked)).headers["Access-Control-Allow-Headers"] == "x-custom, authorization"
    answers({"error": "x"}, Status.DEVELOPER_ERROR)
    for answered in (await site.ask("GET", URL), await site.ask("POST", URL, "{")):
        assert answered.status == 400
        assert answered.headers[CORS] == "*"
        assert answered.headers["Access-Control-Allow-Methods"] == "OPTIONS, GET, DELETE, POST, PUT, HEAD, PATCH"
        assert answered.headers["Access-Control-Allow-Headers"] == (
            "Authorization, Origin, X-Requested-With, Content-Type, Accept, User-Agent"
        )


async def test_errors_are_indented_and_bear_the_activation(site, web_action, answers):
    await web_action()
    answers({"error": "x"}, Status.DEVELOPER_ERROR)
    answered = await site.ask("GET", URL)
    assert answered.error == "There was an error processing your request."
    assert answered.text.startswith('{\n  "error": ')
    assert len(answered.headers["x-openwhisk-activation-id"]) == 32


async def test_what_is_not_ready_in_time_is_202(site, web_action):
    await web_action()
    site.invoker.answer = lambda _: Accepted202(activation_id="a" * 32)
    answered = await site.ask("GET", URL)
    assert (answered.status, answered.error) == (202, "Response not yet ready.")
    assert answered.headers["x-openwhisk-activation-id"] == "a" * 32


@pytest.mark.parametrize(
    ("error", "status"), [(PoolOverloaded(retry_after_s=2.0), 503), (PlatformError(), 500), (ValueError(), 500)]
)
async def test_what_the_platform_cannot_do_is_503_or_500(site, web_action, error, status):
    def fail(_):
        raise error

    await web_action()
    site.invoker.answer = fail
    assert (await site.ask("GET", URL)).status == status


async def test_a_header_that_is_no_utf_8_reaches_the_action_mended(site, web_action):
    await web_action()
    host, port = site.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {URL}/x?a=%ff HTTP/1.1\r\nHost: a\r\nX-Odd: \xff\r\nConnection: close\r\n\r\n".encode("latin-1"))
    answer = await asyncio.wait_for(reader.read(), 30)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert arguments(site)["__ow_headers"]["x-odd"] == arguments(site)["a"] == "\ufffd"


async def test_head_has_the_headers_of_get_and_no_body(site, web_action):
    await web_action()
    answered = await site.ask("HEAD", URL)
    assert (answered.status, answered.text, answered.headers["Content-Length"]) == (200, "", "2")
    assert arguments(site)["__ow_method"] == "head"


async def test_headers_of_the_action_that_come_twice_are_kept(site, web_action, answers):
    await web_action()
    answers({"headers": {"Set-Cookie": ["a=1", "b=2"], "Access-Control-Allow-Origin": "https://x"}})
    answered = await site.ask("GET", URL)
    assert answered.status == 204
    assert answered.headers.getall("Set-Cookie") == ["a=1", "b=2"]
    assert answered.headers.getall(CORS) == ["https://x", "*"]
    assert "Content-Type" not in answered.headers


def _basic(key):
    return "Basic " + b64encode(key.encode()).decode()
