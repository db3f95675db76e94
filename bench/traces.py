"""Traces of invocations for those who have none of their own: hours, from a seed."""

from __future__ import annotations

import math
import random

from pool.trace import Call, Function, Trace

#: How the functions of a node are called: periodic (timers), at random, in bursts.
_SHAPES = (("timer", 0.3), ("random", 0.4), ("bursts", 0.3))
_MEMORY_MIB = ((128, 0.25), (256, 0.4), (512, 0.2), (1024, 0.1), (2048, 0.05))


def generate(seed: int, *, functions: int = 120, hours: float = 4.0, calls: int = 12_000) -> Trace:
    """Make a trace.

    What is known of the Azure Functions traces of 2019 (Shahrad and others, USENIX ATC 2020) is kept: rates spread over many
    orders of magnitude, a third of timers, runs of about a second with a long tail, many small functions; and what research
    nodes add: campaigns, in which a function is called very often for a while, then not for an hour.

    Args:
        seed: the same seed, the same trace.
        functions: how many there are.
        hours: how long it is.
        calls: about so many in all: the most frequent functions are thinned out until they are no more.
    """
    rng = random.Random(seed)
    length_s = hours * 3600
    made = tuple(_function(rng, number) for number in range(functions))
    gaps_s = [min(max(rng.lognormvariate(math.log(240.0), 1.6), 1.0), length_s / 2) for _ in made]
    expected = sum(length_s / gap_s for gap_s in gaps_s)
    stretch = max(1.0, expected / calls)
    found: list[Call] = []
    for index, (function, gap_s) in enumerate(zip(made, gaps_s, strict=True)):
        (shape,) = rng.choices([name for name, _ in _SHAPES], [weight for _, weight in _SHAPES])
        found += [
            Call(round(at_s, 3), index, round(function.run_s * rng.lognormvariate(0.0, 0.4), 4))
            for at_s in _times(rng, shape, gap_s * stretch, length_s)
        ]
    return Trace(made, tuple(sorted(found)))


def _function(rng: random.Random, number: int) -> Function:
    (memory_mib,) = rng.choices([size for size, _ in _MEMORY_MIB], [weight for _, weight in _MEMORY_MIB])
    run_s = min(rng.lognormvariate(math.log(0.6), 1.4), 60.0)
    start_s = 0.25 + min(rng.lognormvariate(math.log(0.3), 1.0), 20.0)
    return Function(f"f{number}", memory_mib, round(run_s, 4), round(start_s, 4))


def _times(rng: random.Random, shape: str, gap_s: float, length_s: float) -> list[float]:
    """Give the times of one function's calls: `gap_s` is the mean gap over the whole trace."""
    times = []
    at_s = rng.uniform(0, gap_s)
    while at_s < length_s:
        if shape == "timer":
            times.append(at_s)
            at_s += gap_s * rng.uniform(0.98, 1.02)
        elif shape == "random":
            times.append(at_s)
            at_s += rng.expovariate(1 / gap_s)
        else:
            size = 1 + int(rng.expovariate(1 / 20.0))
            within_s = min(gap_s, rng.lognormvariate(math.log(2.0), 0.7))
            for _ in range(size):
                if at_s >= length_s:
                    break
                times.append(at_s)
                at_s += rng.expovariate(1 / within_s)
            at_s += rng.expovariate(1 / (gap_s * size))
    return times
