"""Run scenarios: `python -m bench SCENARIO... [--json FILE]`."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from bench import crash, engine_requests, events, latency, leaks, starts, stored, thaws, throughput
from bench.compute import compute, crowded
from bench.container import Engine
from bench.density import density
from bench.entities import entities
from bench.load import burst, flood, herd, overload, refusals
from bench.measure import Line, dump
from bench.neighbours import neighbours
from bench.setting import Setting
from bench.simulate import NoEngine, simulate


class Scenario(NamedTuple):
    """A scenario, with the sizes at which its number is reported."""

    run: Callable[[Setting], Line]
    calls: int = 200
    blocks: int = 15
    rounds: int = 1
    engine: bool = True


SIZES = ("calls", "blocks", "rounds")
SCENARIOS = {
    "direct": Scenario(latency.direct),
    "burst": Scenario(burst, calls=100),
    "density": Scenario(density, calls=10_000, rounds=300),
    "flood": Scenario(flood, calls=100, rounds=10_000),
    "herd": Scenario(herd),
    "neighbours": Scenario(neighbours, calls=200, blocks=8),
    "overload": Scenario(overload, rounds=60),
    "refusals": Scenario(refusals, calls=2000, blocks=5),
    "simulate": Scenario(simulate, calls=6000, rounds=4, engine=False),
    "relay": Scenario(latency.relay, rounds=5),
    "warm": Scenario(latency.warm),
    "frozen": Scenario(latency.frozen),
    "paced": Scenario(latency.paced, calls=25, blocks=8),
    "frozen-paced": Scenario(latency.frozen_paced, calls=25, blocks=8),
    "compute": Scenario(compute, calls=4, blocks=16),
    "crowded": Scenario(crowded, calls=100),
    "cold": Scenario(starts.cold, rounds=30),
    "stem": Scenario(starts.stem, rounds=30),
    "throughput": Scenario(throughput.throughput, calls=300, blocks=7),
    "stored": Scenario(stored.stored, blocks=15, rounds=100),
    "engine-requests": Scenario(engine_requests.engine_requests),
    "crash": Scenario(crash.crash, calls=1000, rounds=10),
    "thaws": Scenario(thaws.thaws, calls=64, blocks=10),
    "entities": Scenario(entities, calls=40),
    "leaks": Scenario(leaks.leaks, rounds=10),
    "fanout": Scenario(events.fanout, rounds=10),
    "alarms": Scenario(events.alarms, rounds=10),
}


def main() -> int:
    """Run what the command line asks for. Return 1 if a promise was not kept."""
    told = "\n".join(f"  {name:16} {scenario.run.__doc__}" for name, scenario in SCENARIOS.items())
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=f"scenarios:\n{told}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenario", nargs="+", choices=[*SCENARIOS, "all"], metavar="SCENARIO")
    parser.add_argument("--json", action="append", type=Path, default=[], metavar="FILE", help="append each line to FILE too")
    parser.add_argument("--engine", default=os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock"), metavar="URL")
    parser.add_argument("--seed", type=int, default=1)
    for size in SIZES:
        parser.add_argument(f"--{size}", type=int, metavar="N", help="instead of the scenario's own")
    arguments = parser.parse_args()
    # A bench that is told to end still removes its containers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    names = list(SCENARIOS) if "all" in arguments.scenario else arguments.scenario
    kept = True
    for name in names:
        line = _run(SCENARIOS[name], arguments)
        text = dump(line)
        print(text, flush=True)
        for file in arguments.json:
            with file.open("a") as opened:
                opened.write(text + "\n")
        kept = kept and (line.must is None or bool(line.must["met"]))
    return 0 if kept else 1


def _run(scenario: Scenario, arguments: argparse.Namespace) -> Line:
    opened = Engine(arguments.engine) if scenario.engine else NoEngine()
    with tempfile.TemporaryDirectory(prefix="invokerd-bench-") as root, contextlib.closing(opened) as engine:
        sizes = {name: getattr(arguments, name) or getattr(scenario, name) for name in SIZES}
        with Setting(engine=engine, root=Path(root), seed=arguments.seed, **sizes) as setting:
            return scenario.run(setting)


if __name__ == "__main__":
    sys.exit(main())
