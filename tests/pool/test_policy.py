from __future__ import annotations

from dataclasses import dataclass

import pytest

from pool.policy import choose_evictions, wanted_starts


@dataclass(frozen=True)
class Idle:
    memory_mib: int
    idle_since: float


def test_longest_idle_goes_first_and_no_more_than_suffice():
    old, middle, young = Idle(256, 1.0), Idle(256, 2.0), Idle(256, 3.0)
    assert choose_evictions([young, old, middle], 300) == [old, middle]


def test_nothing_is_evicted_in_vain():
    assert choose_evictions([Idle(256, 1.0), Idle(128, 2.0)], 512) == []


@pytest.mark.parametrize(
    ("waiting", "coming", "concurrency", "mean_s", "wanted"),
    [
        (0, 0, 1, None, 0),
        (1, 0, 1, None, 1),
        (500, 0, 1, None, 4),  # unknown run time: the first few will tell
        (500, 4, 1, None, 0),
        (10, 2, 1, 10.0, 8),
        (10, 2, 1, 0.01, 0),  # 50 ms of work before those that are coming: quicker than a start
        (10, 0, 1, 0.01, 10),  # nobody is coming, however short the runs were
        (10, 0, 4, 10.0, 3),
        (3, 5, 1, 10.0, 0),
    ],
)
def test_wanted_starts(waiting: int, coming: int, concurrency: int, mean_s: float | None, wanted: int):
    assert (
        wanted_starts(waiting=waiting, coming=coming, concurrency=concurrency, mean_s=mean_s, start_cost_s=0.3, most=4) == wanted
    )
