"""Rows and counters of what idles, and the comparison with the kernel."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from invoker import bookkeeping
from invoker.bookkeeping import Bookkeeper
from invoker.cpu_window import CpuWindows
from metrics.observer import Observer
from pool.idle import IdleShare
from pool.model import ContainerId

NAME = ContainerId("c1")


@dataclass
class FakeRecorder:
    rows: list[tuple] = field(default_factory=list)

    def idle(self, container, namespace, byte_us, *, cpu_us=0, path=""):
        self.rows.append(("idle", container, namespace, path, byte_us))

    def tail(self, activation, namespace, cpu_us, *, path=""):
        self.rows.append(("tail", activation, namespace, path, cpu_us))

    def container(self, container, namespace, fact, *, cpu_us=0, path=""):
        self.rows.append((fact, container, namespace, path, cpu_us))


@dataclass
class FakePool:
    shares: list[IdleShare] = field(default_factory=list)
    cpu_us: int = 0

    def take_idle(self):
        taken, self.shares = self.shares, []
        return taken

    def kernel_cpu_us(self):
        return self.cpu_us


@pytest.fixture
def recorder():
    return FakeRecorder()


@pytest.fixture
def observer():
    return Observer()


@pytest.fixture
def cpu():
    return CpuWindows(3600)


@pytest.fixture
def keeper(recorder, observer, cpu):
    return Bookkeeper(recorder=recorder, observer=observer, cpu=cpu, is_billed=lambda namespace: namespace == "anna")


def share(namespace: str, path: str = "anna/a") -> IdleShare:
    return IdleShare(container=NAME, namespace=namespace, path=path, memory_mib_us=3, warm_us=1_000_000, frozen_us=2_000_000)


def test_what_idled_is_a_row_in_bytes_and_counted_once(keeper, recorder, observer):
    pool = FakePool([share("anna")])
    keeper.book_idle(pool)
    keeper.book_idle(pool)
    assert recorder.rows == [("idle", NAME, "anna", "anna/a", 3 << 20)]
    counted = observer.namespaces["anna"]
    assert (counted.warm_us, counted.frozen_us, counted.idle_mib_us) == (1_000_000, 2_000_000, 3)


def test_what_belongs_to_no_namespace_is_nobodys_bill(keeper, recorder):
    keeper.book_idle(FakePool([share("invokerd")]))
    keeper.lived(NAME, "invokerd", "invokerd/self-test", "created", 0)
    assert recorder.rows == []
    keeper.lived(NAME, "anna", "", "removed", 77)
    assert recorder.rows == [("removed", NAME, "anna", "", 77)]


def holding(namespace: str, action: str | None):
    """A pool that knows one container: whose it is, and which action's."""
    key = None if action is None else SimpleNamespace(action=action)
    known = SimpleNamespace(key=key, spec=SimpleNamespace(namespace=namespace))
    return SimpleNamespace(machine=SimpleNamespace(books=SimpleNamespace(containers={NAME: known})))


def test_what_runs_on_after_a_reply_is_on_the_bill_of_the_activation_that_replied(keeper, recorder, observer, cpu):
    keeper.tail(holding("anna", "anna/a"), "a1", NAME, 400)
    assert recorder.rows == [("tail", "a1", "anna", "anna/a", 400)]
    assert observer.tail_us == 400
    assert cpu.all_used_us() == {"anna": 400}


@pytest.mark.parametrize("pool", [holding("invokerd", "invokerd/self-test"), holding("anna", None)])
def test_what_runs_on_in_nobodys_container_is_paid_by_nobody_and_no_tail_in_the_metrics(keeper, recorder, observer, cpu, pool):
    keeper.tail(pool, "a1", NAME, 400)
    keeper.tail(pool, "a1", ContainerId("gone"), 100)
    assert recorder.rows == []
    assert observer.tail_us == 0
    assert cpu.all_used_us() == {}


def test_what_no_activation_pays_is_the_difference(keeper, observer):
    observer.cpu_us, observer.tail_us = 2_000_000, 500_000
    assert keeper.compare(FakePool(cpu_us=4_000_000)) == 1.5


def test_books_that_have_more_than_the_kernel_are_told_once(keeper, observer, caplog):
    observer.cpu_us = 10_000_000
    for _ in range(3):
        assert keeper.compare(FakePool(cpu_us=4_000_000)) == -6.0
    assert len([line for line in caplog.messages if "booked twice" in line]) == 1


async def test_the_loop_compares_each_minute_and_books_each_five(keeper, recorder, monkeypatch):
    monkeypatch.setattr(bookkeeping, "COMPARE_EVERY_S", 0.001)
    monkeypatch.setattr(bookkeeping, "IDLE_EVERY_S", 0.005)
    compared = 0

    class Done(Exception):
        pass

    class Counting(FakePool):
        def kernel_cpu_us(self):
            nonlocal compared
            compared += 1
            if compared > 12:
                raise Done
            self.shares.append(share("anna"))
            return 0

    with pytest.raises(Done):
        await keeper.loop(Counting())
    assert len(recorder.rows) == 10
