"""Row WB-08: Debian's nginx and HAProxy, with the very text of docs/web-actions.md, in front of a daemon."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from bench.ports import reserve_port

pytestmark = pytest.mark.docker

DOCS = Path(__file__).parents[2] / "docs/web-actions.md"
WHERE = f"{os.environ.get('PATH', '')}:/usr/sbin"
CERTIFICATE = "/etc/ssl/faas.pem"
DEADLINE_S = 30.0
SEEN = """
def main(args):
    if "large" in args:
        return {"headers": {"content-type": "text/plain"}, "body": "x" * args["large"]}
    body = args.get("__ow_body", "")
    return {"statusCode": 201, "headers": {"X-Own": "a, b", "Set-Cookie": ["a=1", "b=2"]},
            "body": {"path": args["__ow_path"], "query": args.get("__ow_query"), "headers": args["__ow_headers"],
                     "method": args["__ow_method"], "bytes": len(body)}}
"""
INDEX = "def main(args):\n    return {'html': '<p>' + args.get('name', 'nobody') + '</p>'}\n"


@dataclass(frozen=True)
class Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Proxy:
    port: int

    def ask(
        self, host: str, target: str, *, method: str = "GET", body: Any = None, headers: dict[str, str] | None = None
    ) -> Reply:
        """Ask over TLS; the certificate is nobody's. A body that is no bytes is sent in chunks."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=DEADLINE_S, context=context)
        try:
            connection.request(method, target, body, {"Host": host, **(headers or {})})
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())
        finally:
            connection.close()


def text_of(language: str, changes: dict[str, str]) -> str:
    """The one block of the docs in this language, with addresses of here; each of them must be there to be changed."""
    (text,) = re.findall(rf"```{language}\n(.*?)```", DOCS.read_text(), re.DOTALL)
    for there, here in changes.items():
        assert there in text, f"docs/web-actions.md has no {there!r}"
        text = text.replace(there, here)
    return str(text)


def serve_nginx(directory: Path, port: int, node: int, certificate: Path) -> list[str]:
    text = text_of(
        "nginx", {"listen 443": f"listen 127.0.0.1:{port}", "127.0.0.1:3233": f"127.0.0.1:{node}", CERTIFICATE: str(certificate)}
    )
    places = "".join(f"{name}_temp_path {directory}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    file = directory / "nginx.conf"
    file.write_text(
        f"daemon off; user root; worker_processes 1; pid {directory}/pid; error_log stderr;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{places}{text}}}\n"
    )
    return ["nginx", "-p", str(directory), "-e", "stderr", "-c", str(file)]


def serve_haproxy(directory: Path, port: int, node: int, certificate: Path) -> list[str]:
    text = text_of(
        "haproxy", {"bind :443": f"bind 127.0.0.1:{port}", "127.0.0.1:3233": f"127.0.0.1:{node}", CERTIFICATE: str(certificate)}
    )
    file = directory / "haproxy.cfg"
    file.write_text(text)
    return ["haproxy", "-db", "-f", str(file)]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Self-signed, its key in the same file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "faas.example.org")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
    text = made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    text += key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    both = tmp_path_factory.mktemp("certificate") / "faas.pem"
    both.write_bytes(text)
    return both


@pytest.fixture(scope="module", params=["nginx", "haproxy"])
def proxy(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, daemon: Any, certificate: Path
) -> Iterator[Proxy]:
    name = request.param
    if shutil.which(name, path=WHERE) is None:
        if os.environ.get("INVOKERD_TEST_PROXIES") == "1":
            pytest.fail(f"INVOKERD_TEST_PROXIES=1 promises {name}, and there is none", pytrace=False)
        pytest.skip(f"there is no {name}")
    directory, port = tmp_path_factory.mktemp(name), reserve_port()
    command = {"nginx": serve_nginx, "haproxy": serve_haproxy}[name](directory, port, daemon.port, certificate)
    log = directory / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env={**os.environ, "PATH": WHERE}, stdout=output, stderr=output, stdin=subprocess.DEVNULL
        )
    try:
        wait_until_it_listens(port, process, log)
        yield Proxy(port)
    finally:
        process.terminate()
        process.wait(DEADLINE_S)


def wait_until_it_listens(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    pytest.fail(f"it does not listen: {log.read_text()}")


@pytest.fixture(scope="module", autouse=True)
def actions(client: Any) -> None:
    """`anna/default/seen` tells what it saw, raw; `anna/public/index` is a page."""
    client.ask("PUT", "packages/public", {})
    for name, code, raw in (("seen", SEEN, True), ("public/index", INDEX, False)):
        annotations = [{"key": "web-export", "value": True}, {"key": "raw-http", "value": raw}]
        body = {"exec": {"kind": "python:3", "code": code}, "annotations": annotations}
        assert client.ask("PUT", f"actions/{name}?overwrite=true", body).status == 200


def test_WB_08_a_vanity_path_reaches_the_action_as_it_came(proxy):
    reply = proxy.ask("anna.faas.example.org", "/default/seen/a%2Fb/c%20d?x=1&y=%26", headers={"X-Mine": "yes"})
    assert reply.status == 201, reply.body
    seen = reply.json
    assert (seen["path"], seen["method"]) == ("/a%2Fb/c%20d", "get")
    assert seen["query"] == "x=1&y=%26"
    assert seen["headers"]["x-mine"] == "yes"
    assert seen["headers"]["host"].partition(":")[0] == "anna.faas.example.org"
    assert seen["headers"].get("connection") != "close", "the node's connections are kept"


def test_WB_08_headers_and_cookies_of_the_action_come_back(proxy):
    reply = proxy.ask("anna.faas.example.org", "/default/seen")
    assert reply.headers["X-Own"] == "a, b"
    assert reply.headers.get_all("Set-Cookie") == ["a=1", "b=2"]
    assert re.fullmatch("[0-9a-f]{32}", reply.headers["x-openwhisk-activation-id"])
    assert reply.headers["Access-Control-Allow-Origin"] == "*"


def test_WB_08_the_root_is_the_index_of_the_package_public(proxy):
    reply = proxy.ask("anna.faas.example.org", "/?name=Ada")
    assert (reply.status, reply.headers["Content-Type"].partition(";")[0], reply.body) == (200, "text/html", b"<p>Ada</p>")
    assert proxy.ask("ANNA.faas.example.org", "/").body == b"<p>nobody</p>"


def test_WB_08_bodies_pass_whole_in_chunks_and_with_a_length_both_ways(proxy):
    half = os.urandom(150_000)
    for body in (half + half, iter([half, half])):
        reply = proxy.ask(
            "anna.faas.example.org",
            "/default/seen",
            method="POST",
            body=body,
            headers={"Content-Type": "application/octet-stream"},
        )
        assert reply.status == 201, reply.body
        assert reply.json["bytes"] == len(base64.b64encode(half + half))
    reply = proxy.ask(
        "anna.faas.example.org",
        "/public/index.html",
        method="POST",
        body=b"name=Ada",
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )
    assert reply.body == b"<p>Ada</p>"


def test_WB_08_a_vanity_host_leads_nowhere_but_to_web_actions_of_its_namespace(proxy):
    for target in ("/../../namespaces", "/%2e%2e/%2e%2e/namespaces/_/actions", "/default/nothing", "//default/seen"):
        assert proxy.ask("anna.faas.example.org", target).status in {400, 401, 404}
    assert proxy.ask("bert.faas.example.org", "/default/seen").status == 404


def test_WB_08_the_host_itself_is_the_rest_api(proxy, client):
    assert proxy.ask("faas.example.org", "/").json["api_paths"] == ["/api/v1"]
    key = "Basic " + base64.b64encode(client.key.encode()).decode()
    invoked = proxy.ask(
        "faas.example.org",
        "/api/v1/namespaces/_/actions/public/index?blocking=true&result=true",
        method="POST",
        body=b'{"name": "Ada"}',
        headers={"Authorization": key, "Content-Type": "application/json"},
    )
    assert (invoked.status, invoked.json) == (200, {"html": "<p>Ada</p>"})
