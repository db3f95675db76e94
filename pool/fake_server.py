"""The action server of a fake container: HTTP/1.1 on one connection, answered by a Python callable."""

from __future__ import annotations

import asyncio
import enum
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import httptools
import msgspec

from pool.model import LogTransport

#: What OpenWhisk's images print on both streams after each run.
SENTINEL = "XXX_THE_END_OF_A_WHISK_ACTIVATION_XXX"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the action server replies.

    Attributes:
        status: of the HTTP response.
        body: sent as it is.
        after_s: how long the action runs.
        until: it runs until this is done; `after_s` does not count then.
        cpu_us: CPU time it uses on the way.
        logs: (`stdout` or `stderr`, line) it writes before it answers.
    """

    status: int = 200
    body: bytes = b"{}"
    after_s: float = 0.0
    until: asyncio.Future[None] | None = None
    cpu_us: int = 0
    logs: tuple[tuple[str, str], ...] = ()


class Misbehaviour(enum.Enum):
    """What a broken action does instead of answering."""

    HANG = enum.auto()
    CLOSE = enum.auto()
    GARBAGE = enum.auto()
    #: Promise more bytes than are sent, then close.
    TRUNCATE = enum.auto()
    DIE = enum.auto()


#: (path, decoded body) -> what to answer. The path is `/init`, `/run` or `/`.
Action = Callable[[str, Any], Answer | Misbehaviour]


def echo(path: str, body: Any) -> Answer:
    """Accept any /init; answer /run with its `value`."""
    return Answer(body=msgspec.json.encode(body.get("value") or {}) if path == "/run" else b'{"ok":true}')


class _Container(Protocol):
    """What the server needs to know of its container."""

    frozen: bool
    action: Action
    requests: list[str]
    connections: set[ActionConnection]
    attached: asyncio.Queue[tuple[str, bytes] | None]
    spec: Any

    def advance_cpu(self, microseconds: int) -> None: ...
    def write_log(self, data: bytes) -> None: ...
    def die(self) -> None: ...


@dataclass(slots=True)
class _Request:
    path: str = ""
    body: bytearray = field(default_factory=bytearray)


class ActionConnection(asyncio.Protocol):
    """One kept connection. While the container is frozen bytes wait, as they do in a kernel buffer."""

    def __init__(self, container: _Container) -> None:
        self._container = container
        self._unread: deque[bytes] = deque()
        self._due: deque[tuple[_Request, Answer | Misbehaviour]] = deque()
        self._request = _Request()
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Join the container's connections."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._container.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave them."""
        del exc
        self._container.connections.discard(self)
        self._transport = None

    def data_received(self, data: bytes) -> None:
        """Parse, or keep for after the thaw."""
        if self._container.frozen:
            self._unread.append(data)
        else:
            self._parser.feed_data(data)

    def resume(self) -> None:
        """Go on after a thaw: finish what was due, then read what has arrived."""
        while self._due and not self._container.frozen:
            self._answer(*self._due.popleft())
        while self._unread and not self._container.frozen:
            self._parser.feed_data(self._unread.popleft())

    def abort(self) -> None:
        """Break the connection, as the end of the process does."""
        if self._transport is not None:
            self._transport.abort()

    def on_message_begin(self) -> None:
        """httptools: a request begins."""
        self._request = _Request()

    def on_url(self, url: bytes) -> None:
        """httptools: its path."""
        self._request.path += url.decode()

    def on_body(self, body: bytes) -> None:
        """httptools: a part of its body."""
        self._request.body += body

    def on_message_complete(self) -> None:
        """httptools: all of it is here; run the action."""
        request = self._request
        self._container.requests.append(request.path)
        answer = self._container.action(request.path, msgspec.json.decode(request.body) if request.body else {})
        after_s = answer.after_s if isinstance(answer, Answer) else 0.0
        if isinstance(answer, Answer) and answer.until is not None:
            answer.until.add_done_callback(lambda _: self._finish(request, answer))
        elif after_s:
            asyncio.get_running_loop().call_later(after_s, self._finish, request, answer)
        else:
            self._finish(request, answer)

    def _finish(self, request: _Request, answer: Answer | Misbehaviour) -> None:
        if self._container.frozen:
            self._due.append((request, answer))
        else:
            self._answer(request, answer)

    def _answer(self, request: _Request, answer: Answer | Misbehaviour) -> None:
        if self._transport is None or answer is Misbehaviour.HANG:
            return
        if isinstance(answer, Answer):
            self._transport.write(self._response(request, answer))
            return
        if answer is Misbehaviour.DIE:
            self._container.die()
            return
        if answer is Misbehaviour.GARBAGE:
            self._transport.write(b"\x00\x01 this is not HTTP\r\n\r\n")
        elif answer is Misbehaviour.TRUNCATE:
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        self._transport.close()

    def _response(self, request: _Request, answer: Answer) -> bytes:
        self._container.advance_cpu(answer.cpu_us)
        logs = b""
        if request.path == "/run" or answer.status != 200:
            logs = self._write_logs(request, answer)
        head = f"HTTP/1.1 {answer.status} X\r\nContent-Type: application/json\r\nContent-Length: {len(answer.body)}\r\n"
        return head.encode() + logs + b"\r\n" + answer.body

    def _write_logs(self, request: _Request, answer: Answer) -> bytes:
        """Write the lines as our runtimes do, or as foreign images do; return the header that counts them."""
        if self._container.spec.logs is not LogTransport.PIPE:
            for stream, line in (*answer.logs, ("stdout", SENTINEL), ("stderr", SENTINEL)):
                self._container.attached.put_nowait((stream, line.encode() + b"\n"))
            return b""
        body = msgspec.json.decode(request.body) if request.body else {}
        activation = body.get("activation_id") or (body.get("value") or {}).get("env", {}).get("__OW_ACTIVATION_ID", "0" * 32)
        for seq, (stream, line) in enumerate(answer.logs):
            kind = "o" if stream == "stdout" else "e"
            self._container.write_log(f"{activation} {seq} {kind} {time.time_ns() // 1000} {line}\n".encode())
        return f"X-Invokerd-Logs: {len(answer.logs)},0\r\n".encode()
