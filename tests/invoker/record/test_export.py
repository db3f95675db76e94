import re
import sqlite3
from pathlib import Path

from invoker.record.entries import TailEntry, encode_entry
from invoker.record.export import COLUMNS, read_rows
from invoker.record.ledger import Ledger, LedgerItem
from pool.model import ActivationId

#: 2026-11-30T23:59:59.990Z
START_MS = 1_796_083_199_990


def fill(directory, count: int) -> None:
    ledger = Ledger(directory, "n1")
    tails = [TailEntry(ActivationId(f"{n}"), "anna" if n % 2 else "ben", "anna/a", n, START_MS + n // 3, n) for n in range(count)]
    items = [LedgerItem("tail", each.at_ms, str(number), encode_entry(each)) for number, each in enumerate(tails)]
    ledger.apply(reversed(items), 1)
    ledger.close()


async def read(directory, **options) -> list[dict]:
    span = {"namespace": None, "since_ms": 0, "upto_ms": 2**63 - 1} | options
    return [dict(zip(COLUMNS, row, strict=True)) async for row in read_rows(directory, **span)]


def test_every_column_is_told_of_by_the_page_on_billing():
    page = (Path(__file__).parents[3] / "docs/billing.md").read_text(encoding="utf-8")
    told = {word for span in re.findall(r"`([^`\n]+)`", page) for word in re.findall(r"\w+", span)}
    assert set(COLUMNS) - told == set()


async def test_every_row_is_read_once_in_the_order_of_its_time_whatever_the_page_and_over_months(tmp_path):
    fill(tmp_path, 50)
    assert len(list(tmp_path.glob("*.db"))) == 2
    whole = await read(tmp_path)
    assert sorted(row["cpu_us"] for row in whole) == list(range(50))
    assert [row["at_ms"] for row in whole] == sorted(row["at_ms"] for row in whole)
    for page in (1, 3, 7, 50):
        assert await read(tmp_path, page=page) == whole


async def test_a_span_and_a_namespace_bound_what_is_read(tmp_path):
    fill(tmp_path, 50)
    found = await read(tmp_path, namespace="anna", since_ms=START_MS + 3, upto_ms=START_MS + 6)
    assert sorted(row["cpu_us"] for row in found) == [9, 11, 13, 15, 17]


async def test_the_columns_are_all_that_the_ledger_has(tmp_path):
    fill(tmp_path, 1)
    with sqlite3.connect(next(tmp_path.glob("*.db"))) as connection:
        table = [row[1] for row in connection.execute("PRAGMA table_info(ledger)")]
    connection.close()
    assert sorted(COLUMNS) == sorted(table)
    (row,) = await read(tmp_path)
    assert (row["node"], row["type"], row["namespace"], row["fact"]) == ("n1", "tail", "ben", None)


async def test_rows_that_no_bill_depends_on_are_read_only_when_they_are_asked_for(tmp_path):
    ledger = Ledger(tmp_path, "n1")
    begun = b'{"activation_id":"a","at_ms":1796083199990,"namespace":"anna","path":"anna/a"}'
    ledger.apply([LedgerItem("begun", START_MS, "a", begun)], 1)
    ledger.close()
    assert await read(tmp_path) == []
    assert [row["type"] for row in await read(tmp_path, every_type=True)] == ["begun"]
