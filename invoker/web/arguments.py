"""What a web action is called with: the request, as the arguments `__ow_*`, its query and its body."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode

import msgspec

from invoker.errors import MalformedContent, MalformedQuery, ParametersNotAllowed
from invoker.http.rendering import clean_text
from invoker.model import Action
from invoker.web.media import MediaType, parse_media_type

#: Arguments that are ours to give. A client that sends one of these names is refused.
RESERVED = frozenset({"__ow_method", "__ow_headers", "__ow_path", "__ow_user", "__ow_query", "__ow_body"})
#: Fields of a query or a form. More are refused: taking them apart would hold up everybody.
MOST_FIELDS = 10_000

_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_check_json = msgspec.json.Decoder(msgspec.Raw).decode
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class WebRequest:
    """A request to a web action, as far as the action may know it.

    Attributes:
        method: as it came.
        headers: names in any case.
        path: what follows the action in the URL.
        query: without the question mark.
        body: read whole.
        user: namespace of the caller; None without good credentials.
    """

    method: str
    headers: Mapping[str, str]
    path: str
    query: str
    body: bytes
    user: str | None


def build_arguments(request: WebRequest, action: Action) -> msgspec.Raw:
    """Build the arguments of a web action as JSON text. Values out of a JSON body are put in as they came.

    Raises:
        MalformedContent: a JSON body that is none, or a form of too many fields.
        MalformedQuery: too many fields.
        ParametersNotAllowed: the query or the body names an argument that is reserved, or final.
    """
    metadata: dict[str, Any] = {
        "__ow_method": request.method.lower(),
        "__ow_headers": {name.lower(): clean_text(value) for name, value in request.headers.items()},
        "__ow_path": clean_text(request.path),
    }
    if request.user is not None:
        metadata["__ow_user"] = request.user
    media = parse_media_type(request.headers.get("content-type", ""))
    if action.annotation("raw-http") is True:
        metadata["__ow_query"] = urlencode(_query_fields(request.query))
        metadata["__ow_body"] = _raw_body(request.body, media)
        return msgspec.Raw(_encode(metadata))
    given: dict[str, Any] = dict(_query_fields(request.query))
    fields, body = _body_fields(request.body, media)
    given |= fields
    _refuse_reserved(given, action)
    if body is not None:
        given["__ow_body"] = body
    return msgspec.Raw(_encode(metadata | given))


def _query_fields(query: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(clean_text(query), keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError as error:
        raise MalformedQuery(f"The query was malformed:\n{error}: at most {MOST_FIELDS} fields.") from None


def _body_fields(body: bytes, media: MediaType | None) -> tuple[Mapping[str, Any], Any]:
    """Read a body: (arguments that it gives, what is left as `__ow_body`, or None)."""
    if not body:
        return {}, None
    if media is not None and media.is_json:
        return _json_fields(body)
    if media is not None and media.is_form:
        try:
            fields = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=MOST_FIELDS)
        except ValueError as error:
            raise MalformedContent.because(f"{error}: at most {MOST_FIELDS} fields") from None
        return dict(fields), None
    if media is not None and media.is_text:
        return {}, body.decode("utf-8", "replace")
    return {}, base64.b64encode(body).decode()


def _json_fields(body: bytes) -> tuple[Mapping[str, Any], Any]:
    try:
        body.decode()
        if body.isspace():
            return {}, None
        if body.lstrip()[:1] == b"{":
            _check_json(body)
            return _decode_object(body), None
        return {}, _check_json(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise MalformedContent.because(str(error)) from None


def _raw_body(body: bytes, media: MediaType | None) -> str:
    """As text, or base64 for bytes and, as OpenWhisk keeps it, for `application/json`."""
    if not body:
        return ""
    if media is not None and media.is_text and media.essence != "application/json":
        return body.decode("utf-8", "replace")
    return base64.b64encode(body).decode()


def _refuse_reserved(given: Mapping[str, Any], action: Action) -> None:
    if not RESERVED.isdisjoint(given):
        raise ParametersNotAllowed
    bound = {parameter.key for parameter in action.parameters if bytes(parameter.value) != b"null"}
    if not bound.isdisjoint(given) and action.annotation("final") is True:
        raise ParametersNotAllowed
