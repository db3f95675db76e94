"""The daemon as the benches run it: a process of its own, in its own state directory, with its default configuration."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.client import request
from bench.ports import reserve_port

#: For a daemon to be ready, to drain, and for its pool to come to rest.
DEADLINE_S = 60.0
#: Between two looks at something that has no event to wait for.
LOOK_S = 0.02
#: Of the benches; a real id needs no account.
NAMESPACE = "bench"
UID = 20_001
GID = 20_001


class DaemonFailed(Exception):
    """The daemon did not do what a scenario needs."""


class Daemon:
    """One `invokerd serve`, started again as often as a scenario likes, on the same state and the same ports."""

    def __init__(self, root: Path, engine_url: str, config: Mapping[str, Any] | None = None) -> None:
        """Write the configuration; start nothing.

        Args:
            root: a directory of its own.
            engine_url: the engine, `unix:///path`.
            config: keys that are not at their default, by dotted name, `{"pool.freeze_grace_s": 0.0}`.
        """
        self.port, self.metrics_port = reserve_port(), reserve_port()
        self.state_dir = root / "state"
        #: Of its own, so that no other daemon of this machine takes its containers for its own leftovers; with the process
        #: that made it, so that this one finds all of its own.
        self.node = f"bench-{os.getpid()}-{secrets.token_hex(4)}"
        self.config = dict(config or {})
        self._file = root / "invokerd.toml"
        self._log = root / "invokerd.log"
        keys = {
            "state_dir": str(self.state_dir),
            "node": self.node,
            "http.listen": f"127.0.0.1:{self.port}",
            "metrics.listen": f"127.0.0.1:{self.metrics_port}",
            "engine.url": engine_url,
        }
        self._file.write_text(to_toml(keys | self.config))
        self._process: subprocess.Popen[bytes] | None = None
        #: How long the last start took until it was ready, s.
        self.ready_s = 0.0

    @property
    def pid(self) -> int:
        """Of the running daemon."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and return when it answers that it is ready."""
        with self._log.open("ab") as log:
            command = (sys.executable, "-m", "invoker", "serve", "--config", str(self._file))
            began = time.monotonic()
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self.wait(lambda: self._get("/ready") == 200, "to be ready")
        self.ready_s = time.monotonic() - began

    def stop(self) -> None:
        """Ask it to end and wait until it has."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash does."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            try:
                process.wait(DEADLINE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise DaemonFailed(f"invokerd did not end within {DEADLINE_S:.0f} s of {number.name}") from None

    def wait(self, holds: Any, what: str, within_s: float = DEADLINE_S) -> None:
        """Look until `holds()` is true; raise DaemonFailed when the daemon dies or the deadline passes first."""
        deadline = time.monotonic() + within_s
        while True:
            if self._process is None or self._process.poll() is not None:
                raise DaemonFailed(f"invokerd ended while it was waited for {what}. {self.end_of_log()}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                if holds():
                    return
            if time.monotonic() > deadline:
                raise DaemonFailed(f"invokerd did not come {what} within {within_s:.0f} s. {self.end_of_log()}")
            time.sleep(LOOK_S)

    def end_of_log(self) -> str:
        """Quote the last lines that the daemon wrote."""
        text = self._log.read_text(errors="replace") if self._log.exists() else ""
        return f"The end of invokerd's log:\n{text[-3000:]}"

    def control(self, *words: str) -> str:
        """Run `invokerctl` and return what it printed."""
        command = (sys.executable, "-m", "invoker.commands.ctl", "--config", str(self._file), *words)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise DaemonFailed(f"invokerd refused `invokerctl {' '.join(words)}`: {done.stderr.strip()}")
        return done.stdout

    def create_namespace(self, name: str = NAMESPACE, uid: int = UID) -> str:
        """Create a namespace, by default the benches' own, and return its key, `uuid:key`."""
        return self.control("namespace", "create", name, "--uid", str(uid), "--gid", str(GID)).strip()

    def deploy(self, key: str, action: str, code: str, *, kind: str = "python:3", memory_mib: int | None = None) -> None:
        """Create an action or write it anew."""
        body: dict[str, Any] = {"exec": {"kind": kind, "code": code}}
        if memory_mib is not None:
            body["limits"] = {"memory": memory_mib}
        self._call("PUT", f"/api/v1/namespaces/_/actions/{action}?overwrite=true", body, key)

    def delete(self, key: str, action: str) -> None:
        """Delete an action."""
        self._call("DELETE", f"/api/v1/namespaces/_/actions/{action}", None, key)

    def invocation(self, key: str, action: str, payload: Mapping[str, Any] | None = None, query: str = "blocking=true") -> bytes:
        """Encode an invocation, for `client.drive`."""
        return request("POST", f"/api/v1/namespaces/_/actions/{action}?{query}", dict(payload or {}), key=key)

    def api(self, key: str, method: str, path: str, body: Any = None) -> Any:
        """Ask the API for `path`, below the caller's namespace or, with a slash in front, below all of them; return its JSON."""
        below = "" if path.startswith("/") else "/_/"
        return self._call(method, f"/api/v1/namespaces{below}{path}", body, key)

    def activation(self, key: str, activation_id: str) -> dict[str, Any] | None:
        """Read a record, None where there is none."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        with contextlib.closing(connection):
            connection.request("GET", f"/api/v1/namespaces/_/activations/{activation_id}", headers=_authorization(key))
            response = connection.getresponse()
            text = response.read()
        record: dict[str, Any] | None = json.loads(text) if response.status == 200 else None
        return record

    def metric(self, name: str, **labels: str) -> float:
        """Read one metric: the sum of the samples of this name that bear these labels."""
        connection = http.client.HTTPConnection("127.0.0.1", self.metrics_port, timeout=DEADLINE_S)
        with contextlib.closing(connection):
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        return sum_samples(text, name, labels)

    def starts(self) -> dict[str, int]:
        """How many activations found which start kind, so far."""
        return {kind: round(self.metric("invokerd_activations_total", start=kind)) for kind in ("cold", "stem", "warm", "frozen")}

    def _get(self, path: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        with contextlib.closing(connection):
            connection.request("GET", path)
            return connection.getresponse().status

    def ask(self, target: str, key: str) -> Any:
        """Read a document of the API."""
        return self._call("GET", target, None, key)

    def _call(self, method: str, target: str, body: Any, key: str) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        with contextlib.closing(connection):
            data = None if body is None else json.dumps(body)
            connection.request(method, target, data, {"Content-Type": "application/json", **_authorization(key)})
            response = connection.getresponse()
            text = response.read()
        if response.status not in {200, 202}:
            raise DaemonFailed(f"invokerd answered {response.status} to {method} {target}: {text[:500]!r}")
        return json.loads(text)


def to_toml(keys: Mapping[str, Any]) -> str:
    """Render dotted keys as TOML, sorted: those without a dot come first, as TOML wants."""
    sections: dict[str, list[str]] = {}
    for dotted, value in keys.items():
        section, _, name = dotted.rpartition(".")
        # JSON of a string, a number or a truth value is TOML, too.
        sections.setdefault(section, []).append(f"{name} = {json.dumps(value)}")
    return "".join(f"[{section}]\n" * bool(section) + "\n".join(lines) + "\n" for section, lines in sorted(sections.items()))


def sum_samples(text: str, name: str, labels: Mapping[str, str]) -> float:
    """Sum the samples of one name that bear all of these labels, in Prometheus' text format."""
    total = 0.0
    for line in text.splitlines():
        if line.startswith(name) and line[len(name)] in "{ ":
            found = dict(re.findall(r'(\w+)="([^"]*)"', line))
            if labels.items() <= found.items():
                total += float(line.rpartition(" ")[2])
    return total


def network_namespaces() -> int:
    """Count the network namespaces that some process of this machine is in."""
    seen = set()
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                seen.add((process / "ns/net").readlink())
    return len(seen)


def open_descriptors(pid: int) -> int:
    """Count the open descriptors of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _authorization(key: str) -> dict[str, str]:
    import base64

    return {"Authorization": "Basic " + base64.b64encode(key.encode()).decode()}
