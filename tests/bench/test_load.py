"""The open-loop part of the load scenarios, against a server that is busy and then is not."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from typing import ClassVar

from bench import client, load

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class Server(asyncio.Protocol):
    """Answers each request, slowly until a time."""

    slow_until = 0.0
    serving: ClassVar[set[Server]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.serving.add(self)

    def connection_lost(self, _: Exception | None) -> None:
        self.serving.discard(self)

    def data_received(self, _: bytes) -> None:
        delay_s = 0.1 if time.perf_counter() < self.slow_until else 0.0
        asyncio.get_running_loop().call_later(delay_s, self.transport.write, ANSWER)


async def test_offered_calls_stop_in_time_and_the_first_normal_call_is_found():
    Server.slow_until = time.perf_counter() + 0.5
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Server, "127.0.0.1", 0, backlog=1024)
    with ExitStack() as stack:
        for connection in (connections := client.connect(server.sockets[0].getsockname()[1], load.WAITING + 10)):
            stack.callback(connection.close)
        call = client.request("GET", "/")
        run, recovered_s, latencies = await load._offer(
            connections[1:], connections[:1], call, rate=1000.0, seconds=0.2, normal_us=5_000_000.0
        )
    server.close()
    for each in list(Server.serving):
        each.transport.abort()
    while Server.serving:  # nothing may be left open: it would be another test's warning
        await asyncio.sleep(0)
    assert run.unanswered == 0
    assert {answer.status for answer in run.answers} == {200}
    assert len(latencies) == 20
    assert 0 <= recovered_s < 5
