"""An engine on a Unix socket that answers as a test tells it, and our backend on it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

from pool.docker import DockerBackend


class Engine:
    """An engine that answers as told: `answers[verb path prefix] = (status, body)`, or a callable, or None for never."""

    def __init__(self, path: str) -> None:
        self.url = f"unix://{path}"
        self.path = path
        self.requests: list[tuple[str, str, dict[str, list[str]], Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answers: dict[str, Any] = {
            "GET /version": (200, {"ApiVersion": "1.41", "MinAPIVersion": "1.12", "Version": "20.10"}),
            "GET /info": (200, {"MemoryLimit": True}),
            "POST /containers/create": (201, {"Id": "e" * 64}),
            "POST /containers/eeee": (204, None),
            "GET /containers/eeee": (200, {"State": {"Pid": 0, "ExitCode": 3}}),
            "GET /containers/json": (200, []),
            "DELETE /containers/": (204, None),
        }
        self._server: asyncio.Server | None = None
        self._stopped = asyncio.Event()
        self._serving = 0
        self.connections = 0
        #: By verb and path: how many requests more it takes and closes the connection over.
        self.breaks: dict[str, int] = {}

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._serve, self.path)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self._stopped.set()
        async with asyncio.timeout(30):
            while self._serving:
                await asyncio.sleep(0)

    def verbs(self) -> list[str]:
        return [f"{method} {path}" for method, path, _, _ in self.requests]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving += 1
        self.connections += 1
        try:
            while (line := await reader.readline()) and not self._stopped.is_set():
                method, target, _ = line.decode().split(" ")
                headers: dict[str, str] = {}
                while (header := await reader.readline()) not in (b"\r\n", b""):
                    name, _, value = header.decode().partition(":")
                    headers[name.lower()] = value.strip()
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                await self._answer(method, target, headers, body, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            self._serving -= 1

    async def _answer(self, method: str, target: str, headers: dict[str, str], body: bytes, writer: asyncio.StreamWriter) -> None:
        url = urlsplit(target)
        path = "/" + url.path.split("/", 2)[2] if url.path.startswith("/v1.") else url.path
        self.requests.append((method, unquote(path), parse_qs(url.query), json.loads(body) if body else None))
        self.headers.append({**headers, "version": url.path.split("/")[1]})
        if self.breaks.get(f"{method} {path}", 0) > 0:
            self.breaks[f"{method} {path}"] -= 1
            writer.close()
            return
        known = [prefix for prefix in self.answers if f"{method} {path}".startswith(prefix)]
        answer = self.answers[max(known, key=len)] if known else (404, {"message": "page not found"})
        if isinstance(answer, Callable):
            answer = await answer()
        if answer is None:
            await self._stopped.wait()
            return
        status, content = answer
        if isinstance(content, bytes):
            writer.write(b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n%s" % (status, content))
            await writer.drain()
            writer.close()
            return
        data = b"" if content is None else json.dumps(content).encode()
        kind = "text/plain" if isinstance(content, str) else "application/json"
        head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n\r\n"
        writer.write(head.encode() + data)
        await writer.drain()


async def opened(url: str, tmp_path: Path, **changes: Any) -> DockerBackend:
    settings = {"node": "n", "boot_id": "b", "run_dir": tmp_path / "containers", **changes}
    return await DockerBackend.open(url, **settings)
