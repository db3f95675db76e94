"""`[engine] cgroups` with the cgroups that systemd gives the engine's two services: idle while containers start, then as before.

The daemon is stopped (SIGSTOP) in the moment in which the engine is idle: what systemd does then, and what becomes of it when
the daemon goes on, ends or is killed, can be looked at in peace. Emulated, no start of a container ends within the patience
that the daemon has with an idle engine: it makes it a usual one each time.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

from machine import CGROUPS, api, cgroup_of, check, read, run, section, wait
from unit import CONFIG, show

SERVICES = ("docker.service", "containerd.service")
GROUPS = [f"/system.slice/{service}" for service in SERVICES]
ECHO = "def main(args):\n    return args\n"
#: What is shipped for the engine's services. Its weight is the kernel's default: another one shows who gives it back.
SHIPPED = Path("/opt/vm/invokerd.conf")
FIRST, SECOND = "150", "170"


class ColdStart(threading.Thread):
    """A call to an action that has no container yet. `join` it, then read `answer`: status, result, annotations."""

    answer: tuple[int, dict[str, Any], dict[str, Any]] = (0, {}, {})
    made: ClassVar[list[str]] = []

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._action = f"polite{len(self.made)}"
        api.deploy(self._action, ECHO)
        self.made.append(self._action)
        self.start()

    def run(self) -> None:
        """Call it. Where the daemon is ended meanwhile there is no answer."""
        with suppress(OSError, http.client.HTTPException, AssertionError, TimeoutError):
            self.answer = api.invoke(self._action, {"n": 1})


def seen_now() -> list[tuple[str, str]]:
    """`cpu.idle` and `cpu.weight` of both services; "" for a file that is not there."""
    each = [read(CGROUPS / group.lstrip("/"), "cpu.idle", "cpu.weight") for group in GROUPS]
    return [(files.get("cpu.idle", ""), files.get("cpu.weight", "")) for files in each]


def is_idle() -> bool:
    """Whether both are."""
    return all(idle == "1" for idle, _ in seen_now())


def usual(weight: str) -> list[tuple[str, str]]:
    """What is seen of two services that are not idle."""
    return [("0", weight)] * len(SERVICES)


def start_until(caught: Callable[[], bool]) -> ColdStart:
    """Start containers, one after the other, until one is seen to make the engine idle; the call that did.

    A daemon that has just found the engine starved, as here after each start, lets it be a usual one for five seconds.

    Args:
        caught: asked when it is idle; whether that is enough.
    """
    for _ in range(6):
        call = ColdStart()
        while call.is_alive():
            if is_idle() and caught():
                return call
            time.sleep(0.001)
    raise AssertionError(f"none of six starts made the engine idle: {seen_now()}")


@contextmanager
def stopped_while_idle() -> Iterator[tuple[ColdStart, int]]:
    """A cold start whose daemon stands still (SIGSTOP) with the engine idle; the call, and the daemon's process."""
    pid = int(show("MainPID")["MainPID"])

    def stop() -> bool:
        os.kill(pid, signal.SIGSTOP)
        if is_idle():
            return True
        os.kill(pid, signal.SIGCONT)  # it has taken it back in the very moment
        return False

    call = start_until(stop)
    try:
        yield call, pid
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def give_weight(weight: str) -> None:
    """Install the drop-in for both services, with this weight; have systemd read it, and wait a moment for its effect."""
    for service in SERVICES:
        folder = Path(f"/etc/systemd/system/{service}.d")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "invokerd.conf").write_text(SHIPPED.read_text().replace("CPUWeight=100", f"CPUWeight={weight}"))
    reload_units(weight)


def reload_units(weight: str) -> None:
    """Have systemd read its units. Version 252 sets their cgroups then, 257 when the next unit of their slice starts."""
    run("systemctl", "daemon-reload")
    run("systemd-run", "--quiet", "--wait", "true")
    with suppress(TimeoutError):
        wait("the weights", lambda: seen_now() == usual(weight), patience_s=30)


def doctor() -> str:
    """What `invokerd doctor` says of the matter."""
    findings = json.loads(run("invokerd", "doctor", "--config", str(CONFIG), "--json"))
    (found,) = [each for each in findings["findings"] if each["check"] == "engine-courtesy"]
    return f"{found['verdict']}: {found['text']} -> {found['advice']}"


def try_engine_group() -> None:
    """All of it; afterwards the configuration is what it was."""
    text = CONFIG.read_text()
    before = seen_now()
    give_weight(FIRST)
    check("engine-weight", seen_now() == usual(FIRST), f"cpu.idle, cpu.weight: {before}, with the drop-in {seen_now()}")
    said, line = doctor(), f"cgroups = {json.dumps(GROUPS)}"
    check("doctor-advises", said.startswith("warning") and f"set [engine] {line}" in said, said)
    try:
        CONFIG.write_text(text.replace("[engine]\n", f"[engine]\n{line}\n"))
        run("systemctl", "restart", "invokerd")
        said = doctor()
        check("doctor-agrees", said.startswith("ok") and all(group in said for group in GROUPS), said)
        for name, part in PARTS.items():
            with section(name):
                part()
    finally:
        CONFIG.write_text(text)
        run("systemctl", "restart", "invokerd")
        for action in ColdStart.made:
            api.delete(action)


def _try_one_start() -> None:
    """Idle while a container starts, and usual afterwards, with the weight from before. The container is beside it."""
    call = start_until(lambda: True)
    call.join()
    wait("a usual engine", lambda: seen_now() == usual(FIRST), patience_s=60)
    container = call.answer[2]["container"]
    group = cgroup_of(container)
    beside = not any(str(group).startswith(str(CGROUPS) + each) for each in GROUPS)
    seen = f"idle while it started, then {seen_now()}; the container in {group.parent.name}: {read(group, 'cpu.idle')}"
    check("engine-gives-way", beside and call.answer[0] == 200, seen)


def _try_daemon_reload() -> None:
    """While the engine is idle, systemd reads its units, with another weight, and sets it: that is what it then has."""
    with stopped_while_idle() as (call, _):
        during = seen_now()
        give_weight(SECOND)
        after = seen_now()
    call.join()
    wait("an engine that is not idle", lambda: all(idle == "0" for idle, _ in seen_now()), patience_s=60)
    seen = f"idle: {during}, after a daemon-reload and a start {after}, when the call had ended {seen_now()}"
    check("engine-daemon-reload", seen_now() == usual(SECOND) and call.answer[0] == 200, seen)


def _try_stop() -> None:
    """The daemon is told to stop while the engine is idle."""
    with stopped_while_idle() as (_, pid):
        run("systemctl", "stop", "--no-block", "invokerd")
        os.kill(pid, signal.SIGCONT)
        wait("its end", lambda: not Path(f"/proc/{pid}").exists(), patience_s=400)
        check("engine-after-stop", seen_now() == usual(SECOND), f"after the daemon's end: {seen_now()}")
    wait("the next daemon", lambda: api.ask("GET", "/ping")[0] == 200)


def _try_kill() -> None:
    """A killed daemon leaves the engine idle; the next makes it a usual one, and a daemon-reload gives it its weight."""
    with stopped_while_idle() as (_, pid):
        os.kill(pid, signal.SIGKILL)
        wait("its end", lambda: not Path(f"/proc/{pid}").exists(), patience_s=60)
        left = seen_now()
    wait("the next daemon", lambda: api.ask("GET", "/ping")[0] == 200)
    # It may be giving way again by now, with the removal of what the former one has left.
    with suppress(TimeoutError):
        wait("an engine that is not idle", lambda: all(idle == "0" for idle, _ in seen_now()), patience_s=60)
    next_one = seen_now()
    reload_units(SECOND)
    seen = f"after the daemon's end: {left}, with the next {next_one}, after a daemon-reload and a start {seen_now()}"
    holds = all(idle == "1" for idle, _ in left) and all(idle == "0" for idle, _ in next_one) and seen_now() == usual(SECOND)
    check("engine-after-kill", holds, seen)


PARTS: dict[str, Callable[[], None]] = {
    "engine-gives-way": _try_one_start,
    "engine-daemon-reload": _try_daemon_reload,
    "engine-stop": _try_stop,
    "engine-kill": _try_kill,
}
