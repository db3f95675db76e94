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
    ("waiting", "starting", "soon_free", "concurrency", "mean_s", "waited_s", "wanted"),
    [
        (0, 0, 0, 1, None, 0.0, 0),
        (1, 0, 0, 1, None, 0.0, 1),
        (500, 0, 0, 1, None, 0.0, 4),  # unknown run time: the first few will tell
        (500, 3, 1, 1, None, 0.0, 0),
        (10, 1, 1, 1, 10.0, 0.0, 8),
        (10, 0, 2, 1, 0.01, 0.0, 0),  # 50 ms of work before those that are coming: quicker than a start
        (10, 0, 0, 1, 0.01, 0.0, 10),  # nobody is coming, however short the runs were
        (10, 0, 0, 4, 10.0, 0.0, 3),
        (3, 5, 0, 1, 10.0, 0.0, 0),
        (1, 0, 1, 1, 0.05, 1.1, 0),  # a queue that never empties ...
        (1, 0, 1, 1, 0.05, 1.3, 1),  # ... is worth a start once the waiting has cost four
        (1, 1, 1, 1, 0.05, 1.3, 0),  # one is on its way
    ],
)
def test_wanted_starts(
    waiting: int, starting: int, soon_free: int, concurrency: int, mean_s: float | None, waited_s: float, wanted: int
):
    assert wanted == wanted_starts(
        waiting=waiting,
        starting=starting,
        soon_free=soon_free,
        concurrency=concurrency,
        mean_s=mean_s,
        waited_s=waited_s,
        start_cost_s=0.3,
        most=4,
    )
