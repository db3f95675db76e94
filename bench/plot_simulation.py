"""Draw what `bench simulate` printed: `python -m bench.plot_simulation LINES.jsonl OUT.svg`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

_STYLE = {"blend": {"linewidth": 2.5, "marker": "o"}, "clairvoyant by size": {"linestyle": ":", "color": "black"}}


def draw(facts: dict[str, Any], out: Path) -> None:
    """Draw cold starts and memory held by the size of the pool.

    Args:
        facts: of a line of the scenario `simulate`.
        out: the file, by its suffix.
    """
    plt.rcParams["svg.hashsalt"] = "invokerd"  # the same lines, the same file
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    sizes = [100 * share for share in facts["memory_of_footprint"]]
    panels = (("cold_share", "calls that start a container, %", 100), ("mean_wait_ms", "mean wait for a container, ms", 1))
    for axis, (name, label, factor) in zip(axes, panels, strict=True):
        for policy, values in facts[name].items():
            if policy != "clairvoyant":
                axis.plot(sizes, [factor * value for value in values], label=policy, **_STYLE.get(policy, {"marker": "."}))
        axis.set_xlabel("memory of the pool, % of one container of each action")
        axis.set_ylabel(label)
        axis.set_yscale("log")
        axis.grid(visible=True, which="both", alpha=0.3)
    axes[0].legend(title=f"{len(facts['seeds'])} held-out seeds")
    figure.savefig(out, metadata={"Date": None})
    plt.close(figure)


def main() -> int:
    """Draw the last line of the scenario in a file."""
    if len(sys.argv) != 3:
        print("usage: python -m bench.plot_simulation LINES.jsonl OUT.svg", file=sys.stderr)
        return 2
    lines = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    draw([line for line in lines if line["scenario"] == "simulate"][-1]["facts"], Path(sys.argv[2]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
