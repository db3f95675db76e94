import json

import msgspec
import pytest

from bench.measure import Distribution, Line, added, dump, make_line, percentile, ratio


@pytest.mark.parametrize(
    ("count", "share", "expected"),
    [(1, 0.5, 1), (2, 0.5, 1), (3, 0.5, 2), (100, 0.5, 50), (100, 0.99, 99), (101, 0.99, 100), (10, 0.99, 10), (10, 0.0, 1)],
)
def test_a_percentile_is_the_least_sample_that_the_share_does_not_exceed(count, share, expected):
    assert percentile(list(range(1, count + 1)), share) == expected


def test_a_distribution_does_not_care_for_the_order_of_its_samples():
    assert Distribution.of([3.0, 1.0, 2.0, 10.0]) == Distribution(n=4, p50=2.0, p90=10.0, p99=10.0, max=10.0)


def test_what_slows_both_for_a_block_leaves_the_difference_alone():
    direct = [[10.0, 11.0, 12.0], [110.0, 111.0, 112.0], [10.0, 11.0, 12.0]]
    subject = [[30.0, 31.0, 32.0], [130.0, 131.0, 132.0], [35.0, 36.0, 37.0]]
    found = added(subject, direct)
    assert (found.median, found.low, found.high) == (20.0, 20.0, 25.0)


def test_a_ratio_is_of_medians_block_by_block():
    found = ratio([[2.0], [9.0], [400.0]], [[1.0], [3.0], [100.0]])
    assert (found.median, found.low, found.high) == (3.0, 2.0, 4.0)


def test_blocks_of_different_number_are_refused():
    with pytest.raises(ValueError, match="zip"):
        added([[1.0]], [[1.0], [2.0]])


def test_a_line_is_one_line_of_json_with_all_that_is_needed_to_judge_it():
    line = make_line(
        "warm",
        seed=7,
        engine="20.10",
        blocks={"direct": [[10.0, 12.0]], "warm": [[20.0, 22.0]]},
        facts={"starts": {"warm": 2}},
        must=("adds little", True),
    )
    text = dump(line)
    assert "\n" not in text
    told = json.loads(text)
    assert msgspec.convert(told, Line) == line
    assert told["added"] == {"warm": {"median": 10.0, "low": 10.0, "high": 10.0}}
    assert told["must"] == {"what": "adds little", "met": True}
    assert all(told[key] for key in ("machine", "kernel", "cgroup", "python", "engine", "commit", "at"))
    assert set(told["subjects"]["warm"]) == {"n", "p50", "p90", "p99", "max"}


def test_a_line_without_reference_compares_nothing():
    line = make_line("direct", seed=1, engine="x", blocks={"direct": [[1.0]]}, reference=None)
    assert (line.added, line.ratio, line.must) == ({}, {}, None)
