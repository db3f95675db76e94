"""From activation records to the demo's table and bill: what each call waited, ran and cost."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from openwhisk import Call
from rich.console import Console
from rich.table import Table

START_KINDS = ("cold", "stem", "warm", "frozen")
#: How a call found its container.
LEGEND = {
    "cold": "a container is made",
    "stem": "one that waits, its runtime loaded, is given the code",
    "warm": "one with the code runs",
    "frozen": "one with the code is frozen, uses no CPU, and is thawed",
}
#: Every phase belongs to one column, so wait + init + run + overhead is the whole time in the daemon.
WAIT_PHASES = ("queue", "pull", "create")
OVERHEAD_PHASES = ("authenticate", "authorise", "resolve", "thaw", "collect")


@dataclass(frozen=True, kw_only=True)
class Metering:
    """What the record of one activation says of its time and cost; None where it says nothing.

    Attributes:
        wait_us: for a container: queued, image pulled, container created.
        init_us, run_us: in the container.
        overhead_us: what the daemon itself added: checks, look-ups, thaw, counters, journal.
        cpu_us: CPU time of the container.
        peak_bytes, peak_quality: high-water mark of memory, and whether that is exact, sampled or lifetime.
        cost, currency, plan: price of this activation, exact.
    """

    action: str
    start_kind: str
    wait_us: int
    init_us: int
    run_us: int
    overhead_us: int | None
    wall_us: int
    cpu_us: int | None
    peak_bytes: int | None
    peak_quality: str
    cost: Decimal | None
    currency: str
    plan: str

    @classmethod
    def of(cls, call: Call) -> Metering:
        """Read a record. OpenWhisk's own annotations (milliseconds) stand in where the phases are missing."""
        notes = call.annotations
        phases = notes.get("phases")
        if isinstance(phases, Mapping):
            wait, overhead = (sum(int(phases.get(name, 0)) for name in names) for names in (WAIT_PHASES, OVERHEAD_PHASES))
            init, run = int(phases.get("init", 0)), int(phases.get("run", 0))
        else:
            wait, overhead = 1000 * int(notes.get("waitTime", 0)), None
            init = 1000 * int(notes.get("initTime", 0))
            run = 1000 * int(call.record.get("duration", 0)) - init
        peak = notes.get("memoryPeak")
        cost = notes.get("cost")
        cost = cost if isinstance(cost, Mapping) else {"amount": cost}
        return cls(
            action=str(call.record.get("name", "?")),
            start_kind=str(notes.get("startKind") or ("cold" if "initTime" in notes else "warm")),
            wait_us=wait,
            init_us=init,
            run_us=run,
            overhead_us=overhead,
            wall_us=call.wall_us,
            cpu_us=_integer(notes.get("cpuTime"), "us", "microseconds"),
            peak_bytes=_integer(peak, "bytes"),
            peak_quality=str(peak.get("quality", "")) if isinstance(peak, Mapping) else "",
            cost=_decimal(cost.get("amount")),
            currency=str(cost.get("currency", "")),
            plan=str(cost.get("plan", "")),
        )


def _integer(value: Any, *names: str) -> int | None:
    """Read a count that is a number, or an object with it under one of `names`."""
    if isinstance(value, Mapping):
        value = next((value[name] for name in names if name in value), None)
    return int(value) if isinstance(value, int | Decimal) else None


def _decimal(value: Any) -> Decimal | None:
    """Read an amount of money: a text or a number that was never a float."""
    try:
        return Decimal(value) if isinstance(value, str | int | Decimal) else None
    except InvalidOperation:
        return None


def total_cost(metered: Iterable[Metering]) -> Decimal:
    """Add up amounts, exactly. Raises ValueError when one is missing: a sum with holes is no bill."""
    total = Decimal(0)
    for entry in metered:
        if entry.cost is None:
            raise ValueError(f"an activation of {entry.action} has no cost")
        total += entry.cost
    return total


def read_ledger(config: Path, at_least: int, patience_s: float = 10.0) -> tuple[int, Decimal]:
    """Ask the daemon's operator for what is in the ledger: number of activations, and their cost.

    A record is there before its answer, but in the journal: the ledger follows within moments. So this asks until there
    are `at_least` so many, for `patience_s` seconds.
    """
    command = [sys.executable, "-m", "invoker.commands.ctl", "--config", str(config), "usage", "--json"]
    deadline = time.monotonic() + patience_s
    while True:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(f"invokerctl usage: {done.stderr.strip()}")
        rows = json.loads(done.stdout)["rows"]
        activations = sum(row["activations"] for row in rows)
        if activations >= at_least or time.monotonic() > deadline:
            return activations, sum((Decimal(row["cost"]) for row in rows), Decimal(0))
        time.sleep(0.2)


def groups(metered: Iterable[Metering]) -> list[tuple[str, str, list[Metering]]]:
    """Group by action, in order of appearance, and by start kind: cold, stem, warm, frozen."""
    found: dict[str, dict[str, list[Metering]]] = {}
    for entry in metered:
        found.setdefault(entry.action, {}).setdefault(entry.start_kind, []).append(entry)
    order = {kind: place for place, kind in enumerate(START_KINDS)}
    return [
        (action, kind, entries)
        for action, kinds in found.items()
        for kind, entries in sorted(kinds.items(), key=lambda item: order.get(item[0], len(order)))
    ]


def as_milliseconds(microseconds: float | None) -> str:
    """Three significant digits, in milliseconds; a dash for what is not known or did not happen."""
    if microseconds is None:
        return "-"
    ms = microseconds / 1000
    return f"{ms:.0f}" if ms >= 100 else f"{ms:.1f}" if ms >= 10 else f"{ms:.2f}"


def as_money(amount: Decimal) -> str:
    """Plain digits, never an exponent, no zeros at the end."""
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _median(entries: Sequence[Metering], name: str) -> float | None:
    values = [value for entry in entries if (value := getattr(entry, name)) is not None]
    return statistics.median(values) if values else None


def as_json(metered: Iterable[Metering]) -> list[dict[str, Any]]:
    """Build the table's rows for machines: medians in microseconds, cost as the exact sum, a text."""
    rows = []
    for action, kind, entries in groups(metered):
        row: dict[str, Any] = {"action": action, "start": kind, "calls": len(entries)}
        for name in ("wait_us", "init_us", "run_us", "overhead_us", "wall_us", "cpu_us"):
            row[name] = _median(entries, name)
        row["peak_bytes"] = max((entry.peak_bytes for entry in entries if entry.peak_bytes is not None), default=None)
        row["cost"] = as_money(total_cost(entries)) if all(entry.cost is not None for entry in entries) else None
        rows.append(row)
    return rows


def paint(kind: str) -> str:
    """Give a start kind its colour."""
    colour = {"cold": "blue", "stem": "magenta", "warm": "red", "frozen": "cyan"}.get(kind, "default")
    return f"[{colour}]{kind}[/{colour}]"


def print_table(console: Console, metered: Sequence[Metering]) -> None:
    """Print a line for each action and start kind: medians of times, the greatest peak, the sum of costs."""
    currency = next((entry.currency for entry in metered if entry.currency), "")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("action", no_wrap=True)
    table.add_column("start")
    cost = f"cost µ{currency}" if currency else "cost, millionths"
    for heading in ("calls", "wait ms", "init ms", "run ms", "overhead ms", "CPU ms", "peak MiB", cost):
        table.add_column(heading, justify="right", no_wrap=True)
    previous = None
    for (action, kind, entries), row in zip(groups(metered), as_json(metered), strict=True):
        table.add_row(
            action if action != previous else "",
            paint(kind),
            str(len(entries)),
            as_milliseconds(row["wait_us"]),
            as_milliseconds(row["init_us"]) if row["init_us"] else "-",
            *(as_milliseconds(row[name]) for name in ("run_us", "overhead_us", "cpu_us")),
            f"{row['peak_bytes'] / 2**20:.1f}" if row["peak_bytes"] is not None else "-",
            f"{Decimal(row['cost']) * 1_000_000:.3f}" if row["cost"] is not None else "-",
        )
        previous = action
    console.print(table)
    qualities = sorted({entry.peak_quality for entry in metered if entry.peak_quality})
    console.print(
        "Times are medians of the calls in a line; wait + init + run + overhead is the whole time in the daemon.\n"
        f"Peak is the greatest of them ({', '.join(qualities) or 'quality not told'}); cost is the sum, in millionths, rounded "
        "here only.",
        style="dim",
    )
    seen = {entry.start_kind for entry in metered}
    console.print("; ".join(f"{paint(kind)}: {text}" for kind, text in LEGEND.items() if kind in seen) + ".", style="dim")
