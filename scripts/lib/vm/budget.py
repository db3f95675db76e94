"""Memory: the slice of all containers as a second wall, and what frozen containers give back."""

from __future__ import annotations

from pathlib import Path

from machine import CGROUPS, api, cgroup_of, check, operate, pool, read, run, state, wait_state

#: As in the configuration of the machine.
SLICE = "functions.slice"
MEMORY_MIB = 1536
#: Reads what the image has on its disk: page cache, which the kernel counts for whoever reads first.
READER = """
import os
def main(args):
    total = 0
    for folder, _, names in os.walk("/usr"):
        for name in names:
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not os.path.islink(path):
                with open(path, "rb") as file:
                    while block := file.read(1 << 20):
                        total += len(block)
    return {"mib": total >> 20}
"""
ECHO = "def main(args):\n    return args\n"


def try_slice() -> None:
    """`pool.cgroup_parent`: systemd bounds all containers together, and goes on doing so after it reads its units again."""
    parent = CGROUPS / SLICE
    limit = read(parent, "memory.max")["memory.max"]
    wanted = str(round(MEMORY_MIB * 1.05) << 20)
    groups = [cgroup_of(name) for name, row in pool().items() if row["state"] not in {"starting", "removing"}]
    inside = bool(groups) and all(group.parents[1] == parent and group.parent.name.startswith("functions-u") for group in groups)
    check(
        "slice",
        limit == wanted and inside,
        f"{parent} may have {int(limit) >> 20} MiB; {len(groups)} containers, all in it, each in its user's own: {inside}",
    )
    run("systemctl", "daemon-reload")
    after = read(parent, "memory.max")["memory.max"]
    property_ = run("systemctl", "show", "--property=MemoryMax", "--value", SLICE)
    check("slice-after-daemon-reload", after == limit == property_, f"kernel {after}, systemd {property_}")


def try_reclaim() -> None:
    """When memory is wanted, frozen containers give back their page cache, are booked for what they hold, and are not evicted."""
    api.deploy("reader", READER)
    Path("/proc/sys/vm/drop_caches").write_text("3")
    container = api.warm("reader")
    group = cgroup_of(container)
    before = _cache(group)
    used = operate("GET", "/v1/pool")
    free = used["memory_budget_mib"] - used["memory_used_mib"]
    idle = {name for name, row in pool().items() if row["state"] == "frozen"}
    # Some 60 MiB more than is free: less than the idle ones give back.
    wanted = min(free + 60, 1024)
    api.deploy("wide", ECHO, memory=wanted)
    status, _, notes = api.invoke("wide")
    wide = notes["container"]
    after, rows = _cache(group), pool()
    kept = idle & set(rows)
    shown = {row["action"]: row["memory_mib"] for name, row in rows.items() if name in idle}
    check("reclaim", after < before / 2, f"page cache of a frozen container: {before >> 20} MiB, then {after >> 20} MiB")
    seen = f"{free} MiB were free, {wanted} wanted; reserved then: {shown}; evicted: {sorted(idle - kept)}"
    check("books-follow", status == 200 and container in kept and rows[container]["memory_mib"] < 256, seen)
    now = operate("GET", "/v1/pool")
    total = sum(row["memory_mib"] for row in now["containers"])
    check("budget", total == now["memory_used_mib"] <= now["memory_budget_mib"], f"{total} MiB of {now['memory_budget_mib']}")
    status, result, notes = api.invoke("reader")
    check("books-grow-back", status == 200 and _grown(notes["container"]), (result, notes["startKind"], state(wide)))
    api.delete("wide")
    api.delete("reader")
    wait_state(container, "gone")


def _grown(container: str) -> bool:
    """Whether a container that has run again is booked for its whole limit."""
    return bool(pool()[container]["memory_mib"] == 256)


def _cache(group: Path) -> int:
    """Page cache of a cgroup without shared memory, bytes."""
    values = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    return int(values["file"]) - int(values["shmem"])
