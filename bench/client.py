"""The load generator: HTTP/1.1 on kept connections, one call at a time on each, the same for all that is measured.

Its own cost, about 20 us a call, is part of every subject alike and leaves no trace in the differences.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import itertools
import json
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import httptools

#: For one run; only what hangs reaches it.
DEADLINE_S = 600.0


class Answer(NamedTuple):
    """One call that was answered.

    Attributes:
        latency_us: from the request's write to the last byte of its answer.
    """

    latency_us: float
    status: int
    body: bytes


class CallFailed(Exception):
    """A call was answered by an error, and the scenario counts on its success."""


def request(method: str, target: str, payload: Any = None, *, key: str = "") -> bytes:
    """Encode a request with a JSON body; `key` is `user:password` of Basic authentication."""
    body = b"" if payload is None else json.dumps(payload).encode()
    authorization = f"Authorization: Basic {base64.b64encode(key.encode()).decode()}\r\n" if key else ""
    head = (
        f"{method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n{authorization}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class _Caller(asyncio.Protocol):
    """Works off requests on one connection; the next is written in the callback that reads the last one's end."""

    def __init__(self, requests: Iterator[bytes], answers: list[Answer], pause_s: float) -> None:
        self._requests = requests
        self._answers = answers
        self._pause_s = pause_s
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._began_ns = 0
        #: A request is written and its answer not yet complete.
        self.in_flight = False
        #: Done when there are no more requests, or the peer is gone.
        self.ended = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not checked: uvloop's transports are no subclass.
        self._transport = cast("asyncio.Transport", transport)
        self._next()

    def _next(self) -> None:
        if self._transport.is_closing():  # the peer left during the pause
            return
        data = next(self._requests, None)
        if data is None:
            self._end()
            return
        self.in_flight = True
        self._began_ns = time.perf_counter_ns()
        self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._body.clear()

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        latency_us = (time.perf_counter_ns() - self._began_ns) / 1000
        self.in_flight = False
        self._answers.append(Answer(latency_us, self._parser.get_status_code(), b"".join(self._body)))
        if self._pause_s:
            self._loop.call_later(self._pause_s, self._next)
        else:
            self._next()

    def connection_lost(self, _: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


#: A connected socket made ready by `prepare`.
Connected = socket.socket


class Run(NamedTuple):
    """What came of a run.

    Attributes:
        unanswered: connections lost with a request in flight.
        seconds: from the first write to the end of the last connection.
        cpu_us: CPU time of the process that was measured; 0 where nobody looked.
    """

    answers: list[Answer]
    unanswered: int
    seconds: float
    cpu_us: float = 0.0

    def latencies_us(self) -> list[float]:
        """Give the latencies of a run in which every call succeeded; raise CallFailed if one did not."""
        wrong = [answer for answer in self.answers if answer.status != 200]
        if wrong or self.unanswered or not self.answers:
            example = f"first: {wrong[0].status} {wrong[0].body[:300]!r}" if wrong else ""
            raise CallFailed(f"{len(wrong)} calls failed, {self.unanswered} unanswered, {len(self.answers)} answers. {example}")
        return [answer.latency_us for answer in self.answers]


async def drive(connections: Sequence[socket.socket], requests: Iterable[bytes], *, pause_s: float = 0.0) -> Run:
    """Spread requests over connections: each sends its next one when its last is answered, after `pause_s`.

    The connections stay open when the run is over.
    """
    shared = iter(requests)
    answers: list[Answer] = []
    loop = asyncio.get_running_loop()
    gc.disable()
    try:
        began = time.perf_counter()
        callers = []
        # A duplicate, for closing the transport must not close the caller's connection.
        for connection in connections:
            _, caller = await loop.create_connection(lambda: _Caller(shared, answers, pause_s), sock=connection.dup())
            callers.append(caller)
        async with asyncio.timeout(DEADLINE_S):
            for caller in callers:
                await caller.ended
        seconds = time.perf_counter() - began
    finally:
        gc.enable()
    unanswered = sum(caller.in_flight for caller in callers)
    for caller in callers:
        caller._transport.abort()  # noqa: SLF001 - of this module
    return Run(answers, unanswered, seconds)


def connect(port: int, count: int = 1) -> list[socket.socket]:
    """Open connections to a port of this host."""
    return [prepare(socket.create_connection(("127.0.0.1", port))) for _ in range(count)]


def prepare(connection: socket.socket) -> socket.socket:
    """Make a connected socket ready for `drive`."""
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def repeated(data: bytes, times: int) -> Iterable[bytes]:
    """Give one request many times."""
    return itertools.repeat(data, times)
