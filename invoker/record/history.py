"""What a node has run, as a trace for the simulation of policies: read from the ledger, which is not touched."""

from __future__ import annotations

from pathlib import Path

from invoker.record.ledger import months
from invoker.record.store import load_queries, reading
from pool.trace import BadTrace, Call, Function, Trace

#: What a start takes that was never seen: a container, and a function of a few lines, s.
UNSEEN_START_S = 0.5


async def read_history(ledger: Path, *, since_ms: int, upto_ms: int) -> Trace:
    """Read the activations that began in a span as a trace.

    Args:
        ledger: directory of the months.
        since_ms: wall clock; included.
        upto_ms: not included.

    Raises:
        BadTrace: there are none.
    """
    statement = load_queries("ledger")["history"]
    rows = []
    for path in sorted(months(ledger)):
        async with reading(path) as reader:
            rows += await reader.fetch(statement, {"since_ms": since_ms, "upto_ms": upto_ms})
    if not rows:
        raise BadTrace(f"the ledger in {ledger} has no activation of this span; widen it with --days, or name a trace")
    places: dict[tuple[str, int], int] = {}
    starts: dict[int, list[int]] = {}
    runs: dict[int, list[int]] = {}
    calls = []
    first_ms = min(row[0] for row in rows)
    for at_ms, owner, action, memory_mib, run_us, start_us in rows:
        place = places.setdefault((f"{owner}: {action}", memory_mib), len(places))
        calls.append(Call((at_ms - first_ms) / 1000, place, run_us / 1e6))
        runs.setdefault(place, []).append(run_us)
        if start_us:
            starts.setdefault(place, []).append(start_us)
    functions = tuple(
        Function(
            name=name,
            memory_mib=memory_mib,
            run_s=_mean_s(runs[place]),
            start_s=_mean_s(starts[place]) if place in starts else UNSEEN_START_S,
        )
        for (name, memory_mib), place in places.items()
    )
    return Trace(functions, tuple(sorted(calls)))


def _mean_s(values_us: list[int]) -> float:
    return sum(values_us) / len(values_us) / 1e6
