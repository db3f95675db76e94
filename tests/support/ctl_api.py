"""A server of the API that answers what a test lays down, and `invokerctl` that asks it."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import click.testing
import pytest

from invoker.commands.ctl import main


class Api:
    """A server of the API that answers what a test lays down, and remembers what it was asked."""

    def __init__(self) -> None:
        self.replies: list[tuple[int, Any, dict[str, str]]] = []
        self.asked: list[dict[str, Any]] = []

    def lay_down(self, body: Any, status: int = 200, **headers: str) -> None:
        self.replies.append((status, body, {name.replace("_", "-"): value for name, value in headers.items()}))

    def handler(self) -> type[BaseHTTPRequestHandler]:
        api = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"] or 0))
                parts = urlsplit(self.path)
                api.asked.append(
                    {
                        "what": f"{self.command} {parts.path}",
                        "query": {name: values[0] for name, values in parse_qs(parts.query).items()},
                        "body": json.loads(body) if body else None,
                        "auth": self.headers["Authorization"],
                    }
                )
                status, reply, headers = api.replies.pop(0)
                text = json.dumps(reply).encode()
                self.send_response(status)
                for name, value in (headers | {"Content-Length": str(len(text))}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_PUT = do_POST = do_DELETE = answer  # noqa: N815 - the names http.server looks for

            def log_message(self, *_: object) -> None:
                pass

        return Handler


class Ctl:
    def __init__(self, apihost: str) -> None:
        self.apihost = apihost

    def run(self, *arguments: str, code: int = 0) -> click.testing.Result:
        options = ["--apihost", self.apihost, "--auth", "u:k"]
        result = click.testing.CliRunner().invoke(main, [*options, *arguments])
        assert result.exit_code == code, result.output
        return result


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def ctl(api: Api) -> Iterator[Ctl]:
    with ThreadingHTTPServer(("127.0.0.1", 0), api.handler()) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield Ctl(f"127.0.0.1:{server.server_port}")
        server.shutdown()
        thread.join()
