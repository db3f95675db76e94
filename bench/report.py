"""The page of figures: `python -m bench.report docs/performance.jsonl docs` makes `performance.md` and its plots from lines.

Nothing here is measured or judged: of each scenario the last line counts, and what it says is set down, kept promises and broken.
The same lines make the same bytes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib as mpl
import msgspec

from bench.measure import Distribution, Line

mpl.use("svg")
from matplotlib import pyplot as plt

#: Scenarios of one client, in the order of the plots.
LATENCY = ("warm", "frozen", "paced", "frozen-paced")
SUBJECTS = {"direct": "#9aa5b1", "relay": "#4c78a8", "daemon": "#e45756"}
PERCENTILES = ("p50", "p90", "p99")
CLIENTS = (1, 16, 64)

HEAD = """# Performance

This page is made by `python -m bench.report docs/performance.jsonl docs` from the lines that the benches printed; nothing in it
was typed. What each scenario does, and how to run it, is in [bench/README.md](../bench/README.md). *direct* is a call straight
into the container over a kept connection, *relay* the least that a Python process can do for the same call (no key, no record,
no limit, no log), *daemon* is invokerd with everything on. The three take turns within each run, so compare within a line. Load
generator, containers and the measured process share the cores. Where the load average of a line is well beyond the number of
cores, something else ran on the machine, and its percentiles say as much of that as of the daemon.
"""


def read_lines(file: Path) -> dict[str, Line]:
    """Read a file of bench lines; of each scenario the last one counts."""
    lines = (msgspec.json.decode(text, type=Line) for text in file.read_bytes().splitlines() if text.strip())
    return {line.scenario: line for line in lines}


def write_report(lines: dict[str, Line], directory: Path) -> list[Path]:
    """Write the page and its plots into a directory; return the files."""
    mpl.rcParams.update({"svg.hashsalt": "invokerd", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False})
    mpl.rcParams["axes.spines.right"] = False
    plots = []
    if alone := [name for name in LATENCY if name in lines]:
        plots.append(_plot_latency(lines, alone, directory / "performance-latency.svg"))
    if "throughput" in lines:
        plots.append(_plot_throughput(lines["throughput"], directory / "performance-throughput.svg"))
    page = directory / "performance.md"
    page.write_text(render(lines, [plot.name for plot in plots]), encoding="utf-8")
    return [page, *plots]


def render(lines: dict[str, Line], plots: Sequence[str]) -> str:
    """Render the page."""
    parts = [HEAD, "## Promises and goals\n", _table(("scenario", "what", "is", "kept"), _promises(lines))]
    parts += [f"![{name.removesuffix('.svg')}]({name})\n" for name in plots]
    if alone := [name for name in LATENCY if name in lines]:
        rows = [_latency_row(name, subject, lines[name]) for name in alone for subject in lines[name].subjects]
        head = (
            "scenario",
            "subject",
            *(f"{each}, us" for each in PERCENTILES),
            "adds to direct, p50, us (blocks)",
            "CPU a call, us",
        )
        parts += ["## One client\n", _table(head, rows)]
    if "throughput" in lines:
        parts += ["## Many clients, four containers\n", _table(_THROUGHPUT_HEAD, _throughput_rows(lines["throughput"]))]
    others = [line for name, line in lines.items() if name not in LATENCY and name != "throughput"]
    if others:
        rows = [
            (f"`{line.scenario}`", subject, *_numbers(found), line.unit)
            for line in others
            for subject, found in line.subjects.items()
        ]
        parts += ["## The others\n", _table(("scenario", "subject", *PERCENTILES, "unit"), rows)]
    parts += [
        "## Where and of what\n",
        _table(("scenario", "at", "machine", "load", "kernel", "cgroup", "versions", "seed", "commit"), _origins(lines)),
    ]
    return "\n".join(parts)


def _promises(lines: dict[str, Line]) -> Iterable[Sequence[str]]:
    for name, line in lines.items():
        if line.must is not None:
            yield f"`{name}`", str(line.must["what"]), "", "yes" if line.must["met"] else "**no**"
        for goal in line.goals:
            yield (
                f"`{name}`",
                f"goal: {goal['what']}",
                f"{goal['is']:.2f}" if goal["is"] < 100 else "> 100",
                "yes" if goal["met"] else "**no**",
            )


def _latency_row(name: str, subject: str, line: Line) -> Sequence[str]:
    added = line.added.get(subject)
    cpu = line.facts.get("cpu_us_a_call", {}).get(subject)
    spread = f"{added.median:,.0f} ({added.low:,.0f} to {added.high:,.0f})" if added else ""
    return f"`{name}`", subject, *_numbers(line.subjects[subject]), spread, f"{cpu:,.0f}" if cpu is not None else ""


_THROUGHPUT_HEAD = (
    "clients",
    "subject",
    "answers/s, median",
    "share of the relay's",
    "latency p50, us",
    "p99, us",
    "CPU a call, us",
)


def _throughput_rows(line: Line) -> Iterable[Sequence[str]]:
    for name, rates in line.subjects.items():
        subject, _, clients = name.partition(" x")
        share = line.facts["ratio_to_relay"].get(name, {}).get("median")
        latency, cpu = line.facts["latency_us"][name], line.facts["cpu_us_a_call"].get(name)
        yield (
            clients,
            subject,
            f"{rates.p50:,.0f}",
            f"{share:.0%}" if share is not None else "",
            f"{latency['p50']:,.0f}",
            f"{latency['p99']:,.0f}",
            f"{cpu:,.0f}" if cpu is not None else "",
        )


def _origins(lines: dict[str, Line]) -> Iterable[Sequence[str]]:
    for name, line in lines.items():
        machine = f"{line.machine['cpu']}, {line.machine['cores']} cores, {line.machine['memory_mib']:,} MiB"
        packages = ", ".join(f"{package} {version}" for package, version in line.packages.items())
        versions = f"Python {line.python}, engine {line.engine}, {packages}".rstrip(", ")
        load = " ".join(f"{each:.1f}" for each in line.load)
        yield f"`{name}`", line.at, machine, load, line.kernel, line.cgroup, versions, str(line.seed), line.commit


def _numbers(found: Distribution) -> Sequence[str]:
    return [f"{getattr(found, each):,.0f}" for each in PERCENTILES]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _plot_latency(lines: dict[str, Line], names: Sequence[str], file: Path) -> Path:
    """Draw p50, p90 and p99 of each subject by scenario, on a logarithmic axis: distributions, not means."""
    figure, axes = plt.subplots(figsize=(8, 3.2))
    width = 0.8 / len(SUBJECTS)
    for place, (subject, colour) in enumerate(SUBJECTS.items()):
        for index, name in enumerate(names):
            found = lines[name].subjects[subject]
            at = index + (place - 1) * width
            axes.bar(at, found.p50, width * 0.9, color=colour, label=subject if not index else None)
            axes.plot([at, at], [found.p50, found.p99], color="black", linewidth=0.8)
            axes.plot(at, found.p90, marker="_", color="black")
            axes.plot(at, found.p99, marker="v", color="black", markersize=4)
    axes.set_yscale("log")
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel("latency, us")
    axes.set_title("One client: p50 (bar), p90 (dash), p99 (triangle)")
    axes.legend(frameon=False)
    return _save(figure, file)


def _plot_throughput(line: Line, file: Path) -> Path:
    """Draw answers a second by the number of clients: the median of the blocks, with the lowest and the highest."""
    figure, axes = plt.subplots(figsize=(8, 3.2))
    width = 0.8 / len(SUBJECTS)
    for place, (subject, colour) in enumerate(SUBJECTS.items()):
        rates = [line.subjects[f"{subject} x{clients}"] for clients in CLIENTS]
        places = [index + (place - 1) * width for index in range(len(CLIENTS))]
        axes.bar(places, [rate.p50 for rate in rates], width * 0.9, color=colour, label=subject)
    axes.set_xticks(range(len(CLIENTS)), [f"{clients} clients" for clients in CLIENTS])
    axes.set_ylabel("answers/s, median of blocks")
    axes.set_title("Four containers")
    axes.legend(frameon=False)
    return _save(figure, file)


def _save(figure: plt.Figure, file: Path) -> Path:
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)
    return file


def main() -> None:
    """Make the page."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    parser.add_argument("lines", type=Path, help="file that `python -m bench --json FILE` appended to")
    parser.add_argument("directory", type=Path, help="where the page and its plots go")
    arguments = parser.parse_args()
    for file in write_report(read_lines(arguments.lines), arguments.directory):
        print(file)


if __name__ == "__main__":
    main()
