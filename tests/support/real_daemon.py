"""A real daemon on a real engine, as a process of its own, and a user with a key.

`daemon`, `client` and `make_user` are fixtures of tests/system and tests/acceptance; their conftest.py take them from here.
"""

from __future__ import annotations

import base64
import http.client
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from bench.daemon import Daemon


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def error(self) -> str:
        """The sentence, wherever this kind of answer has it."""
        body = self.json
        return str(body["error"] if "error" in body else body["response"]["result"].get("error", ""))

    @property
    def annotations(self) -> dict[str, Any]:
        return {entry["key"]: entry["value"] for entry in self.json["annotations"]}


class Client:
    """A user of the REST API."""

    def __init__(self, port: int, key: str) -> None:
        self.port = port
        self.key = key

    def ask(
        self, method: str, path: str, body: Any = None, *, key: str | None = "", headers: dict[str, str] | None = None
    ) -> Answer:
        """Send one request; `body` is JSON unless it is bytes; `key` None sends none."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        sent = dict(headers or {})
        if key is not None:
            sent["Authorization"] = "Basic " + base64.b64encode((key or self.key).encode()).decode()
        if body is not None:
            sent.setdefault("Content-Type", "application/json")
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        try:
            connection.request(method, path if path.startswith("/") else f"/api/v1/namespaces/_/{path}", data, sent)
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read().decode())
        finally:
            connection.close()

    def deploy(
        self, name: str, code: str | bytes | None = None, *, kind: str = "python:3", image: str | None = None, **limits: int
    ) -> Answer:
        """Write an action; bytes are a zip or a binary."""
        executable: dict[str, Any] = {"kind": "blackbox" if image else kind}
        if image:
            executable["image"] = image
        if code is not None:
            executable["code"] = base64.b64encode(code).decode() if isinstance(code, bytes) else code
        answer = self.ask("PUT", f"actions/{name}?overwrite=true", {"exec": executable, "limits": limits})
        assert answer.status == 200, answer.text
        return answer

    def invoke(self, name: str, payload: Any = None, query: str = "blocking=true", **options: Any) -> Answer:
        return self.ask("POST", f"actions/{name}?{query}", {} if payload is None else payload, **options)

    def record(self, activation_id: str, deadline_s: float = 20.0) -> Answer:
        """Poll a record until it is there, as clients do."""
        deadline = time.monotonic() + deadline_s
        while (answer := self.ask("GET", f"activations/{activation_id}")).status == 404 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert answer.status == 200, answer.text
        return answer


MakeUser = Callable[..., Client]


@pytest.fixture(scope="session")
def make_user() -> MakeUser:
    """Make a namespace with an identity of its own, and its user."""

    def make(daemon: Daemon, name: str, *, uid: int = 20_001, gid: int = 20_001, words: tuple[str, ...] = ()) -> Client:
        key = daemon.control("namespace", "create", name, "--uid", str(uid), "--gid", str(gid), *words)
        return Client(daemon.port, key.strip())

    return make


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, engine_url: str, leave_no_containers: None) -> Iterator[Daemon]:
    """One daemon for the tests of a module, which are marked `docker`."""
    running = Daemon(tmp_path_factory.mktemp("daemon"), engine_url, {"pool.memory_mib": 4096})
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def client(daemon: Daemon, make_user: MakeUser) -> Client:
    """A user of that daemon."""
    return make_user(daemon, "anna")
