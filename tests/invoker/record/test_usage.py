"""What usage and bills say is what the ledger's rows say, priced by the plan of their time, to the last digit."""

import csv
import io
import subprocess
import sys
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import pytest

from invoker.activation import Activation, Meter, Phases, Status
from invoker.errors import MalformedQuery
from invoker.model import Limits
from invoker.record.entries import Correction, IdleEntry, TailEntry, encode_entry
from invoker.record.export import COLUMNS, read_rows
from invoker.record.ledger import Ledger, LedgerItem, read_usage
from invoker.record.rating import Prices, add
from invoker.record.usage import bills, month_span, priced_usage
from pool.model import ActivationId, ContainerId

ROOT = Path(__file__).parents[3]
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

    async def usage(self, **span):
        return await read_usage(self.directory, **{"rounding": Prices.parse(PLANS).plans[0].rounding, **span})


def finished(number: int, at_ms: int, billed_us: int, **changes) -> LedgerItem:
    meter = {"memory_limit_mib": 384, "cpu_us": billed_us // 3, "outcome": "ok", "phases": Phases(init=billed_us // 7)}
    meter |= {name: changes.pop(name) for name in list(changes) if name in meter}
    values = {
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


def entry(kind: str, subject: str, value) -> LedgerItem:
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


@pytest.fixture
def books(tmp_path: Path) -> Books:
    ledger = Ledger(tmp_path, "n1")
    ledger.apply(all_sorts(), 1)
    ledger.close()
    return Books(tmp_path)


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
