from __future__ import annotations

from bench.traces import generate
from pool.keepalive import Blend, Lru
from pool.simulation import simulate


def test_a_seed_makes_one_trace_and_another_seed_another():
    assert generate(3, functions=10, hours=0.5, calls=200) == generate(3, functions=10, hours=0.5, calls=200)
    assert generate(3, functions=10, hours=0.5, calls=200) != generate(4, functions=10, hours=0.5, calls=200)


def test_calls_are_in_order_within_the_hours_and_about_as_many_as_asked_for():
    trace = generate(1, functions=60, hours=2.0, calls=1500)
    times = [call.at_s for call in trace.calls]
    assert times == sorted(times)
    assert 0 <= times[0] <= times[-1] <= 7200
    assert 700 <= len(times) <= 3000


def test_the_default_beats_plain_recency_on_a_seed_that_it_was_not_made_for():
    trace = generate(77, functions=60, hours=2.0, calls=1500)
    memory_mib = trace.footprint_mib // 3
    assert simulate(trace, Blend(3600.0), memory_mib).cold < simulate(trace, Lru(), memory_mib).cold
