import asyncio
import socket

import pytest

from bench.proxy import CountingProxy


def talk(path: str, *messages: bytes) -> bytes:
    """Send messages on one connection, end it, and return all that came back."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        for message in messages:
            connection.sendall(message)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(4096), b""))


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(4096):
        writer.write(data)
    writer.close()


async def test_requests_are_counted_by_method_and_path_and_bytes_pass_unchanged(tmp_path):
    first = b"POST /v1.41/containers/create?name=x HTTP/1.1\r\nHost: e\r\nContent-Length: 7\r\n\r\nGET / x"
    second = b"GET /v1.41/_ping HTTP/1.1\r\nHost: e\r\n\r\n"
    async with await asyncio.start_unix_server(echo, tmp_path / "engine"):
        with CountingProxy(tmp_path / "proxy", str(tmp_path / "engine")) as proxy:
            # Cut where it hurts: inside a head, and two requests in one piece.
            back = await asyncio.to_thread(talk, str(tmp_path / "proxy"), first[:20], first[20:] + second)
        assert back == first + second
        assert proxy.requests == {"POST /v1.41/containers/create": 1, "GET /v1.41/_ping": 1}
        assert proxy.total == 2


async def test_bytes_after_an_upgrade_are_passed_and_not_counted(tmp_path):
    upgrade = b"POST /attach HTTP/1.1\r\nHost: e\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n"
    raw = b"GET /not-a-request HTTP/1.1\r\n\r\n\x00\xff"
    async with await asyncio.start_unix_server(echo, tmp_path / "engine"):
        with CountingProxy(tmp_path / "proxy", str(tmp_path / "engine")) as proxy:
            back = await asyncio.to_thread(talk, str(tmp_path / "proxy"), upgrade, raw)
        assert back == upgrade + raw
        assert proxy.requests == {"POST /attach": 1}


async def test_without_an_engine_a_connection_is_closed_and_the_proxy_lives(tmp_path):
    with CountingProxy(tmp_path / "proxy", str(tmp_path / "nobody")) as proxy:
        for _ in range(2):
            assert await asyncio.to_thread(talk, str(tmp_path / "proxy")) == b""
        assert proxy.total == 0


async def test_while_it_fails_it_is_an_engine_that_refuses_or_hangs_and_then_is_well_again(tmp_path):
    request = b"GET /_ping HTTP/1.1\r\nHost: e\r\n\r\n"
    async with await asyncio.start_unix_server(echo, tmp_path / "engine"):
        with CountingProxy(tmp_path / "proxy", str(tmp_path / "engine")) as proxy:
            with proxy.failing("refuse"):
                assert await asyncio.to_thread(talk, str(tmp_path / "proxy")) == b""
            with proxy.failing("hang"):
                reader, writer = await asyncio.open_unix_connection(tmp_path / "proxy")
                writer.write(request)
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(reader.read(1), 0.05)
                writer.close()
            assert await asyncio.to_thread(talk, str(tmp_path / "proxy"), request) == request
        assert proxy.requests == {"GET /_ping": 1}


async def test_something_may_be_done_just_before_a_request_is_passed_on_as_it_is(tmp_path):
    request = b"POST /v1.41/containers/x/start HTTP/1.1\r\nHost: e\r\nContent-Length: 0\r\n\r\n"
    done: list[int] = []
    async with await asyncio.start_unix_server(echo, tmp_path / "engine"):
        with CountingProxy(tmp_path / "proxy", str(tmp_path / "engine")) as proxy:
            with proxy.sick("POST .*/start", lambda: done.append(proxy.total), times=1) as sickness:
                for _ in range(2):
                    assert await asyncio.to_thread(talk, str(tmp_path / "proxy"), request) == request
            assert (done, sickness.met, proxy.total) == ([0], 1, 2)
