"""One kept HTTP/1.1 connection into a container, on a raw non-blocking socket and httptools.

No transport and no stream: `send` hands the request to the kernel before it returns, so that the caller can thaw the
container in the next line, and the function wakes to a request that is already there.
"""

from __future__ import annotations

import asyncio
import math
import socket
from typing import Protocol

import httptools
import msgspec

from pool.errors import ConnectionLost, ResponseNotHttp

#: What was read last, of whichever connection: it is taken out before anything else is read. (`recv` of as much would map new
#: memory for each answer, and give it back: 30 us.)
_BUFFER = bytearray(256 * 1024)
_VIEW = memoryview(_BUFFER)


class Response(msgspec.Struct, gc=False):
    """What the container answered.

    Attributes:
        status: HTTP status.
        body: at most the limit given to `send`.
        length: bytes that the body really had; beyond the limit they were read and dropped.
        logs: value of `X-Invokerd-Logs`, None when the image does not speak it.
        takes_one: `X-Invokerd-Takes: 1`: the code takes one activation at a time.
    """

    status: int = 0
    body: bytes | bytearray = b""
    length: int = 0
    logs: str | None = None
    takes_one: bool = False


class Answer(Protocol):
    """Who is told how a request ended, once and at once. A future is one."""

    def done(self) -> bool:
        """Whether it was told, or wants to know no more."""

    def set_result(self, response: Response, /) -> None:
        """Take the response."""

    def set_exception(self, error: Exception, /) -> None:
        """Take the failure: ConnectionLost, ResponseNotHttp, or TimeoutError at the deadline: the connection is to be closed."""


class Connection:
    """A connection that carries one request at a time. Not reusable once anything went wrong."""

    def __init__(self, sock: socket.socket, loop: asyncio.AbstractEventLoop, *, now: float) -> None:
        """Own a connected non-blocking socket.

        Args:
            sock: closed by `close`.
            loop: watches the socket.
            now: seconds of the loop's clock.
        """
        self._sock = sock
        self._loop = loop
        self._parser = httptools.HttpResponseParser(self)
        self._answer: Answer | None = None
        #: The response in flight is complete, and nobody was told yet.
        self._complete = False
        self._response = Response()
        self._limit = 0
        self._unsent = memoryview(b"")
        self._keep_alive = True
        #: False once it broke or was closed.
        self.usable = True
        #: When it last carried something, seconds of the loop's clock.
        self.used_at = now
        #: Until when the request in flight may take, and the timer that sees to it, with the time when it rings: never later.
        self._deadline = math.inf
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = math.inf
        loop.add_reader(sock.fileno(), self._on_readable)

    @property
    def is_busy(self) -> bool:
        """Whether a request is in flight on it."""
        return self._answer is not None

    def send(
        self, path: bytes, body: bytes, *, limit: int, deadline: float = math.inf, method: bytes = b"POST"
    ) -> asyncio.Future[Response]:
        """Write a request and return the future of its response; else as `send_for`.

        Returns:
            A future that may be cancelled; the connection is then unusable.
        """
        answer: asyncio.Future[Response] = self._loop.create_future()
        try:
            self.send_for(answer, path, body, limit=limit, deadline=deadline, method=method)
        except ConnectionLost as error:
            answer.set_exception(error)
        return answer

    def send_for(
        self, answer: Answer, path: bytes, body: bytes, *, limit: int, deadline: float = math.inf, method: bytes = b"POST"
    ) -> None:
        """Write a request.

        Args:
            answer: is told how it ended, after this has returned.
            path: of the URL, e.g. `b"/run"`.
            body: JSON, on one line.
            limit: bytes of the response's body that are kept.
            deadline: until when it may take, seconds of the loop's clock.
            method: verb.

        Raises:
            ConnectionLost: it is broken already; nothing was sent, and `answer` is told nothing.
        """
        assert self._answer is None, "one request at a time"
        self._deadline = deadline
        if deadline < self._alarm_at:
            self._set_alarm()
        self._answer = answer
        self._response = Response()
        self._limit = limit
        head = b"%b %b HTTP/1.1\r\nHost: action\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        request = head % (method, path, len(body)) + body
        try:
            sent = self._sock.send(request)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self.abandon()
            raise ConnectionLost(f"the container closed the connection: {error.strerror}") from error
        if sent < len(request):
            self._unsent = memoryview(request)[sent:]
            self._loop.add_writer(self._sock.fileno(), self._on_writable)

    def close(self) -> None:
        """Stop watching and close. A request in flight fails with ConnectionLost. Safe to repeat."""
        self._fail(ConnectionLost())

    def abandon(self) -> None:
        """Stop watching and close; who waits for the answer to a request in flight is told nothing."""
        self._answer = None
        self._shut()

    # ---- the loop's callbacks

    def _set_alarm(self) -> None:
        """Have the timer ring at the deadline. One that rings earlier is left: most requests end in time, and cost no timer."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = self._deadline
        self._alarm = self._loop.call_at(self._alarm_at, self._on_alarm)

    def _on_alarm(self) -> None:
        due = self._alarm_at
        self._alarm, self._alarm_at = None, math.inf
        if self._answer is None:
            return
        if self._deadline > due:
            self._set_alarm()
        elif not self._answer.done():
            self._answer.set_exception(TimeoutError())

    def _on_writable(self) -> None:
        try:
            sent = self._sock.send(self._unsent)
        except BlockingIOError:
            return
        except OSError:
            # The container may have answered and closed without reading all: what it said is still to be read.
            sent = len(self._unsent)
        self._unsent = self._unsent[sent:]
        if not self._unsent:
            self._loop.remove_writer(self._sock.fileno())

    def _on_readable(self) -> None:
        try:
            size = self._sock.recv_into(_BUFFER)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(ConnectionLost(f"the container closed the connection: {error.strerror}"))
            return
        if not size or self._answer is None:  # the end, or words that nobody asked for
            self._fail(ConnectionLost())
            return
        try:
            self._parser.feed_data(_VIEW[:size])
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(ResponseNotHttp(f"the container answered something that is not HTTP/1.1: {error}"))
            return
        if self._complete:
            self._hand_over()

    # ---- httptools' callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep what matters."""
        if len(name) == 15 and name.lower() == b"x-invokerd-logs":
            self._response.logs = value.decode("ascii", "replace")
        elif len(name) == 16 and name.lower() == b"x-invokerd-takes":
            self._response.takes_one = value == b"1"

    def on_body(self, data: bytes) -> None:
        """Keep up to the limit, count all."""
        if self._complete:
            return  # of a second one, which nobody asked for
        response = self._response
        room = self._limit - response.length
        response.length += len(data)
        if room > 0:
            kept = data if len(data) <= room else data[:room]
            if not response.body:
                response.body = kept  # most come in one piece
                return
            if not isinstance(response.body, bytearray):
                response.body = bytearray(response.body)
            response.body += kept

    def on_message_complete(self) -> None:
        """Note it. Who waits is told outside of the parser."""
        if self._complete:  # a second one, which nobody asked for
            self._keep_alive = False
            return
        self._response.status = self._parser.get_status_code()
        self._keep_alive = self._parser.should_keep_alive()
        self._complete = True

    def _hand_over(self) -> None:
        self._complete = False
        answer, self._answer = self._answer, None
        self.used_at = self._loop.time()
        if answer is None or not self._keep_alive or self._unsent or answer.done():
            self._shut()
        if answer is not None and not answer.done():
            answer.set_result(self._response)

    def _fail(self, error: ConnectionLost | ResponseNotHttp) -> None:
        self._shut()
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_exception(error)

    def _shut(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self.usable:
            self.usable = False
            fd = self._sock.fileno()
            self._loop.remove_reader(fd)
            self._loop.remove_writer(fd)
            self._sock.close()
