import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

# `bench` is no installed package.
sys.path.insert(0, str(Path(__file__).parents[2]))

Serve = Callable[[Callable[[bytes, bytes], Awaitable[bytes]]], Awaitable[int]]


async def read_message(reader: asyncio.StreamReader) -> tuple[bytes, bytes] | None:
    """Read one HTTP message with a Content-Length: its head and its body, None at the end."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    length = next(int(line.partition(b":")[2]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    return head, await reader.readexactly(length)


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Start HTTP servers in this loop: given a handler of (head, body) that makes a whole answer, returns the port."""
    async with AsyncExitStack() as stack:

        async def start(handle: Callable[[bytes, bytes], Awaitable[bytes]]) -> int:
            return await stack.enter_async_context(_server(handle))

        yield start


@asynccontextmanager
async def _server(handle: Callable[[bytes, bytes], Awaitable[bytes]]) -> AsyncIterator[int]:
    writers: list[asyncio.StreamWriter] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        while message := await read_message(reader):
            writer.write(await handle(*message))
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        for writer in writers:
            writer.close()
