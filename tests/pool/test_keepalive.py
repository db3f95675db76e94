from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.keepalive import (
    BOUNDS_S,
    BUCKETS,
    ENOUGH_GAPS,
    MIDDLES_S,
    POLICIES,
    Blend,
    FixedTtl,
    GreedyDual,
    Habits,
    HybridHistogram,
    Idle,
    bucket_of,
    choose_evictions,
)


def habits(*gaps_s: float) -> Habits:
    made = Habits()
    for gap_s in gaps_s:
        made.note_gap(gap_s)
        made.calls += 1
    return made


def idle(idle_s: float = 10.0, *, memory_mib: int = 256, known: Habits | None = None, clock: float = 0.0) -> Idle:
    return Idle(memory_mib=memory_mib, idle_s=idle_s, start_cost_s=0.3, habits=known, clock=clock)


def test_longest_idle_goes_first_and_no_more_than_suffice():
    assert choose_evictions([(3.0, 256, "young"), (1.0, 256, "old"), (2.0, 256, "middle")], 300) == [
        (1.0, "old"),
        (2.0, "middle"),
    ]


def test_small_ones_are_spared_when_a_large_one_suffices():
    assert choose_evictions([(1.0, 64, "small"), (2.0, 512, "large")], 300) == [(2.0, "large")]


def test_nothing_is_evicted_in_vain():
    assert choose_evictions([(1.0, 256, "a"), (2.0, 128, "b")], 512) == []


@given(st.floats(0.0, 1e7))
def test_each_gap_lies_within_the_bounds_of_its_bucket(gap_s: float):
    number = bucket_of(gap_s)
    assert number == 0 or gap_s > BOUNDS_S[number - 1] * 0.999999
    assert number == BUCKETS - 1 or gap_s <= BOUNDS_S[number] * 1.000001


def test_middles_rise_and_lie_between_the_bounds():
    assert list(MIDDLES_S) == sorted(MIDDLES_S)
    assert all(low < middle < high for low, middle, high in zip(BOUNDS_S, MIDDLES_S[1:], BOUNDS_S[1:], strict=False))


def test_old_gaps_fade():
    known = habits(*[1.0] * 300, *[1000.0] * 300)
    assert known.total <= 257
    assert known.percentile_s(0.5) > 900


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_policy_prefers_what_was_used_just_now_among_equals(name: str):
    policy = POLICIES[name](600.0)
    assert policy.name == name
    fresh, stale = idle(1.0, clock=2.0), idle(500.0, clock=1.0)
    assert policy.worth(fresh) > policy.worth(stale)
    assert policy.keep_s(fresh) >= 600.0


def test_greedy_dual_counts_calls_and_cost_against_size():
    policy = GreedyDual()
    assert policy.worth(idle(known=habits(1.0, 1.0))) > policy.worth(idle(known=habits(1.0)))
    assert policy.worth(idle(memory_mib=128, known=habits(1.0))) > policy.worth(idle(memory_mib=256, known=habits(1.0)))


def test_histogram_keeps_for_the_tail_of_the_gaps_once_it_knows_enough():
    policy = HybridHistogram(600.0)
    assert policy.keep_s(idle(known=habits(*[10.0] * (ENOUGH_GAPS - 1)))) == 600.0
    kept_s = policy.keep_s(idle(known=habits(*[10.0] * ENOUGH_GAPS)))
    assert 10.0 < kept_s < 20.0


def test_blend_lets_a_function_go_that_has_missed_its_time():
    """Called each 10 s, idle for 2 minutes now: it is over. Called each 3 minutes, idle as long: it is due."""
    policy = Blend(math.inf)
    over, due = habits(*[10.0] * 20), habits(*[180.0] * 20)
    assert policy.worth(idle(120.0, known=over)) < policy.worth(idle(120.0, known=due))
    assert policy.worth(idle(1.0, known=over)) > policy.worth(idle(1.0, known=due))


def test_blend_weighs_size():
    policy = Blend(math.inf)
    known = habits(*[30.0] * 5)
    assert policy.worth(idle(memory_mib=64, known=known)) > policy.worth(idle(memory_mib=512, known=known))


@given(st.lists(st.floats(0.0, 1e5), max_size=30), st.floats(0.0, 1e6))
def test_blend_is_always_a_positive_number(gaps_s: list[float], idle_s: float):
    worth = Blend(math.inf).worth(idle(idle_s, known=habits(*gaps_s)))
    assert math.isfinite(worth)
    assert worth > 0


def test_fixed_time_is_the_same_for_all():
    assert FixedTtl(60.0).keep_s(idle(known=habits(1.0))) == FixedTtl(60.0).keep_s(idle()) == 60.0
