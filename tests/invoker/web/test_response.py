import msgspec
import pytest

from invoker.errors import NotAcceptable, WebPropertyMissing, WebResultInvalid
from invoker.web.response import application_error, transcode
from invoker.web.target import Extension


def answer(extension, result, accept=None):
    raw = result if isinstance(result, (msgspec.Raw, type(None))) else msgspec.Raw(msgspec.json.encode(result))
    return transcode(Extension(extension), raw, accept)


def http(accept=None, **result):
    return answer("http", result, accept)


# --- .json .html .svg .text


@pytest.mark.parametrize("result", [{"a": [1]}, [], [{"a": 1}]])
@pytest.mark.parametrize("extension", ["json", "http"])
def test_objects_and_arrays_are_json(extension, result):
    sent = answer(extension, result if extension == "json" or isinstance(result, list) else {"body": result})
    assert (sent.status, sent.content_type) == (200, "application/json")
    assert msgspec.json.decode(sent.body) == result


def test_numbers_of_a_result_stay_as_they_are_written():
    assert b"12345678901234567890123" in answer("json", msgspec.Raw(b'{"a":12345678901234567890123}')).body


@pytest.mark.parametrize("result", [None, "x", 1, True])
def test_what_is_no_object_nor_array_is_no_json_answer(result):
    with pytest.raises(WebResultInvalid, match="Response is not valid 'application/json'"):
        answer("json", result)


@pytest.mark.parametrize(("extension", "kind"), [("html", "text/html; charset=UTF-8"), ("svg", "image/svg+xml")])
def test_html_and_svg_send_a_string(extension, kind):
    for result in ({"body": "<p>é"}, {extension: "<p>é"}, {"body": "<p>é", extension: "other"}, "<p>é"):
        sent = answer(extension, result)
        assert (sent.status, sent.body.decode(), sent.content_type) == (200, "<p>é", kind)
    for result in ({"body": 1}, {"other": "x"}, {}, ["x"], None, 1):
        with pytest.raises(WebResultInvalid, match=kind.partition(";")[0].replace("+", r"\+")):
            answer(extension, result)


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ({"text": "é"}, "é"),
        ({"body": "b", "text": "t"}, "b"),
        ({"text": 1.50}, "1.5"),
        ({"text": True}, "true"),
        ({"text": None}, "null"),
        ({"text": {"a": 1}}, '{\n  "a": 1\n}'),
        ("error", "error"),
        ([1], "[\n  1\n]"),
    ],
)
def test_text_sends_anything_as_text(result, text):
    sent = answer("text", result)
    assert (sent.body.decode(), sent.content_type) == (text, "text/plain; charset=UTF-8")


def test_text_without_the_field_is_missing():
    with pytest.raises(WebPropertyMissing):
        answer("text", {"other": 1})


# --- .http


def test_a_string_is_html_unless_it_says_otherwise():
    sent = http(body="<p>é")
    assert (sent.status, sent.body.decode(), sent.content_type) == (200, "<p>é", "text/html; charset=UTF-8")
    sent = http(body="a,b", headers={"Content-Type": "text/csv"}, statusCode=201)
    assert (sent.status, sent.body, sent.content_type) == (201, b"a,b", "text/csv; charset=UTF-8")


@pytest.mark.parametrize("body", [None, "", ...])
def test_without_a_body_it_is_204_and_has_no_type(body):
    result = {} if body is ... else {"body": body}
    sent = answer("http", {**result, "headers": {"content-type": "text/plain", "X-A": "1"}})
    assert (sent.status, sent.body, sent.content_type, sent.headers) == (204, b"", None, (("X-A", "1"),))
    assert answer("http", {**result, "statusCode": 302, "headers": {"location": "/x"}}).status == 302


@pytest.mark.parametrize(("given", "status"), [(201, 201), ("404", 404), (599, 599), (None, 200)])
def test_the_status_is_an_integer_or_a_string_of_one(given, status):
    assert http(body="x", statusCode=given).status == status


@pytest.mark.parametrize("given", [1.5, "x", 99, 100, 600, 99999, -200, [200], True, {}, "200.0", " 200"])
def test_any_other_status_is_no_http_message(given):
    with pytest.raises(WebResultInvalid, match="message/http"):
        http(body="x", statusCode=given)


def test_headers_may_be_lists_numbers_and_booleans():
    sent = http(body="x", headers={"Set-Cookie": ["a=1", "b=2"], "X-N": 1.10, "X-B": False, "x-é".encode().hex(): "ok"})
    assert sent.headers[:4] == (("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("X-N", "1.1"), ("X-B", "false"))


@pytest.mark.parametrize(
    "headers",
    [
        [],
        "x",
        {"a": {}},
        {"a": None},
        {"a": [[1]]},
        {"a b": "x"},
        {"": "x"},
        {"a:": "x"},
        {"a": "x\r\nSet-Cookie: b=1"},
        {"a\n": "x"},
        {"a": "x\x00"},
        {"a": "\x7f"},
        {"content-type": "text/plain\r\nX: y"},
    ],
)
def test_headers_that_cannot_be_sent_are_no_http_message(headers):
    with pytest.raises(WebResultInvalid, match="message/http"):
        http(body="x", headers=headers)


def test_headers_that_frame_the_message_are_left_out():
    headers = {"Content-Length": "5", "Transfer-Encoding": "chunked", "Connection": "close", "X-Request-ID": "mine", "ETag": "a"}
    assert http(body="x", headers=headers).headers == (("ETag", "a"),)


@pytest.mark.parametrize("kind", ["image/png", "application/octet-stream", "image/svg+xml"])
def test_bytes_come_as_base64(kind):
    sent = http(body="AP8=", headers={"content-type": kind})
    assert (sent.body, sent.content_type) == (b"\x00\xff", kind)
    for broken in ("AP8", "<svg/>", "é"):
        with pytest.raises(WebResultInvalid, match="Response type in header did not match"):
            http(body=broken, headers={"content-type": kind})


def test_json_in_a_string_is_sent_as_it_is_or_decoded_where_it_is_base64():
    kind = {"content-type": "application/json"}
    assert http(body='{"a": 1}', headers=kind).body == b'{"a": 1}'
    assert http(body="eyJhIjogMX0=", headers=kind).body == b'{"a": 1}'
    assert http(body="eyJhIjogMX0=", headers={"content-type": "text/plain"}).body == b"eyJhIjogMX0="


def test_structures_are_sent_as_json_only():
    for body in ({"a": 1}, [1], 1, True):
        for kind in (None, "application/json", "application/hal+json"):
            sent = http(body=body, **({"headers": {"Content-Type": kind}} if kind else {}))
            assert msgspec.json.decode(sent.body) == body
            assert sent.content_type == (kind or "application/json")
        with pytest.raises(WebResultInvalid, match="Response type in header did not match"):
            http(body=body, headers={"Content-Type": "text/html"})


def test_a_type_that_is_none_is_refused():
    with pytest.raises(WebResultInvalid, match="did not specify a known content-type"):
        http(body="x", headers={"Content-Type": "rubbish"})


@pytest.mark.parametrize("result", [None, "x", 1])
def test_what_is_no_object_is_no_http_message(result):
    with pytest.raises(WebResultInvalid, match="Response is not valid 'message/http'"):
        answer("http", result)


# --- what the client takes


def test_a_type_that_the_client_does_not_take_is_not_acceptable():
    with pytest.raises(NotAcceptable, match="text/html"):
        http("image/png", body="x")
    assert http("text/*", body="x").status == 200
    assert http("image/png").status == 204


# --- errors


@pytest.mark.parametrize(
    ("result", "value"),
    [
        (b'{"error":{"statusCode":404}}', b'{"statusCode":404}'),
        (b'{"error":"x"}', b'"x"'),
        (b'{"a":1}', b'{"a":1}'),
        (b"[1]", b"[1]"),
    ],
)
def test_an_application_error_is_unwrapped(result, value):
    assert bytes(application_error(msgspec.Raw(result))) == value
    assert application_error(None) is None


@pytest.mark.parametrize(
    "result", [b'{"body":"\\ud800"}', b'{"headers":{"a":"\\ud800"}}', b'{"\\ud800":1}', b"{" + b'"a":{' * 3000]
)
def test_a_result_that_cannot_be_read_is_refused(result):
    for extension in Extension:
        with pytest.raises(WebResultInvalid):
            transcode(extension, msgspec.Raw(result), None)
    with pytest.raises(WebResultInvalid):
        application_error(msgspec.Raw(result))
