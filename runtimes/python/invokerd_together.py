"""Runs an `async def main` several times side by side: the same contract and server, in one event loop.

Whose a log line is, and which activation a coroutine is in, a context variable tells: tasks and `asyncio.to_thread` inherit it.
Imported where the daemon allows it (`__OW_ALLOW_CONCURRENT`), since asyncio takes 40 ms.
"""

from __future__ import annotations

import asyncio
import socket
from contextvars import ContextVar

from invokerd_runtime import Refused, Runtime, Voice, error_body, export, is_too_long, read_run, response, take_request

#: The loop that serves, and how long before what is to be done `later` is done in it, s.
_LOOP: list[asyncio.AbstractEventLoop] = []
LATER_S = 0.1
_VOICE: ContextVar[Voice | None] = ContextVar("invokerd_voice", default=None)
#: Reading stops once so much waits behind a request that is being served.
BEHIND_BYTES = 1 << 20


def current() -> Voice | None:
    """Return the voice of the activation in whose context this is called; None outside of all."""
    return _VOICE.get()


def later(callback: object) -> bool:
    """Have something called in a moment; from any thread. False before the loop serves."""
    for loop in _LOOP:
        loop.call_soon_threadsafe(loop.call_later, LATER_S, callback)
    return bool(_LOOP)


def serve(runtime: Runtime, listener: socket.socket, connections: list[tuple[socket.socket, bytearray]]) -> None:
    """Answer requests until the process is killed.

    Args:
        runtime: initialised.
        listener: listens.
        connections: those that are open, each with what has arrived and was not answered yet.
    """
    asyncio.run(_serve(runtime, listener, connections))


async def _serve(runtime: Runtime, listener: socket.socket, connections: list[tuple[socket.socket, bytearray]]) -> None:
    loop = asyncio.get_running_loop()
    _LOOP.append(loop)
    for connection, buffer in connections:
        connection.setblocking(False)  # noqa: FBT003 - the standard library's
        await loop.connect_accepted_socket(lambda buffer=buffer: _Connection(runtime, buffer), connection)
    listener.setblocking(False)  # noqa: FBT003
    server = await loop.create_server(lambda: _Connection(runtime, bytearray()), sock=listener)
    await server.serve_forever()


class _Connection(asyncio.Protocol):
    """One connection of the daemon's: one request at a time on each."""

    def __init__(self, runtime: Runtime, buffer: bytearray) -> None:
        self._runtime = runtime
        self._buffer = buffer
        self._serving: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody waits any more: its time is up, or it was cancelled."""
        if self._serving is not None:
            self._serving.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._go_on()

    def _go_on(self) -> None:
        """Serve the next request that is all there, unless one is being served."""
        if self._serving is not None:
            if len(self._buffer) > BEHIND_BYTES:
                self._transport.pause_reading()
            return
        try:
            request = take_request(self._buffer, self._transport.write)
        except ValueError:
            self._transport.close()
            return
        if request is not None:
            self._serving = asyncio.get_running_loop().create_task(self._answer(*request))
        elif is_too_long(self._buffer):
            self._transport.close()

    async def _answer(self, method: bytes, path: bytes, body: bytes, is_last: bool) -> None:  # noqa: FBT001
        if (method, path) == (b"POST", b"/run"):
            answer = await self._run(body)
        else:
            answer = self._runtime.handle(method, path, body)
        self._transport.write(response(*answer))
        self._serving = None
        if is_last:
            self._transport.close()
            return
        self._transport.resume_reading()
        self._go_on()

    async def _run(self, body: bytes) -> tuple[int, bytes, bytes]:
        runtime = self._runtime
        try:
            argument, context, activation_id = read_run(body)
        except Refused as refused:
            return refused.status, error_body(refused.message), b""
        voice = runtime.begin(activation_id)
        _VOICE.set(voice)  # of this task, and of all that it starts
        try:
            export(context)  # as OpenWhisk's: the environment tells of the activation that began last
            status, result = 200, await runtime.run_beside_others(argument)
        except Refused as refused:
            status, result = refused.status, error_body(refused.message)
        except Exception as error:  # noqa: BLE001 - an error of ours is told, too: the platform ends this container
            status, result = 500, error_body(f"The runtime failed: {type(error).__name__}: {error}")
        runtime.leave_if_forked()
        return status, result, runtime.log.end(voice, sentinel=True)
