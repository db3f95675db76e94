"""Who may wait: by numbers, by time, and what an overload of a minute comes to. A clock of the test's own, no loop."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Iterator

import pytest

from pool import events as ev
from pool.bounds import Bounds
from pool.errors import PoolOverloaded, TooManyWaiting
from pool.machine import Machine
from pool.model import ActivationId, ContainerId, ReuseKey, Standing
from pool.queueing import FairQueue, Waiter
from pool.settings import PoolSettings
from tests.pool.machine_driver import Driver, key, kinds, only

RUN_S = 0.05
CONTAINERS = 4


class OneAtATime:
    """Foresees that each activation takes so long, one after the other."""

    def __init__(self, each_s: float) -> None:
        self.each_s = each_s

    def mean_s(self, _: ReuseKey) -> float:
        return self.each_s

    def expected_wait_s(self, _: ReuseKey, waiting: int) -> float:
        return waiting * self.each_s


def bounds_of(queue: FairQueue, *, each_s: float = 1.0, **settings: object) -> Bounds:
    """Bounds where each activation that waits takes so long."""
    return Bounds(lambda: PoolSettings(memory_mib=1024, **settings), queue, OneAtATime(each_s))


def fill(queue: FairQueue, count: int, name: str = "a") -> None:
    for number in range(count):
        queue.push(Waiter(ActivationId(f"{name}{number}"), key(), 0.0), weight=1.0)


def drain(queue: FairQueue, count: int) -> None:
    for waiter in queue.all()[:count]:
        queue.serve(waiter, 1.0)


def test_a_burst_may_wait_for_long_and_what_comes_beyond_is_told_how_long_and_when_to_come_back():
    queue = FairQueue()
    bounds = bounds_of(queue, longest_wait_s=30.0, overload_wait_s=2.0)
    fill(queue, 30)
    assert bounds.refusal(key(), 0.0) is None
    fill(queue, 5, "more")
    refusal = bounds.refusal(key(), 0.0)
    assert isinstance(refusal, TooManyWaiting)
    assert "35 activations of the action wait" in str(refusal)
    assert "about 35.0 s" in str(refusal)
    assert refusal.retry_after_s == 5.0


def test_from_the_first_refusal_until_the_line_is_empty_only_what_is_served_soon_is_taken():
    queue = FairQueue()
    bounds = bounds_of(queue, longest_wait_s=30.0, overload_wait_s=2.0)
    fill(queue, 31)
    assert bounds.refusal(key(), 0.0) is not None
    drain(queue, 28)
    assert bounds.refusal(key(), 0.0) is not None, "three seconds: it would have been taken before the refusal"
    drain(queue, 1)
    assert bounds.refusal(key(), 0.0) is None
    drain(queue, 2)
    fill(queue, 3, "again")
    assert bounds.refusal(key(), 0.0) is None, "the line was empty: the overload is over"


def test_another_action_is_not_refused_for_an_overflowed_line():
    queue = FairQueue()
    bounds = bounds_of(queue, longest_wait_s=10.0)
    fill(queue, 11)
    assert bounds.refusal(key(), 0.0) is not None
    assert bounds.refusal(key("other"), 0.0) is None


def test_an_overload_that_is_shorter_than_a_burst_may_be_is_bounded_by_the_shorter_of_the_two():
    queue = FairQueue()
    bounds = bounds_of(queue, longest_wait_s=1.0, overload_wait_s=5.0)
    fill(queue, 2)
    assert bounds.refusal(key(), 0.0) is not None
    assert bounds.refusal(key(), 0.0) is not None


@pytest.mark.parametrize(("bound", "error"), [("max_waiting", PoolOverloaded), ("max_waiting_per_user", TooManyWaiting)])
def test_a_refusal_by_number_overflows_the_line_too(bound: str, error: type[PoolOverloaded]):
    queue = FairQueue()
    bounds = bounds_of(queue, overload_wait_s=2.0, **{bound: 4})
    fill(queue, 4)
    assert type(bounds.refusal(key(), 0.0)) is error
    drain(queue, 1)
    assert bounds.refusal(key(), 0.0) is not None, "three wait, and in an overload no more than two may"


@pytest.mark.parametrize(("uid", "seconds"), [(1001, 20.0), (2002, 2.0)])
def test_who_has_too_many_waiting_is_told_when_his_own_line_has_moved_on_not_that_of_all(uid: int, seconds: float):
    queue = FairQueue()
    for owner, served in ((1001, 5), (2002, 50)):
        names = [ActivationId(f"{owner}-{number}") for number in range(20 + served)]
        for name in names:
            queue.push(Waiter(name, key(uid=owner), 0.0), weight=1.0)
        for waiter in [each for each in queue.all() if each.activation in names[:served]]:
            queue.serve(waiter, 1.0)
    refusal = bounds_of(queue, max_waiting_per_user=20).refusal(key(uid=uid), 5.0)
    assert isinstance(refusal, TooManyWaiting)
    assert refusal.retry_after_s == seconds
    assert f"come back in {seconds:.0f} s" in str(refusal)
    both = bounds_of(queue, max_waiting=40).refusal(key(uid=uid), 5.0)
    assert both is not None
    assert both.retry_after_s == 4.0, "forty wait, eleven a second are served"


def test_those_that_are_coming_count_as_if_they_waited():
    queue = FairQueue()
    assert bounds_of(queue, longest_wait_s=10.0).refusal(key(), 0.0, coming=10) is None
    assert bounds_of(queue, longest_wait_s=10.0).refusal(key(), 0.0, coming=11) is not None
    assert isinstance(bounds_of(queue, max_waiting_per_user=4).refusal(key(), 0.0, coming=4), TooManyWaiting)
    assert type(bounds_of(queue, max_waiting=4).refusal(key(), 0.0, coming=4)) is PoolOverloaded


def test_what_was_promised_waits_whatever_the_bounds_and_only_a_drain_leaves_it_to_the_next_daemon():
    driver = Driver(memory_mib=256, max_waiting_per_user=1)
    driver.arrive("a0")
    for name, standing in (("admitted", Standing.ADMITTED), ("part", Standing.PART)):
        assert "Reject" not in kinds(driver.feed(ev.Arrived(ActivationId(name), key(), standing)))
    rejected = only(driver.arrive("new"), ev.Reject)
    assert isinstance(rejected.error, TooManyWaiting)
    told = [command.activation for command in driver.feed(ev.Draining()) if isinstance(command, ev.Reject)]
    assert told == ["a0", "admitted"]


class Site:
    """A machine with four containers of an action that takes 50 ms, and what came of each call."""

    def __init__(self, **settings: object) -> None:
        names = map(str, itertools.count())
        values = {"memory_mib": 1024, "freezing": False, "longest_wait_s": 27.5, "overload_wait_s": 2.0, **settings}
        self.machine = Machine(PoolSettings(**values), name=lambda: ContainerId(next(names)))
        self.now = 0.0
        self.arrived: dict[ActivationId, float] = {}
        #: How long each that was served has waited, in the order they were served, s.
        self.waits: list[tuple[ActivationId, float]] = []
        self.refused = 0
        self._ends: list[tuple[float, ActivationId]] = []
        self._names = map(ActivationId, map(str, itertools.count()))

    def call(self) -> ActivationId:
        """A call arrives now."""
        name = next(self._names)
        self.arrived[name] = self.now
        self._feed(ev.Arrived(name, key()))
        return name

    def run_until(self, when: float) -> None:
        """Let what ends until then end."""
        while self._ends and self._ends[0][0] <= when:
            self.now, name = heapq.heappop(self._ends)
            self._feed(ev.Ended(name, True))
        self.now = when

    def _feed(self, event: ev.Event) -> None:
        todo = [event]
        while todo:
            for command in self.machine.handle(todo.pop(0), self.now):
                if isinstance(command, ev.Create):
                    todo.append(ev.Created(command.container, exercised=False))
                elif isinstance(command, ev.Grant):
                    self.waits.append((command.activation, self.now - self.arrived[command.activation]))
                    heapq.heappush(self._ends, (self.now + RUN_S, command.activation))
                    if command.needs_init:
                        todo.append(ev.Initialised(command.activation))
                elif isinstance(command, ev.Reject):
                    assert isinstance(command.error, TooManyWaiting)
                    self.refused += 1


def times(rate: float, seconds: float) -> Iterator[float]:
    return (number / rate for number in range(1, int(rate * seconds) + 1))


def test_ten_times_the_capacity_for_a_minute_loses_nothing_starves_nobody_and_is_over_two_seconds_after_it_ends():
    site = Site()
    capacity = CONTAINERS / RUN_S
    for when in times(10 * capacity, 60.0):
        site.run_until(when)
        site.call()
    waiting = site.machine.statistics().waiting
    assert waiting <= 2.0 * capacity + 1
    after = site.call()
    assert site.refused, "and this one too, or it waits no longer than any other"
    site.run_until(60.0 + 2.0 + RUN_S)
    assert site.machine.statistics().waiting == 0, "normal again"
    late = site.call()
    waits = dict(site.waits)
    assert waits[late] == 0.0
    assert waits.get(after, 0.0) <= 2.0 + 2 * RUN_S
    assert len(waits) + site.refused == len(site.arrived), "each was served, or refused when it came"
    served = [name for name, _ in site.waits]
    assert served == sorted(served, key=int), "in the order they came"
    settled = [wait for name, wait in site.waits if site.arrived[name] > 30.0]
    assert max(settled) <= 2.0 + 2 * RUN_S, "and none waited for longer than was to be expected"
    assert len(settled) > 0.9 * 30.0 * capacity, "while the containers had always work"


def test_an_action_that_is_asked_for_a_little_less_than_it_can_serve_is_never_refused():
    site = Site()
    for when in times(0.95 * CONTAINERS / RUN_S, 60.0):
        site.run_until(when)
        site.call()
    assert site.refused == 0


def test_crowd_that_waits_for_its_answers_is_never_refused_however_slow_it_goes():
    """Closed loop: sixty clients, each with one call at a time. It is not an overload, for it does not grow."""
    site = Site(memory_mib=256)
    for _ in range(60):
        site.call()
    for number in range(2000):
        site.run_until((number + 1) * RUN_S)
        site.call()
    assert site.refused == 0
    assert Counter(name for name, _ in site.waits).most_common(1)[0][1] == 1
