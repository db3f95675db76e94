import pytest

from invoker.web.media import accepts, parse_media_type


@pytest.mark.parametrize(
    "text",
    [
        "text/plain",
        "text/x-anything",
        "application/json",
        "application/xml",
        "application/javascript",
        "a/b+json",
        "application/atom+xml",
    ],
)
def test_these_types_are_text(text):
    assert parse_media_type(text).is_text


@pytest.mark.parametrize(
    "text",
    ["image/png", "image/svg+xml", "application/octet-stream", "application/zip", "multipart/form-data; boundary=x", "audio/x"],
)
def test_these_types_are_bytes(text):
    assert not parse_media_type(text).is_text


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("text/plain", "text/plain; charset=UTF-8"),
        ("TEXT/Plain;Charset=latin-1; x=1", "text/plain; x=1; charset=UTF-8"),
        ("application/json; charset=utf-8", "application/json"),
        ("application/hal+json", "application/hal+json"),
        ("image/png; q=1", "image/png; q=1"),
        ('text/x;a="b;c"', 'text/x; a="b;c"; charset=UTF-8'),
    ],
)
def test_text_is_sent_as_utf_8_and_says_so(text, sent):
    assert parse_media_type(text).as_utf8() == sent


@pytest.mark.parametrize("text", ["", "text", "text/", "/plain", "text/plain; x", "text/plain, text/html", "te xt/plain"])
def test_what_is_no_media_type_is_none(text):
    assert parse_media_type(text) is None


@pytest.mark.parametrize(
    ("accept", "media", "taken"),
    [
        (None, "image/png", True),
        ("", "image/png", True),
        ("*/*", "image/png", True),
        ("*", "image/png", True),
        ("image/*", "image/png", True),
        ("IMAGE/PNG;q=0.1, text/html", "image/png", True),
        ("text/html", "text/html; charset=UTF-8", True),
        ("text/html, application/xhtml+xml", "image/png", False),
        ("*/*, image/png;q=0", "image/png", False),
        ("image/*;q=0, */*", "image/png", False),
        ("image/png;q=x", "image/png", True),
        ("rubbish", "image/png", True),
    ],
)
def test_the_closest_range_of_accept_decides(accept, media, taken):
    assert accepts(accept, media) is taken
