"""What the ledger says that namespaces have used of late: what ended within the span, by step, wherever its row is."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from activations import finished

from invoker.activation import Meter
from invoker.cpu_window import CpuUse
from invoker.record import ledger as ledger_module
from invoker.record.cpu_used import read_cpu_used
from invoker.record.entries import Correction, IdleEntry, TailEntry, encode_entry
from invoker.record.ledger import Ledger, LedgerItem
from invoker.record.store import load_queries, open_writer

#: 2026-11-30T23:30Z: the span reaches into December.
NOW = int(datetime(2026, 11, 30, 23, 30, tzinfo=UTC).timestamp() * 1000)
STEP = 60_000
HOUR = 3_600_000


def ended(number: int, end_ms: int, cpu_us: int, *, ran_ms: int = 100, namespace: str = "anna") -> LedgerItem:
    meter = Meter(cpu_us=cpu_us)
    name = f"{number:032x}"
    return LedgerItem.finished(
        finished({}, activation_id=name, start_ms=end_ms - ran_ms, end_ms=end_ms, namespace=namespace, meter=meter)
    )


def tail(number: int, at_ms: int, cpu_us: int) -> LedgerItem:
    entry = TailEntry(f"{number:032x}", "anna", "anna/c", cpu_us, at_ms, number)
    return LedgerItem("tail", at_ms, entry.activation_id, encode_entry(entry))


def write(directory: Path, *items: LedgerItem) -> None:
    ledger = Ledger(directory, "n")
    ledger.apply(items, 1)
    ledger.close()


async def read(directory: Path, *, since_ms: int = NOW, upto_ms: int = NOW + HOUR) -> list[CpuUse]:
    return sorted(await read_cpu_used(directory, since_ms=since_ms, upto_ms=upto_ms, step_ms=STEP, longest_ms=HOUR))


async def test_it_is_what_ended_in_the_span_by_step_with_tails_and_over_the_end_of_a_month(tmp_path: Path):
    write(
        tmp_path,
        ended(1, NOW - 1, 1),
        ended(2, NOW, 10),
        ended(3, NOW + STEP - 1, 100),
        ended(4, NOW + STEP, 1000, ran_ms=HOUR),
        tail(4, NOW + STEP + 5, 7),
        ended(5, NOW + 45 * STEP, 10_000),
        ended(6, NOW + STEP, 5, namespace="bert"),
        ended(7, NOW + HOUR, 1),
        ended(8, NOW + STEP, 0, namespace="carl"),
    )
    assert len(ledger_module.months(tmp_path)) == 2
    first = NOW // STEP
    assert await read(tmp_path) == [
        CpuUse("anna", first, 110),
        CpuUse("anna", first + 1, 1007),
        CpuUse("anna", first + 45, 10_000),
        CpuUse("bert", first + 1, 5),
    ]


async def test_what_containers_and_corrections_say_is_not_what_activations_used(tmp_path: Path):
    entry = IdleEntry("c1", "anna", "anna/c", 1, 0, 77, NOW, 1)
    correction = Correction(subject="a", namespace="anna", key=1, reason="wrong", author="op", at_ms=NOW, cpu_us=-50)
    write(
        tmp_path,
        LedgerItem("idle", NOW, "c1", encode_entry(entry)),
        LedgerItem("correction", NOW, "a", msgspec.json.encode(correction)),
    )
    assert await read(tmp_path) == []


async def test_without_a_ledger_nothing_was_used(tmp_path: Path):
    assert await read(tmp_path) == []


def test_it_is_read_by_the_index_on_time(tmp_path: Path):
    connection = open_writer(tmp_path / "2026-11.db", "ledger", durable=False)
    try:
        parameters = dict.fromkeys(("since_ms", "upto_ms", "step_ms", "began_ms"), 1)
        plan = connection.execute(f"EXPLAIN QUERY PLAN {load_queries('ledger')['cpu_used']}", parameters).fetchall()
    finally:
        connection.close()
    assert "USING INDEX ledger_by_time (at_ms>? AND at_ms<?)" in str(plan)


@pytest.mark.parametrize("longest_ms", [0, HOUR])
async def test_rows_that_began_earlier_than_anything_may_run_are_not_looked_at(tmp_path: Path, longest_ms: int):
    write(tmp_path, ended(1, NOW, 5, ran_ms=HOUR // 2))
    found = await read_cpu_used(tmp_path, since_ms=NOW, upto_ms=NOW + 1, step_ms=STEP, longest_ms=longest_ms)
    assert [each.cpu_us for each in found] == ([5] if longest_ms else [])
