"""Minutes of mixed load with restarts: memory and descriptors stay flat, and the books are exact, also against the kernel's.

INVOKERD_SOAK_MINUTES says how long it lasts; an hour shows what a few minutes cannot.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import random
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from kernel_books import Comparison, KernelAccounts
from watched_site import WatchedSite

from bench.container import Engine
from bench.daemon import Daemon, open_descriptors
from bench.setting import remove_containers

pytestmark = [pytest.mark.docker, pytest.mark.long]

MINUTES = float(os.environ.get("INVOKERD_SOAK_MINUTES", "4"))
LIVES = 4
WORKERS = 6
#: Limits of the actions, MiB. Together they are more than the budget: containers are shrunk and evicted all the time.
SIZES_MIB = (128, 160, 192, 256) * 2
BUDGET_MIB = 1280
#: What a call does, and how it ends.
WORK = """
import os, time
def main(args):
    how = args["how"]
    if how == "sleep":
        time.sleep(0.02)
    elif how == "spin":
        end = time.process_time() + 0.005
        while time.process_time() < end:
            pass
    elif how == "print":
        print("x" * 2000)
    elif how == "raise":
        raise ValueError("as asked")
    elif how == "exit":
        os._exit(3)
    return {"how": how}
"""
ENDS = {"sleep": 200, "spin": 200, "print": 200, "echo": 200, "raise": 502, "exit": 502}
OUTCOMES = {"ok", "application-error", "crashed", "lost", "cancelled", "stopping", "waited-too-long"}
WEIGHTS = {"sleep": 30, "spin": 30, "print": 20, "echo": 100, "raise": 5, "exit": 1}


class Load:
    """Calls without end; remembers how each ended."""

    def __init__(self, site: WatchedSite) -> None:
        self.site = site
        self.over = threading.Event()
        #: Activation ids that were answered, blocking or not.
        self.answered: list[str] = []
        self.wrong: list[str] = []
        self.refused = 0

    def run(self, worker: int) -> None:
        draw = random.Random(worker)
        for number in itertools.count():
            if self.over.is_set():
                return
            how = draw.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
            query, expected = ("blocking=false", 202) if draw.random() < 0.2 else ("blocking=true", ENDS[how])
            try:
                answer = self.site.user.invoke(f"work{draw.randrange(len(SIZES_MIB))}", {"how": how, "n": number}, query)
            except (OSError, http.client.HTTPException):
                self.refused += 1  # between two daemons
                time.sleep(0.1)
                continue
            if answer.status == 503:
                self.refused += 1
            elif answer.status != expected:
                self.wrong.append(answer.text[:300])
            if (activation_id := answer.headers.get("x-openwhisk-activation-id")) is not None:
                self.answered.append(activation_id)
            # Some gaps are longer than the grace.
            time.sleep(draw.choice((0.0, 0.0, 0.01, 0.15)))


@pytest.fixture
def parent() -> Iterator[str]:
    """Name a cgroup for all containers of this test."""
    name = f"invokerdsoak{secrets.token_hex(4)}"
    yield name
    with contextlib.suppress(StopIteration, OSError):  # never made, or removed with the slice
        KernelAccounts(name).directory.rmdir()


@pytest.fixture
def site(parent: str, tmp_path: Path, engine_url: str, make_user: Any) -> Iterator[WatchedSite]:
    keys = {"pool.memory_mib": BUDGET_MIB, "pool.cgroup_parent": parent, "http.drain_s": 20.0}
    daemon = Daemon(tmp_path, engine_url, keys)
    try:
        with WatchedSite.on(daemon, engine_url, make_user) as site:
            yield site
    finally:
        with contextlib.closing(Engine(engine_url)) as engine:
            remove_containers(engine, daemon.node)


def resident_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def look(site: WatchedSite, kernel: KernelAccounts, books: Comparison) -> tuple[float, int]:
    """Compare the books, and return memory and descriptors of the daemon, less the descriptors that containers account for."""
    before = json.loads(site.daemon.control("pool", "--json"))
    listed = site.engine.containers(f"invokerd.node={site.daemon.node}")
    accounts, parent = kernel.of_containers(), kernel.of_parent()
    resident, descriptors = resident_mib(site.daemon.pid), open_descriptors(site.daemon.pid)
    after = json.loads(site.daemon.control("pool", "--json"))
    books.look(before, listed, accounts, parent, after)
    return resident, descriptors - 4 * (len(before["containers"]) + len(after["containers"]))


def test_minutes_of_mixed_load_with_restarts_leave_nothing_behind_and_the_books_exact(
    site: WatchedSite, parent: str, record_property: Any
):
    for number, size in enumerate(SIZES_MIB):
        site.user.deploy(f"work{number}", WORK, memory=size)
    load, books, kernel = Load(site), Comparison(), KernelAccounts(parent)
    looks: list[list[tuple[float, int]]] = []
    with ThreadPoolExecutor(WORKERS) as workers:
        running = [workers.submit(load.run, worker) for worker in range(WORKERS)]
        try:
            for number in range(LIVES):
                looks.append([])
                until = time.monotonic() + MINUTES * 60 / LIVES
                while time.monotonic() < until:
                    time.sleep(2.0)
                    looks[-1].append(look(site, kernel, books))
                if number < LIVES - 1:
                    site.daemon.kill() if number % 2 else site.daemon.stop()
                    site.daemon.start()
        finally:
            load.over.set()
        for each in running:
            each.result()
    assert load.wrong == []
    assert len(load.answered) > 100 * MINUTES
    assert books.wrong == []
    assert min(books.compared, books.shrunk) > 0, "nothing was compared"
    told = f"{min(books.ratios):.3f} to {max(books.ratios):.3f} of the kernel's, in {len(books.ratios)} looks"
    record_property("books", f"{told} at {books.compared} containers, {books.shrunk} of them shrunk")
    record_property("calls", f"{len(load.answered)} in {MINUTES:g} minutes")
    # Each daemon: the first third of its life fills caches, the last third must need no more than that.
    for each in looks:
        third = len(each) // 3
        early, late = each[third : 2 * third], each[2 * third :]
        assert max(mib for mib, _ in late) <= max(mib for mib, _ in early) * 1.1 + 5, each
        # Containers come and go between the looks: what stays open shows in the median, not in each look.
        assert median(files for _, files in late) <= median(files for _, files in early) + 2 * WORKERS + 10, each
    settle_and_audit(site, load)


def settle_and_audit(site: WatchedSite, load: Load) -> None:
    """What was answered is in the ledger once, and nothing else is; no container is nobody's."""
    with contextlib.suppress(AssertionError):
        site.user.ask("GET", "activations?limit=1")
    site.daemon.wait(lambda: site.daemon.metric("invokerd_activations_in_flight") == 0, "to have run everything")
    site.daemon.wait(lambda: site.daemon.metric("invokerd_recorder_backlog_records") == 0, "to have written everything")
    rows = site.finished_rows()
    assert Counter(rows.values()).keys() == {1}, "a call was booked twice"
    lost = [activation_id for activation_id in load.answered if activation_id not in rows]
    assert lost == [], f"{len(lost)} of {len(load.answered)} answered calls are not in the ledger"
    kills = LIVES // 2
    outcomes = dict(site.ledger("SELECT outcome, count(*) FROM ledger WHERE type = 'finished' GROUP BY outcome"))
    assert set(outcomes) <= OUTCOMES, outcomes
    assert outcomes.get("lost", 0) <= kills * 3 * WORKERS
    site.daemon.wait(lambda: not site.orphans(), "to have no container that the pool does not own")
    assert site.daemon.metric("invokerd_unbooked_cpu_seconds") >= -0.05
    usage = json.loads(site.daemon.control("usage", "--json"))
    assert "anna" in str(usage)
