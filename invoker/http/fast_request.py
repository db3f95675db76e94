"""A request of the fast lane (`front.py`): taken off the bytes that came, or found to be none; then its body, as it comes."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping
from typing import NamedTuple

import httptools

from invoker.http.api import plain_head_of
from invoker.http.short import PlainHead
from pool.model import ContainerId

#: What a request begins with that is served here; the space of the method's end included.
_BEGIN = b"POST /api/v1/namespaces/"
_VERSION = b" HTTP/1.1"
#: aiohttp takes this much per line, here it is the whole head: a longer one is judged by aiohttp.
_HEAD_BYTES = 8190
#: Each changes how a message is framed, answered or read: aiohttp's business.
_UNUSUAL = frozenset({"transfer-encoding", "content-encoding", "expect", "upgrade", "sec-websocket-key1"})
#: aiohttp takes 128.
_HEADERS = 100


class _Head(NamedTuple):
    """The head of a request of this lane, understood. Shared by all requests that begin with the same bytes: not changed.

    Attributes:
        target: path and query, as they came.
        headers: by name in lower case.
        length: of the body by the head, bytes; None when it is not told.
        plain: what it says, where the request may go the short way.
    """

    target: str
    headers: Mapping[str, str]
    length: int | None
    plain: PlainHead | None


class _Headers:
    """What httptools calls back."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header."""
        self.seen.append((name.decode().lower(), value.decode().rstrip(" \t")))


@functools.lru_cache(maxsize=1024)
def _understand(head: bytes) -> _Head | None:
    """Parse a head; None when it is not for this lane. A client's requests begin alike, so results are kept."""
    line_end = head.find(b"\r\n")
    if head[line_end - len(_VERSION) : line_end] != _VERSION or not head.isascii() or b"\0" in head:
        return None
    found = _Headers()
    try:
        httptools.HttpRequestParser(found).feed_data(head)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return None
    target = head[len(b"POST ") : line_end - len(_VERSION)].decode()
    headers = dict(found.seen)
    if "/actions/" not in target or len(headers) != len(found.seen) or not _is_plain(headers):
        return None
    length = headers.get("content-length")
    return _Head(target, headers, None if length is None else int(length), plain_head_of(target, headers))  # only digits: parsed


def _is_plain(headers: Mapping[str, str]) -> bool:
    """Tell whether the headers are such as this lane knows to treat."""
    if len(headers) > _HEADERS or "host" not in headers:
        return False
    return headers.get("connection", "keep-alive").lower() == "keep-alive" and _UNUSUAL.isdisjoint(headers)


class FastRequest:
    """A request of the fast lane; its head is complete. As `Request`."""

    __slots__ = (
        "_arrived",
        "_body",
        "_dropped",
        "_gone",
        "_missing",
        "declared_length",
        "headers",
        "origin",
        "plain",
        "target",
    )

    method = "POST"

    def __init__(self, head: _Head, body: bytes, missing: int) -> None:
        """Begin with what is there of the body, and how many bytes of it are not."""
        self.target, self.headers, self.declared_length, self.plain = head
        self.origin: ContainerId | None = None
        self._body: bytes | bytearray = body
        #: Bytes of the body that have not come.
        self._missing = missing
        #: Nobody will read the body any more.
        self._dropped = False
        #: The client is gone: nothing more will come.
        self._gone = False
        #: Done when nothing is missing, or never will come; made only when somebody waits.
        self._arrived: asyncio.Future[None] | None = None

    @classmethod
    def parse(cls, data: bytes, limit_bytes: int) -> tuple[FastRequest, bytes] | None:
        """Take the first request off some bytes.

        Args:
            data: begins where a request does.
            limit_bytes: greatest length of a body.

        Returns:
            The request, with what is there of its body, and the bytes behind it; None when it is not for this lane.
        """
        head_end = data.find(b"\r\n\r\n") + 4
        if not 4 <= head_end <= _HEAD_BYTES or not data.startswith(_BEGIN):
            return None
        head = _understand(data[:head_end])
        if head is None:
            return None
        length = head.length or 0
        if length > limit_bytes:
            return None
        body_end = head_end + length
        return cls(head, data[head_end:body_end], max(body_end - len(data), 0)), data[body_end:]

    # ---- the body

    def body_is_here(self) -> bool:
        """As `Request`."""
        return not self._missing

    def take_body(self) -> bytes:
        """As `Request`."""
        return bytes(self._body)

    async def collect_body(self, limit_bytes: int) -> bytes:  # noqa: ARG002 - a longer one is not for this lane
        """As `Request`.

        Raises:
            ConnectionError: the client is gone.
        """
        await self.wait_arrived()
        return self.take_body()

    async def wait_arrived(self) -> None:
        """Wait until the whole body was fed.

        Raises:
            ConnectionError: the client is gone.
        """
        if self._gone:
            raise ConnectionResetError("Connection lost")
        if self._missing:
            self._arrived = asyncio.get_running_loop().create_future()
            await self._arrived

    def feed(self, data: bytes) -> bytes:
        """Take over a part of the body; return the bytes behind it."""
        if not self._missing:
            return data
        part = data[: self._missing]
        if not self._dropped:
            if not isinstance(self._body, bytearray):
                self._body = bytearray(self._body)
            self._body += part
        self._missing -= len(part)
        if not self._missing and self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)
        return data[len(part) :]

    async def drop_body(self) -> None:
        """Wait as `wait_arrived`, and keep nothing of what comes."""
        self._dropped = True
        self._body = b""
        await self.wait_arrived()

    def break_off(self) -> None:
        """The client is gone: tell who waits for the body."""
        self._gone = True
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_exception(ConnectionResetError("Connection lost"))
