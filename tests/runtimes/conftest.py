"""A runtime as a bare process: its server on a free port, its log on a real FIFO."""

import base64
import contextlib
import fcntl
import io
import json
import os
import re
import socket
import stat
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

from bench.ports import reserve_port

ROOT = Path(__file__).resolve().parents[2]
RUNTIMES = ROOT / "runtimes"
sys.path.insert(0, str(ROOT / "scripts" / "lib"))

import ingredients  # noqa: E402

FRAME = re.compile(rb"([0-9a-f]{32}) (\d+) ([oOheEH]) (\d+) (.*)", re.DOTALL)
SENTINEL = "XXX_THE_END_OF_A_WHISK_ACTIVATION_XXX"
DEADLINE_S = 20.0


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def frames(self) -> tuple[int, int]:
        """(written, dropped), as the header says."""
        written, dropped = self.headers["x-invokerd-logs"].split(",")
        return int(written), int(dropped)


class Frame(NamedTuple):
    seq: int
    stream: str
    time_us: int
    text: bytes


class Client:
    """A connection and nothing else: bytes out, one answer in."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.rest = b""

    def send(self, path: str, body: object) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.socket.sendall(
            b"POST %b HTTP/1.1\r\nHost: action\r\nContent-Length: %d\r\n\r\n%b" % (path.encode(), len(data), data)
        )

    def post(self, path: str, body: object) -> Answer:
        self.send(path, body)
        return self.read()

    def get(self, path: str) -> Answer:
        self.socket.sendall(b"GET %b HTTP/1.1\r\nHost: action\r\n\r\n" % path.encode())
        return self.read()

    def read(self) -> Answer:
        head = self._until(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", 0))
        while len(self.rest) < length:
            self.rest += self._receive()
        body, self.rest = self.rest[:length], self.rest[length:]
        return Answer(int(first.split(" ")[1]), headers, body)

    def _until(self, mark: bytes) -> bytes:
        while mark not in self.rest:
            self.rest += self._receive()
        head, _, self.rest = self.rest.partition(mark)
        return head

    def _receive(self) -> bytes:
        data = self.socket.recv(1 << 20)
        if not data:
            raise ConnectionError("the runtime closed the connection")
        return data


class LogPipe:
    """The daemon's side of the FIFO: reads all the time, keeps frames by activation."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.fd = os.open(path, os.O_RDWR)
        fcntl.fcntl(self.fd, fcntl.F_SETPIPE_SZ, 1 << 20)
        self.frames: dict[str, list[Frame]] = {}
        #: What is not there yet of a line, by activation and stream.
        self.unfinished: dict[tuple[str, str], bytes] = {}
        self.rejected: list[bytes] = []
        self.changed = threading.Condition()
        self.thread: threading.Thread | None = None

    def start(self) -> None:
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def wait(self, activation: str, count: int) -> list[Frame]:
        """Frames of an activation, once there are `count`."""
        with self.changed:
            arrived = self.changed.wait_for(lambda: len(self.frames.get(activation, [])) >= count, DEADLINE_S)
        assert arrived, (count, self.frames.get(activation))
        return self.frames.get(activation, [])

    def wait_unfinished(self, activation: str, text: bytes, stream: str = "o") -> None:
        """Wait until a line is said to be this so far."""
        key = activation, stream
        with self.changed:
            arrived = self.changed.wait_for(lambda: self.unfinished.get(key) == text, DEADLINE_S)
        assert arrived, (text, self.unfinished)

    def lines(self, activation: str, count: int, stream: str = "o") -> list[str]:
        """Whole lines of one stream: continued frames put together."""
        text = b"".join(
            frame.text + (b"\n" if frame.stream.islower() else b"")
            for frame in self.wait(activation, count)
            if frame.stream.lower() == stream
        )
        return text.decode().splitlines()

    def close(self) -> None:
        if self.thread:
            os.write(self.fd, b"end\n")
            self.thread.join()
        os.close(self.fd)

    def _read(self) -> None:
        rest = b""
        while True:
            *lines, rest = (rest + os.read(self.fd, 1 << 18)).split(b"\n")
            with self.changed:
                for line in lines:
                    if line == b"end":
                        return
                    match = FRAME.fullmatch(line)
                    if match is None or len(line) >= 4096:
                        self.rejected.append(line)
                        continue
                    activation, seq, stream, time_us, text = match.groups()
                    if stream in b"hH":
                        self.unfinished[activation.decode(), "o" if stream == b"h" else "e"] = text
                        continue
                    self.frames.setdefault(activation.decode(), []).append(Frame(int(seq), stream.decode(), int(time_us), text))
                self.changed.notify_all()


class Process:
    """One runtime's process."""

    def __init__(self, command: list[str], directory: Path, environment: dict[str, str], *, piped: bool) -> None:
        self.port = reserve_port()
        self.pipe = LogPipe(directory / "log") if piped else None
        self.out, self.err = directory / "stdout", directory / "stderr"
        settings = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "TMPDIR": str(directory), "__OW_PORT": str(self.port)}
        if piped:
            settings["__OW_LOG_PIPE"] = str(directory / "log")
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(command, env={**settings, **environment}, stdout=out, stderr=err, cwd=directory)
        self.clients: list[Client] = []
        self.client = self.connect()
        self.runs = 0

    def connect(self) -> Client:
        """Open a connection, closed with the process; waits until the server listens."""
        while True:
            try:
                self.clients.append(Client(self.port))
            except ConnectionRefusedError:
                assert self.process.poll() is None, self.err.read_text()
            else:
                return self.clients[-1]

    def init(self, code=None, **value) -> Answer:
        if code is not None:
            value["code"] = code
        value = {"name": "test", "main": "main", "binary": False, "env": {}, **value}
        return self.client.post("/init", {"value": value})

    def run(self, value=None, *, activation: str | None = None, **context) -> Answer:
        self.runs += 1
        activation = activation or f"{self.runs:032x}"
        return self.client.post("/run", {"value": {} if value is None else value, "activation_id": activation, **context})

    def logs(self, answer: Answer, stream: str = "o", activation: str | None = None) -> list[str]:
        """Lines of the last run, or of an activation."""
        return self.pipe.lines(activation or f"{self.runs:032x}", answer.frames[0], stream)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for client in self.clients:
            client.socket.close()
        if self.pipe:
            self.pipe.close()


def archive(files: dict[str, str | bytes], *, modes: dict[str, int] | None = None, links: dict[str, str] | None = None) -> str:
    """A zip in base64."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (modes or {}).get(name, 0o644) << 16
            zipped.writestr(entry, content)
        for name, target in (links or {}).items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (stat.S_IFLNK | 0o777) << 16
            zipped.writestr(entry, target)
    return base64.b64encode(buffer.getvalue()).decode()


def command_of(kind: str) -> tuple[list[str], dict[str, str]]:
    """How the image starts it, less the init."""
    if kind == "nodejs":
        architecture = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
        return [str(ingredients.node_binary(architecture)), str(RUNTIMES / "nodejs" / "server.js")], {}
    start = RUNTIMES / kind / "start.py"
    return [sys.executable, "-B", "-s", str(start)], {"PYTHONPATH": str(RUNTIMES / "common")}


@pytest.fixture
def start(tmp_path):
    """Start a runtime: `start("python")`. A reader reads the FIFO unless `reader=False`."""
    with contextlib.ExitStack() as stack:

        def start(kind: str, *, piped: bool = True, reader: bool = True, **environment: str) -> Process:
            command, settings = command_of(kind)
            directory = tmp_path / f"{kind}-{len(list(tmp_path.iterdir()))}"
            directory.mkdir()
            process = Process(command, directory, {**settings, **environment}, piped=piped)
            stack.callback(process.close)
            if piped and reader:
                process.pipe.start()
            return process

        yield start


@pytest.fixture
def zipped():
    """Make a base64 zip: `zipped({"name": content})`."""
    return archive
