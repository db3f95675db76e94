"""One client: what a call costs straight into the container, through the relay, and through the daemon."""

from __future__ import annotations

from typing import Any

import uvloop

from bench import client, relay_process
from bench.daemon import Daemon
from bench.measure import Line, added, make_line
from bench.setting import CODE, RUN, Setting, Subject, in_turn, latencies

ACTION = "echo"
#: Longer than the default grace: by the next call the container is frozen.
PAUSE_S = 0.1
#: Of the calls of a scenario, how many must have found what it is about.
_SHARE = 0.95
_DIRECT_CALL = "POST /run over a kept connection in the container's network namespace"


def direct(setting: Setting) -> Line:
    """Call straight into the container."""
    with setting.by_hand(1) as (runner,):
        subjects = {"direct": Subject([runner.connection], RUN)}
        runs = uvloop.run(in_turn(setting, subjects))
    return make_line("direct", seed=setting.seed, engine=setting.engine.version, blocks=latencies(runs), reference=None)


def relay(setting: Setting) -> Line:
    """Call through the relay; the best of several runs counts, each with a relay of its own."""
    attempts = []
    with setting.by_hand(2) as (one, other):
        for _ in range(setting.rounds):
            with relay_process.running([other.connection]) as port:
                subjects = {"direct": Subject([one.connection], RUN), "relay": Subject(setting.connect(port), RUN)}
                attempts.append(latencies(uvloop.run(in_turn(setting, subjects))))
    means = [added(blocks["relay"], blocks["direct"]).median for blocks in attempts]
    best = means.index(min(means))
    return make_line(
        "relay",
        seed=setting.seed,
        engine=setting.engine.version,
        blocks=attempts[best],
        facts={"added_us_of_each_run": means},
        must=("adds <= 250 us p50 to the direct call, best run", means[best] <= 250),
    )


def warm(setting: Setting) -> Line:
    """Call a running container through the daemon, with its default configuration."""
    return _through_daemon(setting, "warm", {}, must_us=600)


def frozen(setting: Setting) -> Line:
    """Call through the daemon that freezes at once, so that every call thaws."""
    return _through_daemon(setting, "frozen", {"pool.freeze_grace_s": 0.0}, must_us=1000)


def frozen_paced(setting: Setting) -> Line:
    """Call through the daemon with its default configuration, at a pace at which every call finds its container frozen."""
    return _through_daemon(setting, "frozen", {}, must_us=1000, pause_s=PAUSE_S)


def _through_daemon(setting: Setting, kind: str, config: dict[str, Any], *, must_us: int, pause_s: float = 0.0) -> Line:
    """Measure direct call, relay and daemon in turn; the containers of the first two are like the daemon's.

    Args:
        setting: where and how.
        kind: which start the daemon's calls must find.
        config: keys of the daemon that are not at their default.
        must_us: promise for the latency added to the direct call.
        pause_s: between two calls, for all subjects alike.
    """
    freeze = kind == "frozen"
    with setting.daemon(config) as daemon:
        key = daemon.create_namespace()
        daemon.deploy(key, ACTION, CODE)
        call = daemon.invocation(key, ACTION, query="blocking=true&result=true")
        through = setting.connect(daemon.port)
        uvloop.run(_first_call(through, call))
        with setting.by_hand(2, setting.spec_of(daemon)) as (one, other):
            freezers = [other.open_freezer()] if freeze else []
            with relay_process.running([other.connection], freezers, other.cgroup) as port:
                subjects = {
                    "direct": Subject([one.connection], RUN),
                    "relay": Subject(setting.connect(port), RUN),
                    kind: Subject(through, call),
                }
                starts, runs = _counted(setting, daemon, subjects, pause_s)
    blocks = latencies(runs)
    share = starts[kind] / max(1, sum(starts.values()))
    added_us = added(blocks[kind], blocks["direct"]).median
    return make_line(
        "frozen-paced" if pause_s else kind,
        seed=setting.seed,
        engine=setting.engine.version,
        blocks=blocks,
        config=config,
        facts={"starts": starts, "pause_s": pause_s, "direct": _DIRECT_CALL, "relay_freezes": freeze},
        must=(
            f"adds <= {must_us} us p50 to the direct call, {_SHARE:.0%} of the calls {kind}",
            added_us <= must_us and share >= _SHARE,
        ),
    )


def _counted(
    setting: Setting, daemon: Daemon, subjects: dict[str, Subject], pause_s: float
) -> tuple[dict[str, int], dict[str, list[client.Run]]]:
    """Measure, and count what the daemon's calls found meanwhile."""
    before = daemon.starts()
    runs = uvloop.run(in_turn(setting, subjects, pause_s=pause_s))
    return {kind: count - before[kind] for kind, count in daemon.starts().items()}, runs


async def _first_call(connections: list[Any], call: bytes) -> None:
    (await client.drive(connections, client.repeated(call, 20))).latencies_us()
