import base64

import msgspec
import pytest

from invoker.errors import MalformedContent, MalformedQuery, ParametersNotAllowed
from invoker.model import Action, Annotation, Exec, Parameter
from invoker.web.arguments import MOST_FIELDS, RESERVED, WebRequest, build_arguments


def action(parameters=None, **annotations):
    return Action(
        namespace="guest",
        path="hello",
        revision="1",
        updated=0,
        exec=Exec(kind="python:3"),
        parameters=tuple(Parameter(key=k, value=msgspec.Raw(msgspec.json.encode(v))) for k, v in (parameters or {}).items()),
        annotations=tuple(
            Annotation(key=k.replace("_", "-"), value=msgspec.Raw(msgspec.json.encode(v))) for k, v in annotations.items()
        ),
    )


def build(body=b"", kind=None, of=None, **fields):
    headers = {"Host": "node"} | ({"Content-Type": kind} if kind else {})
    request = WebRequest(
        **({"method": "POST", "headers": Headers(headers), "path": "", "query": "", "body": body, "user": None} | fields)
    )
    return bytes(build_arguments(request, of or action()))


class Headers(dict):
    """Names in any case, as a server gives them."""

    def get(self, name, default=None):
        return next((value for key, value in self.items() if key.lower() == name.lower()), default)


def built(*arguments, **options):
    return msgspec.json.decode(build(*arguments, **options))


def test_an_action_is_told_of_the_request():
    assert built(method="PATCH", path="/a/b", kind="text/plain", user="alice") == {
        "__ow_method": "patch",
        "__ow_headers": {"host": "node", "content-type": "text/plain"},
        "__ow_path": "/a/b",
        "__ow_user": "alice",
    }


def test_without_credentials_there_is_no_user():
    assert "__ow_user" not in built()


def test_query_and_body_become_arguments_and_the_body_goes_over_the_query():
    merged = built(b'{"b":2,"c":[3]}', "application/json", query="a=1&b=x&a=last&d")
    assert {name: merged[name] for name in "abcd"} == {"a": "last", "b": 2, "c": [3], "d": ""}


def test_json_values_pass_as_they_were_written():
    text = build(b'{"big":12345678901234567890123, "exact":1.10, "text":"\\u00e9"}', "application/vnd.x+json")
    assert b'"big":12345678901234567890123' in text
    assert b'"exact":1.10' in text
    assert b'"text":"\\u00e9"' in text


@pytest.mark.parametrize("value", [b"[1,2]", b"1e400", b'"text"', b"null", b"true"])
def test_json_that_is_no_object_is_the_body_as_it_was_written(value):
    assert b'"__ow_body":' + value in build(value, "application/json")


@pytest.mark.parametrize(
    "body", [b"{", b'{"a":\xff}', b'{"a":"\x00"}', b"\xef\xbb\xbf{}", b"[" * 100_000, b"{}{}", b'{"\\ud800":1}']
)
def test_json_that_is_none_is_refused(body):
    with pytest.raises(MalformedContent):
        build(body, "application/json")


@pytest.mark.parametrize("body", [b"", b" \r\n", b"{}"])
def test_an_empty_json_body_gives_nothing(body):
    assert "__ow_body" not in built(body, "application/json")


def test_a_form_becomes_arguments():
    merged = built(b"a=1&b=%C3%A9+x&a=2", "application/x-www-form-urlencoded; charset=utf-8")
    assert (merged["a"], merged["b"]) == ("2", "é x")
    assert "__ow_body" not in merged


def test_text_is_the_body_and_bytes_are_in_base64():
    assert built("größe".encode(), "text/csv")["__ow_body"] == "größe"
    assert built(b"<a/>", "application/xml")["__ow_body"] == "<a/>"
    for kind in ("image/png", "multipart/form-data; boundary=x", "no type", None):
        assert built(b"\x00\xff", kind)["__ow_body"] == base64.b64encode(b"\x00\xff").decode()


def test_text_that_is_no_utf_8_is_mended():
    assert built(b"a\xff", "text/plain")["__ow_body"] == "a\ufffd"
    assert built(headers=Headers({"X": "a\udcff"}), path="/\udcff")["__ow_headers"] == {"x": "a\ufffd"}


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_reserved_names_are_refused_in_query_and_body(name):
    with pytest.raises(ParametersNotAllowed):
        build(query=f"{name}=1")
    with pytest.raises(ParametersNotAllowed):
        build(msgspec.json.encode({name: 1}), "application/json")


def test_final_parameters_are_refused_unless_they_are_null():
    final = action({"a": 1, "open": None}, final=True)
    for arguments in (
        {"query": "a=1"},
        {"body": b'{"a":1}', "kind": "application/json"},
        {"body": b"a=1", "kind": "application/x-www-form-urlencoded"},
    ):
        with pytest.raises(ParametersNotAllowed):
            build(of=final, **arguments)
    assert built(of=final, query="open=1&b=2")["open"] == "1"
    assert built(of=action({"a": 1}, final="true"), query="a=2")["a"] == "2"


def test_too_many_fields_are_refused_before_they_are_taken_apart():
    many = "&".join(["a=1"] * (MOST_FIELDS + 1))
    with pytest.raises(MalformedQuery):
        build(query=many)
    with pytest.raises(MalformedContent):
        build(many.encode(), "application/x-www-form-urlencoded")


def test_a_raw_action_gets_query_and_body_untouched():
    raw = action({"a": 1}, raw_http=True, final=True)
    merged = built(b'{"__ow_user":1}', "text/plain", of=raw, query="a=1&b=x%20y&__ow_path=z")
    assert merged["__ow_query"] == "a=1&b=x+y&__ow_path=z"
    assert merged["__ow_body"] == '{"__ow_user":1}'
    assert "a" not in merged
    assert built(b"{}", "application/json", of=raw)["__ow_body"] == base64.b64encode(b"{}").decode()
    assert built(b"{}", "application/hal+json", of=raw)["__ow_body"] == "{}"
    assert built(b"\xff", "image/png", of=raw)["__ow_body"] == "/w=="
    assert built(of=raw)["__ow_body"] == built(of=raw)["__ow_query"] == ""
