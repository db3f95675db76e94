import base64
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from invoker.commands.ctl_client import Client, Exit, Failure, Reply, refusal
from invoker.control.fake import FakeControl, serving


class Echo(BaseHTTPRequestHandler):
    """Answers with what it was asked."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        answer = json.dumps({"path": self.path, "headers": dict(self.headers), "body": body.decode()}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.send_header("X-Some", "Thing")
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def echo() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_request_carries_key_query_and_body(echo: str) -> None:
    reply = Client(echo + "/prefix/", auth="u:k").request("POST", "/x", query={"a": "1 2", "b": None}, body=b"{}")
    assert reply.status == 200
    assert reply.headers["x-some"] == "Thing"
    asked = reply.json()
    assert asked["path"] == "/prefix/x?a=1+2"
    assert asked["body"] == "{}"
    assert asked["headers"]["Authorization"] == "Basic " + base64.b64encode(b"u:k").decode()
    assert asked["headers"]["Content-Type"] == "application/json"


def test_a_unix_socket_is_spoken_to(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with serving(FakeControl(), path):
        assert Client(f"unix://{path}").ask("GET", "/v1/status").json()["node"] == "fake"


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_nobody_there_is_exit_code_3_with_what_to_do(tmp_path: Path) -> None:
    for url in (f"http://127.0.0.1:{unused_port()}", f"unix://{tmp_path}/absent.sock"):
        with pytest.raises(Failure, match=f"cannot reach {url}") as failed:
            Client(url, start_hint="start it").ask("GET", "/")
        assert (failed.value.exit_code, failed.value.hint) == (Exit.UNREACHABLE, "start it")


def test_a_server_that_never_answers_is_left_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = Client(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.05)
        with pytest.raises(Failure, match=r"no answer within 0.05 s"):
            client.ask("GET", "/")


def test_something_that_is_not_http_is_told_as_such() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"SSH-2.0-what\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(Failure) as failed:
            Client(f"http://127.0.0.1:{server.getsockname()[1]}").ask("GET", "/")
        thread.join()
        assert failed.value.exit_code is Exit.UNREACHABLE


@pytest.mark.parametrize("url", ["ftp://x", "127.0.0.1:80", "http://"])
def test_what_is_no_address_is_a_usage_error(url: str) -> None:
    with pytest.raises(Failure, match="no address") as failed:
        Client(url).request("GET", "/")
    assert failed.value.exit_code is Exit.USAGE


@pytest.mark.parametrize(
    ("status", "body", "message", "hint"),
    [
        (401, b'{"error":"no key","code":"t1"}', "no key (code t1)", "--auth"),
        (409, b'{"error":"resource already exists","code":"t2"}', "already exists", "replaces"),
        (418, b'{"error":"teapot"}', "teapot", ""),
        (500, b"<html>", "HTTP status 500: <html>", ""),
        (503, b"", "HTTP status 503: no text", "busy"),
    ],
)
def test_a_refusal_says_what_where_and_what_to_do(status: int, body: bytes, message: str, hint: str) -> None:
    failure = refusal(Reply(status, {}, body))
    assert message in failure.message
    assert hint in failure.hint
    assert failure.exit_code is Exit.REFUSED


def test_what_is_not_there_or_is_there_already_is_named() -> None:
    reply = Reply(404, {}, b'{"error": "The requested resource does not exist.", "code": "c"}')
    for path, named in [
        ("/api/v1/namespaces/_/actions/tools/find%20it", "[action tools/find it]"),
        ("/api/v1/namespaces/bob/packages/tools", "[package /bob/tools]"),
        ("/api/v1/namespaces/_/actions/tools/", "[package tools]"),
    ]:
        assert refusal(reply, path).message == f"The requested resource does not exist. {named} (code c)"
    assert refusal(reply, "/v1/namespaces/bob").message == "The requested resource does not exist. (code c)"
    assert refusal(reply, "/v1/namespaces/bob").hint == ""  # what an operator asked for is not among a user's entities


def test_the_reason_of_a_refusal_finds_its_hint() -> None:
    reply = Reply(400, {"x-invokerd-reason": "invalid-name"}, b'{"error": "The name of the entity contains illegal characters."}')
    assert "letters, digits" in refusal(reply).hint


def test_a_failure_is_shown_with_its_hint_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    Failure("it broke", hint="mend it").show()
    assert capsys.readouterr().err == "invokerctl: it broke\n  mend it\n"


@pytest.mark.parametrize(
    "url", ["http://localhost:99999999", "http://localhost:port", "http://[::1", "localhost", "ftp://host", "http://"]
)
def test_an_address_that_is_none_is_a_usage_error(url: str) -> None:
    with pytest.raises(Failure, match="is no address of a server") as failed:
        Client(url).request("GET", "/")
    assert failed.value.exit_code == Exit.USAGE


class Page(Echo):
    """Answers everything with a page for people."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"<p/>")


def test_a_server_that_is_something_else_is_told_as_such() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            with pytest.raises(Failure, match="not as OpenWhisk's API does"):
                Client(f"http://127.0.0.1:{server.server_port}").ask("GET", "/api/v1/namespaces")
        finally:
            server.shutdown()
            thread.join()
