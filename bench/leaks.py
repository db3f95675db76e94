"""What is left after the daemon has stopped and started again and again: nothing that the pool does not show."""

from __future__ import annotations

import json
from typing import Any

import uvloop

from bench import client
from bench.daemon import Daemon, network_namespaces, open_descriptors
from bench.measure import Line, make_line
from bench.setting import CODE, Setting
from pool.recipe import LABEL_NODE

_ACTION = "echo"
_CALLS = 50


def leaks(setting: Setting) -> Line:
    """Stop and start the daemon ten times, with calls in between, and count what is there each time."""
    looks: list[dict[str, Any]] = []
    latencies: list[list[float]] = []
    namespaces_before = network_namespaces()
    with setting.daemon() as daemon:
        key = daemon.create_namespace()
        daemon.deploy(key, _ACTION, CODE)
        for _ in range(setting.rounds):
            call = daemon.invocation(key, _ACTION, query="blocking=true&result=true")
            latencies.append(uvloop.run(_calls(setting, daemon, call)))
            daemon.wait(lambda: _is_at_rest(daemon), "to rest")
            looks.append(_look(setting, daemon, namespaces_before))
            daemon.stop()
            daemon.start()
        daemon.wait(lambda: _is_at_rest(daemon), "to rest")
        looks.append(_look(setting, daemon, namespaces_before))
    last = looks[-1]
    # Some are opened late in a daemon's life, whichever it is: none of the last may exceed the most of the first two.
    descriptors = last["descriptors"] <= max(look["descriptors"] for look in looks[:2])
    shown = all(look["containers"] == look["in_pool"] for look in looks)
    namespaces = last["network_namespaces"] <= last["in_pool"]
    return make_line(
        "leaks",
        seed=setting.seed,
        engine=setting.engine.version,
        blocks={"call": latencies},
        reference=None,
        facts={"restarts": setting.rounds, "looks": looks},
        must=(
            "containers, network namespaces and descriptors: no more than the pool shows",
            shown and namespaces and descriptors,
        ),
    )


async def _calls(setting: Setting, daemon: Daemon, call: bytes) -> list[float]:
    return (await client.drive(setting.connect(daemon.port), client.repeated(call, _CALLS))).latencies_us()


def _is_at_rest(daemon: Daemon) -> bool:
    """Tell whether all containers are frozen, and there is a stem cell."""
    resting = sum(daemon.metric("invokerd_containers", state=state) for state in ("frozen", "stem_frozen"))
    return resting == daemon.metric("invokerd_containers") and daemon.metric("invokerd_containers", state="stem_frozen") > 0


def _look(setting: Setting, daemon: Daemon, namespaces_before: int) -> dict[str, Any]:
    pool = json.loads(daemon.control("pool", "--json"))
    return {
        "in_pool": len(pool["containers"]),
        "containers": len(setting.engine.containers(f"{LABEL_NODE}={daemon.node}")),
        "network_namespaces": network_namespaces() - namespaces_before,
        "descriptors": open_descriptors(daemon.pid),
    }
