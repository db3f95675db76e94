"""Tells of a run of `scripts/test --long` from what pytest wrote of it: docs/long-test-result.md.

    python scripts/lib/long_result.py --started TIME --commit ID [--mended ID] FIRST.xml [ALONE.xml] > docs/long-test-result.md

FIRST is of the run of all tests, ALONE of those that failed in it and were run once more, alone; where something was mended
between the two by hand, `--mended` is the commit of the second. Exit code 1 where a test failed.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

#: Property that tests/conftest.py gives to each test of the long tier.
LONG = "long"


@dataclass(frozen=True)
class Result:
    """What came of one test.

    Attributes:
        file: where it is, from the top of the checkout.
        outcome: `passed`, `failed` or `skipped`.
        facts: what it recorded, such as how many calls it made.
    """

    file: str
    name: str
    outcome: str
    seconds: float
    is_long: bool
    facts: str


def read(file: Path) -> dict[tuple[str, str], Result]:
    """Read pytest's JUnit file: results by file and name."""
    results = {}
    for case in ET.parse(file).iter("testcase"):
        properties = [(each.get("name", ""), each.get("value", "")) for each in case.iter("property")]
        failed = case.find("failure") is not None or case.find("error") is not None
        outcome = "failed" if failed else "skipped" if case.find("skipped") is not None else "passed"
        result = Result(
            file=case.get("file", ""),
            name=case.get("name", ""),
            outcome=outcome,
            seconds=float(case.get("time", "0")),
            is_long=any(name == LONG for name, _ in properties),
            facts="; ".join(f"{name}: {value}" for name, value in properties if name != LONG),
        )
        known = results.get((result.file, result.name))
        if known is None or known.outcome != "failed":  # an error of its teardown is a case of its own
            results[result.file, result.name] = result
    return results


def tell(first: Sequence[Result], alone: Sequence[Result], *, started: str, commit: str, mended: str = "") -> str:
    """Write the page: totals, what failed, and a row for each long test."""
    again = {(each.file, each.name): each for each in alone}
    results = [again.get((each.file, each.name), each) for each in first]
    counted = Counter(each.outcome for each in results)
    totals = ", ".join(f"{counted[outcome]:,} {outcome}" for outcome in ("passed", "failed", "skipped"))
    minutes = round(sum(each.seconds for each in results) / 60)
    machine = f"{platform.system()} {platform.release()}, {os.cpu_count()} cores"
    lines = ["# Last long run", "", f"`scripts/test --long`, {started}, commit {commit}, {machine}, three files at a time."]
    lines += ["", f"{totals}, {minutes} minutes of tests in all."]
    failed_first = {(each.file, each.name) for each in first if each.outcome == "failed"}
    if beside := [each for each in alone if each.outcome == "passed" and (each.file, each.name) in failed_first]:
        after = f", after what they showed was mended (commit {mended})" if mended else ""
        lines += ["", f"Failed beside others and passed alone{after}:", "", *(f"- `{each.file}` {each.name}" for each in beside)]
    if failed := [each for each in results if each.outcome == "failed"]:
        lines += ["", "Failed:", "", *(f"- `{each.file}` {each.name}" for each in failed)]
    lines += ["", "| long test | came out | seconds | what it recorded |", "|---|---|---|---|"]
    for each in sorted((each for each in results if each.is_long), key=lambda each: (each.file, each.name)):
        name = each.name.replace("_", " ")
        lines.append(f"| {name} (`{each.file}`) | {each.outcome} | {each.seconds:.0f} | {each.facts} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Print the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--started", required=True)
    parser.add_argument("--commit", required=True)
    parser.add_argument("--mended", default="")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    first, *others = [list(read(file).values()) for file in arguments.files if file.exists()] or [[]]
    alone = others[0] if others else []
    sys.stdout.write(tell(first, alone, started=arguments.started, commit=arguments.commit, mended=arguments.mended))
    again = {(each.file, each.name): each.outcome for each in alone}
    return int(not first or any(again.get((each.file, each.name), each.outcome) == "failed" for each in first))


if __name__ == "__main__":
    sys.exit(main())
