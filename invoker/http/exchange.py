"""One request on its way through the API, and the reply to it. The only place where a body is read."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestPayloadError

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
from pool.errors import InvokerError

JSON = "application/json"
TEXT = "text/plain"

#: Upstream's CORS headers of the REST API.
CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Headers": "Authorization, Origin, X-Requested-With, Content-Type, Accept, User-Agent",
    "Access-Control-Allow-Methods": "GET, DELETE, POST, PUT, HEAD",
}


@dataclass(slots=True)
class Reply:
    """What is answered: made by a handler, sent by the envelope.

    Attributes:
        body: bytes of the body.
        status: HTTP status.
        content_type: sent exactly so; some clients compare it.
        headers: beside those that each response has.
        cors: whether upstream sends the CORS headers with this one.
    """

    body: bytes
    status: int = 200
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    cors: bool = True

    @classmethod
    def of_error(cls, error: InvokerError, transaction: str) -> Reply:
        """Answer a failure, by the map of `errors.py`; with the id of the activation where the error bears one."""
        answer = answer_of(error)
        headers = {}
        if (activation_id := getattr(error, "activation_id", None)) is not None:
            headers["x-openwhisk-activation-id"] = str(activation_id)
        if (wait_s := retry_after_s(error)) is not None:
            headers["Retry-After"] = str(max(1, round(wait_s)))
        if isinstance(error, Unauthenticated):
            headers["WWW-Authenticate"] = CHALLENGE
        if isinstance(error, MethodNotAllowed):
            headers["Allow"] = error.allow
        return cls(render_error(str(error), transaction), answer.status, headers=headers, cors=not answer.rejection)

    def to_response(self, transaction: str) -> web.Response:
        """Make the HTTP response."""
        headers = {"Content-Type": self.content_type, "X-Request-ID": transaction, "Server": "invokerd", **self.headers}
        if self.cors:
            headers |= CORS
        return web.Response(body=self.body, status=self.status, headers=headers)


@dataclass(slots=True, kw_only=True)
class Exchange:
    """One authenticated request, routed to a handler.

    Attributes:
        http: the request as it came.
        transaction: its id.
        identity: the caller.
        namespace: named in the path, `_` resolved.
        collection: what the path leads into: `actions`, `activations`, ...
        path: of the entity in it: the segments after the collection, joined; empty for the collection itself.
        query: last value of each parameter.
        started: `time.monotonic()` when the request's head was there.
        authenticate_us: spent since on finding out who calls.
        authorise_us: spent since on rights and limits.
    """

    http: web.BaseRequest
    transaction: str
    identity: Identity
    namespace: str
    collection: str
    path: str
    query: Mapping[str, str]
    started: float
    authenticate_us: int = 0
    authorise_us: int = 0

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
        content_type = self.http.headers.get(hdrs.CONTENT_TYPE)
        body = await read_body(self.http, limit_bytes)
        if body or (required and content_type is not None):
            check_json_type(content_type)
        if required and not body:
            raise MalformedContent.because("Request entity expected but not supplied")
        return body


async def read_body(request: web.BaseRequest, limit_bytes: int) -> bytes:
    """Read a body whole; at once, without waiting, when it came with the head.

    Raises:
        TooLarge: longer than `limit_bytes`, declared or found.
        BodyTooSlow: not there in time.
        BadHttp: the client broke off, or its encoding is broken.
    """
    declared = request.content_length
    if declared is not None and declared > limit_bytes:
        raise TooLarge.measured("Request", declared, limit_bytes)
    content = request.content
    try:
        if content.is_eof():
            body = content.read_nowait()
        else:
            body = await _read_slowly(request, limit_bytes)
    except TimeoutError:
        raise BodyTooSlow from None
    except (ConnectionError, RequestPayloadError, HttpProcessingError) as error:
        raise BadHttp(f"The request's body could not be read: {error}") from error
    if len(body) > limit_bytes:  # of a compressed body the length after decompression counts
        raise TooLarge.measured("Request", len(body), limit_bytes)
    return body


async def _read_slowly(request: web.BaseRequest, limit_bytes: int) -> bytes:
    """Collect the parts of a body until its end, or until they are more than allowed."""
    if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # so that a failure can still be answered
    parts = []
    size = 0
    async with asyncio.timeout(BODY_WAIT_S):
        while part := await request.content.readany():
            parts.append(part)
            size += len(part)
            if size > limit_bytes:
                break
    return b"".join(parts)


def microseconds_since(start: float) -> int:
    """Microseconds since a reading of `time.monotonic()`."""
    return int((time.monotonic() - start) * 1e6)
