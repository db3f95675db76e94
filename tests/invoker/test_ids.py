"""Ids of activations."""

import re

from invoker.ids import ActivationIds


def test_ids_are_32_hexadecimal_digits_that_grow_even_when_the_clock_is_set_back():
    ids = ActivationIds()
    made = [ids.new(wall_s) for wall_s in (1.79e9, 1.79e9, 1.79e9 + 1, 1.79e9 - 3600, 1.79e9 + 2)]
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in made)
    assert made == sorted(set(made))


def test_two_daemons_that_begin_in_the_same_millisecond_make_different_ids():
    assert ActivationIds().new(1.79e9) != ActivationIds().new(1.79e9)


def test_the_time_can_be_read_off_an_id():
    assert int(ActivationIds().new(1_790_000_000.123)[:12], 16) == 1_790_000_000_123
