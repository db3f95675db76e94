"""How long an idle container runs on: the configured grace, or until the next call is overdue that usually comes soon."""

import pytest

from pool.grace import grace_s
from pool.keepalive import ENOUGH_GAPS, Habits


def habits(*gaps_s: float) -> Habits:
    made = Habits()
    for gap_s in gaps_s:
        made.note_gap(gap_s)
    return made


def test_an_action_of_which_little_is_known_gets_the_least():
    assert grace_s(None, least_s=0.05, most_s=0.5) == 0.05
    assert grace_s(habits(*[0.1] * (ENOUGH_GAPS - 1)), least_s=0.05, most_s=0.5) == 0.05


def test_an_action_that_is_called_again_soon_keeps_running_until_that_is_overdue():
    assert 0.1 <= grace_s(habits(*[0.1] * 20), least_s=0.05, most_s=0.5) <= 0.15


def test_one_long_pause_among_many_short_ones_changes_nothing_and_many_do():
    assert grace_s(habits(*[0.1] * 20, 60.0), least_s=0.05, most_s=0.5) < 0.15
    assert grace_s(habits(*[0.1] * 20, *[60.0] * 5), least_s=0.05, most_s=0.5) == 0.05


@pytest.mark.parametrize(("least_s", "most_s"), [(0.0, 0.5), (0.05, 0.05), (0.05, 0.0), (1.0, 0.5)])
def test_learning_can_be_switched_off_and_a_grace_of_nothing_stays_nothing(least_s, most_s):
    assert grace_s(habits(*[0.1] * 20), least_s=least_s, most_s=most_s) == least_s
