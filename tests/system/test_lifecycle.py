"""Stopping and starting: what the next daemon takes over, what it must not, and how calls in flight end."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import engine_api
import pytest

from bench.daemon import Daemon, DaemonFailed

pytestmark = pytest.mark.docker

ECHO = "def main(args):\n    return args\n"
SLEEP = "import time\ndef main(args):\n    time.sleep(args['s'])\n    return {'slept': args['s']}\n"


@dataclass
class Site:
    """A daemon, a user of it, and the engine's own view."""

    daemon: Daemon
    user: Any
    engine: engine_api.Engine

    def pool(self, **wanted: Any) -> dict[str, dict[str, Any]]:
        """List the containers of users in the pool, by id."""
        listed = json.loads(self.daemon.control("pool", "--json"))["containers"]
        return {each["container"]: each for each in listed if each["namespace"] != "invokerd" and wanted.items() <= each.items()}

    def status(self) -> dict[str, Any]:
        return json.loads(self.daemon.control("status", "--json"))

    def in_engine(self) -> dict[str, int]:
        """List what the engine runs for this daemon: name of the container and its first process."""
        query = [("all", "1"), ("filters", json.dumps({"label": [f"invokerd.node={self.daemon.node}"]}))]
        found = {}
        for each in self.engine.request("GET", "/containers/json", query=query):
            with contextlib.suppress(engine_api.EngineFailed):  # removed meanwhile
                state = self.engine.request("GET", f"/containers/{each['Id']}/json")["State"]
                found[each["Names"][0].removeprefix("/")] = state["Pid"]
        return found

    def frozen_by_kernel(self) -> set[str]:
        """Name the containers whose cgroup is frozen, whatever the daemon thinks."""
        return {name for name, pid in self.in_engine().items() if pid and is_frozen(pid)}

    def warm_up(self, count: int) -> set[str]:
        """Make so many idle containers, of one action each, and wait until all are frozen."""
        with ThreadPoolExecutor(4) as clients:
            for number in range(count):
                clients.submit(self.user.deploy, f"a{number}", ECHO, memory=64)
        with ThreadPoolExecutor(4) as clients:
            answers = list(clients.map(lambda number: self.user.invoke(f"a{number}"), range(count)))
        assert [answer.status for answer in answers] == [200] * count
        held = {answer.annotations["container"] for answer in answers}
        assert len(held) == count
        self.daemon.wait(lambda: held <= set(self.pool(state="frozen")), "to freeze them all")
        return held


def is_frozen(pid: int) -> bool:
    """Ask the kernel whether the cgroup of a process is frozen, version 1 or 2."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "freezer":
            return Path(f"/sys/fs/cgroup/freezer{path}/freezer.state").read_text().strip() == "FROZEN"
        if not controllers and (events := Path(f"/sys/fs/cgroup{path}/cgroup.events")).exists():
            return "frozen 1" in events.read_text()
    raise AssertionError(f"process {pid} has no freezer")


@pytest.fixture
def start(tmp_path: Path, engine_url: str, make_user: Any) -> Iterator[Callable[..., Site]]:
    """Start a daemon with these keys of its configuration."""
    with contextlib.ExitStack() as stack:

        def start(**config: Any) -> Site:
            keys = {name.replace("__", "."): value for name, value in config.items()}
            daemon = Daemon(tmp_path, engine_url, {"pool.memory_mib": 4096, **keys})
            daemon.start()
            stack.callback(daemon.stop)
            return Site(daemon, make_user(daemon, "anna"), engine_api.Engine(engine_url))

        yield start


@pytest.fixture
def background() -> Iterator[Callable[..., Future[Any]]]:
    """Make calls that the test does not wait for yet."""
    with ThreadPoolExecutor(16) as clients:
        yield clients.submit


# ---- restart


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_idle_containers_are_adopted_and_stay_frozen_all_the_while(start, end):
    site = start(pool__stem_cells__enabled=False)
    held = site.warm_up(20)
    ended = time.monotonic()
    getattr(site.daemon, end)()
    assert held <= site.frozen_by_kernel()
    site.daemon.start()
    adopted = held & set(site.pool())
    assert len(adopted) >= 0.95 * len(held)
    assert adopted <= site.frozen_by_kernel()
    assert adopted <= set(site.pool(state="frozen"))
    passed_s = time.monotonic() - ended
    assert all(each["age_s"] > passed_s for name, each in site.pool().items() if name in adopted), "older than the daemon"
    kinds = []
    for number in range(20):
        answer = site.user.invoke(f"a{number}", {"n": number})
        assert answer.json["response"]["result"] == {"n": number}
        kinds.append(answer.annotations["startKind"])
        if answer.annotations["container"] in adopted:
            assert kinds[-1] in {"frozen", "warm"}
            assert "initTime" not in answer.annotations
    assert sum(kind in {"frozen", "warm"} for kind in kinds) >= 19


def test_a_stem_cell_is_adopted_too(start):
    site = start()
    site.user.deploy("echo", ECHO)
    site.daemon.wait(lambda: site.pool(state="stem_frozen"), "to have a stem cell")
    stems = set(site.pool(state="stem_frozen"))
    site.daemon.stop()
    site.daemon.start()
    answer = site.user.invoke("echo")
    assert answer.annotations["startKind"] == "stem"
    assert answer.annotations["container"] in stems


def test_a_warm_container_of_a_killed_daemon_is_adopted(start):
    site = start(pool__freeze_grace_s=60.0)
    site.user.deploy("echo", ECHO)
    first = site.user.invoke("echo").annotations["container"]
    assert site.pool()[first]["state"] == "warm"
    site.daemon.kill()
    site.daemon.start()
    again = site.user.invoke("echo").annotations
    assert (again["container"], again["startKind"] in {"warm", "frozen"}) == (first, True)


def test_a_container_that_was_busy_when_the_daemon_was_killed_is_never_adopted(start, background):
    site = start()
    site.user.deploy("sleep", SLEEP)
    call = background(site.user.invoke, "sleep", {"s": 600})
    site.daemon.wait(lambda: site.pool(state="busy"), "to run the call")
    [busy] = site.pool(state="busy")
    site.daemon.kill()
    with pytest.raises((OSError, ConnectionError)):
        call.result()
    site.daemon.start()
    assert busy not in site.pool()
    assert busy not in site.in_engine()
    again = site.user.invoke("sleep", {"s": 0})
    assert again.status == 200
    assert again.annotations["container"] != busy


def test_nothing_of_another_boot_is_adopted(start):
    site = start(pool__stem_cells__enabled=False)
    held = site.warm_up(3)
    site.daemon.stop()
    with (site.daemon.state_dir / "containers.table").open("r+b") as table:
        header = table.read(16 + 36)
        boot = Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
        assert header[16:] == boot
        table.seek(16)
        table.write(b"00000000-0000-4000-8000-000000000000")
    site.daemon.start()
    assert not held & set(site.pool())
    assert not held & set(site.in_engine())
    answer = site.user.invoke("a0")
    assert (answer.status, answer.annotations["startKind"]) == (200, "cold")


def test_a_container_of_an_action_rewritten_or_deleted_while_nobody_ran_is_not_adopted_for_it(start):
    """The table is what a crash left: the action was rewritten in the last moment, its container is still there."""
    site = start(pool__stem_cells__enabled=False)
    held = site.warm_up(2)
    site.user.deploy("a0", "def main(args):\n    return {'new': True}\n", memory=64)
    site.user.ask("DELETE", "actions/a1")
    site.daemon.kill()
    site.daemon.start()
    assert not held & set(site.pool())
    assert site.user.invoke("a0").json["response"]["result"] == {"new": True}
    assert site.user.invoke("a1").status == 404
    site.daemon.wait(lambda: not held & set(site.in_engine()), "to remove them")


def test_five_restarts_leave_nothing_that_the_pool_does_not_show(start):
    site = start()
    site.warm_up(4)

    def everything() -> set[str]:
        return {each["container"] for each in json.loads(site.daemon.control("pool", "--json"))["containers"]}

    def is_at_rest() -> bool:
        states = {each["state"] for each in json.loads(site.daemon.control("pool", "--json"))["containers"]}
        return states <= {"frozen", "stem_frozen"} and everything() == set(site.in_engine())

    looks = []
    for turn in range(6):
        for number in range(4):
            assert site.user.invoke(f"a{number}").status == 200
        site.daemon.wait(is_at_rest, "to rest")
        process = Path(f"/proc/{site.daemon.pid}")
        links = []
        for entry in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                links.append(str(entry.readlink()))
        own = str((process / "ns/net").readlink())
        looks.append(
            {"containers": len(everything()), "descriptors": len(links), "threads": len(list((process / "task").iterdir()))}
        )
        assert sum(link.startswith("net:") and link != own for link in links) <= len(everything())
        kept = {each.name for each in (site.daemon.state_dir / "containers").iterdir()}
        assert kept <= everything()
        if turn < 5:
            site.daemon.stop()
            site.daemon.start()
    for name in ("containers", "descriptors", "threads"):
        assert looks[-1][name] <= max(look[name] for look in looks[:2]), looks


# ---- drain


def ended(site: Site, expected_code: int = 0) -> None:
    """Wait until the daemon has ended by itself."""
    process = site.daemon._process
    assert process is not None
    try:
        assert process.wait(60) == expected_code
    finally:
        site.daemon._process = None if process.returncode is not None else process


def test_calls_in_flight_end_before_the_daemon_and_new_ones_are_told_to_come_back(start, background):
    site = start()
    site.user.deploy("sleep", SLEEP)
    blocking = background(site.user.invoke, "sleep", {"s": 3})
    accepted = site.user.invoke("sleep", {"s": 3}, "blocking=false").json["activationId"]
    site.daemon.wait(lambda: len(site.pool(state="busy")) == 2, "to run both")
    site.daemon._process.terminate()
    site.daemon.wait(lambda: site.user.ask("GET", "/ready", key=None).status == 503, "to drain")
    assert "stopping" in site.user.ask("GET", "/ready", key=None).text
    assert site.user.ask("GET", "/ping", key=None).status == 200
    assert site.user.ask("GET", "/health", key=None).status == 200
    for query in ("blocking=true", "blocking=false"):
        refused = site.user.invoke("sleep", {"s": 0}, query)
        assert refused.status == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.error
    answer = blocking.result()
    assert (answer.status, answer.json["response"]["result"]) == (200, {"slept": 3})
    ended(site)
    site.daemon.start()
    assert site.user.record(accepted).json["response"]["result"] == {"slept": 3}
    assert site.user.record(answer.json["activationId"]).annotations["outcome"] == "ok"


def test_the_drain_ends_at_its_deadline_and_what_still_runs_is_cancelled(start, background):
    site = start(http__drain_s=1.0)
    site.user.deploy("sleep", SLEEP)
    call = background(site.user.invoke, "sleep", {"s": 600})
    site.daemon.wait(lambda: site.pool(state="busy"), "to run it")
    [busy] = site.pool(state="busy")
    site.daemon._process.terminate()
    answer = call.result()
    assert (answer.status, answer.annotations["outcome"]) == (502, "cancelled")
    ended(site)
    assert busy not in site.in_engine()
    site.daemon.start()
    assert site.user.record(answer.json["activationId"]).annotations["outcome"] == "cancelled"


def test_a_second_sigterm_hurries(start, background):
    site = start(http__drain_s=600.0)
    site.user.deploy("sleep", SLEEP)
    call = background(site.user.invoke, "sleep", {"s": 600})
    site.daemon.wait(lambda: site.pool(state="busy"), "to run it")
    site.daemon._process.terminate()
    site.daemon.wait(lambda: site.user.ask("GET", "/ready", key=None).status == 503, "to drain")
    assert not call.done()
    site.daemon._process.terminate()
    answer = call.result()
    assert (answer.status, answer.annotations["outcome"]) == (502, "cancelled")
    ended(site)


def test_what_was_accepted_and_waits_at_a_drain_is_run_by_the_next_daemon(start):
    """It was promised: a stop in good order keeps what a crash would keep."""
    site = start(pool__memory_mib=512)
    site.user.deploy("sleep", SLEEP, memory=512)  # one container has all of the pool
    first = site.user.invoke("sleep", {"s": 6}, "blocking=false").json["activationId"]
    site.daemon.wait(lambda: site.pool(state="busy"), "to run the first")
    waiting = [site.user.invoke("sleep", {"s": 0}, "blocking=false").json["activationId"] for _ in range(5)]
    site.daemon.stop()
    site.daemon.start()
    assert site.user.record(first).annotations["outcome"] == "ok"
    assert [site.user.record(name).annotations["outcome"] for name in waiting] == ["ok"] * 5


def test_a_blocking_call_that_waits_for_a_container_at_a_drain_is_told_at_once(start, background):
    site = start(pool__memory_mib=512)
    site.user.deploy("sleep", SLEEP, memory=512)
    first = background(site.user.invoke, "sleep", {"s": 600})
    site.daemon.wait(lambda: site.pool(state="busy"), "to run the first")
    second = background(site.user.invoke, "sleep", {"s": 0})
    site.daemon.wait(lambda: site.daemon.metric("invokerd_activations_in_flight") == 2, "to have the second wait")
    site.daemon._process.terminate()
    refused = second.result()
    assert refused.status == 503
    assert int(refused.headers["retry-after"]) >= 1
    assert not first.done()
    site.daemon._process.terminate()
    assert first.result().annotations["outcome"] == "cancelled"
    ended(site)
    site.daemon.start()
    assert site.user.record(refused.headers["x-openwhisk-activation-id"]).annotations["outcome"] == "stopping"


def test_an_operator_drains_a_daemon_that_goes_on_to_answer(start, background):
    site = start()
    site.user.deploy("sleep", SLEEP)
    call = background(site.user.invoke, "sleep", {"s": 2})
    site.daemon.wait(lambda: site.pool(state="busy"), "to run it")
    assert json.loads(site.daemon.control("drain", "--json")) == {"running": 1}
    assert site.user.ask("GET", "/ready", key=None).status == 503
    assert site.user.ask("GET", "/health", key=None).status == 200
    refused = site.user.invoke("sleep", {"s": 0})
    assert (refused.status, int(refused.headers["retry-after"]) >= 1) == (503, True)
    assert site.status()["state"] == "draining"
    assert json.loads(site.daemon.control("drain", "--wait", "--json")) == {"running": 0}
    assert call.result().status == 200
    assert site.user.record(call.result().json["activationId"]).annotations["outcome"] == "ok"
    assert site.user.ask("GET", "actions").status == 200


def test_a_drain_that_takes_too_long_is_told_and_nothing_is_cancelled(start, background):
    site = start()
    site.user.deploy("sleep", SLEEP)
    call = background(site.user.invoke, "sleep", {"s": 3})
    site.daemon.wait(lambda: site.pool(state="busy"), "to run it")
    with pytest.raises(DaemonFailed, match="1 activations still run"):
        site.daemon.control("drain", "--wait", "--timeout", "0.5")
    assert call.result().status == 200
