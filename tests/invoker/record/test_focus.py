"""A month in FOCUS is the month's bill, cut finer: it adds up to it to the last digit, and keeps to the specification's forms."""

from __future__ import annotations

import re
from collections import defaultdict
from decimal import Context, Decimal
from pathlib import Path

import pytest

from invoker.errors import MalformedQuery
from invoker.record.focus import COLUMNS, Row, focus_rows
from invoker.record.ledger import Ledger
from invoker.record.rating import Prices, add
from invoker.record.usage import bills, priced_usage
from tests.support.bill_rows import CHANGE, DECEMBER, NOVEMBER, PLANS, Books, fill, finished

#: That FOCUS 1.2 wants in each file.
MANDATORY = {
    *("BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd", "BillingPeriodStart"),
    *("ChargeCategory", "ChargeClass", "ChargeDescription", "ChargePeriodEnd", "ChargePeriodStart", "ContractedCost"),
    *("EffectiveCost", "InvoiceIssuerName", "ListCost", "PricingQuantity", "PricingUnit", "ProviderName", "PublisherName"),
    *("ServiceCategory", "ServiceName"),
}
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
NUMBER = re.compile(r"-?\d+(\.\d+)?")


@pytest.fixture
def books(tmp_path: Path) -> Books:
    return fill(tmp_path)


async def rows_of(books: Books, plans: str = PLANS, **options: str) -> list[Row]:
    options = {"month": "2026-11", "issuer": "Site"} | options
    return [row async for row in focus_rows(books.directory, Prices.parse(plans), **options)]


def sums(rows: list[Row], column: str) -> dict[tuple[str, str], Decimal]:
    parts: dict[tuple[str, str], list[Decimal]] = defaultdict(list)
    for row in rows:
        parts[row["BillingAccountId"], row["x_PricePlan"]].append(Decimal(row[column]))
    return {key: add(amounts) for key, amounts in parts.items()}


async def test_all_rows_add_up_to_the_lines_of_the_bill(books: Books):
    made = await bills(books, Prices.parse(PLANS), None, "2026-11")
    rows = await rows_of(books)
    assert sums(rows, "BilledCost") == {(line.namespace, line.plan): Decimal(line.amount) for line in made.rows}
    assert {row["ChargeCategory"] for row in rows} == {"Usage", "Credit", "Adjustment"}


async def test_rows_of_usage_add_up_to_what_usage_says(books: Books):
    told = await priced_usage(books, Prices.parse(PLANS), None, NOVEMBER, DECEMBER)
    used = [row for row in await rows_of(books) if row["ChargeCategory"] == "Usage"]
    assert sums(used, "BilledCost") == {(row.namespace, row.plan): Decimal(row.cost) for row in told}


async def test_a_row_of_usage_costs_its_quantity_times_its_price(books: Books):
    exact = Context(prec=200)
    units = {"invocations": "Requests", "memory": "GiB-Seconds", "cpu": "Core-Seconds", "idle-memory": "GiB-Seconds"}
    seen = set()
    for row in await rows_of(books):
        if row["ChargeCategory"] == "Usage":
            seen.add(row["SkuId"])
            assert row["PricingUnit"] == row["ConsumedUnit"] == units[row["SkuId"]]
            assert row["SkuPriceId"] == f"{row['x_PricePlan']}/{row['SkuId']}"
            assert row["ListUnitPrice"] == row["ContractedUnitPrice"]
            assert row["PricingQuantity"] == row["ConsumedQuantity"]
            assert exact.multiply(Decimal(row["PricingQuantity"]), Decimal(row["ListUnitPrice"])) == Decimal(row["ListCost"])
        else:
            assert row["PricingQuantity"] == row["SkuId"] == row["ResourceId"] == ""
    assert seen == set(units)


async def test_each_row_has_the_forms_that_the_specification_wants(books: Books):
    assert set(COLUMNS) >= MANDATORY
    for row in await rows_of(books):
        assert tuple(row) == COLUMNS
        assert all(row[name] for name in MANDATORY - {"ChargeClass", "PricingQuantity", "PricingUnit"})
        assert row["ChargeClass"] == ""
        assert row["BilledCost"] == row["EffectiveCost"] == row["ListCost"] == row["ContractedCost"]
        for name, text in row.items():
            if name.endswith(("Cost", "Quantity", "UnitPrice")) and text:
                assert NUMBER.fullmatch(text), name
            if name.endswith(("PeriodStart", "PeriodEnd")):
                assert MOMENT.fullmatch(text), name
        assert row["BillingPeriodStart"] == "2026-11-01T00:00:00Z"
        assert row["BillingPeriodEnd"] == "2026-12-01T00:00:00Z"
        assert row["BillingPeriodStart"] <= row["ChargePeriodStart"] < row["ChargePeriodEnd"] <= row["BillingPeriodEnd"]
        assert row["InvoiceIssuerName"] == row["ProviderName"] == row["PublisherName"] == "Site"


async def test_there_is_a_row_for_each_hour_namespace_action_and_meter_and_a_new_plan_cuts_an_hour(tmp_path: Path):
    hour = 3_600_000
    half = CHANGE + hour // 2
    plans = PLANS.replace("2026-11-16T00:00:00Z", "2026-11-16T00:30:00Z")
    with_times = [NOVEMBER, NOVEMBER + hour - 1, NOVEMBER + hour, half - 1, half, DECEMBER - 1, DECEMBER]
    ledger = Ledger(tmp_path, "n1")
    ledger.apply([finished(number, at, 1_000_000) for number, at in enumerate(with_times)], 1)
    ledger.close()
    rows = [row for row in await rows_of(Books(tmp_path), plans) if row["SkuId"] == "invocations"]
    assert [(row["ChargePeriodStart"][8:16], row["ChargePeriodEnd"][8:16], row["PricingQuantity"]) for row in rows] == [
        ("01T00:00", "01T01:00", "2"),
        ("01T01:00", "01T02:00", "1"),
        ("16T00:00", "16T00:30", "1"),
        ("16T00:30", "16T01:00", "1"),
        ("30T23:00", "01T00:00", "1"),
    ]
    assert {row["ResourceId"] for row in rows} == {"anna/find"}


async def test_the_same_month_gives_the_same_rows_and_a_namespace_only_its_own(books: Books):
    rows = await rows_of(books)
    assert rows == await rows_of(books)
    mine = await rows_of(books, namespace="ben")
    assert mine == [row for row in rows if row["SubAccountId"] == "ben"]
    assert len(mine) > 1
    assert await rows_of(books, month="2026-09") == []
    with pytest.raises(MalformedQuery, match="is no month"):
        await rows_of(books, month="2026-13")
