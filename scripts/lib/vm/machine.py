"""What the checks inside the machine stand on: telling, waiting, the engine, the daemon's two sockets, and cgroups.

Only the standard library: the machine has no other Python packages beside the daemon's own. The sockets are spoken to
directly: where everything is emulated, a command-line client takes longer to start than the daemon to answer.
"""

from __future__ import annotations

import base64
import http.client
import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: Everything takes twenty times as long here, on a busy host more.
PATIENCE_S = 900.0
CONTROL = "/var/lib/invokerd/control.sock"
ENGINE = "/run/docker.sock"
CGROUPS = Path("/sys/fs/cgroup")
_failed: list[str] = []


def run(*words: str) -> str:
    """Run a command; its output, errors included."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip()


def tell(text: str) -> None:
    """Print one line, with the seconds since the machine was switched on."""
    print(f"[{time.monotonic():5.0f} s] {text}", flush=True)


def check(name: str, holds: bool, seen: object) -> None:
    """Tell how one check ended, and what was seen."""
    if not holds:
        _failed.append(name)
    tell(f"CHECK {name} {'ok' if holds else 'FAILED'} {' '.join(str(seen).split())[:300]}")


@contextmanager
def section(name: str) -> Iterator[None]:
    """A part that may break without breaking the others; after a failure in it, what the machine knows is told."""
    began, failed_before = time.monotonic(), len(_failed)
    tell(f"BEGIN {name}")
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the result
        check(name, holds=False, seen=f"{type(error).__name__}: {error}")
    if len(_failed) > failed_before:
        diagnose()
    tell(f"TIME {name} {time.monotonic() - began:.0f} s")


def diagnose() -> None:
    """Print the ends of the logs."""
    for words in (
        ("journalctl", "-u", "invokerd", "--no-pager", "-o", "short-monotonic", "-n", "40"),
        ("journalctl", "-u", "docker", "--no-pager", "-o", "short-monotonic", "-n", "10"),
        ("docker", "ps", "--all", "--no-trunc", "--format", "{{.Names}} {{.Status}}"),
        ("dmesg", "--level=emerg,alert,crit,err,warn"),
    ):
        print(f"  $ {' '.join(words)}")
        for line in run(*words).splitlines()[-40:]:
            print(f"  | {line[:300]}")
    print(f"  pool: {json.dumps(list(pool().values())) if Path(CONTROL).exists() else 'not served'}", flush=True)


def wait(what: str, holds: Callable[[], Any], *, patience_s: float = PATIENCE_S) -> Any:
    """Look until it holds; what it gave.

    Raises:
        TimeoutError: it did not within `patience_s`.
    """
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        try:
            if found := holds():
                return found
        except OSError:
            pass
        time.sleep(0.5)
    raise TimeoutError(f"{what}, within {patience_s:.0f} s")


class _UnixConnection(http.client.HTTPConnection):
    """HTTP on a Unix socket."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE_S)
        self.sock.connect(self.host)


def _ask(connection: http.client.HTTPConnection, method: str, path: str, body: Any, headers: dict[str, str]) -> tuple[int, Any]:
    """Send one request: status and decoded answer."""
    try:
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"Host": "here", "Content-Type": "application/json", **headers})
        response = connection.getresponse()
        answer = response.read()
    finally:
        connection.close()
    try:
        return response.status, json.loads(answer)
    except ValueError:
        return response.status, answer.decode(errors="replace")


def operate(method: str, path: str, body: Any = None) -> Any:
    """Ask the daemon's control socket; the answer."""
    status, answer = _ask(_UnixConnection(CONTROL), method, path, body, {})
    assert status < 300, (status, answer)
    return answer


def engine(method: str, path: str, body: Any = None) -> Any:
    """Ask the engine as somebody else would, beside the daemon; the answer."""
    status, answer = _ask(_UnixConnection(ENGINE), method, path, body, {})
    assert status < 400, (status, answer)
    return answer


def pool() -> dict[str, dict[str, Any]]:
    """The pool's containers."""
    return {row["container"]: row for row in operate("GET", "/v1/pool")["containers"]}


def state(container: str) -> str:
    """What the pool says of one."""
    return str(pool().get(container, {"state": "gone"})["state"])


def wait_state(container: str, wanted: str, *, patience_s: float = PATIENCE_S) -> None:
    """Wait until the pool says so."""
    wait(f"{container} to be {wanted}", lambda: state(container) == wanted, patience_s=patience_s)


def ours() -> set[str]:
    """The engine's containers of this node, by name."""
    rows = engine("GET", "/containers/json?all=1&filters=%7B%22label%22%3A%5B%22invokerd.node%22%5D%7D")
    return {row["Names"][0].lstrip("/") for row in rows}


def cgroup_of(container: str) -> Path:
    """Directory of a container's cgroup, by its main process."""
    pid = engine("GET", f"/containers/{container}/json")["State"]["Pid"]
    path = Path(f"/proc/{pid}/cgroup").read_text().strip().removeprefix("0::")
    return CGROUPS / path.lstrip("/")


def frozen(group: Path) -> bool:
    """Whether the kernel says that a cgroup stands still."""
    return "frozen 1" in (group / "cgroup.events").read_text()


def read(group: Path, *names: str) -> dict[str, str]:
    """Read files of a cgroup, those that are there."""
    return {name: (group / name).read_text().strip() for name in names if (group / name).exists()}


class Api:
    """The daemon's API, as a user."""

    key = ""

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Send one request: status and decoded answer."""
        headers = {"Authorization": "Basic " + base64.b64encode(self.key.encode()).decode()} if self.key else {}
        return _ask(http.client.HTTPConnection("127.0.0.1", 3233, timeout=PATIENCE_S), method, path, body, headers)

    def check_of(self, name: str) -> dict[str, Any]:
        """One of the checks of the daemon's own health."""
        _, answer = self.ask("GET", "/health")
        (found,) = [each for each in answer["checks"] if each["name"] == name]
        return dict(found)

    def deploy(self, name: str, code: str, **limits: int) -> None:
        """Write an action."""
        body = {"exec": {"kind": "python:3", "code": code}, "limits": {"timeout": 300_000, **limits}}
        status, answer = self.ask("PUT", f"/api/v1/namespaces/_/actions/{name}?overwrite=true", body)
        assert status == 200, answer

    def delete(self, name: str) -> None:
        """Delete an action."""
        status, answer = self.ask("DELETE", f"/api/v1/namespaces/_/actions/{name}")
        assert status == 200, answer

    def invoke(self, name: str, payload: Any = None) -> tuple[int, dict[str, Any], dict[str, Any]]:
        """Call it, and wait for its record however long it takes: status, result, annotations."""
        status, answer = self.ask("POST", f"/api/v1/namespaces/_/actions/{name}?blocking=true&timeout=60000", payload or {})
        if status == 202:
            path = f"/api/v1/namespaces/_/activations/{answer['activationId']}"
            answer = wait(f"the record of {name}", lambda: (found := self.ask("GET", path))[0] == 200 and found[1])
            status = 200 if answer["response"]["success"] else 502
        assert "annotations" in answer, (status, answer)
        notes = {each["key"]: each["value"] for each in answer["annotations"]}
        return status, answer["response"]["result"], notes

    def warm(self, name: str, payload: Any = None) -> str:
        """Have a frozen container of an action; its name."""
        status, result, notes = self.invoke(name, payload)
        assert status == 200, result
        wait_state(notes["container"], "frozen")
        return str(notes["container"])


api = Api()
