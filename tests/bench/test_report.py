"""The page of figures: what the lines say, broken promises too, and the same bytes from the same lines."""

import msgspec

from bench.measure import Line, dump, make_line
from bench.report import read_lines, write_report

BLOCKS = {"direct": [[30.0, 40.0]], "relay": [[60.0, 70.0]], "daemon": [[200.0, 260.0]]}


def a_line(name: str, **changes) -> Line:
    line = make_line(
        name,
        seed=1,
        engine="20",
        blocks=BLOCKS,
        facts={"cpu_us_a_call": {"relay": 34.0, "daemon": 150.4}},
        must=("adds <= 600 us", True),
        goals=[("p99 <= 1.5 x the relay's", 3.7, False)],
    )
    return msgspec.structs.replace(line, **changes)


def throughput() -> Line:
    names = [f"{subject} x{clients}" for subject in BLOCKS for clients in (1, 16, 64)]
    line = make_line(
        "throughput", seed=1, engine="20", blocks={name: [[1000.0]] for name in names}, reference=None, unit="answers/s"
    )
    facts = {
        "ratio_to_relay": {"daemon x16": {"median": 0.41, "low": 0.4, "high": 0.5}},
        "latency_us": {name: {"n": 1, "p50": 10.0, "p90": 20.0, "p99": 30.0, "max": 40.0} for name in names},
        "cpu_us_a_call": {"daemon x16": 150.4},
    }
    return msgspec.structs.replace(line, facts=facts, must={"what": "at least 25 %", "met": True})


def test_the_page_says_what_the_lines_say(tmp_path):
    lines = tmp_path / "lines.jsonl"
    lines.write_text("\n".join(map(dump, [a_line("warm", seed=7), a_line("warm"), throughput(), a_line("crash")])))
    page, *plots = write_report(read_lines(lines), tmp_path)
    text = page.read_text()
    assert "| `warm` | goal: p99 <= 1.5 x the relay's | 3.70 | **no** |" in text
    assert "| `warm` | daemon | 200 | 260 | 260 | 195 (195 to 195) | 150 |" in text
    assert "| 16 | daemon | 1,000 | 41% | 10 | 30 | 150 |" in text
    assert "| 7 |" not in text, "of each scenario the last line counts"
    assert [plot.name for plot in plots] == ["performance-latency.svg", "performance-throughput.svg"]
    assert all(plot.read_text().startswith("<?xml") and f"({plot.name})" in text for plot in plots)


def test_the_same_lines_make_the_same_bytes(tmp_path):
    lines = {"warm": a_line("warm"), "throughput": throughput()}
    first = [file.read_bytes() for file in write_report(lines, tmp_path)]
    assert [file.read_bytes() for file in write_report(lines, tmp_path)] == first
