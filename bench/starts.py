"""First calls: from nothing, against the same by hand, and from a stem cell."""

from __future__ import annotations

import time
from pathlib import PurePath

import uvloop

from bench import client
from bench.container import post
from bench.daemon import Daemon
from bench.measure import Line, make_line
from bench.setting import CODE, Setting, init_value
from pool.model import ContainerSpec


def cold(setting: Setting) -> Line:
    """Start a container for the first call of an action, stem cells off, in alternation with the same by hand."""
    config = {"pool.stem_cells.enabled": False}
    blocks: dict[str, list[list[float]]] = {"by hand": [], "cold": []}
    with setting.daemon(config) as daemon:
        key = daemon.create_namespace()
        through = setting.connect(daemon.port)
        # The first pair is for the engine's caches, and tells what the daemon's containers are made from.
        _cold_call(daemon, key, "cold-first", through)
        spec = setting.spec_of(daemon)
        alike = _made_alike(setting, daemon, spec)
        _delete(setting, daemon, key, "cold-first")
        _by_hand(setting, spec)
        before = daemon.starts()
        for pair in range(setting.rounds):
            # Whatever wavers slowly falls on both alike, whoever comes first.
            if pair % 2:
                blocks["by hand"].append([_by_hand(setting, spec)])
            blocks["cold"].append([_cold_call(daemon, key, f"cold-{pair}", through)])
            _delete(setting, daemon, key, f"cold-{pair}")
            if not pair % 2:
                blocks["by hand"].append([_by_hand(setting, spec)])
        starts = {kind: count - before[kind] for kind, count in daemon.starts().items()}
    line = make_line(
        "cold",
        seed=setting.seed,
        engine=setting.engine.version,
        blocks=blocks,
        reference="by hand",
        config=config,
        facts={"starts": starts, "host_config_identical": alike},
    )
    quotient = line.subjects["cold"].p50 / line.subjects["by hand"].p50
    met = quotient <= 1.15 and starts["cold"] == setting.rounds and alike
    return _judged(line, {"p50_ratio": round(quotient, 3)}, "p50 <= 1.15 x that by hand", met=met)


def stem(setting: Setting) -> Line:
    """Call a new action for the first time, when a stem cell stands ready."""
    taken: list[list[float]] = []
    with setting.daemon() as daemon:
        key = daemon.create_namespace()
        through = setting.connect(daemon.port)
        _cold_call(daemon, key, "stem-first", through)
        before = daemon.starts()
        for number in range(setting.rounds):
            daemon.wait(lambda: daemon.metric("invokerd_containers", state="stem_frozen") >= 1, "to have a stem cell")
            taken.append([_cold_call(daemon, key, f"stem-{number}", through)])
            daemon.delete(key, f"stem-{number}")
        starts = {kind: count - before[kind] for kind, count in daemon.starts().items()}
    line = make_line(
        "stem",
        seed=setting.seed,
        engine=setting.engine.version,
        blocks={"stem": taken},
        reference=None,
        facts={"starts": starts},
    )
    met = line.subjects["stem"].p50 <= 40_000 and starts["stem"] == setting.rounds
    return _judged(line, {}, "p50 <= 40 ms, every call from a stem cell", met=met)


def _cold_call(daemon: Daemon, key: str, action: str, through: list[client.Connected]) -> float:
    """Deploy an action and time its first call, us."""
    daemon.deploy(key, action, CODE)
    call = daemon.invocation(key, action, query="blocking=true&result=true")
    return uvloop.run(client.drive(through, [call])).latencies_us()[0]


def _delete(setting: Setting, daemon: Daemon, key: str, action: str) -> None:
    """Delete an action and wait until its container is gone, so that the next start has the engine for itself."""
    daemon.delete(key, action)
    daemon.wait(lambda: not setting.containers_of(daemon), "to the end of a deleted action's container")


def _by_hand(setting: Setting, spec: ContainerSpec) -> float:
    """Time the same by hand, us: create, start, dial each millisecond, /init, /run."""
    began = time.perf_counter_ns()
    runner = setting.start_by_hand(spec)
    post(runner.connection, "/init", init_value())
    post(runner.connection, "/run", {"value": {}})
    taken_us = (time.perf_counter_ns() - began) / 1000
    runner.close()
    return taken_us


def _made_alike(setting: Setting, daemon: Daemon, spec: ContainerSpec) -> bool:
    """Ask the engine whether the daemon's container and one by hand have the same HostConfig; log directory and node apart."""
    runner = setting.start_by_hand(spec)
    told = setting.engine.inspect(runner.container.engine_id)["HostConfig"]
    runner.close()
    theirs = setting.engine.inspect(next(iter(setting.containers_of(daemon))))["HostConfig"]
    for config in (told, theirs):
        config["CgroupParent"] = PurePath(config["CgroupParent"]).name  # the user's; what it lies in bears the node's name
        config["Mounts"] = [mount | {"Source": ""} if mount["Target"] == "/run/invokerd" else mount for mount in config["Mounts"]]
    return bool(told == theirs)


def _judged(line: Line, facts: dict[str, float], what: str, *, met: bool) -> Line:
    import msgspec

    return msgspec.structs.replace(line, facts=line.facts | facts, must={"what": what, "met": met})
