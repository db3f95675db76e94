"""How bodies are read, by a client that controls each byte."""

import asyncio
import gzip
import time
from contextlib import asynccontextmanager

import msgspec
import pytest

from invoker.errors import EntityNotFound, MethodNotAllowed, Throttled, Unauthenticated
from invoker.http.exchange import CORS, Reply
from pool.errors import PoolOverloaded


@asynccontextmanager
async def connection(site):
    host, port = site.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.close()
        await writer.wait_closed()


def head(site, *headers, path="hello"):
    lines = [
        f"POST /api/v1/namespaces/_/actions/{path} HTTP/1.1",
        "Host: node",
        f"Authorization: {site.auth}",
        "Content-Type: application/json",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


async def answer(reader):
    """Read one response: (status, body)."""
    text = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)).decode()
    length = int(text.lower().partition("content-length: ")[2].partition("\r\n")[0])
    return int(text.split()[1]), await reader.readexactly(length)


async def test_a_declared_length_over_the_limit_is_refused_before_a_byte_of_it_is_sent(site):
    async with connection(site) as (reader, writer):
        writer.write(head(site, "Content-Length: 99999999"))
        status, body = await answer(reader)
    assert status == 413
    assert b"Request larger than allowed: 99999999 > 1048576 bytes." in body


async def test_a_body_without_a_length_is_refused_once_it_is_over_the_limit(site):
    async with connection(site) as (reader, writer):
        writer.write(head(site, "Transfer-Encoding: chunked"))
        writer.write(b"100001\r\n" + b"x" * 0x100001 + b"\r\n")
        status, _ = await answer(reader)
    assert status == 413


async def test_a_chunked_body_arrives_whole(site):
    await site.put_hello()
    async with connection(site) as (reader, writer):
        writer.write(head(site, "Transfer-Encoding: chunked") + b'3\r\n{"a\r\n')
        await writer.drain()
        writer.write(b'4\r\n":1}\r\n0\r\n\r\n')
        assert (await answer(reader))[0] == 202
    assert bytes(site.invoker.calls[0].payload) == b'{"a":1}'


async def test_a_client_that_expects_to_be_told_to_go_on_is_told(site):
    await site.put_hello()
    async with connection(site) as (reader, writer):
        writer.write(head(site, "Content-Length: 7", "Expect: 100-continue"))
        assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30) == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b'{"a":1}')
        assert (await answer(reader))[0] == 202


async def test_a_client_that_expects_is_refused_at_once_when_it_is_too_large(site):
    async with connection(site) as (reader, writer):
        writer.write(head(site, "Content-Length: 99999999", "Expect: 100-continue"))
        assert (await answer(reader))[0] == 413


async def test_a_compressed_body_is_unpacked_and_counted_unpacked(site):
    await site.put_hello()
    for text, status in ((b'{"a":1}', 202), (b'{"a":"' + b"x" * 2**21 + b'"}', 413)):
        packed = gzip.compress(text)
        async with connection(site) as (reader, writer):
            writer.write(head(site, f"Content-Length: {len(packed)}", "Content-Encoding: gzip") + packed)
            assert (await answer(reader))[0] == status
    assert bytes(site.invoker.calls[0].payload) == b'{"a":1}'


async def test_rubbish_said_to_be_compressed_is_400(site):
    async with connection(site) as (reader, writer):
        writer.write(head(site, "Content-Length: 4", "Content-Encoding: gzip") + b"abcd")
        status, body = await answer(reader)
    assert status == 400
    assert set(msgspec.json.decode(body)) == {"error", "code"}


async def test_a_body_that_does_not_come_is_408(site, monkeypatch):
    monkeypatch.setattr("invoker.http.exchange.BODY_WAIT_S", 0.05)
    async with connection(site) as (reader, writer):
        writer.write(head(site, "Content-Length: 7") + b'{"a"')
        status, body = await answer(reader)
    assert status == 408
    assert b"did not arrive in time" in body


async def test_a_client_that_breaks_off_in_its_body_runs_nothing(site):
    await site.put_hello()
    async with connection(site) as (_, writer):
        writer.write(head(site, "Content-Length: 7") + b'{"a"')
        await writer.drain()
    assert (await site.ask("GET", "/ping")).text == "pong"
    assert site.invoker.calls == []


async def test_waiting_for_the_clients_body_is_no_work_of_ours(site):
    await site.put_hello()
    async with connection(site) as (reader, writer):
        writer.write(head(site, "Content-Length: 7") + b'{"a"')
        await writer.drain()
        await asyncio.sleep(0.2)  # the time itself is what is tested
        resumed = time.monotonic()
        writer.write(b":1}")
        await answer(reader)
        answered = time.monotonic()
    (call,) = site.invoker.calls
    assert call.received >= resumed
    assert call.authenticate_us + call.authorise_us <= (answered - resumed) * 1e6


@pytest.mark.parametrize(
    ("error", "status", "headers", "cors"),
    [
        (Unauthenticated(), 401, {"WWW-Authenticate": 'Basic realm="OpenWhisk secure realm",charset=UTF-8'}, False),
        (MethodNotAllowed(["OPTIONS", "GET"]), 405, {"Allow": "OPTIONS, GET"}, False),
        (EntityNotFound(), 404, {}, True),
        (Throttled(retry_after_s=0.2), 429, {"Retry-After": "1"}, True),
        (PoolOverloaded(retry_after_s=12.4), 503, {"Retry-After": "12"}, True),
    ],
)
def test_an_error_becomes_a_reply_by_the_table(error, status, headers, cors):
    reply = Reply.of_error(error, "tid")
    assert (reply.status, reply.headers, reply.cors) == (status, {"X-Invokerd-Reason": error.code, **headers}, cors)
    assert msgspec.json.decode(reply.body) == {"error": str(error), "code": "tid"}


def test_an_error_that_bears_an_activation_id_is_answered_with_it():
    error = PoolOverloaded()
    error.activation_id = "a" * 32
    assert Reply.of_error(error, "tid").headers["x-openwhisk-activation-id"] == "a" * 32


async def test_a_response_has_the_type_the_id_and_cors_where_it_is_due():
    headers = Reply(b"{}").to_response("tid").headers
    assert headers["Content-Type"] == "application/json"
    assert headers["X-Request-ID"] == "tid"
    assert CORS.items() <= dict(headers).items()
    assert "Access-Control-Allow-Origin" not in Reply(b"{}", cors=False).to_response("tid").headers
