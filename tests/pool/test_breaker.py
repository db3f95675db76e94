"""Who is let through, and when."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pool.breaker import Breaker, BreakerState

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


def opened(**changes) -> Breaker:
    """One that opened at second 0."""
    breaker = Breaker(misses_to_open=2, **{"cooling_s": 5.0, **changes})
    for _ in range(2):
        assert breaker.admit(0.0)
        breaker.missed(0.0)
    return breaker


def test_closed_it_lets_everybody_through():
    breaker = Breaker()
    assert all(breaker.admit(0.0) for _ in range(100))
    assert breaker.state(0.0) is CLOSED
    assert breaker.wait_s(0.0) == 0


def test_it_opens_after_misses_in_a_row_and_not_before():
    breaker = Breaker(misses_to_open=3)
    for _ in range(2):
        breaker.missed(0.0)
    breaker.succeeded()
    for _ in range(2):
        breaker.missed(0.0)
    assert breaker.state(0.0) is CLOSED
    breaker.missed(0.0)
    assert breaker.state(0.0) is OPEN


def test_open_it_lets_nobody_through_and_says_for_how_long():
    breaker = opened()
    assert not breaker.admit(4.9)
    assert breaker.wait_s(1.0) == 4.0


def test_half_open_it_lets_one_through_at_a_time():
    breaker = opened()
    assert breaker.state(5.0) is HALF_OPEN
    assert breaker.admit(5.0)
    assert not breaker.admit(5.0)
    breaker.abandoned()
    assert breaker.state(5.0) is HALF_OPEN
    assert breaker.admit(5.0)


def test_a_trial_that_succeeds_closes_it_and_all_is_forgotten():
    breaker = opened()
    assert breaker.admit(5.0)
    breaker.succeeded()
    assert breaker.state(5.0) is CLOSED
    breaker.missed(6.0)
    assert breaker.state(6.0) is CLOSED


def test_each_trial_that_misses_doubles_the_pause_up_to_the_longest():
    breaker = opened(longest_s=15.0)
    now, pauses = 5.0, []
    for _ in range(3):
        assert breaker.admit(now)
        breaker.missed(now)
        pauses.append(breaker.wait_s(now))
        now += pauses[-1]
    assert pauses == [10.0, 15.0, 15.0]


def test_calls_admitted_before_it_opened_do_not_lengthen_the_pause():
    breaker = opened()
    for _ in range(10):
        breaker.missed(1.0)
    assert breaker.wait_s(1.0) == 5.0


@given(st.lists(st.sampled_from(["admit", "missed", "succeeded", "abandoned", "wait"])))
def test_whatever_happened_it_lets_somebody_through_in_the_end(steps):
    breaker, now, admitted = Breaker(misses_to_open=2), 0.0, 0
    for step in steps:
        if step == "admit":
            admitted += breaker.admit(now)
        elif step == "wait":
            now += 1.0
        elif admitted:
            admitted -= 1
            breaker.missed(now) if step == "missed" else getattr(breaker, step)()
    for _ in range(admitted):
        breaker.abandoned()
    now += breaker.wait_s(now)
    assert breaker.wait_s(now) == 0
    assert breaker.admit(now)
    breaker.succeeded()
    assert breaker.state(now) is CLOSED
