"""The little of the Docker engine's API that the scripts need, over its socket, with the standard library alone."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import IO, Any

#: Names and values; a name may come more than once.
Query = Sequence[tuple[str, str]]
Body = bytes | IO[bytes] | None

DEFAULT_URL = "unix:///var/run/docker.sock"


class EngineFailed(Exception):
    """The engine does not answer, or refused a request; the message is for people."""


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket's path."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Engine:
    """A container engine. Each request has a connection and a deadline (seconds without any byte) of its own."""

    def __init__(self, url: str | None = None) -> None:
        self.url = url or os.environ.get("DOCKER_HOST") or DEFAULT_URL
        self._parts = urllib.parse.urlsplit(self.url)
        if self._parts.scheme not in {"unix", "tcp"}:
            raise EngineFailed(f"{self.url!r} is no engine's address: it must begin with unix:// or tcp://")

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Query = (),
        body: Body = None,
        content_type: str = "application/json",
        timeout_s: float = 30,
    ) -> Any:
        """Send one request; return its JSON answer, None where there is none.

        Raises:
            EngineFailed: with the engine's own words.
        """
        data = self.request_bytes(method, path, query=query, body=body, content_type=content_type, timeout_s=timeout_s)
        return json.loads(data) if data else None

    def request_bytes(
        self,
        method: str,
        path: str,
        *,
        query: Query = (),
        body: Body = None,
        content_type: str = "application/json",
        timeout_s: float = 30,
    ) -> bytes:
        """Send one request; return its answer as it is. Raises EngineFailed."""
        with self._open(method, path, query, body, content_type, timeout_s) as response:
            return response.read()

    def stream(
        self,
        path: str,
        *,
        query: Query,
        body: Body = None,
        timeout_s: float = 600,
    ) -> Iterator[dict[str, Any]]:
        """POST, and yield the engine's progress messages as they come.

        Raises:
            EngineFailed: the answer, or one of the messages, is an error; or silence for `timeout_s`.
        """
        with self._open("POST", path, query, body, "application/x-tar", timeout_s) as response:
            try:
                for line in response:
                    message = json.loads(line)
                    if "error" in message:
                        raise EngineFailed(str(message["error"]).strip())
                    yield message
            except OSError as error:
                raise EngineFailed(f"{self.url}: silent for {timeout_s:.0f} s ({error})") from error

    @contextlib.contextmanager
    def _open(
        self, method: str, path: str, query: Query, body: Body, content_type: str, timeout_s: float
    ) -> Iterator[http.client.HTTPResponse]:
        target = path + (f"?{urllib.parse.urlencode(query)}" if query else "")
        if self._parts.scheme == "unix":
            connection: http.client.HTTPConnection = _UnixConnection(self._parts.path, timeout_s)
        else:
            connection = http.client.HTTPConnection(self._parts.netloc, timeout=timeout_s)
        with contextlib.closing(connection):
            try:
                connection.request(method, target, body=body, headers={"Content-Type": content_type, "Connection": "close"})
                response = connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                raise EngineFailed(f"no engine answers at {self.url}: {error}") from error
            with response:
                if response.status >= 400:
                    text = response.read().decode(errors="replace").strip()
                    with contextlib.suppress(ValueError, KeyError, TypeError):
                        text = json.loads(text)["message"]
                    raise EngineFailed(f"{method} {path}: {response.status} {text}")
                yield response
