from __future__ import annotations

from pool.expiries import STALE, Expiries
from pool.model import ContainerId

A, B = ContainerId("a"), ContainerId("b")


def test_due_ones_come_out_once_in_order_of_time():
    expiries = Expiries()
    expiries.plan(A, 2.0)
    expiries.plan(B, 1.0)
    assert expiries.soonest() == 1.0
    assert expiries.due(2.0) == [B, A]
    assert expiries.due(9.0) == []
    assert expiries.soonest() is None


def test_a_new_plan_replaces_the_old_one():
    expiries = Expiries()
    expiries.plan(A, 1.0)
    expiries.plan(A, 5.0)
    assert expiries.due(4.0) == []
    assert expiries.due(5.0) == [A]


def test_what_is_forgotten_never_comes():
    expiries = Expiries()
    expiries.plan(A, 1.0)
    expiries.forget(A)
    assert A not in expiries
    assert expiries.soonest() is None


def test_containers_that_are_gone_leave_nothing_behind():
    expiries = Expiries()
    for number in range(10_000):
        container = ContainerId(f"c{number}")
        expiries.plan(container, 600.0 + number)
        expiries.forget(container)
    assert len(expiries._heap) <= 2 * STALE
