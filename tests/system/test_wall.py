"""The wall around all containers, hit for real: who is ended, what its record says, and that nobody else is blamed."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from watched_site import WatchedSite

from bench.daemon import Daemon, DaemonFailed
from pool.cgroup import mount_points
from pool.parent import limit_bytes, read_limit
from pool.user_groups import default_parent

pytestmark = pytest.mark.docker

BUDGET_MIB = 512
#: Of the crowd: with the large one they have more than there is, and without it less.
PROCESSES = 8
MIB = 2**20
#: Holds 200 MiB in one process, within its limit, for as long as it takes.
LARGE = """
import time
def main(args):
    kept = bytearray(b'x') * (200 << 20)
    time.sleep(args['s'])
    return {'kept': len(kept)}
"""
#: Grows far beyond its limit, which somebody has lifted, by processes of which none is the largest of all.
CROWD = """
import subprocess, sys
def main(args):
    hold = "b = bytearray(b'x') * (40 << 20); print('held', flush=True); input()"
    kept = []
    for _ in range(args['processes']):
        kept.append(subprocess.Popen([sys.executable, '-c', hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        kept[-1].stdout.readline()
    alive = sum(each.poll() is None for each in kept)
    for each in kept:
        each.kill()
        each.wait()
    return {'alive': alive}
"""
EXITS = """
import os
def main(args):
    if args.get('exit'):
        os._exit(1)
    return {}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, engine_url: str, make_user: Any) -> Iterator[WatchedSite]:
    keys = {"pool.memory_mib": BUDGET_MIB, "pool.stem_cells.enabled": False}
    with WatchedSite.on(Daemon(tmp_path_factory.mktemp("wall"), engine_url, keys), engine_url, make_user) as site:
        yield site


def wall_of(site: WatchedSite) -> Any:
    checks = site.user.ask("GET", "/health", key=None).json["checks"]
    return next(check for check in checks if check["name"] == "memory-wall")


def test_the_daemon_limits_its_containers_together_without_being_asked(site):
    name = default_parent(site.daemon.node)
    assert read_limit(name) == limit_bytes(BUDGET_MIB)
    assert wall_of(site)["detail"] == f"{limit_bytes(BUDGET_MIB) // MIB} MiB"


def test_who_falls_to_the_memory_of_others_is_not_blamed_and_nobody_is_after_it(site):
    site.user.deploy("crowd", CROWD, memory=128)
    crowd = site.user.invoke("crowd", {"processes": 0}).annotations["container"]
    site.bystander.deploy("large", LARGE, memory=256)
    site.bystander.deploy("exits", EXITS, memory=64)
    assert site.bystander.invoke("exits").status == 200
    site.engine.update(crowd, {"Memory": 2048 * MIB, "MemorySwap": 2048 * MIB, "PidsLimit": 500})  # from outside, past the books
    with ThreadPoolExecutor() as calls:
        large = calls.submit(site.bystander.invoke, "large", {"s": 50})
        site.daemon.wait(lambda: held(site) > 200 * MIB, "to hold what the call holds")
        crowd_answer = site.user.invoke("crowd", {"processes": PROCESSES})
        fallen = large.result()
    assert fallen.status == 500
    assert fallen.annotations["outcome"] == "node-out-of-memory"
    assert "within its own limit of 256 MB" in fallen.error
    assert fallen.annotations.get("oomKills", 1) == 1, "where the counters did not go with the container"
    # The kernel may be so quick to look again that the first has not yet given back what it had: then one of the crowd falls too.
    alive = crowd_answer.json["response"]["result"]["alive"]
    assert crowd_answer.annotations.get("oomKills", 0) == PROCESSES - alive
    site.daemon.wait(lambda: wall_of(site)["warning"], "to say so")
    # Version 1 has the engine mark every container that was there: who just ends after that has not run out of memory.
    crashed = site.bystander.invoke("exits", {"exit": True})
    assert crashed.annotations["outcome"] == "crashed"
    assert site.bystander.invoke("large", {"s": 0}).json["response"]["result"] == {"kept": 200 * MIB}


def held(site: WatchedSite) -> int:
    """Read what all containers use together, bytes."""
    return int(next(file for file in account_files(default_parent(site.daemon.node)) if file.exists()).read_text())


def account_files(name: str) -> Iterator[Path]:
    for _, point, _ in mount_points(Path("/proc/self/mountinfo").read_text()):
        for directory in (point / name, point / f"{name}.slice"):
            yield from (directory / "memory.usage_in_bytes", directory / "memory.current")


def test_a_second_daemon_in_the_same_cgroup_is_refused_and_told_what_to_change(site, tmp_path, engine_url):
    name = default_parent(site.daemon.node)
    other = Daemon(tmp_path, engine_url, {"pool.cgroup_parent": name})
    with pytest.raises(DaemonFailed, match=rf"in the cgroup '{name}'"):
        other.start()
