"""What scripts/vm-test tries inside its machine; with --report, what it makes of the console's text outside.

Inside it prints one line a check, `CHECK name ok|FAILED what was seen`, and the line `PROBE ENDED` when nothing was left out.
Only the standard library: the machine has no other Python packages beside the daemon's own.
"""

from __future__ import annotations

import base64
import http.client
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: Everything takes twenty times as long here.
PATIENCE_S = 900.0
SPIN = """
import resource
def main(args):
    used = lambda: sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    before = used()
    while used() - before < args["s"]:
        pass
    return {"used": used() - before}
"""
WHO = """
import os
def main(args):
    capabilities = open("/proc/self/status").read().split("CapEff:")[1].split()[0]
    return {"uid": os.getuid(), "gid": os.getgid(), "caps": capabilities}
"""
EAT = "def main(args):\n    keep = []\n    while True:\n        keep.append(bytearray(1 << 22))\n"
SLEEP = "import time\ndef main(args):\n    time.sleep(3600)\n"
ECHO = "def main(args):\n    return args\n"


def run(*words: str) -> str:
    """Run a command; its output, errors included."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip()


def check(name: str, holds: bool, seen: object) -> None:
    """Print one line."""
    print(f"CHECK {name} {'ok' if holds else 'FAILED'} {str(seen)[:300]}", flush=True)


@contextmanager
def section(name: str) -> Iterator[None]:
    """A part that may break without breaking the others."""
    began = time.monotonic()
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the result
        check(name, holds=False, seen=f"{type(error).__name__}: {error}")
    print(f"TIME {name} {time.monotonic() - began:.0f} s", flush=True)


def wait(what: str, holds: Callable[[], Any], *, patience_s: float = PATIENCE_S) -> Any:
    """Look until it holds; what it gave."""
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        try:
            if found := holds():
                return found
        except OSError:
            pass
        time.sleep(1)
    raise TimeoutError(what)


class Api:
    """The daemon's API, as a user."""

    key = ""

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Send one request: status and decoded answer."""
        connection = http.client.HTTPConnection("127.0.0.1", 3233, timeout=PATIENCE_S)
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = "Basic " + base64.b64encode(self.key.encode()).decode()
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        text = response.read()
        connection.close()
        try:
            return response.status, json.loads(text)
        except ValueError:
            return response.status, text.decode(errors="replace")

    def deploy(self, name: str, code: str, **limits: int) -> None:
        """Write an action."""
        body = {"exec": {"kind": "python:3", "code": code}, "limits": {"timeout": 300_000, **limits}}
        status, answer = self.ask("PUT", f"/api/v1/namespaces/_/actions/{name}?overwrite=true", body)
        assert status == 200, answer

    def invoke(self, name: str, payload: Any = None) -> tuple[int, dict[str, Any], dict[str, Any]]:
        """Call it, and wait for its record however long it takes: status, result, annotations."""
        status, answer = self.ask("POST", f"/api/v1/namespaces/_/actions/{name}?blocking=true&timeout=60000", payload or {})
        if status == 202:
            path = f"/api/v1/namespaces/_/activations/{answer['activationId']}"
            answer = wait(f"the record of {name}", lambda: (found := self.ask("GET", path))[0] == 200 and found[1])
            status = 200 if answer["response"]["success"] else 502
        notes = {each["key"]: each["value"] for each in answer.get("annotations", [])}
        return status, answer.get("response", {}).get("result", answer), notes


api = Api()


def pool() -> dict[str, dict[str, Any]]:
    """The pool's containers."""
    rows = json.loads(run("invokerctl", "pool", "--json"))["containers"]
    return {row["container"]: row for row in rows}


def cgroup_of(container: str) -> Path:
    """Directory of a container's cgroup, by its main process."""
    pid = run("docker", "inspect", "--format", "{{.State.Pid}}", container)
    path = Path(f"/proc/{pid}/cgroup").read_text().strip().removeprefix("0::")
    return Path(f"/sys/fs/cgroup{path}")


def frozen(container: str) -> bool:
    """Whether the kernel says that it stands still."""
    return "frozen 1" in (cgroup_of(container) / "cgroup.events").read_text()


def tested() -> Any:
    """What the self-test found of the freezer; None before it has ended."""
    _, answer = api.ask("GET", "/health")
    (freezing,) = [each for each in answer["checks"] if each["name"] == "freezing"]
    return None if freezing["detail"] == "not tested yet" else freezing


def wait_frozen(container: str) -> None:
    """Wait until the pool says so."""
    wait(f"{container} to be frozen", lambda: pool()[container]["state"] == "frozen")


def try_service() -> None:
    """The engine and the unit."""
    with section("engine"):
        wait("docker", lambda: "Server Version" in run("docker", "info"))
        told = "{{.CgroupVersion}} {{.CgroupDriver}} {{.ServerVersion}} {{.LiveRestoreEnabled}}"
        info = run("docker", "info", "--format", told)
        check("engine", info.startswith("2 systemd"), f"cgroup, driver, version, restore: {info}; Linux {run('uname', '-r')}")
        said = run("docker", "load", "-i", "/opt/vm/python3.tar")
        check("image", "Loaded image" in said, said)
    with section("service"):
        began = time.monotonic()
        said = run("systemctl", "start", "invokerd.socket", "invokerd.service")
        state = run("systemctl", "is-active", "invokerd")
        check("service", state == "active", f"{state} {said}; told to be ready after {time.monotonic() - began:.0f} s")
        if state != "active":
            print(run("journalctl", "-u", "invokerd", "--no-pager", "-n", "40"), flush=True)
        try:
            freezing = wait("the self-test", tested, patience_s=120)
            check("self-test", freezing["ok"], freezing)
        except TimeoutError:
            # A machine so slow keeps none of the times that health demands.
            print(f"health: {api.ask('GET', '/health')}", flush=True)


def try_calls() -> None:
    """Cold, frozen, and after `systemctl daemon-reload`."""
    api.deploy("echo", ECHO)
    status, result, notes = api.invoke("echo", {"n": 1})
    seen = (status, result, notes["startKind"])
    check("cold-call", seen == (200, {"n": 1}, "cold"), (*seen, notes["phases"]))
    container = notes["container"]
    wait_frozen(container)
    group = cgroup_of(container)
    check("frozen-by-v2", frozen(container) and group.name.endswith(".scope"), group)
    said = run("docker", "inspect", "--format", "{{.State.Status}}", container)
    check("engine-unaware", said == "running", f"docker says {said}")
    status, result, notes = api.invoke("echo", {"n": 2})
    seen = (status, notes["startKind"], notes["container"])
    check("frozen-call", seen == (200, "frozen", container), (*seen, notes["phases"]))
    wait_frozen(container)
    limits = {name: (group / name).read_text().strip() for name in ("memory.max", "memory.swap.max", "pids.max", "cpu.max")}
    check("limits", limits["memory.max"] == str(256 << 20), limits)
    run("systemctl", "daemon-reload")
    still = frozen(container)
    after = {name: (group / name).read_text().strip() for name in limits}
    check("daemon-reload", after == limits, f"frozen after it: {still}; limits after it: {after}")
    status, result, notes = api.invoke("echo", {"n": 3})
    seen = (status, result, notes["container"])
    check("call-after-daemon-reload", seen == (200, {"n": 3}, container), (*seen, notes["startKind"]))
    wait_frozen(container)
    check("frozen-after-daemon-reload", frozen(container), container)


def try_identity_and_metering() -> None:
    """Who functions are, and what is counted."""
    api.deploy("who", WHO)
    status, result, _ = api.invoke("who")
    check("identity", (status, result) == (200, {"uid": 20001, "gid": 20001, "caps": "0" * 16}), result)
    api.deploy("spin", SPIN)
    status, result, notes = api.invoke("spin", {"s": 2.0})
    cpu_s = notes["cpuTime"]["us"] / 1e6
    seen = f"the function saw {result['used']:.2f} s, the cgroup {cpu_s:.2f} s"
    check("cpu", status == 200 and result["used"] <= cpu_s <= 1.5 * result["used"] + 1, seen)
    check("memory", notes["memoryPeak"]["bytes"] > 4 << 20, (notes["memoryPeak"], notes["memory"]))


def try_kills() -> None:
    """By the kernel for memory, by the time limit, and of a frozen container."""
    api.deploy("eat", EAT, memory=128)
    status, result, notes = api.invoke("eat")
    check("oom", (status, notes["outcome"]) == (502, "oom"), (status, notes["outcome"], result))
    api.deploy("sleep", SLEEP, timeout=2000)
    status, result, notes = api.invoke("sleep")
    # Slow as it is, the interpreter may not even be up within the limit.
    check("time-limit", status == 502 and notes["outcome"] in {"timeout", "init-timeout"}, (status, notes["outcome"], result))
    gone = notes["container"]
    wait("removal", lambda: gone not in pool())
    began = time.monotonic()
    api.ask("DELETE", "/api/v1/namespaces/_/actions/who")
    wait("removal", lambda: not any(row["action"] == "anna/who" for row in pool().values()))
    left = len(run("docker", "ps", "--all", "--quiet", "--filter", "label=invokerd.node").split())
    seen = f"gone after {time.monotonic() - began:.0f} s; the engine has {left} containers, the pool {len(pool())}"
    check("kill-frozen", left == len(pool()), seen)


def try_restarts() -> None:
    """The service restarted, and killed: its containers go on serving."""
    for how, command in (("restart", ("restart",)), ("kill", ("kill", "--signal=KILL"))):
        with section(f"service-{how}"):
            before = {name for name, row in pool().items() if row["state"] == "frozen" and row["action"] == "anna/echo"}
            run("systemctl", *command, "invokerd")
            wait("an answer", lambda: api.ask("GET", "/ping")[0] == 200)
            status, _, notes = api.invoke("echo", {"n": 4})
            adopted = status == 200 and notes["container"] in before
            check(f"adopted-after-{how}", adopted, (status, notes["startKind"], notes["container"], sorted(before)))


def try_all() -> None:
    """Everything, in order."""
    try_service()
    api.key = run("invokerctl", "namespace", "create", "anna", "--uid", "20001", "--gid", "20001")
    with section("calls"):
        try_calls()
    with section("identity-and-metering"):
        try_identity_and_metering()
    with section("kills"):
        try_kills()
    try_restarts()
    with section("usage"):
        used = run("invokerctl", "usage", "--json")
        check("usage", '"activations"' in used and "anna" in used, used)
        print(run("journalctl", "-u", "invokerd", "--no-pager", "-p", "warning", "-n", "30"), flush=True)


def report(console: str, started: str, commit: str) -> int:
    """Print the page about a run; 0 when all of it passed."""
    text = Path(console).read_text(errors="replace").replace("\r", "")
    checks = re.findall(r"CHECK (\S+) (ok|FAILED) (.*)$", text, re.MULTILINE)
    ended = "PROBE ENDED" in text
    failed = [name for name, result, _ in checks if result != "ok"]
    times = re.findall(r"TIME (\S+) (\d+ s)$", text, re.MULTILINE)
    verdict = "Every check passed." if ended and not failed else f"Failed: {', '.join(failed) or 'it did not come to its end'}."
    print("# Last run on cgroup v2 with systemd\n")
    print(f"`scripts/vm-test`, {started}, commit {commit}: an emulated Debian 12 (qemu, no KVM).\n")
    print(f"{verdict} Times say nothing here: an emulated machine is some twenty times slower.\n")
    print("| check | result | what was seen |\n|---|---|---|")
    for name, result, seen in checks:
        print(f"| {name} | {result} | {seen.replace('|', '/')} |")
    print("\nSections: " + ", ".join(f"{name} {seconds}" for name, seconds in times) + ".")
    return int(not ended or bool(failed))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--report"]:
        sys.exit(report(*sys.argv[2:]))
    try_all()
    print("PROBE ENDED", flush=True)
