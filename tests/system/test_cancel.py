"""Cancelling: what is queued never runs; what runs is killed, recorded, and billed to that moment."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import engine_api
import pytest
from site_mounts import shared_data

from bench.daemon import Daemon, DaemonFailed

pytestmark = pytest.mark.docker

MEMORY_MIB = 512
NOTE = """import os, time

def main(args):
    fd = os.open("/data/begun", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(fd, f"{os.environ['__OW_ACTIVATION_ID']}\\n".encode())
    os.close(fd)
    ends = time.monotonic() + args.get("s", 0)
    while time.monotonic() < ends:
        time.sleep(0.01)
        with open("/data/alive", "w") as file:
            file.write(str(time.time()))
    return {"n": args.get("n")}
"""


@dataclass
class Site:
    """A daemon whose pool has room for one container of the action, its users, and what the action noted."""

    daemon: Daemon
    user: Any
    stranger: Any
    data: Path
    engine: engine_api.Engine

    def begun(self) -> list[str]:
        file = self.data / "begun"
        return file.read_text().splitlines() if file.exists() else []

    def pool(self) -> list[dict[str, Any]]:
        listed = json.loads(self.daemon.control("pool", "--json"))["containers"]
        return [each for each in listed if each["namespace"] != "invokerd"]

    def in_engine(self) -> set[str]:
        query = [("all", "1"), ("filters", json.dumps({"label": [f"invokerd.node={self.daemon.node}"]}))]
        return {each["Names"][0].removeprefix("/") for each in self.engine.request("GET", "/containers/json", query=query)}

    def start_call(self, s: float) -> str:
        """Make a call that runs for so long, and return once it has begun."""
        name: str = self.user.invoke("note", {"s": s}, "blocking=false").json["activationId"]
        self.daemon.wait(lambda: name in self.begun(), "to run the call")
        return name

    def queue_call(self, n: int = 0) -> str:
        """Make a call that waits for a container."""
        before = self.in_flight()
        name: str = self.user.invoke("note", {"n": n}, "blocking=false").json["activationId"]
        self.daemon.wait(lambda: self.in_flight() == before + 1, "to have the call")
        return name

    def in_flight(self) -> int:
        """Count the calls of users that have not ended; the daemon's own test of itself, which may wait, is not one."""
        return round(self.daemon.metric("invokerd_activations_in_flight"))

    def waiting(self) -> int:
        count: int = json.loads(self.daemon.control("pool", "--json"))["waiting"]
        return count

    def finished_row(self, name: str) -> dict[str, Any]:
        """Read the one finished row of an activation in the ledger."""
        self.daemon.wait(lambda: self.daemon.metric("invokerd_recorder_backlog_records") == 0, "to an empty backlog")
        rows = []
        for file in (self.daemon.state_dir / "ledger").glob("*.db"):
            with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as ledger:
                ledger.row_factory = sqlite3.Row
                rows += ledger.execute("SELECT * FROM ledger WHERE type = 'finished' AND subject = ?", (name,)).fetchall()
        [row] = rows
        return dict(row)

    def by_rest(self, name: str) -> str:
        answer = self.user.ask("POST", f"/invokerd/v1/activations/{name}/cancel")
        assert answer.status == 200, answer.text
        assert answer.json["activation_id"] == name
        was: str = answer.json["was"]
        return was

    def by_operator(self, name: str) -> str:
        reply = json.loads(self.daemon.control("activation", "cancel", name, "--json"))
        assert reply["activation_id"] == name
        was: str = reply["was"]
        return was

    def by_command_with_a_key(self, name: str) -> str:
        done = self.command(name, self.user.key)
        assert done.returncode == 0, done.stderr
        was: str = json.loads(done.stdout)["was"]
        return was

    def command(self, name: str, key: str) -> subprocess.CompletedProcess[str]:
        """Cancel as a user does, with the command."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("INVOKERCTL", "WSK"))}
        words = ("--apihost", f"http://127.0.0.1:{self.daemon.port}", "--auth", key, "activation", "cancel", name, "--json")
        command = (sys.executable, "-m", "invoker.commands.ctl", *words)
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory, engine_url: str, make_user: Any) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("cancel")
    daemon = Daemon(root, engine_url, {"pool.memory_mib": MEMORY_MIB})
    data = shared_data(daemon, root)
    daemon.start()
    try:
        user = make_user(daemon, "anna", words=("--mount", "data"))
        user.deploy("note", NOTE, memory=MEMORY_MIB)
        stranger = make_user(daemon, "bert", uid=20_002, gid=20_002)
        yield Site(daemon, user, stranger, data, engine_api.Engine(engine_url))
    finally:
        daemon.stop()


@pytest.fixture
def site(started: Site) -> Site:
    for name in ("begun", "alive"):
        (started.data / name).unlink(missing_ok=True)
    return started


@pytest.fixture(params=["by_rest", "by_operator", "by_command_with_a_key"])
def cancel(request: pytest.FixtureRequest, site: Site) -> Callable[[str], str]:
    """One of the ways to cancel; it returns what the activation was doing."""
    way: Callable[[str], str] = getattr(site, request.param)
    return way


def test_what_is_queued_never_runs(site, cancel):
    running = site.start_call(8)
    doomed, next_in_line = site.queue_call(1), site.queue_call(2)
    assert cancel(doomed) == "queued"
    record = site.user.record(doomed)
    assert record.annotations["outcome"] == "cancelled"
    assert "cancelled" in record.error
    assert record.json["response"]["success"] is False
    assert site.user.record(next_in_line).json["response"]["result"] == {"n": 2}
    assert site.user.record(running).annotations["outcome"] == "ok"
    assert site.begun() == [running, next_in_line]
    row = site.finished_row(doomed)
    assert (row["outcome"], row["billed_us"], row["cpu_us"], row["container"]) == ("cancelled", 0, 0, None)


def test_what_runs_is_killed_recorded_and_billed_to_that_moment(site, cancel):
    name = site.start_call(600)
    alive = site.data / "alive"
    site.daemon.wait(alive.exists, "to do some work")
    [container] = [each["container"] for each in site.pool() if each["leases"]]
    assert container in site.in_engine()
    assert cancel(name) == "running"
    record = site.user.record(name)
    assert record.annotations["outcome"] == "cancelled"
    assert record.annotations["container"] == container
    assert record.json["response"]["success"] is False
    assert not record.annotations["timeout"]
    site.daemon.wait(lambda: container not in site.in_engine(), "to have destroyed the container")
    assert container not in {each["container"] for each in site.pool()}
    last = alive.read_text()
    row = site.finished_row(name)
    assert row["outcome"] == "cancelled"
    assert 0 < row["billed_us"] < 60_000_000
    assert row["cpu_us"] > 0
    assert row["billed_us"] == row["init_us"] + row["run_us"]
    assert abs(row["billed_us"] / 1000 - record.json["duration"]) <= 1
    after = site.user.invoke("note", {"n": 1})  # it has run for a while when this is answered
    assert (after.status, after.annotations["container"] != container) == (200, True)
    assert alive.read_text() == last
    assert site.begun() == [name, after.json["activationId"]]


def test_the_client_that_waits_is_told(site, cancel):
    with ThreadPoolExecutor(1) as client:
        call = client.submit(site.user.invoke, "note", {"s": 600})
        site.daemon.wait(site.begun, "to run the call")
        [name] = site.begun()
        assert cancel(name) == "running"
        answer = call.result()
    assert answer.status == 502
    assert answer.annotations["outcome"] == "cancelled"
    assert "cancelled" in answer.error


def test_the_client_that_waits_for_a_queued_call_is_told(site):
    running = site.start_call(600)
    with ThreadPoolExecutor(1) as client:
        call = client.submit(site.user.invoke, "note", {"n": 1}, headers={"Idempotency-Key": "queued"})
        site.daemon.wait(lambda: site.in_flight() == 2, "to have it wait")
        # Its id is learnt by whoever asks with the same key.
        same = site.user.invoke("note", {"n": 1}, "blocking=false", headers={"Idempotency-Key": "queued"})
        assert site.by_rest(same.json["activationId"]) == "queued"
        answer = call.result()
    assert (answer.status, answer.annotations["outcome"]) == (502, "cancelled")
    assert site.by_rest(running) == "running"
    assert site.begun() == [running]


def test_a_stranger_cannot_cancel(site):
    name = site.start_call(600)
    refused = site.stranger.ask("POST", f"/invokerd/v1/activations/{name}/cancel")
    assert refused.status == 404
    unknown = site.stranger.ask("POST", f"/invokerd/v1/activations/{'0' * 32}/cancel")
    assert refused.error == unknown.error.replace("0" * 32, name), "the answer tells that there is such an activation"
    by_command = site.command(name, site.stranger.key)
    assert (by_command.returncode, by_command.stdout) == (1, "")
    assert site.user.ask("POST", f"/invokerd/v1/activations/{name}/cancel", key=None).status == 401
    assert [each["leases"] for each in site.pool()] == [1]
    assert site.by_rest(name) == "running"


@pytest.mark.parametrize("how", ["ok", "cancelled"])
def test_what_has_ended_cannot_be_cancelled(site, how):
    if how == "ok":
        name = site.user.invoke("note", {"n": 1}).json["activationId"]
    else:
        name = site.start_call(600)
        site.by_rest(name)
    before = site.user.record(name).json
    again = site.user.ask("POST", f"/invokerd/v1/activations/{name}/cancel")
    assert again.status == 404
    with pytest.raises(DaemonFailed, match="ended already"):
        site.by_operator(name)
    assert site.user.record(name).json == before
    assert site.finished_row(name)["outcome"] == how


@pytest.mark.parametrize("name", ["rubbish", "0" * 31, "Z" * 32])
def test_what_is_no_id_is_refused(site, name):
    assert site.user.ask("POST", f"/invokerd/v1/activations/{name}/cancel").status in {400, 404}


def test_cancelled_in_the_queue_stays_cancelled_over_a_crash(site):
    running = site.start_call(600)
    doomed, kept = site.queue_call(1), site.queue_call(2)
    assert site.by_rest(doomed) == "queued"
    site.daemon.kill()
    site.daemon.start()
    assert site.user.record(kept).json["response"]["result"] == {"n": 2}
    assert site.user.record(doomed).annotations["outcome"] == "cancelled"
    assert site.user.record(running).annotations["outcome"] == "lost"
    assert site.begun() == [running, kept]


def test_cancelling_a_hundred_at_random_moments_leaves_nothing_behind(site):
    """Whatever they are doing just then: waiting, starting, running, ending."""
    site.user.deploy("short", NOTE, memory=128)
    names = []
    with ThreadPoolExecutor(8) as clients:

        def call_and_cancel(number: int) -> tuple[str, int]:
            name = site.user.invoke("short", {"s": 0.02}, "blocking=false").json["activationId"]
            if number % 2:
                site.user.ask("GET", "actions")
            return name, site.user.ask("POST", f"/invokerd/v1/activations/{name}/cancel").status

        names = list(clients.map(call_and_cancel, range(100)))
    assert {status for _, status in names} <= {200, 404}
    for name, status in names:
        outcome = site.user.record(name).annotations["outcome"]
        assert outcome == ("cancelled" if status == 200 else "ok")
        assert site.finished_row(name)["outcome"] == outcome
    # The daemon's own test of itself may wait for a moment, too.
    site.daemon.wait(lambda: site.waiting() == 0 and not [each for each in site.pool() if each["leases"]], "to rest")
    assert site.user.invoke("short", {"n": 1}).status == 200
    status = json.loads(site.daemon.control("status", "--json"))
    assert status["memory_used_mib"] <= MEMORY_MIB
