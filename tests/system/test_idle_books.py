"""Rows of the ledger for what idled and for the lives of containers, and the books against the kernel's own counters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from watched_site import ECHO, WatchedSite

from bench.daemon import Daemon

pytestmark = pytest.mark.docker

SPIN = """
import time
def main(args):
    end = time.process_time() + args["s"]
    while time.process_time() < end:
        pass
    return {}
"""
MIB = 1 << 20


def test_what_idled_and_what_lived_is_in_the_ledger_and_the_kernel_agrees(tmp_path: Path, engine_url: str, make_user: Any):
    daemon = Daemon(tmp_path, engine_url, {"pool.memory_mib": 1024, "pool.stem_cells.enabled": False})
    with WatchedSite.on(daemon, engine_url, make_user) as site:
        site.user.deploy("spin", SPIN)
        spun_us = sum(site.user.invoke("spin", {"s": 0.3}).annotations["cpuTime"]["us"] for _ in range(3))
        kept = str(site.user.invoke("spin", {"s": 0}).annotations["container"])
        site.daemon.wait(lambda: site.pooled().get(kept) == "frozen", "to freeze it")
        kernel_s, unbooked_s = (
            daemon.metric(f"invokerd_{name}") for name in ("containers_cpu_seconds_total", "unbooked_cpu_seconds")
        )
        assert kernel_s >= spun_us / 1e6
        # Runtimes start, the node tests itself; nothing is booked that the kernel has not counted.
        assert -0.05 <= unbooked_s <= kernel_s
        site.user.deploy("gone", ECHO)
        gone = str(site.user.invoke("gone").annotations["container"])
        site.user.ask("DELETE", "actions/gone")
        site.daemon.wait(lambda: gone not in site.pooled(), "to remove it")
    lives = site.ledger("SELECT subject, fact, namespace, action, cpu_us FROM ledger WHERE type = 'container' ORDER BY seq")
    assert [row[:4] for row in lives if row[0] == gone] == [
        (gone, "created", "anna", "anna/gone"),
        (gone, "removed", "anna", "anna/gone"),
    ]
    assert [row[4] for row in lives if row[0] == gone][1] > 0
    assert [row[:2] for row in lives if row[0] == kept] == [(kept, "created")], "it waits for the next daemon"
    idle = site.ledger("SELECT subject, namespace, action, memory_mib_us FROM ledger WHERE type = 'idle'")
    assert {row[1:3] for row in idle} == {("anna", "anna/spin"), ("anna", "anna/gone")}
    # At least the grace, for which it held its whole limit, and at most the test's own time.
    held_mib_us = sum(row[3] for row in idle if row[0] == kept)
    assert held_mib_us >= 256 * 50_000
    assert len([row for row in idle if row[0] == kept]) == 1, "a row for each call would double the ledger"
