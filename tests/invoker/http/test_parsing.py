import pytest

from invoker.errors import InvalidName, InvalidRequest, MalformedContent, MalformedQuery, UnsupportedMediaType
from invoker.http.parsing import (
    InvokeOptions,
    Page,
    accepts_json,
    boolean,
    check_activation_id,
    check_json_type,
    check_name,
    check_namespace,
    parse_activation_filter,
    parse_invoke_options,
    parse_page,
    parse_payload,
    split_target,
)

# --- paths and names


@pytest.mark.parametrize(
    ("target", "segments", "query"),
    [
        ("/", [""], {}),
        ("/api/v1", ["api", "v1"], {}),
        ("/api/v1/", ["api", "v1", ""], {}),
        ("/a/b%20c?x=1&x=2", ["a", "b c"], {"x": "2"}),
        ("http://node.example:80/a/b?x=1", ["a", "b"], {"x": "1"}),
        ("HTTPS://node.example", [""], {}),
        ("http://node.example?x=/a", [""], {"x": "/a"}),
        ("ftp://node.example/a", ["", "node.example", "a"], {}),
        ("*", [], {}),
        ("/a/b%2Fc", ["a", "b/c"], {}),
        ("/a+b?x=a+b&y=", ["a+b"], {"x": "a b", "y": ""}),
    ],
)
def test_a_target_is_split_then_decoded(target, segments, query):
    assert split_target(target) == (tuple(segments), query)


@pytest.mark.parametrize("name", ["a", "_", "9", "hello world", "a@b.c&d-e", "a.", "a-", "x" * 256])
def test_a_name_is_taken(name):
    assert check_name(name) == name
    assert check_namespace(name) == name


@pytest.mark.parametrize("name", ["", " ", "hi+there", "$hola", "dora?", "|dora|dora?", "a ", "-a", ".", "a/b", "é", "a\n"])
def test_a_name_with_illegal_characters_is_refused(name):
    with pytest.raises(InvalidName, match="illegal characters"):
        check_name(name)
    with pytest.raises(InvalidName, match="illegal characters"):
        check_namespace(name)


def test_a_name_that_is_too_long_is_refused_with_both_numbers():
    with pytest.raises(InvalidName, match=r"longer than allowed: 257 > 256\."):
        check_name("x" * 257)


def test_an_activation_id_is_32_hexadecimal_digits():
    assert check_activation_id("0123456789abcdef" * 2) == "0123456789abcdef" * 2
    with pytest.raises(InvalidRequest, match="length is 31 but must be 32"):
        check_activation_id("a" * 31)
    for text in ("g" * 32, "A" * 32):
        with pytest.raises(InvalidRequest, match="activation id is not valid"):
            check_activation_id(text)


# --- queries


@pytest.mark.parametrize(("text", "value"), [("true", True), ("TRUE", True), ("1", True), ("no", False), ("off", False)])
def test_booleans_have_several_spellings(text, value):
    assert boolean({"x": text}, "x", default=not value) is value


def test_a_boolean_that_is_none_is_malformed():
    with pytest.raises(MalformedQuery, match="The query parameter 'count' was malformed:\n'maybe'"):
        boolean({"count": "maybe"}, "count")


@pytest.mark.parametrize(
    ("query", "page"),
    [
        ({}, Page(30, 0, False)),
        ({"limit": "0"}, Page(200, 0, False)),
        ({"limit": "200", "skip": "7"}, Page(200, 7, False)),
        ({"count": "true", "docs": "true", "public": "x"}, Page(30, 0, True)),
    ],
)
def test_a_page(query, page):
    assert parse_page(query, "actions") == page


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ({"limit": "201"}, "'201' is not in the range of 0 to 200 for actions"),
        ({"limit": "-1"}, "'-1' is not in the range"),
        ({"limit": "ten"}, "'ten' is not an integer"),
        ({"limit": "1.5"}, "not an integer"),
        ({"limit": "1_0"}, "not an integer"),
        ({"limit": ""}, "not an integer"),
        ({"skip": "-1"}, "'-1' is not greater than or equal to 0"),
    ],
)
def test_a_page_out_of_range_is_malformed(query, detail):
    with pytest.raises(MalformedQuery, match=detail):
        parse_page(query, "actions")


def test_a_filter_of_activations():
    assert parse_activation_filter({}).name is None
    assert parse_activation_filter({"name": ""}).name is None
    wanted = parse_activation_filter({"name": "p/a", "since": "-5", "upto": "7", "docs": "true"})
    assert (wanted.name, wanted.since_ms, wanted.upto_ms, wanted.docs) == ("p/a", -5, 7, True)


@pytest.mark.parametrize("name", ["a/b/c", "/a", "a/", "/"])
def test_a_name_of_three_segments_filters_nothing(name):
    with pytest.raises(MalformedQuery, match="'simple' name or 'package-name/simple' name"):
        parse_activation_filter({"name": name})


def test_docs_and_count_exclude_each_other():
    with pytest.raises(InvalidRequest, match="'docs' is not permitted with 'count'"):
        parse_activation_filter({"docs": "true", "count": "true"})


def test_a_time_that_is_no_number_is_malformed():
    with pytest.raises(MalformedQuery, match="'since'"):
        parse_activation_filter({"since": "yesterday"})


@pytest.mark.parametrize(
    ("query", "options"),
    [
        ({}, InvokeOptions(False, False, 60.0)),
        ({"blocking": "true"}, InvokeOptions(True, False, 60.0)),
        ({"blocking": "true", "result": "true", "timeout": "1"}, InvokeOptions(True, True, 0.001)),
        ({"timeout": "60000"}, InvokeOptions(False, False, 60.0)),
    ],
)
def test_options_of_an_invocation(query, options):
    assert parse_invoke_options(query) == options


@pytest.mark.parametrize("timeout", ["0", "60001", "-1", "x", "", "1.5"])
def test_a_timeout_out_of_range_is_malformed(timeout):
    with pytest.raises(MalformedQuery, match=r"number of milliseconds up to 60000\."):
        parse_invoke_options({"timeout": timeout})


# --- bodies


@pytest.mark.parametrize("accept", [None, "", "*/*", "application/json", "text/html, */*;q=0.1", "application/*"])
def test_clients_that_take_json(accept):
    assert accepts_json(accept)


def test_clients_that_do_not():
    assert not accepts_json("text/html")


@pytest.mark.parametrize("media", ["application/json", "application/json; charset=UTF-8", "Application/JSON ;x=y"])
def test_json_is_json(media):
    check_json_type(media)


@pytest.mark.parametrize(
    "media", ["text/plain", "application/jsonx", "application/vnd.api+json", "text/plain; a=application/json"]
)
def test_other_types_are_named(media):
    with pytest.raises(UnsupportedMediaType) as refused:
        check_json_type(media)
    named = media.partition(";")[0]
    assert str(refused.value) == f"The request's Content-Type [{named}] is not supported. Expected:\napplication/json"


def test_a_missing_type_is_not_named():
    with pytest.raises(UnsupportedMediaType, match="The request's Content-Type is not supported"):
        check_json_type(None)


def test_a_payload_is_kept_byte_for_byte():
    body = b' {"a" : 1.10e5, "b":"\\u00e9", "c": "\xc3\xa9"}\n'
    assert bytes(parse_payload(body)).strip() == body.strip()


def test_no_body_is_an_empty_object():
    assert bytes(parse_payload(b"")) == b"{}"


@pytest.mark.parametrize(
    "body",
    [
        b"[1]",
        b"1",
        b'"a"',
        b"null",
        b"{",
        b'{"a":}',
        b'{"a":1}x',
        b'{"a":NaN}',
        b'{"a":"\xff"}',
        b'{"a":' + b"[" * 400_000 + b"]" * 400_000 + b"}",
        b"\xef\xbb\xbf{}",
        b" ",
    ],
)
def test_what_is_no_object_is_malformed(body):
    with pytest.raises(MalformedContent, match="The request content was malformed:\n"):
        parse_payload(body)
