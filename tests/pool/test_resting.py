"""Containers that nobody uses: frozen, left running, or removed, each in its time."""

from __future__ import annotations

from pool import events as ev
from pool.model import ActivationId, ContainerId, ContainerState
from tests.pool.machine_driver import Driver, key, kinds, only, spec

S = ContainerState


def call_at_a_pace(driver: Driver, container: ContainerId, *, gap_s: float, times: int) -> list[str]:
    """Use a container again and again, with a tick whenever one was asked for; return the commands of the ticks."""
    said = []
    for number in range(times):
        again = driver.now + gap_s
        while (wake := driver.machine.next_wake()) is not None and wake < again:
            driver.now = wake
            for command in driver.feed(ev.Tick()):
                said.append(type(command).__name__)
                if isinstance(command, ev.Freeze):
                    driver.feed(ev.FreezeConfirmed(command.container))
        driver.now = again
        driver.arrive(f"p{number}")
        assert driver.machine.holder(ActivationId(f"p{number}")) == container
        driver.feed(ev.Ended(ActivationId(f"p{number}"), True))
    return said


def test_container_whose_calls_usually_come_again_soon_is_left_running_and_ends_frozen_when_they_stay_away():
    """WARM, FREEZING, FROZEN, BUSY ... WARM, lingering, BUSY ... WARM, lingering, FREEZING"""
    driver = Driver(freeze_grace_s=0.05, freeze_grace_most_s=0.5)
    container = driver.warm()
    assert "Freeze" in call_at_a_pace(driver, container, gap_s=0.1, times=12), "nothing is known at first"
    assert call_at_a_pace(driver, container, gap_s=0.1, times=20) == []
    assert driver.tick(0.06) == []
    assert driver.state(container) is S.WARM
    assert only(driver.tick(0.1), ev.Freeze).container == container


def test_lingering_container_may_be_evicted_and_its_planned_look_finds_nothing():
    driver = Driver(freeze_grace_s=0.05, freeze_grace_most_s=0.5, memory_mib=256)
    container = driver.warm()
    call_at_a_pace(driver, container, gap_s=0.1, times=20)
    driver.tick(0.06)
    assert only(driver.arrive("b1", key("other")), ev.Remove).container == container
    assert "Freeze" not in kinds(driver.tick(0.2))


def test_node_that_cannot_freeze_keeps_containers_warm_until_the_keep_alive_ends():
    driver = Driver(freezing=False, keep_alive_s=10.0)
    container = driver.warm()
    assert driver.tick(5) == []
    assert driver.state(container) is S.WARM
    assert driver.tick(5) == [ev.Remove(container)]


def test_expired_container_is_removed_and_its_memory_counts_until_the_engine_says_gone():
    driver = Driver(memory_mib=256, keep_alive_s=10.0)
    container = driver.warm()
    driver.tick(1)
    driver.feed(ev.FreezeConfirmed(container))
    assert driver.tick(10) == [ev.Remove(container)]
    assert driver.arrive("a2", key("other")) == []
    assert kinds(driver.feed(ev.Removed(container))) == ["Create"]


def test_unused_stem_cells_expire_and_are_not_replaced():
    driver = Driver(stem_keep_s=60.0)
    create = only(driver.feed(ev.StemsWanted(spec(), 1)), ev.Create)
    driver.come_up(create.container)
    driver.feed(ev.FreezeConfirmed(create.container))
    assert driver.tick(60) == [ev.Remove(create.container)]
    assert driver.feed(ev.Removed(create.container)) == []
