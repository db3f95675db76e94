import base64

import pytest

from bench import client


def response(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d -\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body


async def test_each_request_is_answered_once_over_all_connections(serve):
    seen = []

    async def handle(head: bytes, body: bytes) -> bytes:
        seen.append(body)
        return response(200, body)

    port = await serve(handle)
    requests = [client.request("POST", "/run", {"n": n}) for n in range(50)]
    connections = client.connect(port, 4)
    run = await client.drive(connections, requests)
    assert sorted(seen) == sorted(answer.body for answer in run.answers)
    assert len(set(seen)) == len(run.latencies_us()) == 50
    assert all(0 < latency < 10e6 for latency in run.latencies_us())
    for connection in connections:
        connection.close()


async def test_connections_serve_another_run(serve):
    async def handle(head: bytes, body: bytes) -> bytes:
        return response(200, b"{}")

    (connection,) = connections = client.connect(await serve(handle))
    for _ in range(3):
        run = await client.drive(connections, client.repeated(client.request("GET", "/"), 5))
        assert len(run.answers) == 5
    connection.close()


async def test_an_answer_in_pieces_counts_when_it_is_complete(serve):
    async def handle(head: bytes, body: bytes) -> bytes:
        return response(200, b"x" * 300_000)

    (connection,) = connections = client.connect(await serve(handle))
    run = await client.drive(connections, [client.request("GET", "/")])
    assert [len(answer.body) for answer in run.answers] == [300_000]
    connection.close()


async def test_a_run_with_a_failed_call_gives_no_latencies(serve):
    async def handle(head: bytes, body: bytes) -> bytes:
        return response(503, b"full")

    (connection,) = connections = client.connect(await serve(handle))
    run = await client.drive(connections, [client.request("GET", "/")])
    with pytest.raises(client.CallFailed, match="503 b'full'"):
        run.latencies_us()
    connection.close()


async def test_a_lost_connection_leaves_its_request_unanswered_and_the_rest_unsent(serve):
    import asyncio

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        (connection,) = connections = client.connect(server.sockets[0].getsockname()[1])
        requests = iter([client.request("GET", "/")] * 3)
        run = await client.drive(connections, requests)
        assert (run.answers, run.unanswered) == ([], 1)
        assert len(list(requests)) == 2
        connection.close()


def test_a_request_says_who_asks():
    data = client.request("POST", "/run", {"a": 1}, key="uuid:key")
    head, _, body = data.partition(b"\r\n\r\n")
    assert b"Authorization: Basic " + base64.b64encode(b"uuid:key") in head.split(b"\r\n")
    assert b"Content-Length: %d" % len(body) in head.split(b"\r\n")
