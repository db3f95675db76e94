"""A proxy before the engine's socket that counts the requests that pass, and plays a sick engine where it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import httptools

_CHUNK = 64 * 1024


class CountingProxy:
    """Serves a Unix socket in a thread of its own, and passes every byte unchanged."""

    def __init__(self, path: Path, engine: str) -> None:
        """Prepare; `with` starts and stops it.

        Args:
            path: of the socket to serve.
            engine: path of the engine's socket.
        """
        self.url = f"unix://{path}"
        self._path = path
        self._engine = engine
        #: Requests so far, by method and path without its query. Written by the proxy's thread alone.
        self.requests: Counter[str] = Counter()
        self._failure: str | None = None
        #: How requests are treated whose method and path match.
        self._sickness: list[_Sickness] = []
        self._writers: set[asyncio.StreamWriter] = set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="counting proxy")
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event

    @property
    def total(self) -> int:
        """Requests so far."""
        return self.requests.total()

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    @contextlib.contextmanager
    def failing(self, how: str) -> Iterator[None]:
        """Be an engine that refuses connections (`refuse`), or takes them and never answers (`hang`), while the block runs.

        Connections that are open are cut.
        """
        self._failure = how
        self.cut()
        try:
            yield
        finally:
            self._failure = None

    @contextlib.contextmanager
    def sick(self, requests: str, how: str | Callable[[], object], *, times: int = -1) -> Iterator[_Sickness]:
        """Treat some requests in another way while the block runs; each must be the first on its connection.

        Args:
            requests: pattern of method and path, `POST .*/containers/create`.
            how: `hang`: never answer; `cut`: close without having passed it on; `mute`: pass it on and close instead of
                answering; else the answer itself, a whole HTTP response. Something to call: done just before it is passed on.
            times: how many requests; -1 is all.
        """
        sickness = _Sickness(re.compile(requests), how, times)
        self._sickness.append(sickness)
        try:
            yield sickness
        finally:
            self._sickness.remove(sickness)

    def cut(self) -> None:
        """Cut every connection that is open."""
        self._loop.call_soon_threadsafe(self._cut)

    def _cut(self) -> None:
        for writer in self._writers:
            writer.close()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        server = await asyncio.start_unix_server(self._connected, self._path)
        self._ready.set()
        await self._stop.wait()
        server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            if self._failure == "hang":
                await reader.read()
            elif self._failure is None:
                await self._look(reader, writer)
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _look(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass a connection on, unless its first request meets a sickness."""
        first = b""
        while b"\r\n" not in first and (data := await reader.read(_CHUNK)):
            first += data
        request = b" ".join(first.partition(b"\r\n")[0].partition(b"?")[0].split(b" ")[:2]).decode()
        for sickness in self._sickness:
            if sickness.take(request):
                if callable(sickness.how):
                    sickness.how()
                    break
                if sickness.how == "hang":
                    await reader.read()
                elif sickness.how == "mute":
                    await self._forward(first, reader, None)
                elif sickness.how != "cut":
                    writer.write(sickness.how.encode())
                    await writer.drain()
                return
        await self._forward(first, reader, writer)

    async def _forward(self, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter | None) -> None:
        """Pass both ways; without a writer only the request, and return when it is answered."""
        try:
            engine_reader, engine_writer = await asyncio.open_unix_connection(self._engine)
        except OSError:
            return
        counting = _Counting(self.requests)
        counting.feed(first)
        engine_writer.write(first)
        try:
            async with asyncio.TaskGroup() as group:
                there = group.create_task(_pass(reader, engine_writer, counting))
                if writer is None:
                    with contextlib.suppress(asyncio.IncompleteReadError):
                        await engine_reader.readuntil(b"\r\n\r\n")
                    there.cancel()
                else:
                    group.create_task(_pass(engine_reader, writer, None))
        finally:
            engine_writer.close()


@dataclass(slots=True, eq=False)
class _Sickness:
    """How some requests are treated.

    Attributes:
        met: how many requests it has met so far.
    """

    requests: re.Pattern[str]
    how: str | Callable[[], object]
    times: int
    met: int = 0

    def take(self, request: str) -> bool:
        """Whether this request is treated so."""
        if self.met == self.times or not self.requests.fullmatch(request):
            return False
        self.met += 1
        return True


class _Counting:
    """Finds the requests in the bytes of one connection."""

    def __init__(self, requests: Counter[str]) -> None:
        self._requests = requests
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._url = b""

    def feed(self, data: bytes) -> None:
        """Look at bytes that pass. After an upgrade they are no longer HTTP."""
        if self._parser is not None:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade:
                self._parser = None

    def on_message_begin(self) -> None:
        self._url = b""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        path = self._url.partition(b"?")[0].decode()
        self._requests[f"{self._parser.get_method().decode()} {path}"] += 1


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, counting: _Counting | None) -> None:
    """Pass bytes until the end, then end the other side's writing too."""
    # The other side may have gone while bytes were under way to it.
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(_CHUNK):
            if counting is not None:
                counting.feed(data)
            writer.write(data)
            await writer.drain()
        writer.write_eof()
