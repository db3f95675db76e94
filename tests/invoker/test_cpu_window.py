"""What was used of the CPU counts for a whole window, and at most for a step more; whatever the clock does; in bounded memory."""

from __future__ import annotations

import sys
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invoker.cpu_window import STEPS, CpuUse, CpuWindows

START = 1_700_000_000.0


class Clock:
    def __init__(self, now: float = START) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def add(windows: CpuWindows, clock: Clock, cpu_us: int, namespace: str = "anna") -> None:
    windows.add(namespace, cpu_us, int(clock.now * 1000))


#: Seconds until the next event, and what is used then, microseconds.
EVENTS = st.lists(st.tuples(st.floats(0, 5000, allow_nan=False), st.integers(0, 10**9)), max_size=40)


@given(EVENTS, st.sampled_from([60, 90, 3600, 604_800]), st.floats(0, 10_000))
def test_nothing_is_forgotten_before_it_is_a_window_old_nor_remembered_for_more_than_a_step_longer(events, length_s, later_s):
    clock = Clock()
    windows, step_s = CpuWindows(length_s, clock), length_s / STEPS
    times = list(accumulate((gap_s for gap_s, _ in events), initial=START))[1:]
    for at, (_, cpu_us) in zip(times, events, strict=True):
        clock.now = at
        add(windows, clock, cpu_us)
    clock.now += later_s
    ages = [(clock.now - at, cpu_us) for at, (_, cpu_us) in zip(times, events, strict=True)]
    # A millisecond either way: the clock of the steps is in whole ones.
    least = sum(cpu_us for age, cpu_us in ages if age < length_s - 0.002)
    most = sum(cpu_us for age, cpu_us in ages if age <= length_s + step_s + 0.002)
    assert least <= windows.used_us("anna") <= most
    assert windows.all_used_us().get("anna", 0) == windows.used_us("anna")


@given(EVENTS, st.integers(1, 10**9))
def test_who_waits_as_long_as_was_said_has_time_left_and_a_moment_before_has_none(events, allowed_us):
    clock = Clock()
    windows = CpuWindows(3600, clock)
    for gap_s, cpu_us in events:
        clock.now += gap_s
        add(windows, clock, cpu_us)
    wait_s = windows.wait_s("anna", allowed_us)
    if windows.used_us("anna") < allowed_us:
        assert wait_s == 0
        return
    assert 0 < wait_s <= 3660
    clock.now += wait_s - 0.01
    assert windows.used_us("anna") >= allowed_us
    clock.now += 0.02
    assert windows.used_us("anna") < allowed_us


def test_who_is_allowed_nothing_waits_for_ever_and_is_told_a_window():
    assert CpuWindows(3600, Clock()).wait_s("anna", 0) == 3600


def test_memory_does_not_grow_with_calls_nor_with_time():
    clock = Clock()
    windows = CpuWindows(60, clock)

    def numbers() -> int:
        return sum(len(step) for step in (windows._present, windows._sums, *windows._earlier))

    for _ in range(10 * STEPS):
        for _ in range(5):
            add(windows, clock, 7)
        clock.now += 1
    assert numbers() <= STEPS + 2
    assert windows.used_us("anna") == 5 * 7 * STEPS
    size = sys.getsizeof(windows._earlier)
    clock.now += 61
    assert windows.used_us("anna") == 0
    add(windows, clock, 0)
    clock.now += 1
    assert windows.all_used_us() == {}
    assert (numbers(), sys.getsizeof(windows._earlier)) == (0, size)


def test_namespaces_are_counted_apart_and_one_that_is_deleted_begins_anew():
    clock = Clock()
    windows = CpuWindows(60, clock)
    for namespace in ("anna", "bert"):
        add(windows, clock, 3, namespace)
        clock.now += 1
        add(windows, clock, 4, namespace)
    windows.forget("anna")
    assert windows.all_used_us() == {"bert": 7}
    add(windows, clock, 1)
    clock.now += 62
    assert windows.all_used_us() == {}


def test_it_looks_at_the_clock_only_when_a_step_is_over():
    looks = 0

    def clock() -> float:
        nonlocal looks
        looks += 1
        return START

    windows = CpuWindows(60, clock)
    before = looks
    for _ in range(10):
        windows.add("anna", 1, int(START * 1000))
    assert looks == before
    windows.add("anna", 1, int(START * 1000) + 1000)
    assert looks == before + 1


@pytest.mark.parametrize("back_s", [0.5, 1, 7, 86_400])
def test_a_clock_that_is_set_back_makes_nothing_older_and_nothing_stay_for_ever(back_s):
    clock = Clock()
    windows = CpuWindows(60, clock)
    add(windows, clock, 5)
    clock.now += 30
    add(windows, clock, 6)
    clock.now -= back_s
    assert windows.used_us("anna") == 11
    clock.now += 28
    assert windows.used_us("anna") == 11
    clock.now += 3 + min(back_s, 1)
    assert windows.used_us("anna") == 6
    clock.now += 30
    assert windows.used_us("anna") == 0


def test_a_clock_that_wavers_about_the_end_of_a_step_forgets_nothing():
    clock = Clock()
    windows = CpuWindows(60, clock)
    add(windows, clock, 5)
    for _ in range(2 * STEPS):
        clock.now = START + 1.1
        assert windows.used_us("anna") == 5
        clock.now = START + 0.9
        assert windows.used_us("anna") == 5


def test_an_end_that_is_noted_late_does_not_move_the_window_back():
    clock = Clock()
    windows = CpuWindows(60, clock)
    clock.now += 45
    add(windows, clock, 5)
    windows.add("anna", 6, int(START * 1000))
    clock.now += 59
    assert windows.used_us("anna") == 11


def test_what_was_used_before_counts_beside_what_is_counted_since_and_for_as_long_as_it_would_have():
    clock = Clock()
    windows = CpuWindows(60, clock)
    now = int(START)
    windows.restore([CpuUse("anna", now - age, 10**age) for age in (0, 1, 5)], 1000)
    add(windows, clock, 2)
    windows.restore([CpuUse("anna", now - age, 10**8) for age in (61, 100_000)], 1000)
    assert windows.used_us("anna") == 100_013
    left = []
    for later_s in (55, 1, 3, 1, 1):
        clock.now += later_s
        left.append(windows.used_us("anna"))
    assert left == [100_013, 13, 13, 3, 0]


@pytest.mark.parametrize(("before_s", "after_s"), [(3600, 60), (60, 3600), (90, 60), (60, 90)])
def test_another_length_keeps_what_is_within_it_and_forgets_it_in_its_time(before_s, after_s):
    clock = Clock()
    windows = CpuWindows(before_s, clock)
    ages = range(0, before_s, 20)
    windows.restore([CpuUse("anna", int(START) - age, 1) for age in ages], 1000)
    windows.resize(after_s)
    assert (windows.length_s, windows.step_ms) == (after_s, after_s * 1000 // STEPS)
    step_s = (before_s + after_s) / STEPS
    assert len([age for age in ages if age < after_s - 1]) <= windows.used_us("anna")
    assert windows.used_us("anna") <= len([age for age in ages if age <= after_s + step_s + 1])
    clock.now += after_s + after_s / STEPS
    assert windows.used_us("anna") == 0


def test_the_same_length_changes_nothing():
    clock = Clock()
    windows = CpuWindows(60, clock)
    for _ in range(3):
        add(windows, clock, 1)
        clock.now += 1
    kept = windows._earlier
    windows.resize(60)
    assert windows._earlier is kept
