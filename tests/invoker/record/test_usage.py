"""What usage and bills say is what the ledger's rows say, priced by the plan of their time, to the last digit."""

import csv
import io
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from invoker.errors import MalformedQuery
from invoker.record.export import COLUMNS, read_rows
from invoker.record.rating import Prices, add
from invoker.record.usage import bills, month_span, priced_usage
from tests.support.bill_rows import CHANGE, DECEMBER, NOVEMBER, PLANS, Books, fill

ROOT = Path(__file__).parents[3]


@pytest.fixture
def books(tmp_path: Path) -> Books:
    return fill(tmp_path)


async def export(books: Books, since_ms: int, upto_ms: int, **options) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    async for row in read_rows(books.directory, **{"namespace": None, "since_ms": since_ms, "upto_ms": upto_ms, **options}):
        writer.writerow(row)
    return text.getvalue()


def recompute(exported: str, tmp_path: Path) -> dict[tuple[str, str], str]:
    plans = tmp_path / "prices.toml"
    plans.write_text(PLANS)
    command = [sys.executable, ROOT / "examples/recompute.py", plans]
    shown = subprocess.run(command, input=exported, text=True, capture_output=True, check=True).stdout
    return {(namespace, plan): cost for namespace, plan, cost in map(str.split, shown.splitlines())}


async def test_a_program_without_anything_of_ours_computes_the_same_costs_from_the_exported_rows(books, tmp_path):
    for since, until in [(0, 2**62), (NOVEMBER, DECEMBER), (NOVEMBER + 1, CHANGE + 1), (CHANGE, DECEMBER + 1)]:
        rows = await priced_usage(books, Prices.parse(PLANS), None, since, until)
        told = {(row.namespace, row.plan): row.cost for row in rows if row.plan}
        assert told == recompute(await export(books, since, until), tmp_path), (since, until)
        assert len(told) > 1


async def test_rows_by_action_add_up_to_those_by_namespace(books):
    prices = Prices.parse(PLANS)
    whole = await priced_usage(books, prices, None, 0, 2**62)
    parts = await priced_usage(books, prices, None, 0, 2**62, by_action=True)
    assert {"anna/find", "anna/index", "anna/both"} <= {row.action for row in parts}
    for row in whole:
        mine = [part for part in parts if (part.namespace, part.plan) == (row.namespace, row.plan)]
        assert add(Decimal(part.cost) for part in mine) == Decimal(row.cost)
        for name in ("activations", "failed", "billed_us", "cpu_us", "charged_memory_mib_us", "idle_byte_us", "corrections"):
            assert sum(getattr(part, name) for part in mine) == getattr(row, name), name


async def test_what_no_plan_rates_is_shown_without_a_plan_and_costs_nothing(books):
    first, *others = await priced_usage(books, Prices.parse(PLANS), "anna", 0, 2**62)
    assert (first.plan, first.currency, first.cost, first.activations, first.billed_us) == ("", "", "0", 1, 3_000_001)
    assert [row.plan for row in others] == ["site@1", "site@2"]
    assert Prices.parse(PLANS).gaps(NOVEMBER, DECEMBER) == []
    assert Prices.parse(PLANS).gaps(NOVEMBER - 5, CHANGE) == [(NOVEMBER - 5, NOVEMBER)]
    assert Prices.parse("plan = []").gaps(3, 5) == [(3, 5)]


async def test_a_months_bill_takes_off_what_is_free_and_rounds_each_line_once(books):
    made = await bills(books, Prices.parse(PLANS), None, "2026-11")
    assert [(line.namespace, line.plan) for line in made.rows] == [("anna", "site@1"), ("anna", "site@2"), ("ben", "site@2")]
    first, second, _ = made.rows
    (usage,) = [row for row in await priced_usage(books, Prices.parse(PLANS), "anna", NOVEMBER, DECEMBER) if row.plan == "site@1"]
    assert (first.free_invocations, first.invocations) == (2, usage.charged_invocations - 2)
    assert (first.free_memory_mib_us, first.free_cpu_us) == (1024 * 10**6, 10**6)
    assert first.memory_mib_us == usage.charged_memory_mib_us - 1024 * 10**6
    assert first.idle_byte_us == usage.idle_byte_us  # idling is never free
    assert Decimal(first.exact) < Decimal(usage.cost)
    assert first.amount == f"{Decimal(first.exact):.4f}"
    assert second.amount == "0.00"


async def test_a_bill_is_complete_when_its_month_is_over(books):
    assert (await bills(books, Prices.parse(PLANS), None, "2020-02")).complete
    assert not (await bills(books, Prices.parse(PLANS), None, "2999-12")).complete


@pytest.mark.parametrize("text", ["2026", "2026-13", "2026-11-01", "november", "", "9999-12"])
def test_what_is_no_month_is_refused_by_name(text):
    with pytest.raises(MalformedQuery, match="is no month"):
        month_span(text)
