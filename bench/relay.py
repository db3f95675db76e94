"""The least a Python process can do for one call: take a request, pass its body to a container, pass the answer back.

No checks, no records, no limits. What the daemon costs beyond this is the price of what it does.
Started by `relay_process.start`, which hands it descriptors: a listening socket, one connected socket for each
container and, with `--freeze`, its freezer file.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import gc
import os
import socket
from collections import deque
from typing import cast

import httptools
import uvloop

WORDS = {"v1": (b"THAWED", b"FROZEN"), "v2": (b"0", b"1")}


class Back(asyncio.Protocol):
    """The kept connection to one container; it serves one front at a time."""

    def __init__(self, relay: Relay, freezer: int) -> None:
        self.relay, self.freezer = relay, freezer
        self.front: Front
        self.parser = httptools.HttpResponseParser(self)
        self.body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.relay.idle.append(self)

    def run(self, front: Front, body: bytes) -> None:
        self.front = front
        if self.freezer >= 0:
            os.pwrite(self.freezer, self.relay.thaw, 0)
        head = b"POST /run HTTP/1.1\r\nHost: c\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        self.transport.write(head % len(body) + body)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        body, self.body = self.body, b""
        head = b"HTTP/1.1 %d -\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        self.front.transport.write(head % (self.parser.get_status_code(), len(body)) + body)
        if self.relay.waiting:
            self.run(*self.relay.waiting.popleft())
            return
        if self.freezer >= 0:
            os.pwrite(self.freezer, self.relay.freeze, 0)
        self.relay.idle.append(self)


class Front(asyncio.Protocol):
    """A client's connection."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.parser = httptools.HttpRequestParser(self)
        self.body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        body, self.body = self.body, b""
        if self.relay.idle:
            self.relay.idle.pop().run(self, body)
        else:
            self.relay.waiting.append((self, body))


class Relay:
    """What all connections share: containers that nobody uses, and requests that wait for one."""

    def __init__(self, cgroup: str) -> None:
        self.thaw, self.freeze = WORDS[cgroup]
        self.idle: list[Back] = []
        self.waiting: deque[tuple[Front, bytes]] = deque()

    async def serve(self, listening: int, backends: list[int], freezers: list[int]) -> None:
        loop = asyncio.get_running_loop()
        for backend, freezer in zip(backends, freezers or [-1] * len(backends), strict=True):
            await loop.create_connection(functools.partial(Back, self, freezer), sock=socket.socket(fileno=backend))
        server = await loop.create_server(functools.partial(Front, self), sock=socket.socket(fileno=listening))
        gc.freeze()
        await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--listening", type=int, required=True)
    parser.add_argument("--backend", type=int, action="append", required=True)
    parser.add_argument("--freeze", type=int, action="append", default=[])
    parser.add_argument("--cgroup", choices=WORDS, default="v1")
    arguments = parser.parse_args()
    uvloop.run(Relay(arguments.cgroup).serve(arguments.listening, arguments.backend, arguments.freeze))
