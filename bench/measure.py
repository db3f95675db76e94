"""Numbers and the line they are printed as: percentiles, differences between interleaved subjects, facts of the machine."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

#: Their versions are part of a line.
_PACKAGES = ("uvloop", "httptools", "msgspec", "aiohttp")
#: Samples of one subject, microseconds, one list a block.
Blocks = Sequence[Sequence[float]]


class Distribution(msgspec.Struct, frozen=True):
    """What is told of a set of samples; percentiles are samples (nearest rank), nothing is interpolated."""

    n: int
    p50: float
    p90: float
    p99: float
    max: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Distribution:
        """Describe samples, at least one, in their own unit."""
        ordered = sorted(samples)
        p50, p90, p99 = (round(percentile(ordered, share), 1) for share in (0.5, 0.9, 0.99))
        return cls(n=len(ordered), p50=p50, p90=p90, p99=p99, max=round(ordered[-1], 1))


class Spread(msgspec.Struct, frozen=True):
    """A median over blocks, with the lowest and the highest block: how far the machine itself wavered."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Describe one value a block."""
        return cls(median=round(statistics.median(values), 3), low=round(min(values), 3), high=round(max(values), 3))


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """What a scenario prints: one line of JSON.

    Attributes:
        scenario: its name.
        at: when it ended, UTC.
        machine, kernel, cgroup, python, engine, commit: where and of what; `commit` ends in `-dirty` where files differ from it.
        seed: of everything random in it.
        config: the daemon's keys that are not at their default.
        unit: of the distributions.
        subjects: what was measured, by name.
        added: what each subject adds to `direct`: differences of the medians of each block, `unit`.
        ratio: each subject's median over that of the reference, by block.
        facts: counts and what else belongs to this scenario.
        packages: versions of what the warm path runs on.
        load: load average of the machine over 1, 5 and 15 minutes when it ended; beyond its cores something else ran, too.
        must: the promise, as text, and whether it was met; None where this scenario holds no promise.
        goals: what is aimed at beyond that: text, what it is, and whether that was reached.
    """

    scenario: str
    at: str
    machine: dict[str, Any]
    kernel: str
    cgroup: str
    python: str
    engine: str
    commit: str
    seed: int
    config: dict[str, Any]
    unit: str
    subjects: dict[str, Distribution]
    added: dict[str, Spread]
    ratio: dict[str, Spread]
    facts: dict[str, Any]
    must: dict[str, Any] | None
    packages: dict[str, str] = {}
    load: list[float] = []
    goals: list[dict[str, Any]] = []


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile of rising samples: the least that `share` of all do not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def added(subject: Blocks, reference: Blocks) -> Spread:
    """Compare block by block, so that what slows the machine for a while slows both: differences of medians."""
    return Spread.of([statistics.median(a) - statistics.median(b) for a, b in zip(subject, reference, strict=True)])


def ratio(subject: Blocks, reference: Blocks) -> Spread:
    """Compare block by block: quotients of medians."""
    return Spread.of([statistics.median(a) / statistics.median(b) for a, b in zip(subject, reference, strict=True)])


def make_line(
    scenario: str,
    *,
    seed: int,
    engine: str,
    blocks: Mapping[str, Blocks],
    reference: str | None = "direct",
    unit: str = "us",
    config: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
    must: tuple[str, bool] | None = None,
    goals: Sequence[tuple[str, float, bool]] = (),
) -> Line:
    """Make the line of a scenario.

    Args:
        scenario: its name.
        seed: of everything random in it.
        engine: version of the container engine.
        blocks: samples by subject and block, `unit`.
        reference: the subject that the others are compared with; None compares none.
        unit: of the samples.
        config: keys of the daemon that are not at their default.
        facts: what else belongs to it.
        must: the promise and whether it was met.
        goals: what is aimed at, what it is, and whether that was reached.
    """
    others = [name for name in blocks if reference is not None and name != reference]
    return Line(
        scenario=scenario,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=_machine(),
        kernel=platform.release(),
        cgroup="v2" if Path("/sys/fs/cgroup/cgroup.controllers").exists() else "v1",
        python=platform.python_version(),
        engine=engine,
        commit=_commit(),
        seed=seed,
        config=dict(config or {}),
        unit=unit,
        subjects={name: Distribution.of([sample for block in of_it for sample in block]) for name, of_it in blocks.items()},
        added={name: added(blocks[name], blocks[reference]) for name in others if reference is not None},
        ratio={name: ratio(blocks[name], blocks[reference]) for name in others if reference is not None},
        facts=dict(facts or {}),
        must=None if must is None else {"what": must[0], "met": must[1]},
        load=[round(load, 1) for load in os.getloadavg()],
        packages={name: metadata.version(name) for name in _PACKAGES},
        goals=[{"what": what, "is": round(value, 3), "met": met} for what, value, met in goals],
    )


def dump(line: Line) -> str:
    """Render a line as JSON without a line break."""
    return json.dumps(msgspec.to_builtins(line))


def _machine() -> dict[str, Any]:
    models = [text.partition(":")[2].strip() for text in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in text]
    memory_mib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20
    return {"cpu": models[0] if models else platform.machine(), "cores": os.cpu_count(), "memory_mib": memory_mib}


def _commit() -> str:
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(("git", *words), cwd=here, capture_output=True, text=True, check=False).stdout.strip()

    commit = git("rev-parse", "--short=12", "HEAD")
    if not commit or "fatal" in commit or commit == "HEAD":
        return "unknown"
    return commit + ("-dirty" if git("status", "--porcelain") else "")
