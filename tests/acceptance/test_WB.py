"""Rows WB: web actions. What the action answers is scripted; what it is told is looked at."""

import base64

import msgspec
import pytest

from invoker.activation import Status
from invoker.invocation import Accepted202

URL = "/api/v1/web/guest/default/hello"
PACKAGED = "/api/v1/web/guest/tools/hello"
ORIGIN = "Access-Control-Allow-Origin"
METHODS = "OPTIONS, GET, DELETE, POST, PUT, HEAD, PATCH"
HEADERS = "Authorization, Origin, X-Requested-With, Content-Type, Accept, User-Agent"
CODE = {"kind": "python:3", "code": "def main(args): return args"}


@pytest.fixture
def answers(site, make_activation):
    """Scripts the action's result."""

    def script(result, status=Status.SUCCESS):
        raw = result if isinstance(result, bytes) else msgspec.json.encode(result)
        site.invoker.answer = lambda _: make_activation(result=msgspec.Raw(raw), status=status)

    return script


@pytest.fixture
def put_web(site, answers):
    """Writes the action `hello`, exported, with these annotations; it answers `{"body": "hi"}`."""

    async def put(path="hello", *, parameters=(), **annotations):
        entries = {"web-export": True} | {name.replace("_", "-"): value for name, value in annotations.items()}
        body = {"exec": CODE, "parameters": list(parameters), "annotations": [{"key": k, "value": v} for k, v in entries.items()]}
        answers({"body": "hi"})
        assert (await site.ask("PUT", f"actions/{path}?overwrite=true", body)).status == 200

    return put


def told(site):
    """What the action was called with."""
    return msgspec.json.decode(site.invoker.calls[-1].payload)


async def test_WB_01_what_is_not_exported_is_404_and_does_not_run(site, put_web):
    for exported in (False, "true", 1):
        await put_web(web_export=exported)
        answered = await site.ask("GET", URL)
        assert (answered.status, answered.error) == (404, "The requested resource does not exist.")
        assert ORIGIN not in answered.headers
    assert (await site.ask("GET", "/api/v1/web/_/default/hello")).status == 404
    assert not site.invoker.calls


async def test_WB_01_what_is_exported_is_there_for_anybody_and_knows_who_it_is(site, put_web):
    await put_web()
    assert (await site.ask("GET", URL, auth=False)).status == 200
    assert "__ow_user" not in told(site)
    assert (await site.ask("GET", URL, auth="Basic bm86Ym9keQ==")).status == 200
    assert "__ow_user" not in told(site)
    assert (await site.ask("GET", URL)).status == 200
    assert told(site)["__ow_user"] == "guest"
    assert (await site.ask("GET", "/api/v1/web/guest/hello", auth=False)).status == 401  # two segments are no web action


async def test_WB_01_the_package_need_not_be_published_and_its_parameters_are_inherited(site, put_web):
    await site.ask("PUT", "packages/tools", {"parameters": [{"key": "a", "value": 1}]})
    await put_web("tools/hello", parameters=[{"key": "b", "value": 2}])
    assert (await site.ask("GET", PACKAGED, auth=False)).status == 200
    called = site.invoker.calls[-1].action
    assert {entry.key: msgspec.json.decode(entry.value) for entry in called.parameters} == {"a": 1, "b": 2}


async def test_WB_01_through_a_binding_it_runs_as_who_has_bound_it(site, put_web):
    await site.ask("PUT", "packages/tools", {"publish": True})
    await put_web("tools/hello")
    other = site.add_namespace("other")
    await site.ask("PUT", "packages/mine", {"binding": {"namespace": "guest", "name": "tools"}}, auth=other)
    assert (await site.ask("GET", "/api/v1/web/other/mine/hello", auth=False)).status == 200
    call = site.invoker.calls[-1]
    assert (call.identity.namespace.name, call.action.full_path, call.binding) == ("other", "guest/tools/hello", "other/mine")
    await site.ask("PUT", "packages/tools?overwrite=true", {"publish": False})
    assert (await site.ask("GET", "/api/v1/web/other/mine/hello", auth=False)).status == 403
    assert len(site.invoker.calls) == 1


@pytest.mark.parametrize(
    ("extension", "result", "kind", "text"),
    [
        ("", {"body": "hi"}, "text/html; charset=UTF-8", "hi"),
        (".http", {"body": "hi"}, "text/html; charset=UTF-8", "hi"),
        (".json", {"a": 1}, "application/json", '{\n  "a": 1\n}'),
        (".html", {"html": "<p>"}, "text/html; charset=UTF-8", "<p>"),
        (".svg", {"svg": "<svg/>"}, "image/svg+xml", "<svg/>"),
        (".text", {"text": 7}, "text/plain; charset=UTF-8", "7"),
    ],
)
async def test_WB_02_each_extension_makes_its_type(site, put_web, answers, extension, result, kind, text):
    await put_web()
    answers(result)
    answered = await site.ask("GET", f"{URL}{extension}/a/b.json", auth=False)
    assert (answered.status, answered.headers["Content-Type"], answered.text) == (200, kind, text)
    assert told(site)["__ow_path"] == "/a/b.json"


async def test_WB_02_an_unknown_extension_is_part_of_the_name(site, put_web):
    await put_web()
    assert (await site.ask("GET", f"{URL}.pdf", auth=False)).status == 404
    await put_web("hello.pdf")
    assert (await site.ask("GET", f"{URL}.pdf.http", auth=False)).text == "hi"
    assert (await site.ask("GET", f"{URL}.pdf", auth=False)).text == "hi"


@pytest.mark.parametrize(
    ("extension", "result", "status", "words"),
    [
        (".json", "x", 400, "Response is not valid 'application/json'"),
        (".html", {"other": "x"}, 400, "Response is not valid 'text/html'"),
        (".svg", {"svg": 1}, 400, "Response is not valid 'image/svg+xml'"),
        (".text", {"other": 1}, 404, "does not include requested property"),
        (".http", "x", 400, "Response is not valid 'message/http'"),
        (".http", {"body": "x", "statusCode": 1.5}, 400, "Response is not valid 'message/http'"),
        (".http", {"body": "x", "headers": {"content-type": "x"}}, 400, "did not specify a known content-type"),
        (".http", {"body": {}, "headers": {"content-type": "text/html"}}, 400, "Response type in header did not match"),
        (".http", {"body": "é", "headers": {"content-type": "image/png"}}, 400, "Response type in header did not match"),
    ],
)
async def test_WB_02_a_result_of_another_kind_is_refused(site, put_web, answers, extension, result, status, words):
    await put_web()
    answers(result)
    answered = await site.ask("GET", f"{URL}{extension}", auth=False)
    assert answered.status == status
    assert words in answered.error
    assert answered.headers["x-openwhisk-activation-id"]


async def test_WB_02_an_array_is_sent_as_json(site, put_web, answers):
    await put_web()
    answers([1, 2])
    for extension in (".json", ".http"):
        answered = await site.ask("GET", f"{URL}{extension}")
        assert (answered.status, answered.json) == (200, [1, 2])


async def test_WB_02_a_type_that_the_client_does_not_take_is_406(site, put_web, answers):
    await put_web()
    assert (await site.ask("GET", URL, headers={"Accept": "image/png"})).status == 406
    assert (await site.ask("GET", URL, headers={"Accept": "image/png, text/*;q=0.1"})).status == 200
    answers({"statusCode": 202})
    assert (await site.ask("GET", URL, headers={"Accept": "image/png"})).status == 202


async def test_WB_03_headers_status_and_cookies_are_the_actions(site, put_web, answers):
    await put_web()
    answers({"statusCode": 418, "headers": {"X-Own": 1, "Set-Cookie": ["a=1; Path=/", "b=2"]}, "body": "tea"})
    answered = await site.ask("GET", URL, auth=False)
    assert (answered.status, answered.text, answered.headers["X-Own"]) == (418, "tea", "1")
    assert answered.headers.getall("Set-Cookie") == ["a=1; Path=/", "b=2"]


async def test_WB_03_a_redirect_passes(site, put_web, answers):
    await put_web()
    answers({"statusCode": 302, "headers": {"location": "https://elsewhere/"}})
    answered = await site.ask("GET", URL, auth=False)
    assert (answered.status, answered.headers["location"], answered.text) == (302, "https://elsewhere/", "")


@pytest.mark.parametrize("kind", ["image/png", "application/octet-stream", "application/pdf"])
async def test_WB_03_an_image_comes_as_base64_and_goes_as_bytes(site, put_web, answers, kind):
    await put_web()
    answers({"headers": {"content-type": kind}, "body": base64.b64encode(b"\x89PNG\r\n").decode()})
    async with site.session.get(site.url + URL) as response:
        assert (response.status, response.headers["Content-Type"]) == (200, kind)
        assert await response.read() == b"\x89PNG\r\n"


async def test_WB_03_json_in_base64_is_decoded_too(site, put_web, answers):
    await put_web()
    answers({"headers": {"content-type": "application/json"}, "body": base64.b64encode(b'{"a":1}').decode()})
    assert (await site.ask("GET", URL)).json == {"a": 1}


@pytest.mark.parametrize("result", [{}, {"body": ""}, {"body": None}, {"headers": {"content-type": "text/html"}}])
async def test_WB_03_nothing_is_204(site, put_web, answers, result):
    await put_web()
    answers(result)
    answered = await site.ask("GET", URL)
    assert (answered.status, answered.text) == (204, "")
    assert "Content-Type" not in answered.headers


async def test_WB_04_an_action_is_told_of_the_request(site, put_web):
    await put_web()
    headers = {"X-Own": "7", "Content-Type": "application/json"}
    await site.ask("PUT", f"{URL}.http/a/b%20c?q=1&r=x&q=2", {"r": [1], "s": None}, headers=headers)
    seen = told(site)
    assert seen["__ow_headers"]["x-own"] == "7"
    assert seen["__ow_headers"]["content-type"] == "application/json"
    assert (seen["__ow_method"], seen["__ow_path"]) == ("put", "/a/b%20c")
    assert (seen["q"], seen["r"], seen["s"]) == ("2", [1], None)
    assert "__ow_body" not in seen
    assert "__ow_query" not in seen


@pytest.mark.parametrize(
    ("body", "kind", "seen"),
    [
        (b"a=1&b=%20", "application/x-www-form-urlencoded", {"a": "1", "b": " "}),
        (b"[1,2]", "application/json", {"__ow_body": [1, 2]}),
        (b"gr\xc3\xbc\xc3\x9fe", "text/plain", {"__ow_body": "grüße"}),
        (b"<a/>", "application/xml", {"__ow_body": "<a/>"}),
        (b"\x00\xff", "image/png", {"__ow_body": "AP8="}),
        (b"\x00\xff", None, {"__ow_body": "AP8="}),
        (b"--x--", "multipart/form-data; boundary=x", {"__ow_body": base64.b64encode(b"--x--").decode()}),
    ],
)
async def test_WB_04_a_body_reaches_the_action_by_its_type(site, put_web, body, kind, seen):
    await put_web()
    headers = {"Content-Type": kind} if kind else None
    assert (await site.ask("POST", URL, body, headers=headers, json_type=False)).status == 200
    assert {name: told(site).get(name) for name in seen} == seen


async def test_WB_04_numbers_beyond_2_to_the_53_reach_the_action_as_they_were_written(site, put_web):
    await put_web()
    await site.ask("POST", URL, b'{"n":9007199254740993,"d":0.1000000000000000055}')
    assert b'"n":9007199254740993,"d":0.1000000000000000055' in bytes(site.invoker.calls[-1].payload)


@pytest.mark.parametrize(
    ("query", "body"),
    [("?__ow_user=root", None), ("?__ow_body=x", None), ("", {"__ow_method": "x"}), ("?key=1", None), ("", {"key": 1})],
)
async def test_WB_04_what_is_reserved_or_final_is_not_overridden(site, put_web, query, body):
    await put_web(parameters=[{"key": "key", "value": "mine"}, {"key": "open", "value": None}], final=True)
    answered = await site.ask("POST", f"{URL}{query}", body)
    assert answered.status == 400
    assert "parameters that are not allowed" in answered.error
    assert not site.invoker.calls
    assert (await site.ask("POST", f"{URL}?open=1")).status == 200


async def test_WB_04_json_that_is_none_is_refused(site, put_web):
    await put_web()
    for body in (b"{", b'{"a":\xff}', b"[" * 100_000):
        answered = await site.ask("POST", URL, body)
        assert answered.status == 400
        assert "The request content was malformed" in answered.error
    assert not site.invoker.calls


async def test_WB_05_a_raw_action_gets_the_request_as_it_is(site, put_web):
    await put_web(raw_http=True, final=True, parameters=[{"key": "key", "value": 1}])
    headers = {"Content-Type": "application/json"}
    assert (await site.ask("POST", f"{URL}?key=a%20b&__ow_user=x", b'{"key":2}', headers=headers)).status == 200
    seen = told(site)
    assert (seen["__ow_query"], seen["__ow_body"]) == ("key=a+b&__ow_user=x", base64.b64encode(b'{"key":2}').decode())
    assert "key" not in seen
    await site.ask("POST", URL, b"text", headers={"Content-Type": "text/plain"})
    assert (told(site)["__ow_query"], told(site)["__ow_body"]) == ("", "text")


async def test_WB_05_options_are_answered_without_the_action(site, put_web):
    await put_web(require_whisk_auth=True)
    answered = await site.ask("OPTIONS", URL, auth=False, headers={"Access-Control-Request-Headers": "x-a, x-b"})
    assert (answered.status, answered.text) == (200, "")
    assert answered.headers[ORIGIN] == "*"
    assert answered.headers["Access-Control-Allow-Methods"] == METHODS
    assert answered.headers["Access-Control-Allow-Headers"] == "x-a, x-b"
    assert not site.invoker.calls


async def test_WB_05_every_answer_may_be_read_by_any_page_and_the_actions_own_header_is_added(site, put_web, answers):
    await put_web()
    answered = await site.ask("GET", URL)
    assert (answered.headers[ORIGIN], answered.headers["Access-Control-Allow-Headers"]) == ("*", HEADERS)
    answers({"headers": {ORIGIN: "https://page"}, "body": "x"})
    assert (await site.ask("GET", URL)).headers.getall(ORIGIN) == ["https://page", "*"]


async def test_WB_05_custom_options_are_the_actions_even_without_credentials(site, put_web, answers):
    await put_web(web_custom_options=True, require_whisk_auth=True)
    answers({"headers": {"Access-Control-Allow-Methods": "GET"}})
    answered = await site.ask("OPTIONS", URL, auth=False)
    assert (answered.status, answered.headers["Access-Control-Allow-Methods"]) == (204, "GET")
    assert ORIGIN not in answered.headers
    assert told(site)["__ow_method"] == "options"
    assert (await site.ask("GET", URL, auth=False)).status == 401


@pytest.mark.parametrize(
    ("wanted", "secret", "status"),
    [
        ("s3cret", "s3cret", 200),
        ("s3cret", "other", 401),
        ("s3cret", None, 401),
        (12345, "12345", 200),
        (12345, "1234", 401),
        (False, None, 200),
        ("", None, 401),
        ([], None, 401),
        (None, None, 401),
    ],
)
async def test_WB_06_a_secret_is_asked_for(site, put_web, wanted, secret, status):
    await put_web(require_whisk_auth=wanted)
    headers = {"X-Require-Whisk-Auth": secret} if secret else None
    answered = await site.ask("GET", URL, headers=headers)
    assert answered.status == status
    assert len(site.invoker.calls) == (status == 200)
    if status == 401:
        assert "requires authentication" in answered.error
        assert "WWW-Authenticate" not in answered.headers


async def test_WB_06_true_asks_for_credentials(site, put_web):
    await put_web(require_whisk_auth=True)
    assert (await site.ask("GET", URL, auth=False)).status == 401
    assert (await site.ask("GET", URL, auth="Basic bm86Ym9keQ==")).status == 401
    assert (await site.ask("GET", URL, auth=site.add_namespace("other"))).status == 200


async def test_WB_07_an_application_error_is_unwrapped(site, put_web, answers):
    await put_web()
    answers({"error": {"statusCode": 404, "body": "gone", "headers": {"X-A": "1"}}}, Status.APPLICATION_ERROR)
    answered = await site.ask("GET", URL)
    assert (answered.status, answered.text, answered.headers["X-A"]) == (404, "gone", "1")
    answers({"error": {"a": 1}}, Status.APPLICATION_ERROR)
    answered = await site.ask("GET", f"{URL}.json")
    assert (answered.status, answered.json) == (200, {"a": 1})
    answers({"error": "sorry"}, Status.APPLICATION_ERROR)
    assert (await site.ask("GET", f"{URL}.text")).text == "sorry"
    assert (await site.ask("GET", URL)).status == 400


@pytest.mark.parametrize("status", [Status.DEVELOPER_ERROR, Status.INTERNAL_ERROR])
async def test_WB_07_any_other_failure_is_400_and_tells_nothing(site, put_web, answers, status):
    await put_web()
    answers({"error": "secret detail"}, status)
    answered = await site.ask("GET", URL)
    assert answered.status == 400
    assert "error processing your request" in answered.error
    assert "secret" not in answered.text
    assert answered.headers["x-openwhisk-activation-id"]


async def test_WB_07_what_is_not_ready_after_a_minute_is_202(site, put_web):
    await put_web()
    site.invoker.answer = lambda call: Accepted202(activation_id="a" * 32)
    answered = await site.ask("GET", URL)
    assert (answered.status, answered.headers["x-openwhisk-activation-id"]) == (202, "a" * 32)
    assert "not yet ready" in answered.error
    assert site.invoker.calls[-1].wait_s == 60


async def test_WB_07_what_is_too_large_is_413(site, put_web):
    await put_web()
    assert (await site.ask("POST", URL, b"x" * 2**20, json_type=False)).status == 200
    answered = await site.ask("POST", URL, b"x" * (2**20 + 1))
    assert answered.status == 413
    assert "Request larger than allowed: 1048577 > 1048576" in answered.error
    assert len(site.invoker.calls) == 1


async def test_WB_07_the_owner_is_throttled_not_the_caller(site, put_web):
    await put_web()
    site.grant(invocations_per_minute=1)
    assert (await site.ask("GET", URL, auth=False)).status == 200
    answered = await site.ask("GET", URL, auth=site.add_namespace("other"))
    assert answered.status == 429
    assert "requests in the last minute (count: 2, allowed: 1)" in answered.error
    assert len(site.invoker.calls) == 1
