#!/usr/bin/env python3
"""Compare the peaks that were found with those that were planted.

A found peak is right when a planted one lies within 1.5 pixels of it, one to one. A planted peak is *visible* when its
brightest pixel is expected 8 standard deviations above the background and it is not at an edge. Why 8: the action asks
for two touching pixels above 5. The brightest pixel of a spot of 8 falls below 5 once in some 700 times, and the next
to it is expected above 5 for all but the narrowest spots. Spots below 8 are found too, the fewer the weaker; they count
as right when they are found and as nothing when they are not.

Standard library only; `check.py measure` runs the action in this process and needs what the action needs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MATCH_PX = 1.5
VISIBLE_SNR = 8.0

#: What a run must reach. Visible peaks are lost to dead pixels (each dead pixel spoils some 10 of its neighbours: 0.3 % of
#: the area) and to noise at the limit of 8 (about 1 % of the peaks between 8 and 10): 97 % leaves room for short runs.
LEAST_RECALL = 0.97
#: Of found peaks. Measured: 0.16 % false (docs/hitfinder.md), three quarters of them spots cut by a gap or a bad pixel, whose
#: centroid is then off; noise alone makes two touching pixels above 5 sigma once in some 300 frames.
LEAST_PRECISION = 0.99
#: A frame with so many visible peaks must be called a hit; the action's threshold is 15.
CERTAIN_HIT = 20

#: Edges of the classes of `snr` for which `measure` prints the recall.
CLASSES = (4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 15.0, math.inf)


@dataclass(frozen=True, kw_only=True)
class FrameScore:
    """How one frame was judged.

    Attributes:
        name: file and event.
        crystal: whether a crystal was there.
        called_hit: what the action said.
        visible: planted peaks that had to be found.
        recalled: those of them that were.
        found: peaks in the action's list.
        right: those of them that were planted, visible or not.
        distances_px: of each right peak from its place.
        recall_by_class: (planted, recalled) for each class of CLASSES, edges left out.
    """

    name: str
    crystal: bool
    called_hit: bool
    visible: int
    recalled: int
    found: int
    right: int
    distances_px: tuple[float, ...]
    recall_by_class: tuple[tuple[int, int], ...]


@dataclass(kw_only=True)
class RunScore:
    """Sums over the frames of a run, and what is wrong with it: a sentence each."""

    frames: list[FrameScore] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def total(self, name: str) -> int:
        """Sum a field of FrameScore over all frames."""
        return sum(getattr(frame, name) for frame in self.frames)

    @property
    def recall(self) -> float:
        """Share of visible planted peaks that were found; 1 when there were none."""
        return self.total("recalled") / self.total("visible") if self.total("visible") else 1.0

    @property
    def precision(self) -> float:
        """Share of found peaks that were planted; 1 when none was found."""
        return self.total("right") / self.total("found") if self.total("found") else 1.0

    @property
    def false_peaks(self) -> int:
        """Found peaks that nobody planted."""
        return self.total("found") - self.total("right")

    @property
    def position_rms_px(self) -> float:
        """Root mean square distance of right peaks from their planted places, pixels."""
        squares = [distance**2 for frame in self.frames for distance in frame.distances_px]
        return math.sqrt(sum(squares) / len(squares)) if squares else 0.0


def match(found: Sequence[Mapping[str, Any]], planted: Sequence[Mapping[str, Any]]) -> dict[int, tuple[int, float]]:
    """Pair found with planted peaks one to one, nearest pairs first, none farther apart than MATCH_PX.

    Returns:
        index in `found` -> (index in `planted`, distance in pixels).
    """
    cells: dict[tuple[int, int], list[int]] = {}
    for index, peak in enumerate(planted):
        cells.setdefault((int(peak["fs"] // 2), int(peak["ss"] // 2)), []).append(index)
    pairs = []
    for index, peak in enumerate(found):
        column, row = int(peak["fs"] // 2), int(peak["ss"] // 2)
        for cell in ((column + dx, row + dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)):
            for candidate in cells.get(cell, ()):
                distance = math.hypot(peak["fs"] - planted[candidate]["fs"], peak["ss"] - planted[candidate]["ss"])
                if distance <= MATCH_PX:
                    pairs.append((distance, index, candidate))
    matched: dict[int, tuple[int, float]] = {}
    taken: set[int] = set()
    for distance, index, candidate in sorted(pairs):
        if index not in matched and candidate not in taken:
            matched[index] = (candidate, distance)
            taken.add(candidate)
    return matched


def score_frame(result: Mapping[str, Any], truth: Mapping[str, Any]) -> FrameScore:
    """Judge one result of the action by the frame's entry in `truth.json`."""
    planted = truth["peaks"]
    matched = match(result["peaks"], planted)
    recalled = {candidate for candidate, _ in matched.values()}
    visible = {i for i, peak in enumerate(planted) if peak["snr"] >= VISIBLE_SNR and not peak["edge"]}
    classes = []
    for low, high in itertools.pairwise(CLASSES):
        members = {i for i, peak in enumerate(planted) if low <= peak["snr"] < high and not peak["edge"]}
        classes.append((len(members), len(members & recalled)))
    return FrameScore(
        name=f"{truth['file']}:{truth['event']}",
        crystal=truth["hit"],
        called_hit=result["hit"],
        visible=len(visible),
        recalled=len(visible & recalled),
        found=len(result["peaks"]),
        right=len(matched),
        distances_px=tuple(distance for _, distance in matched.values()),
        recall_by_class=tuple(classes),
    )


def score_run(results: Iterable[Mapping[str, Any]], truth: Mapping[str, Any]) -> RunScore:
    """Judge all results of a run; `failures` says what and where when it falls short.

    Args:
        results: of the action, in any order; matched to frames by the last part of `path` and by `event`.
        truth: content of `truth.json`.
    """
    by_frame = {(Path(str(result.get("path", ""))).name, result.get("event", 0)): result for result in results}
    run = RunScore()
    for entry in truth["frames"]:
        result = by_frame.get((entry["file"], entry["event"]))
        name = f"{entry['file']}:{entry['event']}"
        if result is None or "peaks" not in result:
            run.failures.append(f"{name}: {result['error'] if result and 'error' in result else 'no result'}")
            continue
        score = score_frame(result, entry)
        run.frames.append(score)
        if score.called_hit and not score.crystal:
            run.failures.append(f"{name}: called a hit with {score.found} peaks, but no crystal was there")
        if not score.called_hit and score.visible >= CERTAIN_HIT:
            run.failures.append(f"{name}: called a blank, but {score.visible} visible peaks were planted")
    if run.recall < LEAST_RECALL:
        worst = min(run.frames, key=lambda frame: frame.recalled - frame.visible)
        run.failures.append(
            f"recall {run.recall:.4f} of {run.total('visible')} visible peaks is below {LEAST_RECALL}"
            f" (most missed in {worst.name}: {worst.visible - worst.recalled} of {worst.visible})"
        )
    if run.precision < LEAST_PRECISION:
        worst = max(run.frames, key=lambda frame: frame.found - frame.right)
        run.failures.append(
            f"precision {run.precision:.4f} of {run.total('found')} found peaks is below {LEAST_PRECISION}"
            f" (most false ones in {worst.name}: {worst.found - worst.right})"
        )
    return run


def summary(run: RunScore) -> str:
    """Say in one line how good a run was."""
    crystals = sum(frame.crystal for frame in run.frames)
    return (
        f"{len(run.frames)} frames, {crystals} with a crystal; recall {run.recall:.2%} of {run.total('visible')} visible peaks, "
        f"{run.false_peaks} false of {run.total('found')} found, positions within {run.position_rms_px:.2f} px rms"
    )


def measure(seeds: Sequence[int], frames: int, overrides: Mapping[str, Any]) -> list[RunScore]:
    """Generate a run for each seed in a temporary directory, run the action on every frame here, and print a table."""
    import action  # type: ignore[import-not-found,unused-ignore]
    import generate  # type: ignore[import-not-found,unused-ignore]

    print("| seed | frames | crystals | called hits | visible | recall | found | false | position rms | ms a frame |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    runs = []
    for seed in seeds:
        with tempfile.TemporaryDirectory(prefix="hitfinder-") as directory:
            truth = generate.write_run(Path(directory), generate.Settings(frames=frames, seed=seed, **overrides))
            results = [
                action.main({"path": entry["file"], "event": entry["event"], "data_root": directory}) for entry in truth["frames"]
            ]
        run = score_run(results, truth)
        runs.append(run)
        times = sorted(result["seconds"] for result in results if "seconds" in result) or [math.nan]
        print(
            f"| {seed} | {len(run.frames)} | {run.total('crystal')} | {run.total('called_hit')} | {run.total('visible')} "
            f"| {run.recall:.2%} | {run.total('found')} | {run.false_peaks} | {run.position_rms_px:.2f} px "
            f"| {1000 * times[len(times) // 2]:.0f} |"
        )
    print("\n| brightest pixel, sigma | planted | found |\n|---|---:|---:|")
    for number, (low, high) in enumerate(itertools.pairwise(CLASSES)):
        planted = sum(frame.recall_by_class[number][0] for run in runs for frame in run.frames)
        recalled = sum(frame.recall_by_class[number][1] for run in runs for frame in run.frames)
        label = f"{low:g} to {high:g}" if math.isfinite(high) else f"{low:g} and more"
        print(f"| {label} | {planted} | {recalled / planted if planted else math.nan:.1%} |")
    return runs


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return 0 when the run is good enough, 1 when not."""
    parser = argparse.ArgumentParser(
        description="Compare found with planted peaks.",
        epilog="examples:\n"
        "  check.py results /srv/data/run0001/truth.json results.jsonl\n"
        "  check.py measure --seeds 1 2 3 --frames 20",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    results = commands.add_parser("results", help="judge results of the action, one JSON object a line")
    results.add_argument("truth", type=Path)
    results.add_argument("results", type=Path)
    measured = commands.add_parser("measure", help="generate runs, run the action here, print a table")
    measured.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    measured.add_argument("--frames", type=int, default=20)
    measured.add_argument("--size", type=int, default=1024)
    measured.add_argument("--background", type=float, default=30.0)
    options = parser.parse_args(arguments)
    if options.command == "measure":
        overrides = {"size": options.size, "background": options.background}
        failures = [failure for run in measure(options.seeds, options.frames, overrides) for failure in run.failures]
    else:
        try:
            truth = json.loads(options.truth.read_text())
            lines = options.results.read_text().splitlines()
            run = score_run([json.loads(line) for line in lines if line.strip()], truth)
        except (OSError, ValueError) as error:
            parser.error(str(error))
        print(summary(run))
        failures = run.failures
    for failure in failures:
        print(f"FAILED {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
