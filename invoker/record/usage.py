"""Sums of the ledger, priced: what `invokerctl usage` and `invokerctl bill` show. docs/billing.md tells the rules."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from invoker.control.messages import BillReply, BillRow, UsageRow
from invoker.errors import MalformedQuery
from invoker.record import ledger
from invoker.record.rating import Plan, Prices, Quantities, add, free_of, plain, price
from invoker.record.records import Records


@dataclass(slots=True)
class _Sum:
    """Facts and cost of one namespace, or one action of it, under one plan; without a plan it costs nothing."""

    plan: Plan | None
    activations: int = 0
    failed: int = 0
    billed_us: int = 0
    cpu_us: int = 0
    memory_byte_us: int = 0
    corrections: int = 0
    charged: Quantities = field(default_factory=Quantities)
    cost: Decimal = Decimal(0)

    def add(self, row: ledger.UsageRow) -> None:
        quantities = Quantities.of_usage(row)
        self.activations += row.activations
        self.failed += row.failed
        self.billed_us += row.billed_us
        self.cpu_us += row.cpu_us + row.tail_cpu_us + row.idle_cpu_us
        self.memory_byte_us += row.memory_byte_us
        self.corrections += row.corrections
        self.charged += quantities
        if self.plan is not None:
            self.cost = add((self.cost, price(quantities, self.plan)))


async def priced_usage(
    records: Records, prices: Prices, namespace: str | None, since_ms: int, until_ms: int, *, by_action: bool = False
) -> Sequence[UsageRow]:
    """Sum the ledger by namespace over `since_ms <= at < until_ms`, each row rated by the plan of its time.

    Args:
        records: reads the ledger.
        prices: the site's plans.
        namespace: None is all.
        since_ms: wall clock.
        until_ms: wall clock, exclusive.
        by_action: a row for each action of each namespace.

    Returns:
        A row for each namespace (and action) and plan, in this order. What no plan rates has rows too, with an empty plan,
        and costs nothing. CPU time includes what was used after the replies.
    """
    sums: dict[tuple[str, str, int], _Sum] = {}
    async for order, plan, row in _rows(records, prices, namespace, since_ms, until_ms):
        key = (row.namespace, row.action if by_action else "", order)
        sums.setdefault(key, _Sum(plan)).add(row)
    return [
        UsageRow(
            namespace=name,
            action=action,
            activations=total.activations,
            failed=total.failed,
            billed_us=total.billed_us,
            cpu_us=total.cpu_us,
            memory_byte_us=total.memory_byte_us,
            cost=plain(total.cost),
            currency=total.plan.currency if total.plan else "",
            plan=total.plan.name if total.plan else "",
            charged_invocations=total.charged.invocations,
            charged_memory_mib_us=total.charged.memory_mib_us,
            charged_cpu_us=total.charged.cpu_us,
            idle_byte_us=total.charged.idle_byte_us,
            corrections=total.corrections,
        )
        for (name, action, _), total in sorted(sums.items())
    ]


async def bills(records: Records, prices: Prices, namespace: str | None, month: str) -> BillReply:
    """Make the bills of a calendar month, UTC: a line for each namespace and plan, less what is free, rounded once.

    Raises:
        MalformedQuery: it is no month.
    """
    since_ms, until_ms = month_span(month)
    sums: dict[tuple[str, int], tuple[Plan, Quantities]] = {}
    async for order, plan, row in _rows(records, prices, namespace, since_ms, until_ms):
        if plan is not None:
            _, before = sums.get((row.namespace, order), (plan, Quantities()))
            sums[row.namespace, order] = (plan, before + Quantities.of_usage(row))
    lines = tuple(_line(name, plan, quantities) for (name, _), (plan, quantities) in sorted(sums.items()))
    complete = until_ms <= time.time_ns() // 1_000_000
    return BillReply(month=month, since_ms=since_ms, until_ms=until_ms, complete=complete, rows=lines)


def month_span(month: str) -> tuple[int, int]:
    """Give the first millisecond of a month such as `2026-11`, UTC, and that of the next.

    Raises:
        MalformedQuery: it is no month.
    """
    try:
        first = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
        following = (first + timedelta(days=32)).replace(day=1)
    except (ValueError, OverflowError):
        raise MalformedQuery.because("month", f"{month!r} is no month: write 2026-11") from None
    return round(first.timestamp()) * 1000, round(following.timestamp()) * 1000


def _line(namespace: str, plan: Plan, quantities: Quantities) -> BillRow:
    free = free_of(quantities, plan)
    charged = quantities - free
    exact = price(charged, plan)
    return BillRow(
        namespace=namespace,
        plan=plan.name,
        currency=plan.currency,
        invocations=charged.invocations,
        memory_mib_us=charged.memory_mib_us,
        cpu_us=charged.cpu_us,
        idle_byte_us=charged.idle_byte_us,
        free_invocations=free.invocations,
        free_memory_mib_us=free.memory_mib_us,
        free_cpu_us=free.cpu_us,
        exact=plain(exact),
        amount=f"{plan.line(exact):f}",
    )


async def _rows(
    records: Records, prices: Prices, namespace: str | None, since_ms: int, until_ms: int
) -> AsyncIterator[tuple[int, Plan | None, ledger.UsageRow]]:
    """Give the sums of the ledger with their plan and its place in time, -1 for what no plan rates."""
    for order, (plan, begin, end) in enumerate(prices.spans(since_ms, until_ms)):
        for row in await records.usage(namespace=namespace, since_ms=begin, upto_ms=end, rounding=plan.rounding):
            yield order, plan, row
    for begin, end in prices.gaps(since_ms, until_ms):
        for row in await records.usage(namespace=namespace, since_ms=begin, upto_ms=end):
            yield -1, None, row
