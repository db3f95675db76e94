"""The fast lane before aiohttp: invocations on kept connections, at a fraction of the cost. One port, one behaviour, two speeds.

A connection begins here. As long as it sends plain invocations (`POST .../actions/...`, HTTP/1.1, each head in one piece, the
body with a length) they are parsed, answered and written here, by the same `Api`. With the first request that is anything
else the connection goes to aiohttp for good, bytes and all; so whatever is odd, wrong or rare has one implementation.
It is handed over between requests only, when the last response is written.

Most of these go the short way (`short.py`), without a task. For the others the connection has one task, which goes from request
to request: a task of its own for each would cost more than the parsing. A client that hangs up does not cancel it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from email.utils import formatdate
from typing import cast

from aiohttp.web_protocol import RequestHandler

from invoker.http.api import AiohttpLane, Api
from invoker.http.exchange import Reply
from invoker.http.fast_request import FastRequest
from invoker.http.services import Services
from pool.model import ContainerId

_log = logging.getLogger(__name__)

#: For how long the rest of a body is awaited that was answered before it had come, s; as aiohttp.
_LINGER_S = 10.0
#: Idle connections are looked through this often within the time that they may be idle.
_SWEEPS = 15


class Front(AiohttpLane):
    """Both lanes behind one listener; `web.ServerRunner` runs and stops it like aiohttp's own server.

    Args:
        services: all that the API stands on.
        group: the connections' tasks run in it; they have ended when `shutdown` has.
        keep_alive_s: after how long an idle connection is closed.
    """

    def __init__(self, services: Services, group: asyncio.TaskGroup, *, keep_alive_s: float = 75.0) -> None:
        self.api = Api(services)
        super().__init__(self.api, keep_alive_s=keep_alive_s)
        self.services = services
        self.closing = False
        self._group = group
        self._keep_alive_s = keep_alive_s
        #: All and only connections that are open and not handed over.
        self._open: set[_Connection] = set()
        #: All and only tasks of connections that have not ended; it may outlive its connection by one call.
        self._tasks: set[asyncio.Task[None]] = set()
        #: All and only connections with a request on the short way.
        self.short: set[_Connection] = set()
        #: Replies on the short way that are sent with this turn of the loop, in order.
        self._outbox: list[tuple[_Connection, Reply, str]] = []
        #: Done when `short` is empty; made only when somebody waits.
        self._no_short: asyncio.Future[None] | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._date = ""
        self._date_second = 0

    def __call__(self, origin: ContainerId | None = None) -> asyncio.Protocol:  # type: ignore[override] # begins as ours
        """Make the protocol of one connection."""
        return _Connection(self, origin)

    def aiohttp_protocol(self, origin: ContainerId | None = None) -> RequestHandler:
        """Make aiohttp's protocol for a connection that leaves this lane."""
        return super().__call__(origin)

    def serve_container(self, accepted: socket.socket, origin: ContainerId) -> None:
        """Serve a connection that a container made through its door; has the shape of `PoolHooks.serve`."""
        task = self._group.create_task(self._take_over(accepted, origin), name=f"door of {origin}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _take_over(self, accepted: socket.socket, origin: ContainerId) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: self(origin), accepted)
        except OSError as error:  # it has gone already
            _log.info("a connection of %s: %s", origin, error)
            accepted.close()

    def date(self) -> str:
        """Value of the header `Date`, made once a second."""
        second = int(time.time())
        if second != self._date_second:
            self._date, self._date_second = formatdate(second, usegmt=True), second
        return self._date

    def enter(self, connection: _Connection) -> None:
        """Know an open connection."""
        self._open.add(connection)
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(self._keep_alive_s / _SWEEPS, self._sweep)

    def leave(self, connection: _Connection) -> None:
        """Forget a connection that was closed or handed over."""
        self._open.discard(connection)
        if not self._open and self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    def send_with_others(self, connection: _Connection, reply: Reply, transaction: str) -> None:
        """Send a reply when this turn of the loop has come to its end.

        Each write wakes a client, which may take the processor from us: written together, the replies of a turn cost one
        such change instead of many.
        """
        if not self._outbox:
            self._loop.call_soon(self._send_all)
        self._outbox.append((connection, reply, transaction))

    def _send_all(self) -> None:
        outbox, self._outbox = self._outbox, []
        for connection, reply, transaction in outbox:
            connection.end_short(reply, transaction)

    def end_short(self, connection: _Connection) -> None:
        """The connection's request on the short way has its reply."""
        self.short.discard(connection)
        if not self.short and self._no_short is not None and not self._no_short.done():
            self._no_short.set_result(None)

    def start(self, connection: _Connection) -> None:
        """Start the task of a connection."""
        task = self._group.create_task(connection.serve(), name="connection")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def pre_shutdown(self) -> None:
        """Close what is idle now, and every other connection after the request in flight."""
        super().pre_shutdown()
        self.closing = True
        for connection in self._open:
            connection.close_if_idle(since=self._loop.time())

    async def shutdown(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - aiohttp's signature
        """Wait for the requests in flight of both lanes, then cancel them.

        Args:
            timeout: seconds; None is for ever.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(super().shutdown(timeout), name="end aiohttp's connections")
            if self.short:
                self._no_short = self._loop.create_future()
                await asyncio.wait([self._no_short], timeout=timeout)
            if tasks := set(self._tasks):
                _, late = await asyncio.wait(tasks, timeout=timeout)
                for task in late:
                    task.cancel()
                if late:
                    await asyncio.wait(late)
            for connection in tuple(self._open):
                connection.abort()

    def _sweep(self) -> None:
        self._sweeper = self._loop.call_later(self._keep_alive_s / _SWEEPS, self._sweep)
        since = self._loop.time() - self._keep_alive_s
        for connection in self._open:
            connection.close_if_idle(since=since)


class _Connection(asyncio.Protocol):
    """One connection in the fast lane. It is idle (`_request` is None) or has one request in flight."""

    __slots__ = (
        "_behind",
        "_front",
        "_idle_since",
        "_is_over",
        "_is_owed",
        "_loop",
        "_origin",
        "_request",
        "_short",
        "_started",
        "_transport",
        "_wake",
        "_writable",
    )

    def __init__(self, front: Front, origin: ContainerId | None = None) -> None:
        self._front = front
        #: The container whose door it came through; None when it came from outside.
        self._origin = origin
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._request: FastRequest | None = None
        #: The request in flight goes the short way: it is not the task's.
        self._short = False
        #: What came behind the request in flight. Nothing more is read while there is any.
        self._behind = b""
        #: The task is to go on: something came behind a request of the short way, or its client does not read.
        self._is_owed = False
        #: It was handed over.
        self._is_over = False
        self._started = False
        #: The task waits for it between requests: done with the next request, or when there will be none.
        self._wake: asyncio.Future[None] | None = None
        #: Not done while the client does not read what it asked for.
        self._writable: asyncio.Future[None] | None = None
        self._idle_since = 0.0

    # ---- the transport's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, idle."""
        self._transport = cast("asyncio.Transport", transport)  # not checked: uvloop's are no subclass
        if self._front.closing:
            self._transport.close()
        with contextlib.suppress(OSError):
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._idle_since = self._loop.time()
        self._front.enter(self)

    def data_received(self, data: bytes) -> None:
        """Begin a request, or go on with the body of the one in flight."""
        if self._request is not None:
            if behind := self._request.feed(data):
                self._behind += behind
                self._transport.pause_reading()
        elif not self._front.closing:
            self._begin(data)
            if self._request is None:
                self._wake_up()  # it was handed over
            elif not self._short:
                self._call_task()

    def pause_writing(self) -> None:
        """The client reads more slowly than we write."""
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        """The client has caught up."""
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    def connection_lost(self, _: Exception | None) -> None:
        """Let the task end; a call in flight goes on, and only its answer is lost."""
        self._front.leave(self)
        self.resume_writing()
        if self._request is not None:
            self._request.break_off()
        self._wake_up()

    # ---- the short way

    def _answer_short(self, reply: Reply, transaction: str) -> None:
        """Take the reply to a request that went the short way. With nobody else there it goes at once."""
        if len(self._front.short) > 1:
            self._front.send_with_others(self, reply, transaction)
        else:
            self.end_short(reply, transaction)

    def end_short(self, reply: Reply, transaction: str) -> None:
        """Send that reply. What is to be waited for before the next request is for the task."""
        self._short = False
        self._request = None
        self._front.end_short(self)
        self._send(reply, transaction)
        if self._behind or self._writable is not None or self._front.closing:
            self._is_owed = True
            self._transport.pause_reading()
            self._call_task()
        else:
            self._idle_since = self._loop.time()
            if self._transport.is_closing():
                self._wake_up()

    # ---- from request to request

    def close_if_idle(self, *, since: float) -> None:
        """Close the connection if it has been idle since this time of the loop's clock."""
        if self._request is None and self._idle_since <= since:
            self._transport.close()

    def abort(self) -> None:
        """Close the connection, whatever is in flight or not yet sent."""
        self._transport.abort()

    async def serve(self) -> None:
        """Answer requests until the connection is closed or handed over. Runs as the connection's only task."""
        try:
            while not self._has_ended():
                if self._request is not None:
                    await self._answer(self._request)
                if self._writable is not None:
                    await self._writable
                if self._behind:
                    await asyncio.sleep(0)  # many at once, none of which waits, must not keep the loop from the other connections
                self._request = None
                await self._next()
        except Exception:  # noqa: BLE001 - a bug in one connection must not touch the others: it is logged
            _log.exception("a connection failed")
            self._transport.close()
        except asyncio.CancelledError:
            self._transport.close()
            raise

    def _has_ended(self) -> bool:
        return self._is_over or self._transport.is_closing()

    async def _answer(self, request: FastRequest) -> None:
        """Answer a request on the long way."""
        reply, transaction = await self._front.api.answer(request)
        self._send(reply, transaction)
        if not request.body_is_here() and not self._transport.is_closing() and not await _linger(request):
            self._transport.close()

    def _send(self, reply: Reply, transaction: str) -> None:
        """Send the reply to the request in flight. Nobody hears it where the client is gone."""
        if not self._transport.is_closing():
            self._transport.write(reply.to_bytes(transaction, self._front.date()))

    async def _next(self) -> None:
        """Go on with what came behind the last request; then wait until there is something for the task."""
        is_owed, self._is_owed = self._is_owed, False
        if self._front.closing:
            self._transport.close()
        if self._transport.is_closing():
            return
        self._idle_since = self._loop.time()
        if self._behind or is_owed:
            behind, self._behind = self._behind, b""
            self._transport.resume_reading()
            if behind:
                self._begin(behind)
        while self._short or not (self._request is not None or self._is_owed or self._has_ended()):
            self._wake = self._loop.create_future()
            await self._wake

    def _begin(self, data: bytes) -> None:
        """Begin the request that some bytes begin with; if it is not for this lane, hand the connection over."""
        parsed = FastRequest.parse(data, self._front.services.limits().payload_bytes)
        if parsed is None:
            self._hand_over(data)
            return
        self._request, self._behind = request, behind = parsed
        if behind:
            self._transport.pause_reading()
        if self._origin is not None:
            request.origin = self._origin
        elif request.plain is not None and request.body_is_here():
            self._short = True
            self._front.short.add(self)
            if not self._front.api.start_short(request, request.plain, self._answer_short):
                self._short = False
                self._front.end_short(self)

    def _hand_over(self, data: bytes) -> None:
        """Give the connection to aiohttp, for good. Nothing is in flight, and the transport has not asked to pause writing."""
        self._front.leave(self)
        self._is_over = True
        protocol = self._front.aiohttp_protocol(self._origin)
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        protocol.data_received(data)

    def _call_task(self) -> None:
        """Have the task look; it is started when there is something to do for it."""
        if self._started:
            self._wake_up()
        else:
            self._started = True
            self._front.start(self)

    def _wake_up(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)


async def _linger(request: FastRequest) -> bool:
    """Read the rest of a body whose request is answered, so that the client gets to read the answer; False: it did not come."""
    try:
        async with asyncio.timeout(_LINGER_S):
            await request.drop_body()
    except (TimeoutError, ConnectionError):
        return False
    return True


def build_front(services: Services, group: asyncio.TaskGroup, *, keep_alive_s: float = 75.0) -> Front:
    """Build both lanes; `web.ServerRunner` with TCP, Unix or passed sockets runs them. Call within a running loop.

    Args:
        services: all that it stands on.
        group: the connections' tasks run in it; they have ended when the runner's `cleanup` has.
        keep_alive_s: after how long an idle connection is closed.
    """
    return Front(services, group, keep_alive_s=keep_alive_s)
