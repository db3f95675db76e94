"""From what a client sends to values: paths, names, queries, payloads. Pure; each refusal is an error with its sentence.

The bodies of entities are read by `invoker.http.bodies`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote

import msgspec

from invoker.errors import InvalidName, InvalidRequest, MalformedContent, MalformedQuery, UnsupportedMediaType
from invoker.http.limits import BLOCKING_WAIT_MS, LIST_DEFAULT, LIST_MAXIMUM, NAME_LENGTH
from pool.model import ActivationId

_NAME = re.compile(r"\w(?:[\w@ .&-]*[\w@.&-])?", re.ASCII)
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_ACTIVATION_ID = re.compile(r"[0-9a-f]{32}")

_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}

# --- paths and names --------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1024)
def split_target(target: str) -> tuple[tuple[str, ...], Mapping[str, str]]:
    """Split a request target, as it came, into decoded path segments and query. Calls repeat themselves: results are kept.

    The first segment is the one after the leading slash; a trailing slash leaves an empty last one. Of a repeated query
    key the last value counts. A slash that came encoded stays inside its segment, where no name allows it.
    """
    path, _, query = origin_form(target).partition("?")
    segments = path.split("/")[1:]
    if "%" in path:
        segments = [unquote(segment) for segment in segments]
    return tuple(segments), dict(parse_qsl(query, keep_blank_values=True)) if query else {}


def origin_form(target: str) -> str:
    """Cut scheme and host off a target that has them: HTTP/1.1 lets any client send its target so."""
    if target.startswith("/"):
        return target
    scheme, found, rest = target.partition("://")
    if not found or scheme.lower() not in {"http", "https"}:
        return target
    cut = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
    return rest[cut:] if rest[cut : cut + 1] == "/" else f"/{rest[cut:]}"


def is_name(text: str) -> bool:
    """Tell whether an entity or a namespace could have this name."""
    return len(text) <= NAME_LENGTH and _NAME.fullmatch(text) is not None


def check_name(name: str) -> str:
    """Return the name of an entity.

    Raises:
        InvalidName: too long, or with characters that no name has.
    """
    if len(name) > NAME_LENGTH:
        raise InvalidName(f"Entity name longer than allowed: {len(name)} > {NAME_LENGTH}.")
    if not _NAME.fullmatch(name):
        raise InvalidName
    return name


def check_namespace(name: str) -> str:
    """Return the name of a namespace.

    Raises:
        InvalidName: as `check_name`.
    """
    if len(name) > NAME_LENGTH:
        raise InvalidName(f"Namespace longer than allowed: {len(name)} > {NAME_LENGTH}.")
    if not _NAME.fullmatch(name):
        raise InvalidName("The namespace contains illegal characters.")
    return name


def check_activation_id(text: str) -> ActivationId:
    """Return the id of an activation.

    Raises:
        InvalidRequest: not 32 lower-case hexadecimal digits.
    """
    if len(text) != 32:
        raise InvalidRequest(f"The activation id length is {len(text)} but must be 32.")
    if not _ACTIVATION_ID.fullmatch(text):
        raise InvalidRequest("The activation id is not valid.")
    return ActivationId(text)


# --- queries ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list is wanted, or how long it is.

    Attributes:
        limit: entries at most, 1 to 200.
        skip: entries left out at the beginning.
        count: the number of entries is wanted instead.
    """

    limit: int
    skip: int
    count: bool


@dataclass(frozen=True, slots=True)
class ActivationFilter:
    """Which activations are wanted.

    Attributes:
        name: `action` or `package/action`; None is any.
        since_ms, upto_ms: bounds of the start, both inclusive, milliseconds since the epoch; None is open.
        docs: whole records instead of summaries.
    """

    name: str | None
    since_ms: int | None
    upto_ms: int | None
    docs: bool


@dataclass(frozen=True, slots=True)
class InvokeOptions:
    """How a caller wants to be answered.

    Attributes:
        blocking: when the activation has ended, or `wait_s` seconds have passed.
        result_only: with the bare result; only when blocking.
    """

    blocking: bool
    result_only: bool
    wait_s: float


def boolean(query: Mapping[str, str], name: str, *, default: bool = False) -> bool:
    """Read a boolean parameter.

    Raises:
        MalformedQuery: it is none.
    """
    return _boolean(name, query.get(name), default=default)


def _boolean(name: str, text: str | None, *, default: bool = False) -> bool:
    if text is None:
        return default
    value = _BOOLEANS.get(text.lower())
    if value is None:
        raise MalformedQuery.because(name, f"'{text}' is not a valid Boolean value")
    return value


def parse_page(query: Mapping[str, str], collection: str) -> Page:
    """Read the parameters that all lists have; limit 0 is the largest.

    Raises:
        MalformedQuery: no integer, or out of range.
    """
    limit = _integer(query, "limit", f"is not an integer for {collection}", LIST_DEFAULT)
    if not 0 <= limit <= LIST_MAXIMUM:
        raise MalformedQuery.because("limit", f"The value '{limit}' is not in the range of 0 to {LIST_MAXIMUM} for {collection}.")
    skip = _integer(query, "skip", f"is not an integer for {collection}", 0)
    if skip < 0:
        raise MalformedQuery.because("skip", f"The value '{skip}' is not greater than or equal to 0 for {collection}.")
    return Page(limit or LIST_MAXIMUM, skip, boolean(query, "count"))


def parse_activation_filter(query: Mapping[str, str]) -> ActivationFilter:
    """Read the parameters that the list of activations has beside those of `parse_page`.

    Raises:
        MalformedQuery: a name of more than two segments, a time that is no number.
        InvalidRequest: both `docs` and `count`.
    """
    name = query.get("name", "")
    if name.count("/") > 1 or name.startswith("/") or name.endswith("/"):
        raise MalformedQuery.because("name", "Parameter may be a 'simple' name or 'package-name/simple' name.")
    docs = boolean(query, "docs")
    if docs and boolean(query, "count"):
        raise InvalidRequest("The parameter 'docs' is not permitted with 'count'.")
    bounds = [
        _integer(query, bound, "is not a valid epoch seconds", 0) if query.get(bound) is not None else None
        for bound in ("since", "upto")
    ]
    return ActivationFilter(name or None, bounds[0], bounds[1], docs)


def parse_invoke_options(query: Mapping[str, str]) -> InvokeOptions:
    """Read the parameters of an invocation.

    Raises:
        MalformedQuery: a boolean that is none, a timeout outside 1 to 60000 ms.
    """
    return _invoke_options(query.get("blocking"), query.get("result"), query.get("timeout"))


@functools.lru_cache(maxsize=256)
def _invoke_options(blocking: str | None, result: str | None, timeout: str | None) -> InvokeOptions:
    wait_ms = BLOCKING_WAIT_MS
    if timeout is not None:
        wait_ms = int(timeout) if _INTEGER.fullmatch(timeout) else 0
        if not 1 <= wait_ms <= BLOCKING_WAIT_MS:
            raise MalformedQuery.because("timeout", f"Timeout must be number of milliseconds up to {BLOCKING_WAIT_MS}.")
    return InvokeOptions(_boolean("blocking", blocking), _boolean("result", result), wait_ms / 1000)


def _integer(query: Mapping[str, str], name: str, complaint: str, default: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    if not _INTEGER.fullmatch(text):
        raise MalformedQuery.because(name, f"The value '{text}' {complaint}.")
    return int(text)


# --- bodies -----------------------------------------------------------------------------------------------------------

_RAW = msgspec.json.Decoder(msgspec.Raw)
_EMPTY_OBJECT = msgspec.Raw(b"{}")


def accepts_json(accept: str | None) -> bool:
    """Tell whether a client with this `Accept` header takes JSON. Weights are not looked at."""
    return accept is None or "*/*" in accept or "application/json" in accept or "application/*" in accept or not accept.strip()


def check_json_type(content_type: str | None) -> None:
    """Let only `application/json` pass, whatever its parameters.

    Raises:
        UnsupportedMediaType: another type, or none.
    """
    if content_type == "application/json":
        return
    media = (content_type or "").partition(";")[0].strip()
    if media.lower() != "application/json":
        raise UnsupportedMediaType.instead_of_json(media or None)


def parse_payload(body: bytes) -> msgspec.Raw:
    """Check that a body is the JSON text of an object, and keep it as it is. No body is `{}`.

    Raises:
        MalformedContent: no JSON, not UTF-8, nested too deeply, or no object.
    """
    if not body:
        return _EMPTY_OBJECT
    try:
        raw = _RAW.decode(body)
        if not body.isascii():
            body.decode()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedContent.because(str(error)) from None
    if body.lstrip()[:1] != b"{":
        raise MalformedContent.because("Object expected")
    return raw
