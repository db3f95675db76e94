"""Sums of the ledger, priced: what `invokerctl usage` shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from invoker.control.messages import UsageRow
from invoker.record.rating import Prices, Quantities, add, plain, price
from invoker.record.recorder import Recorder


@dataclass(slots=True)
class _Sum:
    """Facts and cost of one namespace under one plan."""

    currency: str
    plan: str
    activations: int = 0
    failed: int = 0
    billed_us: int = 0
    cpu_us: int = 0
    memory_byte_us: int = 0
    cost: Decimal = Decimal(0)


async def priced_usage(
    recorder: Recorder, prices: Prices, namespace: str | None, since_ms: int, until_ms: int
) -> Sequence[UsageRow]:
    """Sum the ledger by namespace over `since_ms <= start < until_ms`, each call rated by the plan of its start.

    Returns:
        A row for each namespace and plan, by namespace. CPU time includes what was used after the replies.
    """
    sums: dict[tuple[str, str], _Sum] = {}
    for plan, begin, end in prices.spans(since_ms, until_ms):
        for row in await recorder.usage(namespace=namespace, since_ms=begin, upto_ms=end, rounding=plan.rounding):
            total = sums.setdefault((row.namespace, plan.name), _Sum(plan.currency, plan.name))
            total.activations += row.activations
            total.failed += row.failed
            total.billed_us += row.billed_us
            total.cpu_us += row.cpu_us + row.tail_cpu_us + row.idle_cpu_us
            total.memory_byte_us += row.memory_byte_us
            total.cost = add((total.cost, price(Quantities.of_usage(row), plan)))
    return [
        UsageRow(
            namespace=name,
            activations=total.activations,
            failed=total.failed,
            billed_us=total.billed_us,
            cpu_us=total.cpu_us,
            memory_byte_us=total.memory_byte_us,
            cost=plain(total.cost),
            currency=total.currency,
            plan=total.plan,
        )
        for (name, _), total in sorted(sums.items())
    ]
