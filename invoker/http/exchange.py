"""One request on its way through the API, and the reply to it. The only place where a body is read."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Protocol

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestPayloadError
from multidict import CIMultiDict

from invoker.errors import (
    BadHttp,
    BodyTooSlow,
    MalformedContent,
    MethodNotAllowed,
    TooLarge,
    Unauthenticated,
    answer_of,
    retry_after_s,
)
from invoker.http.auth import CHALLENGE
from invoker.http.limits import BODY_WAIT_S
from invoker.http.parsing import check_json_type
from invoker.http.rendering import render_error
from invoker.model import Identity
from invoker.record.corruption import StoreBroken
from pool.errors import InvokerError
from pool.model import ContainerId

JSON = "application/json"
TEXT = "text/plain"
#: Stable name of what went wrong, on every answer that tells of a failure: clients tell cases apart by it, not by the sentence.
REASON = "X-Invokerd-Reason"

#: From this length on, bytes, the parts of a body are joined in a thread.
_LONG_BYTES = 2 * 1024 * 1024

#: Upstream's CORS headers of the REST API.
CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Headers": "Authorization, Origin, X-Requested-With, Content-Type, Accept, User-Agent",
    "Access-Control-Allow-Methods": "GET, DELETE, POST, PUT, HEAD",
}
_CORS_LINES = "".join(f"{name}: {value}\r\n" for name, value in CORS.items())
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}


class Request(Protocol):
    """What the API needs of a request, whichever lane it came on."""

    @property
    def method(self) -> str:
        """The verb."""

    @property
    def target(self) -> str:
        """Path and query, as they came."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers; names are asked for in lower case."""

    @property
    def declared_length(self) -> int | None:
        """Length of the body by its head, bytes; None when it is not told."""

    @property
    def origin(self) -> ContainerId | None:
        """The container whose door it came through; None when it came from outside."""

    def body_is_here(self) -> bool:
        """Tell whether all of the body has arrived."""

    def take_body(self) -> bytes:
        """Return a body that is here."""

    async def collect_body(self, limit_bytes: int) -> bytes:
        """Wait for the rest of a body; one longer than the limit may be cut anywhere beyond it."""


class AiohttpRequest:
    """A request that came through aiohttp."""

    __slots__ = ("_http", "headers", "method", "origin", "target")

    def __init__(self, http: web.BaseRequest) -> None:
        self._http = http
        self.method = http.method
        self.target = http.raw_path
        self.headers: Mapping[str, str] = http.headers
        self.origin: ContainerId | None = getattr(http.protocol, "origin", None)

    @property
    def declared_length(self) -> int | None:
        """As `Request`."""
        return self._http.content_length

    def body_is_here(self) -> bool:
        """As `Request`."""
        return self._http.content.is_eof()

    def take_body(self) -> bytes:
        """As `Request`."""
        return self._http.content.read_nowait()

    async def collect_body(self, limit_bytes: int) -> bytes:
        """As `Request`."""
        if self.headers.get("expect", "").lower() == "100-continue":
            await self._http.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._http.writer.output_size = 0  # so that a failure can still be answered
        parts = []
        size = 0
        while part := await self._http.content.readany():
            parts.append(part)
            size += len(part)
            if size > limit_bytes:
                break
        if size < _LONG_BYTES:
            return b"".join(parts)
        return await asyncio.to_thread(b"".join, parts)  # which lets the interpreter's lock go: 50 MB take 50 ms


class Reply(msgspec.Struct):
    """What is answered: made by a handler, sent by the envelope.

    Attributes:
        body: bytes of the body.
        status: HTTP status.
        content_type: sent exactly so; some clients compare it. Empty sends none.
        headers: beside those that each response has; a `CIMultiDict` where a name comes several times.
        cors: whether upstream sends the CORS headers with this one.
    """

    body: bytes | bytearray
    status: int = 200
    content_type: str = JSON
    headers: Mapping[str, str] = {}
    cors: bool = True

    @classmethod
    def of_error(cls, error: InvokerError, transaction: str) -> Reply:
        """Answer a failure, by the map of `errors.py`; with the id of the activation where the error bears one."""
        answer = answer_of(error)
        headers = {REASON: error.code}
        if (activation_id := getattr(error, "activation_id", None)) is not None:
            headers["x-openwhisk-activation-id"] = str(activation_id)
        if (wait_s := retry_after_s(error)) is not None:
            headers["Retry-After"] = str(max(1, round(wait_s)))
        if isinstance(error, Unauthenticated):
            headers["WWW-Authenticate"] = CHALLENGE
        if isinstance(error, MethodNotAllowed):
            headers["Allow"] = error.allow
        sentence = error.told if isinstance(error, StoreBroken) else str(error)
        return cls(render_error(sentence, transaction), answer.status, headers=headers, cors=not answer.rejection)

    def to_response(self, transaction: str) -> web.Response:
        """Make the HTTP response."""
        headers = CIMultiDict({"Content-Type": self.content_type} if self.content_type else {})
        headers.extend({"X-Request-ID": transaction, "Server": "invokerd"})
        headers.extend(self.headers)
        if self.cors:
            headers.extend(CORS)
        return web.Response(body=self.body, status=self.status, headers=headers)

    def to_bytes(self, transaction: str, date: str) -> bytes:
        """Make the same response as aiohttp sends for `to_response` on a kept HTTP/1.1 connection, to the byte.

        Args:
            transaction: id of the request.
            date: value of the header `Date`.
        """
        own = "".join([f"{name}: {value}\r\n" for name, value in self.headers.items()])
        head = (
            f"{_STATUS_LINES[self.status]}Content-Type: {self.content_type}\r\nX-Request-ID: {transaction}\r\n"
            f"Server: invokerd\r\n{own}{_CORS_LINES if self.cors else ''}Content-Length: {len(self.body)}\r\nDate: {date}\r\n\r\n"
        )
        return head.encode() + self.body


class Exchange(msgspec.Struct, kw_only=True):
    """One authenticated request, routed to a handler.

    Attributes:
        http: the request as it came.
        transaction: its id.
        identity: the caller.
        namespace: named in the path, `_` resolved.
        collection: what the path leads into: `actions`, `activations`, ...
        path: of the entity in it: the segments after the collection, joined; empty for the collection itself, `package/` for
            the list of a package's actions.
        query: last value of each parameter.
        started: `time.monotonic()` when the request's head was there.
        authenticate_us: spent since on finding out who calls.
        authorise_us: spent since on rights and limits.
        authorised: `time.monotonic()` when that was done, and the handler began.
    """

    http: Request
    transaction: str
    identity: Identity
    namespace: str
    collection: str
    path: str
    query: Mapping[str, str]
    started: float
    authenticate_us: int = 0
    authorise_us: int = 0
    authorised: float = 0.0

    async def read_json(self, limit_bytes: int, *, required: bool) -> bytes:
        """Read the body of a request that takes JSON. It is not decoded here.

        Args:
            limit_bytes: greatest length; a declared length over it is refused before a byte is read.
            required: refuse an empty body.

        Raises:
            TooLarge, BodyTooSlow, BadHttp: as `read_body`.
            UnsupportedMediaType: there is a body, and its type is another, or not told.
            MalformedContent: no body where one is required.
        """
        body = await read_body(self.http, limit_bytes)
        return self._checked_json(body, required=required)

    def take_json(self, limit_bytes: int) -> bytes:
        """Do the same, without waiting, for a body that is here and may be empty. Raises as `read_json`."""
        body = self.http.take_body()
        if len(body) > limit_bytes:
            raise TooLarge.measured("Request", len(body), limit_bytes)
        return self._checked_json(body, required=False)

    def _checked_json(self, body: bytes, *, required: bool) -> bytes:
        content_type = self.http.headers.get("content-type")
        if body or (required and content_type is not None):
            check_json_type(content_type)
        if required and not body:
            raise MalformedContent.because("Request entity expected but not supplied")
        return body


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """Read a body whole; at once, without waiting, when it came with the head.

    Raises:
        TooLarge: longer than `limit_bytes`, declared or found.
        BodyTooSlow: not there in time.
        BadHttp: the client broke off, or its encoding is broken.
    """
    declared = request.declared_length
    if declared is not None and declared > limit_bytes:
        raise TooLarge.measured("Request", declared, limit_bytes)
    try:
        if request.body_is_here():
            body = request.take_body()
        else:
            async with asyncio.timeout(BODY_WAIT_S):
                body = await request.collect_body(limit_bytes)
    except TimeoutError:
        raise BodyTooSlow from None
    except (ConnectionError, RequestPayloadError, HttpProcessingError) as error:
        raise BadHttp(f"The request's body could not be read: {error}") from error
    if len(body) > limit_bytes:  # of a compressed body the length after decompression counts
        raise TooLarge.measured("Request", len(body), limit_bytes)
    return body


def microseconds_since(start: float) -> int:
    """Microseconds since a reading of `time.monotonic()`."""
    return int((time.monotonic() - start) * 1e6)
