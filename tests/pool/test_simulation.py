"""The simulation plays traces whose outcome can be told by hand, and the clairvoyant is never worse where it must not be."""

from __future__ import annotations

import pytest

from pool.keepalive import Blend, FixedTtl, Lru
from pool.simulation import clairvoyant, compare, five_sizes, simulate
from pool.trace import Call, Function, Trace

A, B, C = (Function(name, 256, 0.1, 1.0) for name in "abc")


def trace(*calls: tuple[float, int]) -> Trace:
    return Trace((A, B, C), tuple(Call(at_s, function, 0.1) for at_s, function in calls))


def test_first_call_is_cold_and_the_next_finds_the_container():
    outcome = simulate(trace((0, 0), (10, 0), (20, 0)), Lru(), 1024)
    assert (outcome.calls, outcome.cold, outcome.refused, outcome.evictions) == (3, 1, 0, 0)
    assert outcome.mean_wait_ms == pytest.approx(1000 / 3)
    assert outcome.used_mib_s == pytest.approx(3 * 0.1 * 256)
    assert outcome.held_mib_s == pytest.approx(256 * 20.0), "until the last call begins"


def test_a_container_is_gone_after_its_time():
    calls = trace((0, 0), (100, 0), (800, 0))
    assert simulate(calls, FixedTtl(600.0), 1024).cold == 2
    assert simulate(calls, FixedTtl(60.0), 1024).cold == 3
    assert simulate(calls, Lru(), 1024, keep_alive_s=60.0).cold == 3


def test_without_room_somebody_has_to_go():
    outcome = simulate(trace((0, 0), (10, 1), (20, 2), (30, 0)), Lru(), 512)
    assert outcome.cold == 4, "each went before it was wanted again"
    assert outcome.evictions == 2


def test_what_is_larger_than_the_pool_is_refused():
    outcome = simulate(trace((0, 0)), Lru(), 128)
    assert (outcome.refused, outcome.cold) == (1, 0)


def test_who_knows_the_future_lets_go_what_is_wanted_last():
    """Round robin over three in room for two: the longest idle is just the one that is wanted next."""
    calls = trace(*((10.0 * number, number % 3) for number in range(30)))
    lru, knowing = simulate(calls, Lru(), 512), simulate(calls, clairvoyant(calls, by_size=False), 512)
    assert lru.cold == 30
    assert knowing.cold < 20


def test_two_at_once_need_two_containers():
    assert simulate(trace((0, 0), (5, 0), (5.01, 0), (5.02, 0)), Lru(), 4096).cold >= 1
    busy = Trace((Function("a", 256, 5.0, 1.0),), tuple(Call(at_s, 0, 5.0) for at_s in (0.0, 20.0, 20.5)))
    assert simulate(busy, Lru(), 4096).cold == 2


def test_same_trace_same_outcome():
    calls = trace(*((7.0 * number, number * number % 3) for number in range(40)))
    assert simulate(calls, Blend(600.0), 512) == simulate(calls, Blend(600.0), 512)


def test_all_policies_are_compared_in_all_sizes():
    calls = trace((0, 0), (10, 1), (20, 2))
    outcomes = list(compare(calls, (512, 1024), 600.0))
    assert {outcome.memory_mib for outcome in outcomes} == {512, 1024}
    assert {outcome.policy for outcome in outcomes} >= {"blend", "ttl", "lru", "greedy-dual", "histogram", "clairvoyant"}


def test_sizes_reach_from_hardly_enough_to_nearly_all():
    sizes = five_sizes(trace((0, 0), (10, 1), (20, 2)))
    assert sizes == (256, 256, 269, 384, 614)
