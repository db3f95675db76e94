"""Hands from outside and functions that misbehave: killed, frozen, paused, removed, unwritable; floods, children, late work.

Whatever it is, no call hangs beyond its deadline, no container leaks, and no other namespace notices.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from watched_site import ECHO, WatchedSite

from bench import client
from bench.container import open_freezer, thaw
from bench.daemon import Daemon
from pool.cgroup import find_directories

pytestmark = pytest.mark.docker

SLEEP = "import time\ndef main(args):\n    time.sleep(args['s'])\n    return {'slept': args['s']}\n"
#: A call that waits for somebody to be thawed is answered long before its own time limit of 60 s.
MENDED_S = 30.0


class Site(WatchedSite):
    def held(self, action: str) -> str:
        """Name the container of an action that idles or runs."""
        (found,) = [each["container"] for each in self.containers() if each["action"] == f"anna/{action}"]
        return str(found)

    def state(self, container: str) -> str:
        return self.pooled().get(container, "gone")

    def pid(self, container: str) -> int:
        return int(self.engine.inspect(container)["State"]["Pid"])

    def warm(self, action: str, code: str = ECHO, **limits: int) -> str:
        """Have a container of an action, frozen, and name it."""
        self.user.deploy(action, code, **limits)
        answer = self.user.invoke(action, {"s": 0})
        assert answer.status == 200, answer.text
        container = str(answer.annotations["container"])
        self.daemon.wait(lambda: self.state(container) == "frozen", "to freeze it")
        return container

    def freeze_by_hand(self, container: str) -> None:
        freezer, version = open_freezer(self.pid(container))
        os.pwrite(freezer, b"FROZEN" if version == "v1" else b"1", 0)
        os.close(freezer)

    def thaw_by_hand(self, container: str) -> None:
        thaw(*open_freezer(self.pid(container)))

    def settled(self) -> None:
        self.daemon.wait(lambda: "removing" not in self.pooled().values(), "to have removed what it must")
        self.daemon.wait(lambda: not self.orphans(), "to have no container that the pool does not own")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, engine_url: str, make_user: Any) -> Iterator[Site]:
    daemon = Daemon(tmp_path_factory.mktemp("hands"), engine_url, {"pool.memory_mib": 4096, "pool.stem_cells.enabled": False})
    with Site.on(daemon, engine_url, make_user) as site:
        site.warm_bystander()
        yield site


# ---- hands from outside


@pytest.mark.parametrize("how", ["kill", "remove"])
def test_an_idle_container_that_somebody_ends_is_replaced_and_the_next_call_does_not_notice(site: Site, how: str):
    with site.undisturbed():
        container = site.warm("echo")
        if how == "kill":
            site.thaw_by_hand(container)  # under cgroup v1 no signal reaches a frozen process
            site.engine.request("POST", f"/containers/{container}/kill")
        else:
            site.thaw_by_hand(container)
            site.engine.request("DELETE", f"/containers/{container}?force=1")
        site.daemon.wait(lambda: site.state(container) == "gone", "to see that it is gone")
        answer = site.user.invoke("echo", {"n": 1})
        assert (answer.status, answer.json["response"]["result"]) == (200, {"n": 1})
        assert answer.annotations["container"] != container
    site.settled()


@pytest.mark.parametrize("how", ["kill", "remove"])
def test_a_container_that_somebody_ends_under_a_call_ends_that_call_and_no_other(site: Site, how: str):
    container = site.warm("sleep", SLEEP)
    with site.undisturbed(), ThreadPoolExecutor(1) as caller:
        call = caller.submit(site.user.invoke, "sleep", {"s": 50})
        site.daemon.wait(lambda: site.state(container) == "busy", "to run it")
        method, path = (
            ("POST", f"/containers/{container}/kill") if how == "kill" else ("DELETE", f"/containers/{container}?force=1")
        )
        site.engine.request(method, path)
        answer = call.result(MENDED_S)
        assert (answer.status, answer.headers["x-invokerd-reason"]) == (502, "crashed"), answer.text
        assert answer.annotations["container"] == container
        site.daemon.wait(lambda: site.state(container) == "gone", "to have removed it")
        assert site.user.invoke("sleep", {"s": 0}).status == 200
    site.settled()


@pytest.mark.parametrize("how", ["by its freezer", "by docker pause"])
def test_a_container_that_somebody_freezes_under_a_call_is_thawed_and_the_call_ends_well(site: Site, how: str):
    container = site.warm("sleep", SLEEP)
    repaired = site.daemon.metric("invokerd_containers_repaired_total")
    with site.undisturbed(), ThreadPoolExecutor(1) as caller:
        call = caller.submit(site.user.invoke, "sleep", {"s": 6})
        site.daemon.wait(lambda: site.state(container) == "busy", "to run it")
        if how == "by docker pause":
            site.engine.request("POST", f"/containers/{container}/pause")
        else:
            site.freeze_by_hand(container)
        answer = call.result(MENDED_S)
        assert (answer.status, answer.json["response"]["result"]) == (200, {"slept": 6}), answer.text
    assert site.daemon.metric("invokerd_containers_repaired_total") > repaired
    site.user.ask("DELETE", "actions/sleep")  # the engine believes that it is paused; it must go all the same
    site.daemon.wait(lambda: site.state(container) == "gone", "to remove it")
    site.settled()


@pytest.mark.parametrize("how", ["frozen by docker pause", "thawed by hand", "thawed by docker unpause"])
def test_an_idle_container_that_somebody_freezes_or_thaws_serves_the_next_call(site: Site, how: str):
    container = site.warm("echo")
    with site.undisturbed():
        if how == "thawed by hand":
            site.thaw_by_hand(container)
        else:
            site.thaw_by_hand(container)  # for the engine would wait for a frozen one
            site.engine.request("POST", f"/containers/{container}/pause")
            if how == "thawed by docker unpause":
                site.engine.request("POST", f"/containers/{container}/unpause")
        for number in range(3):
            answer = site.user.invoke("echo", {"n": number})
            assert (answer.status, answer.json["response"]["result"]) == (200, {"n": number}), answer.text
            assert answer.annotations["container"] == container
    site.user.ask("DELETE", "actions/echo")
    site.daemon.wait(lambda: site.state(container) == "gone", "to remove it")
    site.settled()


def test_where_no_freezer_can_be_written_calls_are_warm_and_the_node_says_so(tmp_path: Path, engine_url: str, make_user: Any):
    """The daemon in a mount namespace of its own, in which the freezer's files are read-only."""
    daemon = ReadOnlyFreezer(tmp_path, engine_url, {"pool.memory_mib": 1024, "pool.stem_cells.enabled": False})
    daemon.start()
    try:
        user = make_user(daemon, "anna")
        bystander = make_user(daemon, "bert", uid=20_002, gid=20_002)
        for each in (user, bystander):
            each.deploy("echo", ECHO)
            kinds = [each.invoke("echo").annotations["startKind"] for _ in range(3)]
            assert kinds == ["cold", "warm", "warm"]
        daemon.wait(lambda: daemon.metric("invokerd_freezing_works") == 0, "to have tested it")
        checks = {each["name"]: each for each in user.ask("GET", "/health", key=None).json["checks"]}
        assert not checks["freezing"]["ok"]
        assert "idle ones stay warm" in checks["freezing"]["detail"]
        assert user.ask("GET", "/ready", key=None).status == 200
        assert "self-test: containers cannot be frozen" in daemon.end_of_log()
        user.ask("DELETE", "actions/echo")
        daemon.wait(lambda: "anna/echo" not in daemon.control("pool"), "to remove it")
    finally:
        daemon.stop()


class ReadOnlyFreezer(Daemon):
    def start(self) -> None:
        freezer = find_directories(os.getpid())
        hierarchy = "/sys/fs/cgroup/freezer" if freezer.version == 1 else "/sys/fs/cgroup"
        script = f'mount --make-rprivate / && mount -o remount,bind,ro {hierarchy} && exec "$@"'
        command = ("unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-m", "invoker", "serve", "--config")
        with self._log.open("ab") as log:
            self._process = subprocess.Popen((*command, str(self._file)), stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self.wait(lambda: self._get("/ready") == 200, "to be ready")


# ---- functions that misbehave

FLOOD = """
import os
def main(args):
    for _ in range(3000):
        os.write(1, b"x" * 65536)
        os.write(2, b"y" * 65536)
    return {"done": True}
"""
STUBBORN = """
import signal, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
def main(args):
    time.sleep(args["s"])
    return {}
"""
FAMILY = """
import subprocess
STAY = ["/bin/sh", "-c", "trap '' TERM INT HUP; while :; do sleep 1; done"]
def main(args):
    if args.get("leave"):
        return {"pids": [subprocess.Popen(STAY, start_new_session=True).pid for _ in range(5)]}
    return {}
"""
LATE = """
import threading, time
def spin(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
def main(args):
    if args.get("late"):
        threading.Thread(target=spin, args=(args["late"],), daemon=True).start()
    return {}
"""


def test_a_function_that_floods_its_output_is_bounded_and_disturbs_nobody(site: Site):
    with site.undisturbed():
        site.user.deploy("flood", FLOOD, logs=1)
        answer = site.user.invoke("flood")
        assert (answer.status, answer.json["response"]["result"]) == (200, {"done": True}), answer.text[:500]
    logs = site.user.ask("GET", f"activations/{answer.json['activationId']}/logs").json["logs"]
    assert sum(map(len, logs)) < 2 << 20
    site.settled()
    assert any("truncated" in line.lower() or "dropped" in line.lower() or "lost" in line.lower() for line in logs[-3:]), logs[
        -3:
    ]


def test_five_hundred_first_calls_at_once_share_some_containers_and_all_of_them_are_answered(site: Site):
    """How many containers exactly is the launch rule's, tested with a clock of its own: here, that it is not one for each."""
    site.user.deploy("herd", "import time\ndef main(args):\n    time.sleep(0.01)\n    return {'ok': True}\n", memory=64)
    call = site.daemon.invocation(site.user.key, "herd")
    with site.undisturbed(), contextlib.ExitStack() as stack:
        connections = [stack.enter_context(each) for each in client.connect(site.daemon.port, 500)]
        run = asyncio.run(client.drive(connections, client.repeated(call, 500)))
    assert run.unanswered == 0
    assert Counter(answer.status for answer in run.answers) == {200: 500}
    annotations = [entry for answer in run.answers for entry in json.loads(answer.body)["annotations"]]
    assert len({entry["value"] for entry in annotations if entry["key"] == "container"}) <= 32
    site.user.ask("DELETE", "actions/herd")
    site.settled()


def test_a_function_that_ignores_every_polite_signal_is_ended_at_its_time_limit(site: Site):
    with site.undisturbed():
        site.user.deploy("stubborn", STUBBORN, timeout=1000)
        answer = site.user.invoke("stubborn", {"s": 3600})
        assert (answer.status, answer.headers["x-invokerd-reason"]) == (502, "timeout"), answer.text
        container = answer.annotations["container"]
        site.daemon.wait(lambda: site.state(container) == "gone", "to have ended it")
    site.settled()


def test_children_that_a_function_leaves_behind_stand_still_with_it_and_die_with_it(site: Site):
    with site.undisturbed():
        site.user.deploy("family", FAMILY)
        answer = site.user.invoke("family", {"leave": True})
        container = str(answer.annotations["container"])
        site.daemon.wait(lambda: site.state(container) == "frozen", "to freeze it, children and all")
        procs = processes_of(site.pid(container))
        assert len(procs) >= 6
        assert site.user.invoke("family").annotations["container"] == container
        site.user.ask("DELETE", "actions/family")
        site.daemon.wait(lambda: site.state(container) == "gone", "to remove it")
        assert not [pid for pid in procs if Path(f"/proc/{pid}").exists() and not is_zombie(pid)]
    site.settled()


def test_work_after_the_reply_is_booked_to_the_call_that_began_it_and_ends_at_the_freeze(site: Site):
    site.user.deploy("late", LATE)
    assert site.user.invoke("late").status == 200
    with site.undisturbed():
        before = site.daemon.metric("invokerd_tail_cpu_seconds_total")
        answer = site.user.invoke("late", {"late": 3600})
        container = str(answer.annotations["container"])
        assert answer.annotations["cpuTime"]["us"] < 1_000_000
        site.daemon.wait(lambda: site.state(container) == "frozen", "to freeze it")
        site.daemon.wait(lambda: site.daemon.metric("invokerd_tail_cpu_seconds_total") > before, "to book what was used")
        told = cpu_ticks(site.pid(container))
        time.sleep(0.5)  # the time itself is what is tested: it stands still
        assert cpu_ticks(site.pid(container)) == told
    site.daemon.wait(lambda: site.tail_us(answer.json["activationId"]) > 0, "to write it into the ledger")
    site.user.ask("DELETE", "actions/late")
    site.settled()


def processes_of(pid: int) -> list[int]:
    """Every process of a container, by its cgroup."""
    directories = find_directories(pid)
    path = directories.path["freezer" if directories.version == 1 else ""]
    return [int(line) for line in (path / "cgroup.procs").read_text().split()]


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def is_zombie(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True
