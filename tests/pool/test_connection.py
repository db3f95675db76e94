"""The client against a real socket whose other end the test plays."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from pool.connection import Connection
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
        far.send(reply(b"y" * 50_000))
        response = await answer
        assert (len(response.body), response.length) == (10, 50_000)
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


async def test_garbage_is_not_http():
    async with connected() as (connection, far):
        answer = connection.send(b"/run", b"{}", limit=100)
        far.send(b"\x00\x01 what is this\r\n\r\n")
        with pytest.raises(ResponseNotHttp):
            await answer
        assert not connection.usable


async def test_words_that_nobody_asked_for_end_the_connection():
    async with connected() as (connection, far):
        far.send(reply(b"{}"))
        while connection.usable:
            await asyncio.sleep(0)


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
