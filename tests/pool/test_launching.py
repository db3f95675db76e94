from __future__ import annotations

import pytest

from pool.launching import MEASURE_GOOD_FOR_S, Claim, Shares, StartWidth, herd_patience_s, wanted_starts


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


@pytest.mark.parametrize(
    ("serving", "patience_s"),
    [
        (3, 0.0),  # fewer than two a core
        (4, 1.2),  # four starts' time: a herd that is served in a moment does not last so long
        (16, 0.3),  # the more there are the sooner come more: they double in the same time
    ],
)
def test_a_herd_is_no_reason_for_more_than_two_a_core_but_pressure_that_lasts_is(serving: int, patience_s: float):
    assert herd_patience_s(serving=serving, most=4, start_cost_s=0.3) == pytest.approx(patience_s)


def test_width_stays_wide_while_parallel_starts_gain():
    width = StartWidth()
    for _ in range(10):
        width.note(2, 0.3, 1.0)
        width.note(4, 0.35, 1.0)
    assert width.choose(4, 2.0) == 4


def test_width_narrows_where_starts_only_take_longer_and_tries_again_later():
    width = StartWidth()
    for _ in range(10):
        width.note(2, 0.3, 1.0)
        width.note(4, 0.6, 1.0)
    assert width.choose(4, 2.0) == 2
    assert width.choose(4, 2.0 + MEASURE_GOOD_FOR_S) == 4


def test_width_is_between_half_and_all_whatever_was_measured():
    width = StartWidth()
    for each in range(1, 9):
        width.note(each, 0.001 if each == 1 else 5.0 * each, 1.0)
    assert width.choose(8, 1.0) in range(4, 9)
    assert StartWidth().choose(1, 0.0) == 1


def test_idle_containers_of_an_active_user_within_the_share_are_not_for_others():
    shares = Shares({1: Claim(3000, 1.0, active=True), 2: Claim(1000, 1.0, active=True)}, 4096)
    assert shares.of(1) == shares.of(2) == 2048
    assert shares.is_protected(2, taker=1)
    assert not shares.is_protected(1, taker=2), "more than the share"
    assert not shares.is_protected(2, taker=2), "one's own may always go"


def test_a_user_who_was_not_active_has_no_claim():
    shares = Shares({1: Claim(3000, 1.0, active=True), 2: Claim(1000, 1.0, active=False)}, 4096)
    assert shares.of(1) == 4096
    assert not shares.is_protected(2, taker=1)


def test_who_has_more_than_the_share_gives_way_to_who_has_less_and_never_the_other_way():
    shares = Shares({1: Claim(3072, 1.0, active=True), 2: Claim(1024, 3.0, active=True)}, 4096)
    assert shares.gives_way(1, 2, 1024)
    assert not shares.gives_way(2, 1, 256)
    assert not shares.gives_way(1, 2, 4096), "it would itself have more than its share"
    assert not shares.gives_way(1, 1, 256)
