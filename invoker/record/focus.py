"""A month's bill in FOCUS, the FinOps Open Cost and Usage Specification: what the tools read that read the clouds' bills.

A row for each hour, namespace, action and meter, never for a single call. Then, for each line of the bill, a row for what is
free and one for the rounding: so `BilledCost` adds up to the bill, to the last digit. The same month gives the same bytes.

Source: FOCUS 1.2, https://focus.finops.org/focus-specification/v1-2/.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from invoker.record.ledger import UsageRow, read_usage
from invoker.record.rating import Plan, Prices, Quantities, add, free_of, in_units, plain, price
from invoker.record.usage import month_span

#: What a row consists of; empty is null. Columns that FOCUS does not know begin with `x_`.
COLUMNS = (
    *("BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd", "BillingPeriodStart"),
    *("ChargeCategory", "ChargeClass", "ChargeDescription", "ChargeFrequency", "ChargePeriodEnd", "ChargePeriodStart"),
    *("ConsumedQuantity", "ConsumedUnit", "ContractedCost", "ContractedUnitPrice", "EffectiveCost", "InvoiceIssuerName"),
    *("ListCost", "ListUnitPrice", "PricingCategory", "PricingQuantity", "PricingUnit", "ProviderName", "PublisherName"),
    *("ResourceId", "ResourceName", "ResourceType", "ServiceCategory", "ServiceName", "ServiceSubcategory"),
    *("SkuId", "SkuPriceId", "SubAccountId", "SubAccountName", "x_PricePlan"),
)
_HOUR_MS = 3_600_000

Row = Mapping[str, str]


class _Sku(NamedTuple):
    """A thing with a price: a field of `Quantities`."""

    name: str
    unit: str
    description: str


#: In the order of the fields of `Quantities`.
_SKUS = (
    _Sku("invocations", "Requests", "activations"),
    _Sku("memory", "GiB-Seconds", "declared memory times billed duration"),
    _Sku("cpu", "Core-Seconds", "CPU time, until the reply and after it"),
    _Sku("idle-memory", "GiB-Seconds", "memory held by idle containers"),
)


class _Form(NamedTuple):
    """Fills in what the rows of one month have in common."""

    issuer: str
    since_ms: int
    until_ms: int

    def row(self, namespace: str, plan: Plan, amount: Decimal, **columns: str) -> Row:
        """Make a row.

        Args:
            namespace: pays.
            plan: by which.
            amount: money; there are no discounts, so all four costs are the same.
            columns: the others that are not empty.
        """
        cost = plain(amount)
        common = {
            "BilledCost": cost,
            "BillingAccountId": namespace,
            "BillingAccountName": namespace,
            "BillingCurrency": plan.currency,
            "BillingPeriodEnd": _moment(self.until_ms),
            "BillingPeriodStart": _moment(self.since_ms),
            "ContractedCost": cost,
            "EffectiveCost": cost,
            "InvoiceIssuerName": self.issuer,
            "ListCost": cost,
            "ProviderName": self.issuer,
            "PublisherName": self.issuer,
            "ServiceCategory": "Compute",
            "ServiceName": "invokerd",
            "ServiceSubcategory": "Serverless Compute",
            "SubAccountId": namespace,
            "SubAccountName": namespace,
            "x_PricePlan": plan.name,
        }
        return dict.fromkeys(COLUMNS, "") | common | columns


async def focus_rows(
    directory: Path, prices: Prices, month: str, *, namespace: str | None = None, issuer: str
) -> AsyncGenerator[Row, None]:
    """Make the rows of a calendar month, UTC, by time, namespace, action and meter; then what is free, and roundings.

    Args:
        directory: of the ledger's months.
        prices: the site's plans. What none of them rates has no row, as in a bill.
        month: such as `2026-11`.
        namespace: None is all.
        issuer: who sends the bill, and provides the service.

    Raises:
        MalformedQuery: it is no month.
        StoreBroken: a month cannot be read.
    """
    form = _Form(issuer, *month_span(month))
    totals: dict[tuple[str, str], tuple[Plan, Quantities]] = {}
    for hour_ms in range(form.since_ms, form.until_ms, _HOUR_MS):
        for plan, begin_ms, end_ms in prices.spans(hour_ms, hour_ms + _HOUR_MS):
            period = {"ChargePeriodStart": _moment(begin_ms), "ChargePeriodEnd": _moment(end_ms)}
            for usage in await read_usage(
                directory, namespace=namespace, since_ms=begin_ms, upto_ms=end_ms, rounding=plan.rounding
            ):
                _, before = totals.get((usage.namespace, plan.name), (plan, Quantities()))
                totals[usage.namespace, plan.name] = plan, before + Quantities.of_usage(usage)
                for row in _usage_rows(form, plan, usage, period):
                    yield row
    for (name, _), (plan, quantities) in sorted(totals.items()):
        for row in _closing_rows(form, name, plan, quantities):
            yield row


def _usage_rows(form: _Form, plan: Plan, usage: UsageRow, period: Mapping[str, str]) -> list[Row]:
    """Make a row for each meter that has counted something."""
    quantities = Quantities.of_usage(usage)
    names = quantities.__struct_fields__
    unit_prices = (plan.invocation, plan.memory_gib_s, plan.cpu_s, plan.idle_gib_s)
    rows = []
    for field, sku, amount, unit_price in zip(names, _SKUS, in_units(quantities), unit_prices, strict=True):
        if not amount:
            continue
        consumed, resource = plain(amount), usage.action or usage.namespace
        columns = {
            "ChargeCategory": "Usage",
            "ChargeDescription": f"{resource}: {sku.description}",
            "ChargeFrequency": "Usage-Based",
            "ConsumedQuantity": consumed,
            "ConsumedUnit": sku.unit,
            "ContractedUnitPrice": plain(unit_price),
            "ListUnitPrice": plain(unit_price),
            "PricingCategory": "Standard",
            "PricingQuantity": consumed,
            "PricingUnit": sku.unit,
            "ResourceId": resource,
            "ResourceName": resource.rpartition("/")[2],
            "ResourceType": "Action" if usage.action else "Namespace",
            "SkuId": sku.name,
            "SkuPriceId": f"{plan.name}/{sku.name}",
        }
        cost = price(Quantities(**{field: getattr(quantities, field)}), plan)
        rows.append(form.row(usage.namespace, plan, cost, **columns, **period))
    return rows


def _closing_rows(form: _Form, namespace: str, plan: Plan, quantities: Quantities) -> list[Row]:
    """Make the rows between what was used and the line of the bill: what is free, and the rounding."""
    begin_ms = max(form.since_ms, plan.valid_from_ms)
    end_ms = form.until_ms if plan.valid_to_ms is None else min(form.until_ms, plan.valid_to_ms)
    period = {"ChargePeriodStart": _moment(begin_ms), "ChargePeriodEnd": _moment(end_ms), "ChargeFrequency": "One-Time"}
    # Not `-amount`: that would round to the digits of Python's default context.
    free = price(free_of(quantities, plan), plan).copy_negate()
    exact = add((price(quantities, plan), free))
    rounding = add((plan.line(exact), exact.copy_negate()))
    rows = []
    if free:
        told = "what the plan has free"
        rows.append(form.row(namespace, plan, free, ChargeCategory="Credit", ChargeDescription=told, **period))
    if rounding:
        told = f"rounding of the bill's line to {plan.places} places"
        rows.append(form.row(namespace, plan, rounding, ChargeCategory="Adjustment", ChargeDescription=told, **period))
    return rows


def _moment(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
