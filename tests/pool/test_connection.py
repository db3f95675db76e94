"""The client against a real socket whose other end the test plays."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from pool.connection import Connection, Response
from pool.errors import ConnectionLost, ResponseNotHttp


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Connection, socket.socket]]:
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    connection = Connection(near, asyncio.get_running_loop(), now=0.0)
    try:
        yield connection, far
    finally:
        connection.close()
        far.close()


async def receive(far: socket.socket, size: int = 65536) -> bytes:
    return await asyncio.get_running_loop().sock_recv(far, size)


def reply(body: bytes, *headers: bytes) -> bytes:
    lines = [b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *headers, b"", b""]
    return b"\r\n".join(lines) + body


async def test_request_is_with_the_kernel_when_send_returns():
    async with connected() as (connection, far):
        answer = connection.send(b"/run", b'{"value":{}}', limit=100)
        request = far.recv(65536)  # no await in between
        assert request.startswith(b"POST /run HTTP/1.1\r\n")
        assert request.endswith(b'Content-Length: 12\r\n\r\n{"value":{}}')
        far.send(reply(b'{"x":1}', b"X-Invokerd-Logs: 3,0"))
        response = await answer
        assert (response.status, response.body, response.length, response.logs) == (200, b'{"x":1}', 7, "3,0")
        assert connection.usable


async def test_two_requests_share_the_connection():
    async with connected() as (connection, far):
        for number in (b"1", b"2"):
            answer = connection.send(b"/run", number, limit=100)
            far.recv(65536)
            far.send(reply(number))
            assert (await answer).body == number


async def test_response_in_single_bytes_is_put_together():
    async with connected() as (connection, far):
        answer = connection.send(b"/run", b"{}", limit=100)
        for byte in reply(b'{"x":1}'):
            far.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (await answer).body == b'{"x":1}'


@pytest.mark.parametrize(
    ("said", "takes_one"), [(b"X-Invokerd-Takes: 1\r\n", True), (b"", False), (b"x-invokerd-takes: 4\r\n", False)]
)
async def test_what_the_code_takes_at_a_time_is_read_from_the_answer(said: bytes, takes_one: bool):
    async with connected() as (connection, far):
        answer = connection.send(b"/init", b"{}", limit=100)
        far.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + said + b"\r\n{}")
        assert (await answer).takes_one is takes_one


async def test_body_beyond_the_limit_is_counted_and_dropped_and_the_connection_stays_usable():
    async with connected() as (connection, far):
        answer = connection.send(b"/run", b"{}", limit=10)
        answered = reply(b"y" * 50_000)
        for piece in (answered[:-40_000], answered[-40_000:-30_000], answered[-30_000:]):
            far.send(piece)
            await asyncio.sleep(0)  # each is read by itself
        response = await answer
        assert (bytes(response.body), response.length) == (b"y" * 10, 50_000)
        assert connection.usable


async def test_large_request_is_written_as_the_reader_reads():
    async with connected() as (connection, far):
        body = b"z" * 5_000_000
        answer = connection.send(b"/init", body, limit=100)
        got = b""
        while len(got) < len(body):
            got += await receive(far, 1 << 20)
        assert got.endswith(body)
        far.send(reply(b"{}"))
        assert (await answer).status == 200


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort"])
async def test_peer_that_closes_before_the_end_is_a_lost_connection(said: bytes):
    async with connected() as (connection, far):
        answer = connection.send(b"/run", b"{}", limit=100)
        far.recv(65536)
        far.send(said)
        far.shutdown(socket.SHUT_RDWR)
        with pytest.raises(ConnectionLost):
            await answer
        assert not connection.usable


@pytest.mark.parametrize(
    "said",
    [
        b"\x00\x01 what is this\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: foo\r\nConnection: Upgrade\r\n\r\n",
    ],
)
async def test_what_is_no_answer_in_http_ends_the_call_and_the_connection(said: bytes):
    async with connected() as (connection, far):
        answer = connection.send(b"/run", b"{}", limit=100)
        far.send(said)
        with pytest.raises(ResponseNotHttp):
            await answer
        assert not connection.usable


def is_read(far: socket.socket) -> bool:
    """Whether all that was sent has been read at the other end."""
    (unread,) = struct.unpack("i", fcntl.ioctl(far, termios.TIOCOUTQ, bytes(4)))
    return unread == 0


async def outcome(*pieces: bytes) -> tuple[object, bool]:
    """What is told of a response that comes in these pieces, and whether the connection may be used again."""
    async with connected() as (connection, far):
        answer = connection.send(b"/run", b"{}", limit=10)
        for piece in pieces:
            if connection.usable:
                far.send(piece)
            while connection.usable and not is_read(far):
                await asyncio.sleep(0)
        await asyncio.sleep(0)
        if not answer.done():
            return "waits", connection.usable
        error = answer.exception()
        return (type(error) if error else answer.result()), connection.usable


@pytest.mark.parametrize(
    "said",
    [
        reply(b'{"x":1}'),
        reply(b""),
        reply(b"beyond the limit"),
        reply(b"{}", b"x-invokerd-LOGS: 1,2", b"X-Invokerd-Takes: 1", b"Other: value"),
        reply(b"{}", b"X-Invokerd-Logs: \xff"),
        reply(b"{}", b"Connection: close"),
        reply(b"{}")[:-1],
        reply(b"{}", b"Long: " + b"x" * 1000),
        reply(b"{}", b"Content-Length: 2"),
        reply(b"{}", b"Content-Length: 3"),
        reply(b"{}", b"Transfer-Encoding: chunked"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 502 Bad\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\r\n",
    ],
)
async def test_a_response_is_the_same_in_one_piece_and_in_two(said: bytes):
    whole = await outcome(said)
    for cut in (1, len(said) // 2, said.find(b"\r\n\r\n") + 4, len(said) - 1):
        assert await outcome(said[:cut], said[cut:]) == whole, cut


async def test_words_that_nobody_asked_for_end_the_connection():
    async with connected() as (connection, far):
        far.send(reply(b"{}"))
        while connection.usable:
            await asyncio.sleep(0)


async def test_of_two_answers_in_one_piece_the_first_counts_and_the_connection_ends():
    for first in (reply(b"{}"), reply(b"{}", b"Long: " + b"x" * 1000)):
        response, usable = await outcome(first + reply(b"another"))
        assert isinstance(response, Response)
        assert (response.body, response.length, usable) == (b"{}", 2, False)


async def test_server_that_wants_to_close_is_believed():
    async with connected() as (connection, far):
        answer = connection.send(b"/run", b"{}", limit=100)
        far.send(reply(b"{}", b"Connection: close"))
        assert (await answer).status == 200
        assert not connection.usable


async def test_closing_fails_the_request_in_flight():
    async with connected() as (connection, _far):
        answer = connection.send(b"/run", b"{}", limit=100)
        connection.close()
        with pytest.raises(ConnectionLost):
            await answer
