"""Shared fixtures: the container engine, and a tiny image to look out of a container from inside.

Tests marked `docker` run where an engine answers on DOCKER_HOST or the default socket. Elsewhere they are skipped,
or fail where INVOKERD_TEST_DOCKER=1 promises an engine.
"""

import contextlib
import functools
import http.client
import io
import json
import os
import shutil
import socket
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest

from bench.daemon import Daemon
from bench.setting import LABEL_NODE, remove_cgroups, remove_containers

APPLETS = ("cat", "dd", "df", "false", "head", "httpd", "id", "ip", "kill", "ls", "mount", "sh", "sleep", "true", "yes")
DEFAULT_ENGINE = "unix:///var/run/docker.sock"


class UnixHTTPConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float = 30.0) -> None:
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def ask_engine(url: str, method: str, path: str, body: bytes | None = None, timeout: float = 60.0) -> tuple[int, bytes]:
    """One request by hand, without any code under test: status and body."""
    connection = UnixHTTPConnection(url.removeprefix("unix://"), timeout)
    try:
        connection.request(method, path, body=body, headers={"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


@functools.cache
def find_engine() -> str | None:
    url = os.environ.get("DOCKER_HOST", DEFAULT_ENGINE)
    if not url.startswith("unix://"):
        return None
    try:
        status, _ = ask_engine(url, "GET", "/_ping", timeout=5.0)
    except OSError:
        return None
    return url if status == 200 else None


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("long"):
        item.user_properties.append(("long", "yes"))  # for scripts/lib/long_result.py
    if item.get_closest_marker("docker") and find_engine() is None:
        if os.environ.get("INVOKERD_TEST_DOCKER") == "1":
            pytest.fail("INVOKERD_TEST_DOCKER=1 promises a container engine, and none answers", pytrace=False)
        pytest.skip("no container engine answers on DOCKER_HOST or the default socket")


@pytest.fixture(scope="session")
def engine_url() -> str:
    """URL of the engine; only for tests marked `docker`."""
    url = find_engine()
    assert url is not None, "this test uses the engine and lacks the marker docker"
    return url


@pytest.fixture(scope="session")
def ask(engine_url):
    """Ask the engine by hand: (method, path, body) -> (status, body)."""
    return functools.partial(ask_engine, engine_url)


@pytest.fixture(scope="session", autouse=True)
def remove_containers_of_stopped_daemons() -> Iterator[None]:
    """A daemon that stops leaves its idle containers to the next one: after the last test there is none."""
    nodes: list[str] = []
    begin = Daemon.__init__

    def begin_and_note(self: Daemon, *arguments: Any, **options: Any) -> None:
        begin(self, *arguments, **options)
        nodes.append(self.node)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Daemon, "__init__", begin_and_note)
        yield
    url = find_engine() if nodes else None
    for node in nodes if url else ():
        filters = urlencode({"all": "1", "filters": json.dumps({"label": [f"invokerd.node={node}"]})})
        for each in json.loads(ask_engine(url, "GET", f"/containers/json?{filters}")[1]):
            ask_engine(url, "DELETE", f"/containers/{each['Id']}?force=1&v=1")
        remove_cgroups(node)


@pytest.fixture(scope="module")
def leave_no_containers():
    """Remove, after a module, the containers that its daemons have kept for a next start which does not come."""
    yield
    url = find_engine()
    if url is not None:
        from bench.container import Engine

        with contextlib.closing(Engine(url)) as engine:
            nodes = {container["Labels"][LABEL_NODE] for container in engine.containers(LABEL_NODE)}
            for node in nodes:
                if node.startswith(f"bench-{os.getpid()}-"):  # as `bench.daemon` names those of this process
                    remove_containers(engine, node)


class ProbeImage(NamedTuple):
    reference: str
    image_id: str


def _image_id(url: str, reference: str) -> str:
    status, answer = ask_engine(url, "GET", f"/images/{reference}/json")
    assert status == 200, answer
    return json.loads(answer)["Id"]


@pytest.fixture(scope="session")
def probe_images(engine_url):
    """Images of a static busybox, by protocol: `pipe` and `foreign`. POST /cgi-bin/sh runs the body as a script."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.fail("the docker tests need busybox-static")
    layer = _probe_layer(busybox)
    tag = f"invokerd-probe-{uuid.uuid4().hex[:8]}"
    entry = 'CMD ["/bin/httpd","-f","-p","127.0.0.1:8080","-h","/www"]'
    labels = {
        "pipe": ['LABEL invokerd.protocol="pipe" invokerd.keep-alive-s="30"'],
        "foreign": [],
        "crashing": ['CMD ["/bin/false"]'],
        "broken": ['CMD ["/bin/does-not-exist"]'],
        "talking": ['CMD ["/bin/sh","-c","echo first; echo second >&2; exec httpd -f -p 127.0.0.1:8080 -h /www"]'],
    }
    for name, changes in labels.items():
        query = urlencode([("fromSrc", "-"), ("repo", tag), ("tag", name), *(("changes", c) for c in (entry, *changes))])
        status, answer = ask_engine(engine_url, "POST", f"/images/create?{query}", layer)
        assert status == 200, answer
    yield {name: ProbeImage(f"{tag}:{name}", _image_id(engine_url, f"{tag}:{name}")) for name in labels}
    for name in labels:
        ask_engine(engine_url, "DELETE", f"/images/{tag}:{name}?force=1")


def _probe_layer(busybox: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:

        def add(name: str, data: bytes, mode: int = 0o755) -> None:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), mode
            tar.addfile(entry, io.BytesIO(data))

        for directory in ("bin", "www", "www/cgi-bin", "tmp", "proc", "sys", "dev", "etc", "run", "data"):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        add("bin/busybox", Path(busybox).read_bytes())
        for applet in APPLETS:
            entry = tarfile.TarInfo(f"bin/{applet}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(entry)
        script = b"#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\n'\nexec 2>&1\nhead -c \"$CONTENT_LENGTH\" | sh\n"
        add("www/cgi-bin/sh", script)
        add("www/index.html", b"ready\n", 0o644)
    return buffer.getvalue()
