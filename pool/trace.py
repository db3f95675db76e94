"""Traces of invocations: what was called when, for how long, and in how much memory. Values, and their form as CSV.

Two files, as the Azure Functions traces are commonly cut down to one server:

* calls: `func_name,invoke_time_ms`, one line a call, in any order; an optional third column `run_ms` is that call's own time.
* functions: `func_name,cold_dur_ms,warm_dur_ms,mem_mb`, one line a function; further columns are ignored. `cold_dur_ms` is a call
  that starts a container, `warm_dur_ms` one that finds it running.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass

from pool.errors import RequestError


class BadTrace(RequestError):
    """A trace of invocations cannot be used."""

    code = "bad-trace"


@dataclass(frozen=True, slots=True)
class Function:
    """What one action needs.

    Attributes:
        memory_mib: its memory limit.
        run_s: a call in a running container.
        start_s: what a call takes longer that must start one.
    """

    name: str
    memory_mib: int
    run_s: float
    start_s: float


@dataclass(frozen=True, slots=True, order=True)
class Call:
    """One invocation: when, of which function (its place in `Trace.functions`), and how long it runs."""

    at_s: float
    function: int
    run_s: float


@dataclass(frozen=True, slots=True)
class Trace:
    """Functions and their calls, by time."""

    functions: tuple[Function, ...]
    calls: tuple[Call, ...]

    @property
    def footprint_mib(self) -> int:
        """Memory of one container of each function that is called."""
        return sum(self.functions[index].memory_mib for index in {call.function for call in self.calls})


def parse(calls: Iterable[str], functions: Iterable[str]) -> Trace:
    """Take a trace from the lines of its two files.

    Raises:
        BadTrace: with the file and line that cannot be used.
    """
    known: dict[str, Function] = {}
    for number, row in _rows(functions, "functions", ("func_name", "cold_dur_ms", "warm_dur_ms", "mem_mb")):
        run_ms, cold_ms = (_number(row[name], "functions", number) for name in ("warm_dur_ms", "cold_dur_ms"))
        memory_mib = max(1, round(_number(row["mem_mb"], "functions", number)))
        known[row["func_name"]] = Function(row["func_name"], memory_mib, run_ms / 1000, max(0.0, cold_ms - run_ms) / 1000)
    places = {name: place for place, name in enumerate(known)}
    kept = tuple(known.values())
    found = []
    for number, row in _rows(calls, "calls", ("func_name", "invoke_time_ms")):
        place = places.get(row["func_name"])
        if place is None:
            raise BadTrace(f"calls, line {number}: {row['func_name']!r} is not among the functions")
        at_s = _number(row["invoke_time_ms"], "calls", number) / 1000
        run_s = _number(row["run_ms"], "calls", number) / 1000 if row.get("run_ms") else kept[place].run_s
        found.append(Call(at_s, place, run_s))
    if not found:
        raise BadTrace("calls: there are none")
    return Trace(kept, tuple(sorted(found)))


def render(trace: Trace) -> tuple[str, str]:
    """Write a trace as the text of its two files, (calls, functions)."""
    calls = "".join(
        f"{trace.functions[call.function].name},{call.at_s * 1000:.0f},{call.run_s * 1000:.0f}\n" for call in trace.calls
    )
    functions = "".join(
        f"{each.name},{(each.start_s + each.run_s) * 1000:.0f},{each.run_s * 1000:.0f},{each.memory_mib}\n"
        for each in trace.functions
    )
    return "func_name,invoke_time_ms,run_ms\n" + calls, "func_name,cold_dur_ms,warm_dur_ms,mem_mb\n" + functions


def _rows(lines: Iterable[str], what: str, needed: tuple[str, ...]) -> Iterable[tuple[int, dict[str, str]]]:
    reader = csv.DictReader(lines)
    missing = [name for name in needed if name not in (reader.fieldnames or ())]
    if missing:
        raise BadTrace(f"{what}: the first line must name the columns {', '.join(needed)}; missing: {', '.join(missing)}")
    for row in reader:
        yield reader.line_num, row


def _number(text: str | None, what: str, line: int) -> float:
    try:
        number = float(text or "")
    except ValueError:
        number = -1.0
    if not 0 <= number < 1e15:
        raise BadTrace(f"{what}, line {line}: {text!r} is not a number of at least 0")
    return number
