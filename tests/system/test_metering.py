"""What a call cost: phases, CPU, memory and money, of real containers, checked by other means than the daemon's own."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Context, Decimal
from pathlib import Path
from typing import Any

import pytest

from bench.daemon import Daemon

pytestmark = pytest.mark.docker

MIB = 1024 * 1024
ROOT = Path(__file__).parents[2]
PHASES = ("authenticate", "authorise", "resolve", "queue", "pull", "create", "thaw", "init", "run", "collect")
#: Enough for any product here to be exact.
EXACT = Context(prec=60)
#: A plan in which every quantity has a price, and rounding matters.
OTHER_PLAN = """
[[plan]]
id = "site"
version = "7"
currency = "CHF"
valid_from = 2021-01-01T00:00:00Z
memory_gib_s = "0.00013"
cpu_s = "0.0000071"
invocation = "0.00000033"
idle_gib_s = "0"
step_ms = 100
minimum_ms = 200
bill_init = true
places = 2
rounding = "half-even"
"""

SPIN = """
import resource, time
def used():
    return sum(getattr(resource.getrusage(who), f) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
               for f in ("ru_utime", "ru_stime"))
def main(args):
    before = used()
    while used() - before < args.get("seconds", 0.0):
        pass
    return {"used": used() - before}
"""
TOUCH = """
import mmap
def main(args):
    size = args.get("mib", 0) << 20
    if size:
        with mmap.mmap(-1, size) as held:
            for at in range(0, size, 4096):
                held[at] = 1
    return {}
"""
GREEDY = """
import subprocess, sys
def main(args):
    child = "open('/proc/self/oom_score_adj', 'w').write('1000'); b = bytearray(%d << 20)" % args.get("mib", 0)
    return {"ended": subprocess.run([sys.executable, "-c", child]).returncode}
"""
AFTERWARDS = """
import threading, time
def spin(seconds):
    while time.thread_time() < seconds:
        pass
def main(args):
    if args.get("afterwards"):
        threading.Thread(target=spin, args=(args["afterwards"],)).start()
    return {}
"""


@dataclass
class Site:
    daemon: Daemon
    user: Any
    #: Wall time that the client saw, microseconds, and the record, of every blocking call of `call`.
    calls: list[tuple[float, dict[str, Any]]] = field(default_factory=list)

    def call(self, action: str, payload: Any = None, query: str = "blocking=true") -> Any:
        began = time.monotonic()
        answer = self.user.invoke(action, payload, query)
        self.calls.append(((time.monotonic() - began) * 1e6, answer.json))
        return answer

    def ledger(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Ask the ledger's files, all months, as an auditor would: read-only, and past the daemon."""
        rows: list[tuple[Any, ...]] = []
        for file in sorted((self.daemon.state_dir / "ledger").glob("*.db")):
            connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
            try:
                rows += connection.execute(statement, values).fetchall()
            finally:
                connection.close()
        return rows

    def records(self) -> list[dict[str, Any]]:
        """All records of the user; the daemon answers when the ledger has them too."""
        found: list[dict[str, Any]] = []
        while page := self.user.ask("GET", f"activations?docs=true&limit=100&skip={len(found)}").json:
            found += page
        return found

    def usage(self, namespace: str) -> list[dict[str, Any]]:
        rows = json.loads(self.daemon.control("usage", "--json"))["rows"]
        return [row for row in rows if row["namespace"] == namespace]


@contextmanager
def serve(root: Path, engine_url: str, make_user: Any, **config: Any) -> Iterator[Site]:
    daemon = Daemon(root, engine_url, {"pool.memory_mib": 4096, "pool.freeze_grace_s": 3.0, **config})
    daemon.start()
    try:
        user = make_user(daemon, "anna")
        user.deploy("spin", SPIN)
        user.deploy("touch", TOUCH)
        user.deploy("greedy", GREEDY, memory=128)
        user.deploy("afterwards", AFTERWARDS)
        yield Site(daemon, user)
    finally:
        daemon.stop()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, engine_url: str, make_user: Any) -> Iterator[Site]:
    with serve(tmp_path_factory.mktemp("metering"), engine_url, make_user) as site:
        yield site


def notes(record: dict[str, Any]) -> dict[str, Any]:
    return {entry["key"]: entry["value"] for entry in record["annotations"]}


def frozen(site: Site, action: str) -> bool:
    listed = json.loads(site.daemon.control("pool", "--json"))["containers"]
    return any(each["action"] == f"anna/{action}" and each["state"] == "frozen" for each in listed)


# ---- phases


def test_phases_of_every_kind_of_start_are_disjoint_and_within_what_the_client_saw(site):
    def freeze(action: str) -> None:
        site.daemon.wait(lambda: frozen(site, action), "to freeze it")

    kinds = set()
    for size in (96, 128, 160):  # sizes without stem cells
        site.user.deploy("plain", SPIN, memory=size)
        for turn in range(6):
            if turn == 3:
                freeze("plain")
            answer = site.call("plain", {"seconds": 0.01 * turn})
            assert answer.status == 200, answer.text
            kinds.add(answer.annotations["startKind"])
    site.user.deploy("stemmed", SPIN)
    site.daemon.wait(
        lambda: any(c["state"] == "stem_frozen" for c in json.loads(site.daemon.control("pool", "--json"))["containers"]),
        "to have a stem cell",
    )
    kinds.add(site.call("stemmed").annotations["startKind"])
    assert kinds == {"cold", "stem", "warm", "frozen"}
    for wall_us, record in site.calls:
        known = notes(record)
        phases = known["phases"]
        assert tuple(phases) == PHASES
        assert min(phases.values()) >= 0
        # Each phase is rounded to a microsecond by itself.
        assert sum(phases.values()) <= wall_us + len(PHASES)
        assert known["billed"]["us"] == phases["init"] + phases["run"]
        assert record["duration"] == round(known["billed"]["us"] / 1000)
        assert (phases["init"] > 0) == ("initTime" in known) == (known["startKind"] in {"cold", "stem"})
        assert (phases["create"] > 0) == (known["startKind"] == "cold")
        if known["startKind"] == "warm":
            assert phases["pull"] <= 1000


def test_waiting_time_and_phases_tell_the_same_story(site):
    for _, record in site.calls:
        known = notes(record)
        phases = known["phases"]
        before = sum(phases[name] for name in ("authenticate", "authorise", "resolve", "queue", "pull", "create"))
        if "initTime" in known:
            assert abs(known["initTime"] * 1000 - phases["init"]) <= 501
            assert abs(known["waitTime"] * 1000 - before) <= 1000
        else:
            assert -1000 <= known["waitTime"] * 1000 - before <= phases["thaw"] + 1000


def test_a_call_that_waits_for_another_says_so_in_its_queue_phase(tmp_path, engine_url, make_user):
    alone = {"pool.max_containers_per_action": 1, "pool.stem_cells.enabled": False}
    with serve(tmp_path, engine_url, make_user, **alone) as site:
        site.call("spin")
        threads = [threading.Thread(target=site.call, args=("spin", {"seconds": 0.5})) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        queued = sorted(notes(record)["phases"]["queue"] for _, record in site.calls[1:])
        assert queued[0] < 400_000 < queued[1]
        assert queued[2] > 900_000
        for wall_us, record in site.calls:
            assert sum(notes(record)["phases"].values()) <= wall_us + len(PHASES)


# ---- CPU and memory


def test_cpu_of_a_spinner_is_what_its_own_rusage_says(site):
    site.call("spin")
    for seconds in (0.5, 1.0):
        answer = site.call("spin", {"seconds": seconds})
        said, metered = answer.json["response"]["result"]["used"], answer.annotations["cpuTime"]
        assert metered["quality"] == "exact"
        assert metered["us"] / 1e6 == pytest.approx(said, rel=0.10)


def test_peak_memory_is_at_least_what_was_touched_and_of_this_call_alone(site):
    site.call("touch")
    large = site.call("touch", {"mib": 50}).annotations["memoryPeak"]
    assert 50 * MIB <= large["bytes"] <= 256 * MIB
    small = site.call("touch").annotations["memoryPeak"]
    if Path("/sys/fs/cgroup/memory/memory.max_usage_in_bytes").exists():  # version 1 can reset it
        assert large["quality"] == small["quality"] == "exact"
    if small["quality"] == "exact":
        assert small["bytes"] < 50 * MIB
    else:
        assert small["quality"] in {"sampled", "lifetime"}


def test_a_child_that_the_kernel_kills_for_memory_is_counted_with_the_call_that_outlived_it_and_with_no_other(site):
    counted = []
    for mib in (1, 200, 1):
        answer = site.call("greedy", {"mib": mib})
        assert answer.json["response"]["result"] == {"ended": -9 if mib == 200 else 0}
        counted.append(answer.annotations.get("oomKills", 0))
    assert counted == [0, 1, 0]


def test_work_after_the_reply_is_the_tail_of_the_call_that_replied_and_not_of_the_next(site):
    """R-22: the container spins 200 ms of CPU time; a busy machine lets it use some of that before the reply is out."""
    site.call("afterwards")
    calm = site.call("afterwards").annotations["cpuTime"]["us"]
    spun = site.call("afterwards", {"afterwards": 0.2})
    assert spun.annotations["cpuTime"]["us"] < 180_000
    site.daemon.wait(lambda: frozen(site, "afterwards"), "to freeze it")
    after = site.call("afterwards")
    assert after.annotations["startKind"] == "frozen"
    assert after.annotations["container"] == spun.annotations["container"]
    assert after.annotations["cpuTime"]["us"] <= calm + 5000
    activation_id = spun.json["activationId"]
    tails = "SELECT coalesce(sum(cpu_us), 0) FROM ledger WHERE type = 'tail' AND subject = ?"
    # What the thread used before the reply is the call's own; all of the rest is its tail.
    rest_us = 190_000 - spun.annotations["cpuTime"]["us"]
    site.daemon.wait(lambda: site.ledger(tails, activation_id)[0][0] >= rest_us, "to book the tail")
    assert site.ledger(tails, activation_id)[0][0] <= 300_000
    ((namespace, action),) = set(
        site.ledger("SELECT namespace, action FROM ledger WHERE type = 'tail' AND subject = ?", activation_id)
    )
    assert (namespace, action) == ("anna", "anna/afterwards")
    finished = "SELECT cpu_us FROM ledger WHERE type = 'finished' AND subject = ?"
    assert site.ledger(finished, activation_id) == [(spun.annotations["cpuTime"]["us"],)]


# ---- every end has one row


def test_every_activation_whatever_its_end_has_exactly_one_finished_row(site):
    user = site.user
    user.deploy("raises", "def main(args):\n    raise ValueError('no')\n")
    user.deploy("exits", "import os\ndef main(args):\n    os._exit(3)\n")
    user.deploy("broken", "def main(args) return")
    user.deploy("slow", "import time\ndef main(args):\n    time.sleep(60)\n", timeout=3000)
    user.deploy("endless", "import time\ndef main(args):\n    time.sleep(60)\n")
    expected: dict[str, str] = {}
    for action, outcome in (
        ("raises", "application-error"),
        ("exits", "crashed"),
        ("broken", "init-failed"),
        ("slow", "timeout"),
    ):
        for query in ("blocking=true", "blocking=false"):
            answer = user.invoke(action, {}, query)
            assert answer.status == (502 if query == "blocking=true" else 202), answer.text
            expected[answer.headers["x-openwhisk-activation-id"]] = outcome
    running = user.invoke("endless", {}, "blocking=false").json["activationId"]
    pool = lambda: json.loads(site.daemon.control("pool", "--json"))["containers"]  # noqa: E731
    site.daemon.wait(lambda: any(c["action"] == "anna/endless" and c["state"] == "busy" for c in pool()), "to run it")
    site.daemon.control("activation", "cancel", running)
    expected[running] = "cancelled"
    for activation_id, outcome in expected.items():
        record = user.record(activation_id)
        assert record.annotations["outcome"] == outcome, record.text
        billed = record.annotations["billed"]["us"]
        assert billed == record.annotations["phases"]["init"] + record.annotations["phases"]["run"]
        assert billed > 0
        assert min(record.annotations["phases"].values()) >= 0
    user.ask("GET", "activations?limit=1")  # answers when the writer has committed
    rows = dict(site.ledger("SELECT subject, count(*) FROM ledger WHERE type = 'finished' AND namespace = 'anna' GROUP BY 1"))
    assert {activation_id: rows.get(activation_id) for activation_id in expected} == dict.fromkeys(expected, 1)
    assert set(rows.values()) == {1}
    assert set(rows) == {record["activationId"] for record in site.records()}


# ---- money


def cost_by_hand(record: dict[str, Any], plan: dict[str, Any], tail_us: int = 0) -> Decimal:
    """Compute a call's cost from its record and the plan's text, and nothing of ours."""
    known = notes(record)
    duration_us = known["billed"]["us"] if plan["bill_init"] else known["phases"]["run"]
    step_us = plan["step_ms"] * 1000
    if duration_us:
        duration_us = max((duration_us + step_us - 1) // step_us * step_us, plan["minimum_ms"] * 1000)
    gib_s = EXACT.divide(Decimal(duration_us * known["billed"]["memoryMiB"]), Decimal(1024 * 1_000_000))
    cpu_s = EXACT.divide(Decimal(known.get("cpuTime", {"us": 0})["us"] + tail_us), Decimal(1_000_000))
    total = Decimal(plan["invocation"])
    for price, quantity in ((plan["memory_gib_s"], gib_s), (plan["cpu_s"], cpu_s)):
        total = EXACT.add(total, EXACT.multiply(Decimal(price), quantity))
    return total


def audit(site: Site, plan: dict[str, Any]) -> None:
    records = site.records()
    assert len(records) >= 5
    for record in records:
        cost = notes(record)["cost"]
        assert cost["plan"] == f"{plan['id']}@{plan['version']}"
        assert cost["currency"] == plan["currency"]
        assert re.fullmatch(r"0|[0-9]+(\.[0-9]*[1-9])?", cost["amount"])
        assert Decimal(cost["amount"]) == cost_by_hand(record, plan)

    tails = "SELECT coalesce(sum(cpu_us), 0) FROM ledger WHERE type = 'tail' AND namespace = 'anna'"
    # Tails are written with the next record, or within a second; the ledger has all of them when two looks agree.
    seen: list[int] = []

    def settled() -> bool:
        seen.append(site.ledger(tails)[0][0])
        (row,) = site.usage("anna")
        return row["cpu_us"] == sum(notes(r).get("cpuTime", {"us": 0})["us"] for r in records) + seen[-1]

    site.daemon.wait(settled, "to have usage and ledger agree")
    (row,) = site.usage("anna")
    assert row["activations"] == len(records)
    assert row["failed"] == sum(not record["response"]["success"] for record in records)
    assert row["billed_us"] == sum(notes(record)["billed"]["us"] for record in records)
    assert row["memory_byte_us"] == sum(
        notes(record)["billed"]["us"] * notes(record)["billed"]["memoryMiB"] * MIB for record in records
    )
    total = Decimal(0)
    for record in records:
        total = EXACT.add(total, Decimal(notes(record)["cost"]["amount"]))
    tail_cost = EXACT.divide(EXACT.multiply(Decimal(plan["cpu_s"]), Decimal(site.ledger(tails)[0][0])), Decimal(1_000_000))
    assert Decimal(row["cost"]) == EXACT.add(total, tail_cost)
    assert (row["currency"], row["plan"]) == (plan["currency"], f"{plan['id']}@{plan['version']}")


def all_frozen(site: Site) -> bool:
    listed = json.loads(site.daemon.control("pool", "--json"))["containers"]
    return all("frozen" in each["state"] for each in listed if each["namespace"] == "anna")


def test_costs_and_usage_are_what_one_computes_by_hand_from_the_records_and_the_price_list(site):
    (default,) = tomllib.loads(next((ROOT / "invoker").rglob("prices.toml")).read_text())["plan"]
    site.daemon.wait(lambda: all_frozen(site), "to freeze all")
    audit(site, default)


def test_the_same_holds_for_a_plan_of_the_site_that_rounds_and_prices_cpu(tmp_path, engine_url, make_user):
    prices = tmp_path / "prices.toml"
    prices.write_text(OTHER_PLAN)
    with serve(tmp_path, engine_url, make_user, **{"prices.file": str(prices)}) as site:
        for seconds in (0.0, 0.0, 0.15, 0.25):
            assert site.call("spin", {"seconds": seconds}).status == 200
        site.call("afterwards", {"afterwards": 0.1})
        site.user.deploy("raises", "def main(args):\n    raise ValueError('no')\n")
        site.call("raises")
        site.daemon.wait(lambda: all_frozen(site), "to freeze all")
        audit(site, tomllib.loads(OTHER_PLAN)["plan"][0])
        correct_and_recompute(site, prices)


def correct_and_recompute(site: Site, prices: Path) -> None:
    """A correction counts, and a program that has the exported rows and the plans alone comes to the daemon's figures."""
    spun = next(each for each in site.records() if each["name"] == "spin")
    (before,) = site.usage("anna")
    site.daemon.control("correct", spun["activationId"], "--cpu-us", "-1000", "--memory-mib-us", "-256", "--reason", "a test")

    def told() -> dict[str, str]:
        return {row["namespace"]: row["cost"] for row in json.loads(site.daemon.control("usage", "--json"))["rows"]}

    def recomputed() -> dict[str, str]:
        command = (sys.executable, str(ROOT / "examples/recompute.py"), str(prices))
        rows = site.daemon.control("ledger")
        shown = subprocess.run(command, input=rows, capture_output=True, text=True, check=True).stdout
        return {namespace: cost for namespace, _, cost in map(str.split, shown.splitlines())}

    # The export reads the files, a moment behind; a tail may still come.
    site.daemon.wait(lambda: "anna" in told() and told() == recomputed(), "to have usage and exported rows agree")
    (after,) = site.usage("anna")
    assert after["corrections"] == before["corrections"] + 1
    assert after["charged_memory_mib_us"] == before["charged_memory_mib_us"] - 256
    month = time.strftime("%Y-%m", time.gmtime(spun["start"] / 1000))
    bill = json.loads(site.daemon.control("bill", month, "--namespace", "anna", "--json"))
    span = ("--since", str(bill["since_ms"]), "--until", str(bill["until_ms"]))
    (of_month,) = json.loads(site.daemon.control("usage", "--namespace", "anna", *span, "--json"))["rows"]
    (line,) = bill["rows"]
    assert Decimal(line["exact"]) == Decimal(of_month["cost"]) > 0
    assert line["amount"] == f"{Decimal(of_month['cost']):.2f}"
