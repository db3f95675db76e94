"""Both lanes of the API on ports of their own, and raw HTTP to talk to them: the bytes that come back are compared."""

import asyncio
import re
from contextlib import asynccontextmanager

from aiohttp import web

from invoker.http.api import build_server
from invoker.http.front import build_front

VARYING = re.compile(rb"(Date: )[^\r]+|(X-Request-ID: )[0-9a-f]{32}|(\"code\":\s*\")[0-9a-f]{32}")


class Lane:
    """One of the lanes on a port of its own."""

    def __init__(self, server, port):
        self.server, self.port = server, port

    @asynccontextmanager
    async def connection(self):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield reader, writer
        except BaseException:
            writer.transport.abort()
            raise
        else:
            writer.close()

    async def exchange(self, *parts, answers=1):
        """Send parts, each when the one before is under way; return that many responses, and whether the server closed then."""
        async with self.connection() as (reader, writer):
            for part in parts:
                writer.write(part)
                await writer.drain()
                for _ in range(5):
                    await asyncio.sleep(0)
            received = [await read_response(reader) for _ in range(answers)]
            try:
                closed = await asyncio.wait_for(reader.read(1), 0.03) == b""
            except TimeoutError:
                closed = False
            return [VARYING.sub(rb"\1\2\3*", response) for response in received], closed

    async def ask_in_turn(self, requests):
        """Send requests on one connection, each when the one before is answered; return the responses."""
        received = []
        async with self.connection() as (reader, writer):
            for each in requests:
                writer.write(each)
                received.append(VARYING.sub(rb"\1\2\3*", await read_response(reader)))
        return received


async def read_response(reader):
    """Read one response by its length."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    length = re.search(rb"Content-Length: (\d+)", head)
    return head + await reader.readexactly(int(length[1]) if length else 0)


@asynccontextmanager
async def serving(server):
    """Serve on a port of its own."""
    runner = web.ServerRunner(server)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield Lane(server, runner.addresses[0][1])
    finally:
        await runner.cleanup()


@asynccontextmanager
async def both(site):
    """Serve a site on both lanes: the front with its fast lane, and aiohttp's alone."""
    async with (
        asyncio.TaskGroup() as group,
        serving(build_front(site.services(), group)) as fast,
        serving(build_server(site.services())) as slow,
    ):
        yield fast, slow


async def same(lanes, *parts, answers=1):
    """Send the same to both lanes; return the responses, which are the same."""
    fast, slow = lanes
    ours, theirs = await fast.exchange(*parts, answers=answers), await slow.exchange(*parts, answers=answers)
    assert ours == theirs
    return ours[0]


async def same_in_turn(lanes, requests):
    """Ask the same of both lanes, on one connection each; return the responses, which are the same."""
    fast, slow = lanes
    ours, theirs = await fast.ask_in_turn(requests), await slow.ask_in_turn(requests)
    assert ours == theirs
    return ours


def status_of(response):
    return int(response.split()[1])
