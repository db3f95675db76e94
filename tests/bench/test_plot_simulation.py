from __future__ import annotations

from pathlib import Path

from bench.plot_simulation import draw


def test_the_same_figures_make_the_same_file(tmp_path: Path):
    table = {"blend": [0.3, 0.2], "clairvoyant by size": [0.2, 0.1]}
    facts = {"seeds": [1, 2], "memory_of_footprint": [0.1, 0.5], "cold_share": table, "mean_wait_ms": table}
    draw(facts, tmp_path / "one.svg")
    draw(facts, tmp_path / "two.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert "<svg" in (tmp_path / "one.svg").read_text()
