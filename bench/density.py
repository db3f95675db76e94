"""Many frozen containers and many actions: what the daemon costs while nobody calls."""

from __future__ import annotations

import os
import time
from pathlib import Path

import uvloop

from bench import client
from bench.daemon import Daemon, open_descriptors
from bench.measure import Line, make_line
from bench.setting import CODE, Setting

#: Of each container: the least that the default limits allow.
MEMORY_MIB = 64
#: For how long the idle daemon is looked at, s.
IDLE_S = 60.0
#: Of the loop's executor, and those that dial: started when first needed, whatever the number of containers.
THREADS = 4
_TICKS = os.sysconf("SC_CLK_TCK")


def density(setting: Setting) -> Line:
    """Keep many frozen containers, and many actions beside them: CPU, memory, threads and descriptors of the idle daemon."""
    containers, actions = setting.rounds, setting.calls
    config = {
        "pool.memory_mib": 2 * MEMORY_MIB * containers,
        "pool.max_containers_per_user": 2 * containers,
        "pool.stem_cells.enabled": False,
    }
    with setting.daemon(config) as daemon:
        key = daemon.create_namespace()
        for number in range(containers):
            daemon.deploy(key, f"kept-{number}", CODE, memory_mib=MEMORY_MIB)
        calls = [daemon.invocation(key, f"kept-{number}", query="blocking=true&result=true") for number in range(containers)]
        through = setting.connect(daemon.port, 8)
        uvloop.run(client.drive(through, calls[:1])).latencies_us()
        few = _look(daemon)
        uvloop.run(client.drive(through, calls[1:])).latencies_us()
        for number in range(actions - containers):
            daemon.deploy(key, f"other-{number}", CODE)
        daemon.wait(lambda: daemon.metric("invokerd_containers", state="frozen") >= containers, "to have all of them frozen")
        before = _look(daemon)
        time.sleep(IDLE_S)
        after = _look(daemon)
    cpu_share = (after["cpu_s"] - before["cpu_s"]) / IDLE_S
    each = (after["descriptors"] - few["descriptors"]) / (containers - 1)
    facts = {
        "containers": containers,
        "actions": actions,
        "cpu_share_of_a_core": round(cpu_share, 5),
        "rss_mib": round(after["rss_mib"], 1),
        "rss_mib_of_its_processes": round(after["all_rss_mib"], 1),
        "descriptors_each": round(each, 2),
        "threads": [few["threads"], after["threads"]],
    }
    met = cpu_share <= 0.005 and after["rss_mib"] <= 150 and each <= 8 and after["threads"] - few["threads"] < THREADS
    return make_line(
        "density",
        seed=setting.seed,
        engine=setting.engine.version,
        blocks={},
        reference=None,
        config=config,
        facts=facts,
        must=("<= 0.5 % of a core, <= 150 MiB, <= 8 descriptors a container, no thread a container", met),
    )


def _look(daemon: Daemon) -> dict[str, float]:
    """Read what the daemon's process, and those that it started, have used."""
    family = _family(daemon.pid)
    return {
        "cpu_s": sum(_cpu_s(pid) for pid in family),
        "rss_mib": _status(daemon.pid, "VmRSS") / 1024,
        "all_rss_mib": sum(_status(pid, "VmRSS") for pid in family) / 1024,
        "threads": _status(daemon.pid, "Threads"),
        "descriptors": open_descriptors(daemon.pid),
    }


def _family(pid: int) -> list[int]:
    """Give a process and all of its descendants."""
    children = (Path("/proc") / str(pid) / "task").glob("*/children")
    found = [int(child) for listed in children for child in listed.read_text().split()]
    return [pid, *(each for child in found for each in _family(child))]


def _cpu_s(pid: int) -> float:
    fields = (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _status(pid: int, name: str) -> int:
    for line in (Path("/proc") / str(pid) / "status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise ValueError(f"/proc/{pid}/status has no {name}")
