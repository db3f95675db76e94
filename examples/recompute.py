#!/usr/bin/env python3
"""Computes costs from the ledger's rows and the price plans alone: what docs/billing.md says, without anything of invokerd.

    invokerctl ledger --since 2026-11-01T00:00Z --until 2026-12-01T00:00Z | examples/recompute.py prices.toml
    invokerctl usage  --since 2026-11-01T00:00Z --until 2026-12-01T00:00Z     # the same figures, to the last digit
"""

import csv
import sys
import tomllib
from collections import defaultdict
from datetime import datetime
from decimal import Decimal, localcontext
from fractions import Fraction
from pathlib import Path


def milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def cost(row: dict[str, str], plan: dict) -> Fraction:
    def price(name: str) -> Fraction:
        return Fraction(plan.get(name, "0"))

    billed, cpu = int(row["billed_us"]), Fraction(int(row["cpu_us"]), 10**6) * price("cpu_s")
    memory_s = Fraction(int(row["memory_mib_us"]), 1024 * 10**6)
    if row["type"] == "tail":
        return cpu
    if row["type"] == "idle":
        return (memory_s + Fraction(int(row["memory_byte_us"]), 2**30 * 10**6)) * price("idle_gib_s")
    if row["type"] == "correction":
        return memory_s * price("memory_gib_s") + cpu
    if row["kind"] == "sequence" or (billed == 0 and (row["status"] == "3" or row["outcome"] == "cancelled")):
        return Fraction(0)
    time_us = billed if plan.get("bill_init", True) else max(billed - int(row["init_us"]), 0)
    if time_us:
        step_us = plan.get("step_ms", 1) * 1000
        time_us = max(-(-time_us // step_us) * step_us, plan.get("minimum_ms", 0) * 1000)
    memory_s = Fraction(time_us * int(row["memory_limit_mib"]), 1024 * 10**6)
    return price("invocation") + memory_s * price("memory_gib_s") + cpu


def main() -> None:
    plans = tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["plan"]
    sums: dict[tuple[str, str], Fraction] = defaultdict(Fraction)
    for row in csv.DictReader(sys.stdin):
        at_ms = int(row["at_ms"])
        for plan in plans:
            begun = at_ms >= milliseconds(plan["valid_from"])
            ended = "valid_to" in plan and at_ms >= milliseconds(plan["valid_to"])
            if begun and not ended and row["type"] in ("finished", "tail", "idle", "correction"):
                sums[row["namespace"], f"{plan['id']}@{plan['version']}"] += cost(row, plan)
    for (namespace, plan_name), amount in sorted(sums.items()):
        with localcontext(prec=200):  # every product of our integers and prices ends long before
            text = f"{Decimal(amount.numerator) / amount.denominator:f}"
        print(namespace, plan_name, text.rstrip("0").rstrip(".") if "." in text else text)


if __name__ == "__main__":
    main()
