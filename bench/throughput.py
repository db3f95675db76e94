"""Many clients, four containers: answers a second through the daemon, through the relay, and straight."""

from __future__ import annotations

from contextlib import ExitStack

import msgspec
import uvloop

from bench import client, relay_process
from bench.measure import Distribution, Line, Spread, make_line, ratio
from bench.setting import CODE, RUN, Setting, Subject, cpu_us_a_call, in_turn, latencies

CLIENTS = (1, 16, 64)
CONTAINERS = 4
_ACTION = "echo"


def throughput(setting: Setting) -> Line:
    """Count answers a second at 1, 16 and 64 clients."""
    config = {"pool.max_containers_per_action": CONTAINERS}
    with ExitStack() as stack:
        daemon = stack.enter_context(setting.daemon(config))
        key = daemon.create_namespace()
        daemon.deploy(key, _ACTION, CODE)
        call = daemon.invocation(key, _ACTION, query="blocking=true&result=true")
        uvloop.run(client.drive(setting.connect(daemon.port), [call])).latencies_us()
        runners = stack.enter_context(setting.by_hand(2 * CONTAINERS, setting.spec_of(daemon)))
        own, lent = runners[:CONTAINERS], runners[CONTAINERS:]
        relay = stack.enter_context(relay_process.running([runner.connection for runner in lent]))
        # Until the pool has grown to its four.
        uvloop.run(client.drive(setting.connect(daemon.port, 16), client.repeated(call, 400))).latencies_us()
        runs: dict[str, list[client.Run]] = {}
        for clients in CLIENTS:
            subjects = {
                # A container takes one request at a time, so more connections would only queue inside.
                f"direct x{clients}": Subject([runner.connection for runner in own][:clients], RUN),
                f"relay x{clients}": Subject(setting.connect(relay.port, clients), RUN, relay.pid),
                f"daemon x{clients}": Subject(setting.connect(daemon.port, clients), call, daemon.pid),
            }
            runs |= uvloop.run(in_turn(setting, subjects, calls=setting.calls * min(clients, 8)))
        containers = daemon.metric("invokerd_leases_total", start="cold") + daemon.metric("invokerd_leases_total", start="stem")
    rates = {name: [[len(run.answers) / run.seconds] for run in of_it] for name, of_it in runs.items()}
    line = make_line(
        "throughput",
        seed=setting.seed,
        engine=setting.engine.version,
        blocks=rates,
        reference=None,
        unit="answers/s",
        config=config,
    )
    to_direct = _ratios(rates, ("relay", "daemon"), "direct")
    to_relay = _ratios(rates, ("daemon",), "relay")
    share = to_relay["daemon x16"].median
    times = {name: [sample for block in of_it for sample in block] for name, of_it in latencies(runs).items()}
    latency_us = {name: Distribution.of(samples) for name, samples in times.items()}
    p99_to_relay = max(latency_us[f"daemon x{clients}"].p99 / latency_us[f"relay x{clients}"].p99 for clients in CLIENTS)
    facts = {
        "ratio_to_relay": msgspec.to_builtins(to_relay),
        "containers_started": int(containers),
        "latency_us": msgspec.to_builtins(latency_us),
        "cpu_us_a_call": cpu_us_a_call(runs),
    }
    must = {"what": "at 16 clients >= 25 % of the relay's", "met": share >= 0.25}
    goals = [
        {"what": "at 16 clients >= 70 % of the relay's", "is": share, "met": share >= 0.7},
        {"what": "no p99 above 3 x the relay's", "is": round(p99_to_relay, 3), "met": p99_to_relay <= 3},
    ]
    return msgspec.structs.replace(line, ratio=to_direct, facts=facts, must=must, goals=goals)


def _ratios(rates: dict[str, list[list[float]]], names: tuple[str, ...], reference: str) -> dict[str, Spread]:
    """Compare subjects with a reference at the same number of clients."""
    return {
        f"{name} x{clients}": ratio(rates[f"{name} x{clients}"], rates[f"{reference} x{clients}"])
        for name in names
        for clients in CLIENTS
    }
