"""`invokerd doctor`: what of this node is fit and what is not, each with what to do about it.

The checks are in `doctor_kernel.py`, `doctor_engine.py` and `doctor_node.py`. Each yields findings; where it can, it tries
the real thing (freezes a scratch cgroup, enters a network namespace, allocates a file) instead of reading version numbers.
"""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from invoker.config.model import Config


class Verdict(enum.Enum):
    """What a finding comes to."""

    OK = "ok"
    #: Works, with a loss that the text names.
    WARNING = "warning"
    #: The daemon does not start, or calls fail.
    BAD = "bad"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: stable name, for scripts.
        text: what was found.
        advice: what to do; empty when nothing needs to be done.
    """

    check: str
    verdict: Verdict
    text: str
    advice: str = ""


def ok(check: str, text: str) -> Finding:
    """All is well."""
    return Finding(check=check, verdict=Verdict.OK, text=text)


def warning(check: str, text: str, advice: str) -> Finding:
    """It works, with a loss."""
    return Finding(check=check, verdict=Verdict.WARNING, text=text, advice=advice)


def bad(check: str, text: str, advice: str) -> Finding:
    """It does not work."""
    return Finding(check=check, verdict=Verdict.BAD, text=text, advice=advice)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What is examined. The roots are replaced in tests.

    Attributes:
        config: what the daemon would run with.
        proc: where procfs is mounted.
        sys: where sysfs is mounted.
    """

    config: Config
    proc: Path = Path("/proc")
    sys: Path = Path("/sys")

    def read(self, path: Path) -> str | None:
        """Read a small file of the kernel, stripped; None when it is not there or may not be read."""
        try:
            return path.read_text().strip()
        except OSError:
            return None


Check = Callable[[Node], Iterable[Finding]]


def examine(config: Config) -> list[Finding]:
    """Run every check. May take some seconds when the engine is slow, never minutes: each wait has a deadline."""
    from invoker.commands import doctor_engine, doctor_kernel, doctor_node

    return list(run([*doctor_kernel.CHECKS, *doctor_engine.CHECKS, *doctor_node.CHECKS], Node(config=config)))


def run(checks: Sequence[Check], node: Node) -> Iterator[Finding]:
    """Run checks in order. One that is refused by the system is a finding itself and does not hide the others."""
    for check in checks:
        try:
            yield from check(node)
        except OSError as error:
            name = check.__name__.removeprefix("check_").replace("_", "-")
            yield bad(name, f"cannot be examined: {error}", "run the doctor as the daemon's user (root)")


def is_fit(findings: Iterable[Finding]) -> bool:
    """Tell whether the daemon can do its work here; warnings do not count."""
    return all(finding.verdict is not Verdict.BAD for finding in findings)


def render(findings: Sequence[Finding]) -> str:
    """Render for people: one line a finding, the advice below it, the verdict at the end."""
    marks = {Verdict.OK: "ok  ", Verdict.WARNING: "WARN", Verdict.BAD: "BAD "}
    width = max((len(finding.check) for finding in findings), default=0)
    lines = []
    for finding in findings:
        lines.append(f"{marks[finding.verdict]}  {finding.check.ljust(width)}  {finding.text}")
        if finding.advice:
            lines.append(f"      {''.ljust(width)}  -> {finding.advice}")
    counts = {verdict: sum(finding.verdict is verdict for finding in findings) for verdict in Verdict}
    verdict = "fit" if is_fit(findings) else "NOT FIT"
    lines.append(f"\nThis node is {verdict}: {counts[Verdict.BAD]} bad, {counts[Verdict.WARNING]} warnings.")
    return "\n".join(lines) + "\n"


def render_json(findings: Sequence[Finding]) -> str:
    """Render for scripts: `fit`, and the findings with `check`, `verdict`, `text`, `advice`."""
    rows = [dataclasses.asdict(finding) | {"verdict": finding.verdict.value} for finding in findings]
    return json.dumps({"fit": is_fit(findings), "findings": rows}, indent=2, ensure_ascii=False) + "\n"
