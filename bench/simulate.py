"""Policies of keep-alive on generated traces of hours, with seeds that nothing was chosen by. Needs no engine."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from statistics import fmean
from typing import Any, NamedTuple

import msgspec

from bench.container import Engine
from bench.measure import Line, make_line
from bench.setting import Setting
from bench.traces import generate
from pool.simulation import SIZES, Outcome, compare, five_sizes

#: The seeds below are for choosing parameters by; these judge.
FIRST_HELD_OUT = 1000
KEEP_ALIVE_S = 3600.0
DEFAULT = "blend"
#: Above the best policy at any size.
_SLACK = 1.02


class NoEngine(Engine):
    """For what needs none."""

    def __init__(self) -> None:
        """Connect to nothing."""
        self.url, self.version = "", "none"

    def close(self) -> None:
        """Nothing to close."""


class _Job(NamedTuple):
    seed: int
    calls: int


def simulate(setting: Setting) -> Line:
    """Play traces of four hours under each policy, in five sizes of memory: cold starts, waiting, memory held."""
    jobs = [_Job(FIRST_HELD_OUT + setting.seed + number, setting.calls) for number in range(setting.rounds)]
    with ProcessPoolExecutor(min(len(jobs), os.cpu_count() or 1)) as processes:
        by_seed = list(processes.map(_play, jobs))
    names = list(dict.fromkeys(outcome.policy for outcome in by_seed[0]))
    # [policy][size] -> the outcomes of all seeds
    cells = {
        name: [
            [outcome for outcomes in by_seed for outcome in outcomes if outcome.policy == name][place :: len(SIZES)]
            for place in range(len(SIZES))
        ]
        for name in names
    }
    cold = {name: [fmean(each.cold_share for each in cell) for cell in sizes] for name, sizes in cells.items()}
    real = {name: shares for name, shares in cold.items() if not name.startswith("clairvoyant")}
    best = [min(shares[place] for shares in real.values()) for place in range(len(SIZES))]
    mean = {name: fmean(shares) for name, shares in real.items()}
    met = mean[DEFAULT] == min(mean.values()) and all(
        ours <= _SLACK * least for ours, least in zip(cold[DEFAULT], best, strict=True)
    )
    bound = [min(cold[name][place] for name in cold if name.startswith("clairvoyant")) for place in range(len(SIZES))]
    waits = {name: [fmean(each.mean_wait_ms for each in cell) for cell in sizes] for name, sizes in cells.items()}
    held = {name: [fmean(each.held_mib_s for each in cell) / 1024 / 3600 for cell in sizes] for name, sizes in cells.items()}
    facts = {
        "seeds": [job.seed for job in jobs],
        "memory_of_footprint": list(SIZES),
        "cold_share": _rounded(cold),
        "mean_wait_ms": _rounded(waits),
        "held_gib_h": _rounded(held),
        "above_the_bound": [round(ours / least - 1, 3) for ours, least in zip(cold[DEFAULT], bound, strict=True)],
    }
    line = make_line(
        "simulate",
        seed=setting.seed,
        engine="none",
        blocks={name: [[100 * outcome.cold_share for outcome in cell] for cell in sizes] for name, sizes in cells.items()},
        reference=None,
        unit="% cold",
        facts=facts,
    )
    must = {"what": f"{DEFAULT} <= 1.02 x the best policy at each size, the best on average", "met": met}
    return msgspec.structs.replace(line, must=must)


def _play(job: _Job) -> list[Outcome]:
    trace = generate(job.seed, calls=job.calls)
    return list(compare(trace, five_sizes(trace), KEEP_ALIVE_S))


def _rounded(table: dict[str, list[float]]) -> dict[str, Any]:
    return {name: [round(value, 4) for value in values] for name, values in table.items()}
