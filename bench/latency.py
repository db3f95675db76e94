"""One client: what a call costs straight into the container, through the relay, and through the daemon."""

from __future__ import annotations

import itertools
from typing import Any

import uvloop

from bench import client, relay_process
from bench.daemon import Daemon
from bench.measure import Distribution, Line, added, make_line
from bench.setting import CODE, RUN, Setting, Subject, cpu_us_a_call, in_turn, latencies

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
            with relay_process.running([other.connection]) as running:
                subjects = {"direct": Subject([one.connection], RUN), "relay": Subject(setting.connect(running.port), RUN)}
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
    return _through_daemon(setting, "warm", {}, must_us=600, must_find="warm")


def frozen(setting: Setting) -> Line:
    """Call through the daemon that freezes at once, so that every call thaws."""
    return _through_daemon(setting, "frozen", {"pool.freeze_grace_s": 0.0}, must_us=1000, must_find="frozen")


def paced(setting: Setting) -> Line:
    """Call through the daemon with its default configuration, once each 100 ms."""
    return _through_daemon(setting, "paced", {}, must_us=1000, pace_s=PAUSE_S)


def frozen_paced(setting: Setting) -> Line:
    """Do the same with a grace that does not learn, so that every call finds its container frozen."""
    config = {"pool.freeze_grace_most_s": 0.0}
    return _through_daemon(setting, "frozen-paced", config, must_us=1000, must_find="frozen", pace_s=PAUSE_S)


def _through_daemon(
    setting: Setting, name: str, config: dict[str, Any], *, must_us: int, must_find: str | None = None, pace_s: float = 0.0
) -> Line:
    """Measure direct call, relay and daemon in turn; the containers of the first two are like the daemon's.

    Args:
        setting: where and how.
        name: of the scenario.
        config: keys of the daemon that are not at their default.
        must_us: promise for the latency added to the direct call.
        must_find: which start the daemon's calls must find; None any. For `frozen` the relay thaws and freezes, too.
        pace_s: between two calls, for all subjects alike.
    """
    freeze = must_find == "frozen"
    with setting.daemon(config) as daemon:
        key = daemon.create_namespace()
        daemon.deploy(key, ACTION, CODE)
        call = daemon.invocation(key, ACTION, query="blocking=true&result=true")
        through = setting.connect(daemon.port)
        uvloop.run(_first_call(through, call))
        with setting.by_hand(2, setting.spec_of(daemon)) as (one, other):
            freezers = [other.open_freezer()] if freeze else []
            with relay_process.running([other.connection], freezers, other.cgroup) as running:
                subjects = {
                    "direct": Subject([one.connection], RUN),
                    "relay": Subject(setting.connect(running.port), RUN, running.pid),
                    "daemon": Subject(through, call, daemon.pid),
                }
                starts, runs = _counted(setting, daemon, subjects, pace_s)
    blocks = latencies(runs)
    share = 1.0 if must_find is None else starts[must_find] / max(1, sum(starts.values()))
    added_us = {subject: added(blocks[subject], blocks["direct"]).median for subject in ("relay", "daemon")}
    p99_us = {subject: Distribution.of(list(itertools.chain(*of_it))).p99 for subject, of_it in blocks.items()}
    to_relay = added_us["daemon"] / max(added_us["relay"], 1.0)
    p99_to_relay = p99_us["daemon"] / p99_us["relay"]
    found = f", {_SHARE:.0%} of the calls {must_find}" if must_find else ""
    return make_line(
        name,
        seed=setting.seed,
        engine=setting.engine.version,
        blocks=blocks,
        config=config,
        facts={
            "starts": starts,
            "pause_s": pace_s,
            "direct": _DIRECT_CALL,
            "relay_freezes": freeze,
            "cpu_us_a_call": cpu_us_a_call(runs),
        },
        must=(f"adds <= {must_us} us p50 to the direct call{found}", added_us["daemon"] <= must_us and share >= _SHARE),
        goals=(
            ("adds to the direct call <= 1.3 x what the relay adds, p50", to_relay, to_relay <= 1.3),
            ("p99 <= 1.5 x the relay's", p99_to_relay, p99_to_relay <= 1.5),
        ),
    )


def _counted(
    setting: Setting, daemon: Daemon, subjects: dict[str, Subject], pace_s: float
) -> tuple[dict[str, int], dict[str, list[client.Run]]]:
    """Measure, and count what the daemon's calls found meanwhile."""
    before = daemon.starts()
    runs = uvloop.run(in_turn(setting, subjects, pause_s=pace_s))
    return {kind: count - before[kind] for kind, count in daemon.starts().items()}, runs


async def _first_call(connections: list[Any], call: bytes) -> None:
    (await client.drive(connections, client.repeated(call, 20))).latencies_us()
