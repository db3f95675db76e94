"""A ledger with one row of every sort, around a price that changes in the middle of a month."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from invoker.activation import Activation, Meter, Phases, Status
from invoker.model import Limits
from invoker.record.entries import Correction, IdleEntry, TailEntry, encode_entry
from invoker.record.ledger import Ledger, LedgerItem, UsageRow, read_usage
from invoker.record.rating import Prices
from invoker.record.usage import month_span
from pool.model import ActivationId, ContainerId

NOVEMBER, DECEMBER = month_span("2026-11")
#: The price changes in the middle of November, 2026-11-16T00:00Z; nothing is priced before the month.
CHANGE = NOVEMBER + 15 * 86_400_000
PLANS = """
[[plan]]
id = "site"
version = "1"
currency = "EUR"
valid_from = 2026-11-01T00:00:00Z
valid_to = 2026-11-16T00:00:00Z
memory_gib_s = "0.0000166667"
cpu_s = "0.0000123457"
invocation = "0.0000002"
idle_gib_s = "0.0000013"
step_ms = 100
minimum_ms = 200
places = 4
rounding = "half-up"
free = { memory_gib_s = 1, cpu_s = 1, invocations = 2 }

[[plan]]
id = "site"
version = "2"
currency = "EUR"
valid_from = 2026-11-16T00:00:00Z
memory_gib_s = "0.00002"
cpu_s = "0.00001"
bill_init = false
"""


@dataclass
class Books:
    """A ledger in a directory, with what `priced_usage` wants of a recorder."""

    directory: Path

    async def usage(self, **span: Any) -> list[UsageRow]:
        return await read_usage(self.directory, **{"rounding": Prices.parse(PLANS).plans[0].rounding, **span})


def finished(number: int, at_ms: int, billed_us: int, **changes: Any) -> LedgerItem:
    meter: dict[str, Any] = {
        "memory_limit_mib": 384,
        "cpu_us": billed_us // 3,
        "outcome": "ok",
        "phases": Phases(init=billed_us // 7),
    }
    meter |= {name: changes.pop(name) for name in list(changes) if name in meter}
    values: dict[str, Any] = {
        "activation_id": f"{number:032x}",
        "node": "n1",
        "namespace": "anna",
        "subject": "anna",
        "path": "anna/find",
        "version": "0.0.1",
        "kind": "python:3",
        "limits": Limits(),
        "start_ms": at_ms,
        "end_ms": at_ms + billed_us // 1000,
        "status": Status.SUCCESS,
        "meter": Meter(billed_us=billed_us, **meter),
    }
    return LedgerItem.finished(Activation(**(values | changes)))


def entry(kind: str, subject: str, value: Any) -> LedgerItem:
    return LedgerItem(kind, value.at_ms, subject, encode_entry(value))


def all_sorts() -> list[LedgerItem]:
    tail = TailEntry(ActivationId("t"), "anna", "anna/find", 77_777, CHANGE + 1, 1)
    idle = IdleEntry(ContainerId("c"), "anna", "anna/find", 256 * 10**9 + 1, 333, 41, NOVEMBER + 5, 1)
    correction = Correction(
        subject="1", namespace="anna", path="anna/find", key=1, reason="a fault of ours", author="root", at_ms=CHANGE,
        billed_us=-1, cpu_us=-333_333, memory_mib_us=-384 * 500_000,
    )  # fmt: skip
    return [
        finished(1, NOVEMBER - 1, 3_000_001),  # October: no plan rates it
        finished(2, NOVEMBER, 4_234_567),
        finished(3, NOVEMBER + 1, 101),  # far below the minimum
        finished(4, CHANGE - 1, 200_001, path="anna/index"),
        finished(5, CHANGE, 200_001, path="anna/index"),
        finished(6, DECEMBER - 1, 999_999, namespace="ben", path="ben/x", memory_limit_mib=1),
        finished(7, DECEMBER, 1_000_003),
        finished(8, NOVEMBER + 2, 0, status=Status.INTERNAL_ERROR, outcome="engine-unavailable"),
        finished(9, NOVEMBER + 2, 0, status=Status.APPLICATION_ERROR, outcome="cancelled"),
        finished(10, NOVEMBER + 2, 0, status=Status.DEVELOPER_ERROR, outcome="image-not-found"),
        finished(11, NOVEMBER + 2, 500_000, status=Status.INTERNAL_ERROR, outcome="lost"),
        finished(12, NOVEMBER + 3, 0, kind="sequence", path="anna/both", memory_limit_mib=0),
        entry("tail", "t", tail),
        entry("idle", "c", idle),
        entry("correction", "1", correction),
    ]


def fill(directory: Path) -> Books:
    """Write them all into a new ledger."""
    ledger = Ledger(directory, "n1")
    ledger.apply(all_sorts(), 1)
    ledger.close()
    return Books(directory)
