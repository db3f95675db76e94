"""Memory times time of what idles, by owner."""

from __future__ import annotations

import pytest

from pool import events as ev
from pool.idle import FROZEN, IDLE, IdleMeter
from pool.machine import Machine
from pool.model import ActivationId, ContainerId, ContainerSpec, ContainerState, ReuseKey
from pool.settings import PoolSettings

S = ContainerState
SPEC = ContainerSpec(namespace="anna", uid=1001, gid=1001, image="sha256:00", kind="python:3", memory_mib=256)
KEY = ReuseKey(spec=SPEC, action="anna/hello", revision="r1")
NAME = ContainerId("c1")


def test_shares_are_told_apart_by_container_and_action_and_taken_once():
    meter = IdleMeter()
    meter.of(NAME, "anna", "anna/a").add(S.WARM, 2.0, 256)
    meter.of(NAME, "anna", "anna/a").add(S.FROZEN, 3.0, 10)
    meter.of(NAME, "anna", "").add(S.STEM_FROZEN, 1.0, 64)
    shares = {share.path: share for share in meter.take()}
    hello = shares["anna/a"]
    assert (hello.warm_us, hello.frozen_us, hello.memory_mib_us) == (2_000_000, 3_000_000, 2_000_000 * 256 + 3_000_000 * 10)
    assert shares[""].frozen_us == 1_000_000
    assert meter.take() == []


def test_what_is_leased_starts_or_goes_does_not_idle():
    assert FROZEN < IDLE
    assert not {S.STARTING, S.INITIALISING, S.BUSY, S.DRAINING, S.REMOVING} & IDLE


class Driver:
    """A machine with one container of an action, and a clock."""

    def __init__(self) -> None:
        self.machine = Machine(PoolSettings(memory_mib=1024, freeze_grace_s=1.0), name=lambda: NAME)
        self.now = 100.0

    def feed(self, event: ev.Event, after_s: float = 0.0) -> None:
        self.now += after_s
        self.machine.handle(event, self.now)
        self.machine.check_invariants()

    def call(self, name: str, lasts_s: float, after_s: float = 0.0) -> None:
        self.feed(ev.Arrived(ActivationId(name), KEY), after_s)
        if self.machine.books.containers[NAME].state is S.STARTING:
            self.feed(ev.Created(NAME, exercised=False), 0.5)
            self.feed(ev.Initialised(ActivationId(name)), 0.5)
        self.feed(ev.Ended(ActivationId(name), reusable=True), lasts_s)

    def take(self, after_s: float = 0.0) -> tuple[int, int, int]:
        self.now += after_s
        self.machine.books.now = self.now
        shares = self.machine.books.take_idle()
        assert {(share.namespace, share.path) for share in shares} <= {("anna", "anna/hello")}
        return tuple(sum(getattr(share, name) for share in shares) for name in ("warm_us", "frozen_us", "memory_mib_us"))


def test_only_the_time_between_calls_is_booked_and_each_second_once():
    driver = Driver()
    driver.call("a", lasts_s=7.0)
    driver.call("b", lasts_s=5.0, after_s=0.25)
    assert driver.take() == (250_000, 0, 250_000 * 256)
    driver.feed(ev.Tick(), 1.0)
    driver.feed(ev.FreezeConfirmed(NAME), 0.5)
    assert driver.take(after_s=10.0) == (1_500_000, 10_000_000, 11_500_000 * 256)
    assert driver.take() == (0, 0, 0)
    driver.call("c", lasts_s=1.0, after_s=2.0)
    assert driver.take() == (0, 2_000_000, 2_000_000 * 256)


def test_memory_that_a_frozen_container_gave_back_is_not_booked():
    driver = Driver()
    driver.call("a", lasts_s=1.0)
    driver.feed(ev.Tick(), 1.0)
    driver.feed(ev.FreezeConfirmed(NAME))
    driver.take()
    container = driver.machine.books.containers[NAME]
    driver.now += 4.0
    driver.machine.books.now = driver.now
    driver.machine.books.hold(container, 16)
    assert driver.take(after_s=10.0) == (0, 14_000_000, 4_000_000 * 256 + 10_000_000 * 16)


@pytest.mark.parametrize("event", [ev.Retired("anna/hello", None), ev.Died(NAME)])
def test_what_is_removed_is_booked_to_its_end_and_no_further(event: ev.Event):
    driver = Driver()
    driver.call("a", lasts_s=1.0)
    driver.feed(event, 3.0)
    assert driver.take(after_s=100.0)[0] == 3_000_000
    driver.feed(ev.Removed(NAME))
    assert driver.take() == (0, 0, 0)
