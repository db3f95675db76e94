"""Containers by hand: raw HTTP on the engine's socket, an own dial into the network namespace, /init and /run.

This is the floor that the daemon's starts are held against, so nothing here is shared with the daemon's way; only what
the container *is* (`pool.recipe.create_request`) is the daemon's own, so that both start the same thing.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.client import prepare
from pool.cgroup import find_directories

_CLONE_NEWNET = 0x40000000
#: Rounds of `ByHand.connect`, one each millisecond.
_DIAL_ATTEMPTS = 30_000
_libc = ctypes.CDLL(None, use_errno=True)


class EngineRefused(Exception):
    """The engine answered with an error."""


class Engine:
    """The engine's API, blocking, on one kept connection. `url` is `unix:///path`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._connection = _UnixConnection(url.removeprefix("unix://"))
        self.version: str = self.request("GET", "/version")["Version"]

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request, return the decoded answer, None where it is empty; raise EngineRefused on an error."""
        data = None if body is None else json.dumps(body)
        try:
            self._connection.request(method, path, data, {"Content-Type": "application/json"})
            response = self._connection.getresponse()
        except (http.client.RemoteDisconnected, BrokenPipeError):
            # The engine closes idle connections, and every connection over which it refused something.
            self._connection.close()
            self._connection.request(method, path, data, {"Content-Type": "application/json"})
            response = self._connection.getresponse()
        text = response.read()
        if response.status >= 400:
            raise EngineRefused(f"{method} {path}: {response.status} {text.decode(errors='replace').strip()}")
        return json.loads(text) if text.strip() else None

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def containers(self, label: str) -> list[dict[str, Any]]:
        """List all containers that bear a label, `name` or `name=value`, the dead too."""
        query = json.dumps({"label": [label]})
        listed: list[dict[str, Any]] = self.request("GET", f"/containers/json?all=1&filters={_quote(query)}")
        return listed

    def inspect(self, container: str) -> dict[str, Any]:
        """Tell all that the engine knows of a container."""
        told: dict[str, Any] = self.request("GET", f"/containers/{container}/json")
        return told

    def update(self, container: str, limits: Mapping[str, int]) -> None:
        """Give a container other limits while it runs."""
        self.request("POST", f"/containers/{container}/update", limits)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("engine", timeout=120)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class ByHand:
    """One container, started by two requests to the engine. Its name starts with `invokerd-bench-`."""

    def __init__(self, engine: Engine, name: str, body: dict[str, Any]) -> None:
        """Create and start it; its process runs when this returns.

        Args:
            engine: where.
            name: its name.
            body: of the engine's `POST /containers/create`.
        """
        self._engine = engine
        self.engine_id: str = engine.request("POST", f"/containers/create?name={name}", body)["Id"]
        try:
            engine.request("POST", f"/containers/{self.engine_id}/start")
            self.pid: int = engine.inspect(self.engine_id)["State"]["Pid"]
        except BaseException:
            self.remove()
            raise

    def connect(self) -> socket.socket:
        """Connect to its server, trying once a millisecond from inside its network namespace until it listens."""
        found: list[socket.socket] = []
        thread = threading.Thread(target=self._dial, args=(found,))
        thread.start()
        thread.join()
        if not found:
            raise TimeoutError(f"container {self.engine_id[:12]} never opened port 8080")
        return found[0]

    def _dial(self, found: list[socket.socket]) -> None:
        """Run in a thread of its own, which ends in the foreign namespace."""
        network = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY)
        try:
            if _libc.setns(network, _CLONE_NEWNET) != 0:
                return
        finally:
            os.close(network)
        for _ in range(_DIAL_ATTEMPTS):
            with contextlib.suppress(ConnectionRefusedError):
                found.append(socket.create_connection(("127.0.0.1", 8080)))
                return
            time.sleep(0.001)

    def remove(self) -> None:
        """Kill and remove it. It must not be frozen where the cgroups are v1."""
        self._engine.request("DELETE", f"/containers/{self.engine_id}?force=1")


def open_freezer(pid: int) -> tuple[int, str]:
    """Open the file that freezes the container of a process; return the descriptor and its cgroup's version, `v1` or `v2`."""
    directories = find_directories(pid)
    if directories.version == 1:
        return os.open(directories.path["freezer"] / "freezer.state", os.O_RDWR), "v1"
    return os.open(directories.path[""] / "cgroup.freeze", os.O_RDWR), "v2"


def thaw(freezer: int, cgroup: str) -> None:
    """Let the container of a freezer file run, and close the file."""
    os.pwrite(freezer, b"THAWED" if cgroup == "v1" else b"0", 0)
    os.close(freezer)


def post(connection: socket.socket, path: str, value: dict[str, Any]) -> Any:
    """Send one request to a runtime over a connected socket and return the decoded answer. Blocks; for set-up only."""
    connection.setblocking(True)
    body = json.dumps(value).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: c\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    response = http.client.HTTPResponse(connection)
    response.begin()
    text = response.read()
    if response.status != 200:
        raise EngineRefused(f"{path}: {response.status} {text[:500]!r}")
    prepare(connection)
    return json.loads(text)


def make_log_directory(parent: Path, name: str, uid: int, gid: int) -> Path:
    """Make the directory with the log FIFO that a container of ours expects, as the daemon does."""
    directory = parent / name
    directory.mkdir(parents=True)
    os.mkfifo(directory / "log", 0o600)
    os.chown(directory / "log", uid, gid)
    return directory


def _quote(text: str) -> str:
    from urllib.parse import quote

    return quote(text)
