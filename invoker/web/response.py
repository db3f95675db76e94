"""From a web action's result to a response: pure, one function for each extension of the URL."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from invoker.errors import NotAcceptable, WebPropertyMissing, WebResultInvalid
from invoker.web.media import MediaType, accepts, parse_media_type
from invoker.web.target import Extension

JSON = "application/json"
HTML = "text/html; charset=UTF-8"
SVG = "image/svg+xml"
PLAIN = "text/plain; charset=UTF-8"
#: What a result that is no description of a response is not.
HTTP_MESSAGE = "message/http"

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
#: Headers that frame the message, or that the server sets: an action's own are left out.
_OURS = frozenset(
    {
        "connection",
        "content-length",
        "date",
        "keep-alive",
        "proxy-connection",
        "server",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-request-id",
    }
)
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})+|(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)")
_STATUS = re.compile(r"[2-5][0-9]{2}")

_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_NOTHING = msgspec.Raw(b"null")


@dataclass(frozen=True, slots=True, kw_only=True)
class WebResponse:
    """What is sent.

    Attributes:
        status: 200 to 599.
        body: empty for none.
        content_type: None with an empty body.
        headers: the action's own, in its order, names as it wrote them; a name may come several times.
    """

    status: int = 200
    body: bytes = b""
    content_type: str | None = None
    headers: tuple[tuple[str, str], ...] = ()


def transcode(extension: Extension, result: msgspec.Raw | None, accept: str | None) -> WebResponse:
    """Make a response of a result.

    Args:
        extension: of the URL.
        result: JSON text; of an application error, its `error`.
        accept: the client's header.

    Raises:
        WebResultInvalid: the result is not what the extension asks for.
        WebPropertyMissing: `.text`, and there is nothing to send.
        NotAcceptable: the client takes no such type.
    """
    try:
        response = _TRANSCODERS[extension](_NOTHING if result is None else result)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:  # runtimes write half pairs, and nest as they like
        raise WebResultInvalid(f"The action's result cannot be read: {error}") from None
    if response.content_type is not None and response.body and not accepts(accept, response.content_type):
        raise NotAcceptable(f"The resource is only available as {response.content_type.partition(';')[0]}.")
    return response


def _kind(value: msgspec.Raw) -> str:
    """First character of a JSON text: tells what it is without decoding it."""
    return bytes(memoryview(value)[:64]).lstrip()[:1].decode() or bytes(value).lstrip()[:1].decode()


def _string(value: msgspec.Raw) -> str | None:
    return msgspec.json.decode(value, type=str) if _kind(value) == '"' else None


def _pretty(value: msgspec.Raw) -> bytes:
    """Indent a JSON text by two spaces; numbers stay as they are written."""
    return msgspec.json.format(bytes(value), indent=2)


def _written(value: msgspec.Raw) -> bytes:
    return _pretty(value) if _kind(value) in "{[" else bytes(value).strip()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")


# --- extensions -------------------------------------------------------------------------------------------------------


def _as_json(value: msgspec.Raw) -> WebResponse:
    if _kind(value) not in "{[":
        raise WebResultInvalid.for_type(JSON)
    return WebResponse(body=_pretty(value), content_type=JSON)


def _property(value: msgspec.Raw, name: str) -> msgspec.Raw | None:
    """What is projected: the whole of a value that is no object, else its field `body`, else the one of this name."""
    if _kind(value) != "{":
        return value
    fields = _decode_object(value)
    found = fields.get("body", fields.get(name))
    return None if found is None or bytes(found) == b"null" else found


def _as_string_of(value: msgspec.Raw, name: str, content_type: str) -> WebResponse:
    found = _property(value, name)
    text = None if found is None else _string(found)
    if text is None:
        raise WebResultInvalid.for_type(content_type.partition(";")[0])
    return WebResponse(body=_bytes(text), content_type=content_type)


def _as_html(value: msgspec.Raw) -> WebResponse:
    return _as_string_of(value, "html", HTML)


def _as_svg(value: msgspec.Raw) -> WebResponse:
    return _as_string_of(value, "svg", SVG)


def _as_text(value: msgspec.Raw) -> WebResponse:
    fields = _decode_object(value) if _kind(value) == "{" else {"text": value}
    found = fields.get("body", fields.get("text"))
    if found is None:
        raise WebPropertyMissing
    text = _string(found)
    return WebResponse(body=_written(found) if text is None else _bytes(text), content_type=PLAIN)


def _as_http(value: msgspec.Raw) -> WebResponse:
    kind = _kind(value)
    if kind == "[":
        return _as_json(value)
    if kind != "{":
        raise WebResultInvalid.for_type(HTTP_MESSAGE)
    fields = _decode_object(value)
    status = _status(fields.get("statusCode"))
    headers, content_type = _headers(fields.get("headers"))
    body = fields.get("body", _NOTHING)
    if bytes(body) in {b"null", b'""'}:
        return WebResponse(status=status or 204, headers=headers)
    media = None
    if content_type is not None:
        media = parse_media_type(content_type)
        if media is None:
            raise WebResultInvalid("Response did not specify a known content-type.")
    text = _string(body)
    sent, sent_type = _structure(body, media) if text is None else _text(text, media)
    return WebResponse(status=status or 200, body=sent, content_type=sent_type, headers=headers)


_TRANSCODERS: dict[Extension, Callable[[msgspec.Raw], WebResponse]] = {
    Extension.HTTP: _as_http,
    Extension.JSON: _as_json,
    Extension.HTML: _as_html,
    Extension.SVG: _as_svg,
    Extension.TEXT: _as_text,
}

# --- parts of `.http` -------------------------------------------------------------------------------------------------


def _status(value: msgspec.Raw | None) -> int | None:
    """Read `statusCode`: an integer, or a string of one; None when it is not given."""
    if value is None or bytes(value) == b"null":
        return None
    text = _string(value)
    digits = bytes(value).decode() if text is None else text
    if not _STATUS.fullmatch(digits):
        raise WebResultInvalid.for_type(HTTP_MESSAGE)
    return int(digits)


def _headers(value: msgspec.Raw | None) -> tuple[tuple[tuple[str, str], ...], str | None]:
    """Read `headers`: (all but those that are not the action's to set and the content type, the content type)."""
    if value is None or bytes(value) == b"null":
        return (), None
    if _kind(value) != "{":
        raise WebResultInvalid.for_type(HTTP_MESSAGE)
    headers: list[tuple[str, str]] = []
    content_type = None
    for name, raw in _decode_object(value).items():
        entries = msgspec.json.decode(raw, type=list[msgspec.Raw]) if _kind(raw) == "[" else [raw]
        for text in map(_header_value, entries):
            if not (_TOKEN.fullmatch(name) and _VALUE.fullmatch(text)):
                raise WebResultInvalid.for_type(HTTP_MESSAGE)
            if name.lower() == "content-type":
                content_type = text
            elif name.lower() not in _OURS:
                headers.append((name, text))
    return tuple(headers), content_type


def _header_value(value: msgspec.Raw) -> str:
    text = _string(value)
    if text is not None:
        return text.encode("utf-8", "replace").decode()
    if _kind(value) in "{[n":
        raise WebResultInvalid.for_type(HTTP_MESSAGE)
    return bytes(value).decode()


def _text(text: str, media: MediaType | None) -> tuple[bytes, str]:
    """Send a string: as it is where the type is text, else the bytes that it is base64 of."""
    if media is None:
        return _bytes(text), HTML
    if media.is_text and not (media.is_json and _BASE64.fullmatch(text)):
        return _bytes(text), media.as_utf8()
    try:
        return base64.b64decode(text, validate=True), media.as_given()
    except (binascii.Error, ValueError):
        raise _unlike_the_header() from None


def _structure(body: msgspec.Raw, media: MediaType | None) -> tuple[bytes, str]:
    """Send an object, an array, a number or a boolean: as JSON, and as nothing else."""
    if media is not None and not media.is_json:
        raise _unlike_the_header()
    return _written(body), JSON if media is None else media.as_given()


def _unlike_the_header() -> WebResultInvalid:
    return WebResultInvalid("Response type in header did not match generated content type.")


def application_error(result: msgspec.Raw | None) -> msgspec.Raw | None:
    """Unwrap the result of an application error: the value of its field `error`.

    Raises:
        WebResultInvalid: it cannot be read.
    """
    if result is None or _kind(result) != "{":
        return result
    try:
        return _decode_object(result).get("error", result)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise WebResultInvalid(f"The action's result cannot be read: {error}") from None
