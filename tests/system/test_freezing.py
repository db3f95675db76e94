"""Calls that come just when a container is to be frozen: none is lost, none meets a container that stands still."""

from __future__ import annotations

import http.client
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from watched_site import WatchedSite

from bench.container import open_freezer
from bench.daemon import Daemon

pytestmark = pytest.mark.docker

#: Counts its own calls: a call that ran twice, or in another container, shows.
COUNT = """
calls = 0
def main(args):
    global calls
    calls += 1
    return {"calls": calls}
"""
GRACE_S = 0.05
WORKERS = 8


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, engine_url: str, make_user: Any) -> Iterator[WatchedSite]:
    config = {"pool.memory_mib": 2048, "pool.freeze_grace_s": GRACE_S, "pool.stem_cells.enabled": False}
    daemon = Daemon(tmp_path_factory.mktemp("freezing"), engine_url, config)
    with WatchedSite.on(daemon, engine_url, make_user) as site:
        yield site


def call_around_the_grace(site: WatchedSite, calls: int) -> Counter[str]:
    """Let each worker call an action of its own, with gaps drawn around the grace; how often each start kind was met."""

    def work(worker: int) -> Counter[str]:
        draw = random.Random(worker)
        kinds: Counter[str] = Counter()
        for number in range(1, calls // WORKERS + 1):
            # Gaps are what is tested: from none to twice the grace, most about it.
            time.sleep(draw.triangular(0, 2 * GRACE_S, GRACE_S))
            answer = site.user.invoke(f"count{worker}")
            assert answer.status == 200, answer.text
            assert answer.json["response"]["result"] == {"calls": number}
            kinds[answer.annotations["startKind"]] += 1
        return kinds

    for worker in range(WORKERS):
        site.user.deploy(f"count{worker}", COUNT + f"# {calls}\n", memory=64)
    with ThreadPoolExecutor(WORKERS) as workers:
        return sum(workers.map(work, range(WORKERS)), Counter())


def all_stand_still(site: WatchedSite) -> None:
    """Pool and kernel agree on every container, and the engine knows nothing of it."""
    ours = [each for each in site.containers() if each["action"].startswith("anna/count")]
    assert len(ours) == WORKERS
    site.daemon.wait(lambda: all(site.pooled()[each["container"]] == "frozen" for each in ours), "to freeze them all")
    for each in ours:
        inspected = site.engine.inspect(each["container"])
        freezer, version = open_freezer(inspected["State"]["Pid"])
        try:
            assert os.pread(freezer, 16, 0).strip() in {b"FROZEN", b"1"}, version
        finally:
            os.close(freezer)
        assert inspected["State"]["Status"] == "running"


def test_500_calls_with_gaps_around_the_grace_lose_nothing(site: WatchedSite):
    kinds = call_around_the_grace(site, 504)
    assert kinds["cold"] == WORKERS, kinds
    assert kinds["frozen"] > 0, kinds
    assert kinds["warm"] > 0, kinds
    all_stand_still(site)


@pytest.mark.long
def test_10_000_calls_with_gaps_around_the_grace_lose_nothing(site: WatchedSite):
    try:
        kinds = call_around_the_grace(site, 10_000)
    except http.client.HTTPException as error:
        raise AssertionError("the daemon went away") from error
    assert kinds["cold"] == WORKERS, kinds
    assert min(kinds["frozen"], kinds["warm"]) > 100, kinds
    all_stand_still(site)
