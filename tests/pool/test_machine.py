"""The machine without I/O: events in, commands out, state after."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pool import events as ev
from pool.books import LEASED, TRANSITIONS, Books, Container
from pool.errors import (
    ActionError,
    ContainerStartFailed,
    EngineUnavailable,
    IllegalTransition,
    InvokerError,
    MemoryNeverAvailable,
    PoolClosed,
    PoolOverloaded,
)
from pool.model import ActivationId, ContainerId, ContainerState, Reactive, ReuseKey, Standing, StartKind
from tests.pool.machine_driver import Driver, key, kinds, only, spec

S = ContainerState


def test_cold_activation_walks_starting_initialising_busy_warm_freezing_frozen():
    driver = Driver()
    create = only(driver.arrive("a1"), ev.Create)
    assert driver.state("c1") is S.STARTING
    grant = only(driver.feed(ev.Created(create.container, exercised=False)), ev.Grant)
    assert (grant.activation, grant.start_kind, grant.needs_init) == ("a1", StartKind.COLD, True)
    assert driver.state("c1") is S.INITIALISING
    driver.feed(ev.Initialised(ActivationId("a1")))
    assert driver.state("c1") is S.BUSY
    assert driver.feed(ev.Ended(ActivationId("a1"), True)) == []
    assert driver.state("c1") is S.WARM
    assert driver.machine.next_wake() == pytest.approx(0.05)
    assert driver.tick(0.05) == [ev.Freeze(ContainerId("c1"))]
    assert driver.state("c1") is S.FREEZING
    driver.feed(ev.FreezeConfirmed(ContainerId("c1")))
    assert driver.state("c1") is S.FROZEN
    assert driver.machine.next_wake() == pytest.approx(600.05)


def test_frozen_container_is_granted_as_frozen_and_warm_one_as_warm():
    driver = Driver()
    container = driver.warm()
    grant = only(driver.arrive("a2"), ev.Grant)
    assert (grant.start_kind, grant.needs_init) == (StartKind.WARM, False)
    driver.feed(ev.Ended(ActivationId("a2"), True))
    driver.tick(0.05)
    driver.feed(ev.FreezeConfirmed(container))
    assert only(driver.arrive("a3"), ev.Grant).start_kind is StartKind.FROZEN


@pytest.mark.parametrize("state", [S.WARM, S.FREEZING, S.FROZEN])
def test_taking_what_stands_ready_leaves_all_as_an_arrival_does(state: S):
    drivers = Driver(), Driver()
    for driver in drivers:
        container = driver.warm()
        if state is not S.WARM:
            driver.tick(0.05)
        if state is S.FROZEN:
            driver.feed(ev.FreezeConfirmed(container))
        assert driver.state(container) is state
        driver.now += 0.01
    taking, arriving = drivers
    found = taking.machine.find_ready(key())
    assert found == container
    kind = taking.machine.take(ActivationId("a2"), found, taking.now)
    taking.machine.check_invariants()
    assert kind is only(arriving.arrive("a2"), ev.Grant).start_kind
    assert taking.machine.find_ready(key()) is arriving.machine.find_ready(key()) is None
    assert taking.machine.statistics() == arriving.machine.statistics()
    assert taking.observed == arriving.observed
    assert taking.machine.holder(ActivationId("a2")) == container
    for driver in drivers:
        driver.feed(ev.Ended(ActivationId("a2"), True))
        assert driver.state(container) is S.WARM


def test_nothing_stands_ready_of_another_key_while_it_drains_or_when_it_is_closed():
    driver = Driver()
    driver.warm()
    assert driver.machine.find_ready(key("other")) is None
    driver.feed(ev.Draining())
    assert driver.machine.find_ready(key()) is None


def test_call_during_freezing_takes_the_container_and_the_late_confirmation_changes_nothing():
    driver = Driver(freeze_grace_s=0.0)
    container = driver.warm()
    assert driver.state(container) is S.FREEZING
    assert only(driver.arrive("a2"), ev.Grant).start_kind is StartKind.FROZEN
    driver.feed(ev.FreezeConfirmed(container))
    assert driver.state(container) is S.BUSY


def test_failed_freeze_is_probed_and_an_answering_container_is_warm_again():
    driver = Driver(freeze_grace_s=0.0)
    container = driver.warm()
    assert driver.feed(ev.FreezeFailed(container)) == [ev.Probe(container)]
    assert driver.state(container) is S.SUSPECT
    driver.feed(ev.Probed(container, True, False))
    assert driver.state(container) is S.WARM


def test_silent_suspect_is_removed():
    driver = Driver(freeze_grace_s=0.0)
    container = driver.warm()
    driver.feed(ev.FreezeFailed(container))
    assert driver.feed(ev.Probed(container, False, False)) == [ev.Remove(container)]


def test_unclean_end_destroys_the_container_and_the_queue_gets_a_fresh_one():
    driver = Driver(max_containers_per_action=1)
    container = driver.warm()
    driver.arrive("a2")
    assert driver.arrive("a3") == []
    commands = driver.feed(ev.Ended(ActivationId("a2"), False))
    assert kinds(commands) == ["Remove", "Create"]
    assert driver.state(container) is S.REMOVING


def test_queued_activation_takes_the_container_the_moment_it_is_free():
    driver = Driver()
    driver.warm()
    driver.arrive("a2")
    assert driver.arrive("a3") == [], "busy for less than the patience: it may soon be free"
    grant = only(driver.feed(ev.Ended(ActivationId("a2"), True)), ev.Grant)
    assert grant.activation == "a3"


@pytest.mark.parametrize(("shares", "bobs"), [((), 8), ((("bob", 3.0),), 12)])
def test_users_get_containers_in_proportion_to_the_weights_that_the_site_gives_them(shares, bobs):
    """There is memory for one container, which no two activations share."""
    driver = Driver(memory_mib=256, shares=shares, parallel_starts=1)
    commands = driver.arrive("a0")
    for number in range(1, 20):
        driver.arrive(f"a{number}")
        driver.arrive(f"b{number}", key(namespace="bob", uid=1002))
    served = []
    for _ in range(16):
        container = only(commands, ev.Create).container
        activation = only(driver.feed(ev.Created(container, exercised=False)), ev.Grant).activation
        driver.feed(ev.Initialised(activation))
        driver.now += 1.0
        driver.feed(ev.Ended(activation, False))
        commands = driver.feed(ev.Removed(container))
        served.append(activation)
    assert abs(sum(name.startswith("b") for name in served) - bobs) <= 1, served


def test_container_busy_beyond_the_patience_is_not_counted_on():
    driver = Driver(launch_patience_s=0.1)
    driver.warm()
    driver.arrive("a2")
    driver.arrive("a3")
    assert driver.machine.next_wake() == pytest.approx(0.1)
    assert kinds(driver.tick(0.1)) == ["Create"]


def test_burst_of_first_calls_starts_no_more_than_the_engine_takes_in_parallel():
    driver = Driver(memory_mib=100_000, parallel_starts=4)
    created = [c for i in range(500) for c in driver.arrive(f"a{i}") if isinstance(c, ev.Create)]
    assert len(created) == 4


def test_burst_of_a_short_action_is_served_by_the_containers_first_started():
    driver = Driver(memory_mib=100_000, parallel_starts=4)
    created = [c for i in range(16) for c in driver.arrive(f"a{i}") if isinstance(c, ev.Create)]
    driver.now += 0.3
    for create in created:
        driver.now += 0.01
        more = driver.feed(ev.Created(create.container, exercised=False))
        activation = only(more, ev.Grant).activation
        assert "Create" not in kinds(more)
        driver.feed(ev.Initialised(activation))
    served = 4
    while held := [a for c in driver.machine.books.containers.values() for a in c.leases]:
        driver.now += 0.001
        served += sum(isinstance(c, ev.Grant) for c in driver.feed(ev.Ended(held[0], True)))
    assert served == 16
    assert len(driver.machine.books.containers) == 4


def test_cancelled_waiter_leaves_the_queue_and_the_started_container_becomes_a_stem_cell():
    driver = Driver()
    create = only(driver.arrive("a1"), ev.Create)
    driver.feed(ev.Ended(ActivationId("a1"), True))
    assert driver.feed(ev.Created(create.container, exercised=False)) == [ev.Exercise(create.container)], (
        "not frozen before it listens"
    )
    assert driver.state("c1") is S.STARTING
    assert kinds(driver.feed(ev.Created(create.container, exercised=True))) == ["Freeze"]
    assert driver.state("c1") is S.STEM
    driver.feed(ev.FreezeConfirmed(ContainerId("c1")))
    grant = only(driver.arrive("a2", key("another")), ev.Grant)
    assert (grant.start_kind, grant.needs_init) == (StartKind.STEM, True)


def test_cancelled_waiter_returns_the_granted_container_untouched():
    driver = Driver()
    create = only(driver.arrive("a1"), ev.Create)
    driver.feed(ev.Created(create.container, exercised=False))
    assert driver.feed(ev.Ended(ActivationId("a1"), True)) == [ev.Exercise(create.container)]
    assert driver.state("c1") is S.STARTING
    driver.feed(ev.Created(create.container, exercised=True))
    assert driver.state("c1") is S.STEM


def test_stem_cell_never_serves_another_uid():
    driver = Driver()
    create = only(driver.arrive("a1"), ev.Create)
    driver.feed(ev.Ended(ActivationId("a1"), True))
    driver.come_up(create.container)
    assert kinds(driver.arrive("b1", key("hello", namespace="bert"))) == ["Create"]


def test_stem_cells_are_replenished_only_into_free_memory():
    driver = Driver(memory_mib=512)
    commands = driver.feed(ev.StemsWanted(spec(), 4))
    for _ in range(4):
        for create in [c for c in commands if isinstance(c, ev.Create)]:
            commands = driver.come_up(create.container)
    assert driver.machine.statistics().containers[S.STEM] == 2


def test_used_stem_cell_is_replaced():
    driver = Driver()
    create = only(driver.feed(ev.StemsWanted(spec(), 1)), ev.Create)
    driver.come_up(create.container)
    assert kinds(driver.arrive("a1")) == ["Grant", "Create"]


def test_eviction_takes_the_longest_idle_and_no_more_than_needed():
    driver = Driver(memory_mib=512)
    first = driver.warm("a1", key("one"))
    driver.now += 1
    driver.warm("a2", key("two"))
    assert driver.arrive("a3", key("three")) == [ev.Remove(first)]
    assert kinds(driver.feed(ev.Removed(first))) == ["Create"]


def test_nothing_is_evicted_in_vain():
    driver = Driver(memory_mib=512)
    driver.warm("a1", key("one"))
    driver.arrive("a2", key("two"))
    assert driver.arrive("a3", key("big", memory_mib=512)) == []


def test_activation_larger_than_the_pool_is_refused_at_once():
    reject = only(Driver(memory_mib=512).arrive("a1", key(memory_mib=1024)), ev.Reject)
    assert isinstance(reject.error, MemoryNeverAvailable)
    assert "1024" in str(reject.error)
    assert "512" in str(reject.error)


def test_full_queue_refuses_with_a_time_to_come_back():
    driver = Driver(max_waiting=1, parallel_starts=1)
    driver.arrive("a1")
    reject = only(driver.arrive("a2"), ev.Reject)
    assert isinstance(reject.error, PoolOverloaded)
    assert reject.error.retry_after_s > 0


def test_old_large_request_holds_back_those_that_came_after_it():
    driver = Driver(memory_mib=512, large_request_patience_s=5.0)
    driver.warm("a1", key("one"))
    driver.arrive("a2", key("one"))
    driver.arrive("big", key("big", memory_mib=512))
    assert kinds(driver.arrive("s1", key("small"))) == ["Create"], "it may overtake at first"
    driver.feed(ev.CreateFailed(ContainerId("c2"), EngineUnavailable()))
    driver.now += 6
    assert driver.arrive("s2", key("small")) == []


def test_platform_fault_at_creation_is_told_to_one_waiter_the_images_fault_to_all():
    driver = Driver(parallel_starts=1)
    for i in range(3):
        driver.arrive(f"a{i}")
    first = driver.feed(ev.CreateFailed(ContainerId("c1"), EngineUnavailable()))
    assert kinds(first) == ["Remove", "Reject", "Create"]
    second = driver.feed(ev.CreateFailed(ContainerId("c2"), ContainerStartFailed()))
    assert kinds(second) == ["Remove", "Reject", "Reject"]


def fail_creation(driver: Driver, activation: str, a_key: ReuseKey, error: InvokerError) -> list[str]:
    """Let one creation fail, and be removed."""
    before = set(driver.machine.books.containers)
    driver.arrive(activation, a_key)
    created = sorted(set(driver.machine.books.containers) - before)
    done = [kind for name in created for kind in kinds(driver.feed(ev.CreateFailed(name, error)))]
    for name in created:
        driver.feed(ev.Removed(name))
    return done


def test_an_action_whose_container_failed_three_times_is_not_tried_for_a_while_and_others_are():
    driver = Driver()
    broken = key("broken")
    for number in range(3):
        assert "Reject" in fail_creation(driver, f"a{number}", broken, ContainerStartFailed("no such file"))
    reject = only(driver.arrive("a3", broken), ev.Reject)
    assert isinstance(reject.error, ContainerStartFailed)
    assert "no such file (3 times in a row" in str(reject.error)
    assert kinds(driver.arrive("b1", key("other"))) == ["Create"]
    driver.now += 5.0
    assert kinds(driver.arrive("a4", broken)) == ["Create"], "after a while it is tried again"


def test_a_creation_that_succeeds_forgets_the_failures_before_it():
    driver = Driver()
    for number in range(2):
        fail_creation(driver, f"a{number}", key("flaky"), ContainerStartFailed())
    driver.warm("a2", key("flaky"))
    driver.feed(ev.Retired("anna/flaky", None))
    for name in list(driver.machine.books.containers):
        driver.feed(ev.Removed(name))
    for number in range(3, 5):
        assert "Reject" in fail_creation(driver, f"a{number}", key("flaky"), ContainerStartFailed())


def test_a_sick_engine_is_no_fault_of_an_action():
    driver = Driver()
    for number in range(10):
        assert "Reject" in fail_creation(driver, f"a{number}", key("hello"), EngineUnavailable())


def test_memory_of_a_failed_creation_counts_until_nothing_is_left_of_it():
    driver = Driver(memory_mib=512)
    driver.arrive("a1", key("one", memory_mib=512))
    driver.feed(ev.CreateFailed(ContainerId("c1"), EngineUnavailable()))
    assert kinds(driver.arrive("a2", key("two", memory_mib=512))) == []
    assert driver.machine.statistics().memory_used_mib == 512
    assert kinds(driver.feed(ev.Removed(ContainerId("c1")))) == ["Create"]


def test_retired_revision_is_removed_when_idle_and_drained_when_busy():
    driver = Driver()
    idle = driver.warm("a1")
    driver.warm("b1", key("busy"))
    driver.arrive("b2", key("busy"))
    assert driver.feed(ev.Retired("anna/hello", "r2")) == [ev.Remove(idle)]
    assert driver.feed(ev.Retired("anna/busy", None)) == []
    assert driver.state("c2") is S.DRAINING
    assert driver.feed(ev.Ended(ActivationId("b2"), True)) == [ev.Remove(ContainerId("c2"))]


def test_retiring_spares_the_revision_that_stays():
    driver = Driver()
    container = driver.warm("a1")
    assert driver.feed(ev.Retired("anna/hello", "r1")) == []
    assert driver.state(container) is S.WARM


def test_a_node_that_is_found_to_freeze_freezes_what_rests_and_nothing_that_has_a_call():
    driver = Driver(freezing=False)
    stem = only(driver.feed(ev.StemsWanted(key().spec, 1)), ev.Create).container
    driver.come_up(stem)
    busy = only(driver.arrive("a1", key(memory_mib=128)), ev.Create).container
    driver.feed(ev.Created(busy, exercised=False))
    starting = only(driver.arrive("a2", key(memory_mib=512)), ev.Create).container
    frozen = [command for command in driver.feed(ev.FreezingChanged(True)) if isinstance(command, ev.Freeze)]
    assert frozen == [ev.Freeze(stem)]
    assert [driver.state(each) for each in (busy, starting)] == [S.INITIALISING, S.STARTING]


def test_dead_idle_container_is_removed_and_never_granted():
    driver = Driver()
    container = driver.warm()
    assert driver.feed(ev.Died(container)) == [ev.Remove(container)]
    assert "Grant" not in kinds(driver.arrive("a2"))


def test_container_that_dies_under_a_lease_takes_no_more_and_goes_when_the_lease_ends():
    driver = Driver()
    container = driver.warm("a1", key(concurrency=2))
    driver.arrive("a2", key(concurrency=2))
    driver.feed(ev.Died(container))
    assert driver.state(container) is S.DRAINING
    assert "Grant" not in kinds(driver.arrive("a3", key(concurrency=2)))
    assert ev.Remove(container) in driver.feed(ev.Ended(ActivationId("a2"), False))


def test_container_in_which_an_activation_went_wrong_beside_others_is_removed_when_the_last_of_them_ends():
    driver = Driver()
    shared = key(concurrency=3)
    container = driver.warm("a0", shared)
    driver.arrive("a1", shared)
    driver.arrive("a2", shared)
    assert driver.feed(ev.Spoiled(container)) == []
    assert driver.state(container) is S.DRAINING
    assert "Grant" not in kinds(driver.arrive("a3", shared))
    assert ev.Remove(container) not in driver.feed(ev.Ended(ActivationId("a2"), False))
    assert ev.Remove(container) in driver.feed(ev.Ended(ActivationId("a1"), True))
    assert driver.feed(ev.Spoiled(container)) == [], "it goes already"


@pytest.mark.parametrize("concurrency", [1, 2, 3, 4])
def test_container_never_holds_more_leases_than_the_concurrency(concurrency: int):
    driver = Driver(launch_patience_s=1000.0)
    shared = key(concurrency=concurrency)
    container = driver.warm("a0", shared)
    granted = sum("Grant" in kinds(driver.arrive(f"a{i}", shared)) for i in range(1, 10))
    assert granted == concurrency
    assert len(driver.machine.books.containers[container].leases) == concurrency


def test_container_whose_code_takes_one_at_a_time_gets_one_and_its_line_other_containers():
    driver = Driver(launch_patience_s=1000.0)
    shared = key(concurrency=4)
    container = only(driver.arrive("a0", shared), ev.Create).container
    driver.feed(ev.Created(container, exercised=False))
    for name in ("a1", "a2"):
        driver.arrive(name, shared)
    commands = driver.feed(ev.Initialised(ActivationId("a0"), takes_one=True))
    assert "Grant" not in kinds(commands)
    assert len(driver.machine.books.containers[container].leases) == 1
    assert kinds(driver.feed(ev.Ended(ActivationId("a0"), True))).count("Grant") == 1, "the next of its line, and only that"


def test_an_adopted_container_whose_code_takes_one_at_a_time_still_does():
    driver = Driver(launch_patience_s=1000.0)
    shared = key(concurrency=4)
    driver.feed(ev.Found(ContainerId("old"), shared.spec, shared, takes_one=True))
    driver.feed(ev.Probed(ContainerId("old"), True, frozen=False))
    granted = ["Grant" in kinds(driver.arrive(f"a{i}", shared)) for i in range(3)]
    assert granted == [True, False, False]


def test_close_tells_every_waiter_and_starts_nothing_more():
    driver = Driver(parallel_starts=1)
    driver.arrive("a1")
    driver.arrive("a2", key("two"))
    assert [type(c.error) for c in driver.feed(ev.Closed())] == [PoolClosed, PoolClosed]
    assert kinds(driver.feed(ev.Created(ContainerId("c1"), exercised=False))) == ["Remove"]
    assert isinstance(only(driver.arrive("a3"), ev.Reject).error, PoolClosed)


def test_a_drain_refuses_what_is_new_and_gives_what_is_in_flight_what_it_needs():
    driver = Driver()
    held = driver.warm("a0")
    driver.arrive("a1")
    driver.arrive("new", key("two"))
    assert [(c.activation, type(c.error)) for c in driver.feed(ev.Draining())] == [("new", PoolClosed)]
    assert isinstance(only(driver.arrive("a2"), ev.Reject).error, PoolClosed)
    for name, standing in (("part", Standing.PART), ("nested", Standing.NESTED)):
        created = only(driver.feed(ev.Arrived(ActivationId(name), key(name), standing)), ev.Create).container
        assert only(driver.feed(ev.Created(created, exercised=False)), ev.Grant).activation == name
    driver.feed(ev.Ended(ActivationId("a1"), True))
    assert only(driver.feed(ev.Arrived(ActivationId("again"), key(), Standing.PART)), ev.Grant).container == held


def test_in_a_drain_a_container_that_nobody_waits_for_any_more_is_removed_when_it_has_come_up():
    driver = Driver()
    created = only(driver.arrive("a1"), ev.Create).container
    driver.feed(ev.Draining())
    assert kinds(driver.feed(ev.Created(created, exercised=False))) == ["Remove"]


def test_found_container_is_probed_and_adopted_frozen():
    driver = Driver()
    assert driver.feed(ev.Found(ContainerId("old"), spec(), key())) == [ev.Probe(ContainerId("old"))]
    driver.feed(ev.Probed(ContainerId("old"), True, True))
    assert only(driver.arrive("a1"), ev.Grant).start_kind is StartKind.FROZEN


def found(driver: Driver, name: str, a_key: ReuseKey, held_mib: int | None) -> list[ev.Command]:
    return driver.feed(ev.Found(ContainerId(name), a_key.spec, a_key, held_mib=held_mib))


def test_frozen_containers_that_were_given_less_than_their_limits_all_have_room_after_a_restart_too():
    """Sixteen of 256 MiB that hold 40 each: by their limits the pool had room for four, and twelve warm ones would go."""
    driver = Driver(memory_mib=1024)
    keys = [key(f"a{number}") for number in range(16)]
    for number, a_key in enumerate(keys):
        assert kinds(found(driver, f"old{number}", a_key, 40)) == ["Probe"]
        driver.feed(ev.Probed(ContainerId(f"old{number}"), True, True))
    assert driver.machine.books.used_mib == 16 * (40 + driver.machine.settings.frozen_margin_mib)
    assert kinds(driver.arrive("call", keys[3])) == ["Measure"], "it runs only with its whole limit: room is made"
    driver.feed(ev.Measured({ContainerId(f"old{number}"): 30 for number in range(16)}))
    grant = [command for command in driver.tick(0.0) if isinstance(command, ev.Grant)]
    held = driver.machine.holder(ActivationId("call"))
    assert held == "old3", grant
    assert driver.machine.books.containers[held].held_mib == 256


def test_a_found_container_that_is_not_frozen_or_of_a_pool_that_does_not_shrink_has_its_whole_limit():
    for held_mib, changes in ((None, {}), (40, {"shrink_frozen": False})):
        driver = Driver(memory_mib=512, **changes)
        found(driver, "old", key(), held_mib)
        assert driver.machine.books.used_mib == 256


def test_a_found_container_never_reserves_more_than_its_limit_whatever_the_kernel_says():
    driver = Driver(memory_mib=512)
    found(driver, "old", key(), 250)
    assert driver.machine.books.used_mib == 256


def test_a_found_container_that_somebody_thawed_gets_its_whole_limit_back_or_goes():
    driver = Driver(memory_mib=320)
    for name in ("one", "two"):
        found(driver, name, key(name), 40)
    assert driver.feed(ev.Probed(ContainerId("one"), True, False)) == []
    assert driver.machine.books.containers[ContainerId("one")].held_mib == 256
    assert kinds(driver.feed(ev.Probed(ContainerId("two"), True, False))) == ["Remove"], "there is no room for both"


def test_a_found_container_for_which_there_is_no_room_goes_and_the_next_one_that_fits_stays():
    driver = Driver(memory_mib=512)
    assert kinds(found(driver, "large", key("large", memory_mib=1024), None)) == ["Remove"]
    assert kinds(found(driver, "small", key("small"), None)) == ["Probe"]


def test_news_about_what_is_gone_is_no_news():
    driver = Driver()
    gone = ContainerId("gone")
    for event in (
        ev.Created(gone, exercised=False),
        ev.FreezeConfirmed(gone),
        ev.FreezeFailed(gone),
        ev.Probed(gone, True, True),
        ev.Died(gone),
        ev.Removed(gone),
    ):
        assert driver.feed(event) == []
    assert driver.feed(ev.Ended(ActivationId("gone"), True)) == []


@pytest.mark.parametrize(("before", "after"), list(itertools.product(ContainerState, repeat=2)))
def test_every_pair_of_states_is_either_in_the_table_or_refused_without_a_change(before: ContainerState, after: ContainerState):
    books = Books(freezing=lambda: True, keep_s=lambda _container: 60.0)
    container = Container(ContainerId("c1"), spec(), key(), before, 0.0, 0.0, 0.0)
    if before in LEASED:
        container.leases[ActivationId("a1")] = 0.0
    books.add(container)
    books.now = 1.0
    if (before, after) in TRANSITIONS:
        books.move(container, after)
        assert (container.state, container.since) == (after, 1.0)
    else:
        with pytest.raises(IllegalTransition, match=before.value):
            books.move(container, after)
        assert (container.state, container.since) == (before, 0.0)


class AnyHistory(RuleBasedStateMachine):
    """Any order of events that a shell could produce keeps the invariants, loses nobody, and ends empty."""

    def __init__(self) -> None:
        super().__init__()
        self.driver = Driver(
            memory_mib=1024,
            parallel_starts=2,
            max_waiting=6,
            max_waiting_per_user=4,
            max_containers_per_action=3,
            max_containers_per_user=5,
            max_memory_per_user_mib=640,
            keep_alive_s=5.0,
            stem_keep_s=5.0,
            launch_patience_s=0.5,
            shares=(("bert", 3.0),),
        )
        self.keys = [key(f"k{i}", concurrency=i, memory_mib=128 * i) for i in (1, 2, 3, 4)]
        self.keys += [key("k5", memory_mib=384, namespace="bert", uid=1002), key("k6", namespace="bert", uid=1002)]
        self.names = itertools.count()
        self.creating: list[ContainerId] = []
        self.exercising: list[ContainerId] = []
        self.freezing: list[ContainerId] = []
        self.probing: list[ContainerId] = []
        self.removing: list[ContainerId] = []
        self.measuring: list[ContainerId] = []
        self.open: set[ActivationId] = set()
        self.uninitialised: list[ActivationId] = []
        self.running: list[ActivationId] = []

    def feed(self, event: ev.Event) -> None:
        for command in self.driver.feed(event):
            match command:
                case ev.Create(container=container):
                    self.creating.append(container)
                case ev.Exercise(container=container):
                    self.exercising.append(container)
                case ev.Freeze(container=container):
                    self.freezing.append(container)
                case ev.Probe(container=container):
                    self.probing.append(container)
                case ev.Remove(container=container):
                    self.removing.append(container)
                case ev.Measure(containers=containers):
                    self.measuring.extend(containers)
                case ev.Reject(activation=activation):
                    self.open.remove(activation)
                case ev.Grant(activation=activation, needs_init=needs_init):
                    assert activation in self.open
                    (self.uninitialised if needs_init else self.running).append(activation)

    @rule(index=st.integers(0, 5))
    def arrive(self, index: int) -> None:
        name = ActivationId(f"a{next(self.names)}")
        self.open.add(name)
        self.feed(ev.Arrived(name, self.keys[index]))

    @precondition(lambda self: self.creating)
    @rule(data=st.data(), ok=st.booleans())
    def end_creation(self, data: st.DataObject, ok: bool) -> None:
        container = data.draw(st.sampled_from(self.creating))
        self.creating.remove(container)
        self.feed(
            ev.Created(container, exercised=False)
            if ok
            else ev.CreateFailed(container, ActionError() if len(self.open) % 2 else EngineUnavailable())
        )

    @precondition(lambda self: self.exercising)
    @rule(data=st.data(), ok=st.booleans())
    def end_exercise(self, data: st.DataObject, ok: bool) -> None:
        container = data.draw(st.sampled_from(self.exercising))
        self.exercising.remove(container)
        self.feed(ev.Created(container, exercised=True) if ok else ev.CreateFailed(container, EngineUnavailable()))

    @precondition(lambda self: self.uninitialised)
    @rule(data=st.data(), ok=st.booleans())
    def end_init(self, data: st.DataObject, ok: bool) -> None:
        name = data.draw(st.sampled_from(self.uninitialised))
        self.uninitialised.remove(name)
        if ok:
            self.running.append(name)
            self.feed(ev.Initialised(name))
        else:
            self.open.remove(name)
            self.feed(ev.Ended(name, False))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), reusable=st.booleans())
    def end_run(self, data: st.DataObject, reusable: bool) -> None:
        name = data.draw(st.sampled_from(self.running))
        self.running.remove(name)
        self.open.remove(name)
        self.feed(ev.Ended(name, reusable))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.open)))
        self.open.remove(name)
        untouched = name in self.uninitialised or self.driver.machine.is_waiting(name)
        for held in (self.uninitialised, self.running):
            if name in held:
                held.remove(name)
        self.feed(ev.Ended(name, untouched))

    @precondition(lambda self: self.freezing)
    @rule(data=st.data(), ok=st.booleans())
    def end_freeze(self, data: st.DataObject, ok: bool) -> None:
        container = data.draw(st.sampled_from(self.freezing))
        self.freezing.remove(container)
        self.feed(ev.FreezeConfirmed(container) if ok else ev.FreezeFailed(container))

    @precondition(lambda self: self.probing)
    @rule(data=st.data(), usable=st.booleans(), frozen=st.booleans())
    def end_probe(self, data: st.DataObject, usable: bool, frozen: bool) -> None:
        container = data.draw(st.sampled_from(self.probing))
        self.probing.remove(container)
        self.feed(ev.Probed(container, usable, frozen))

    @precondition(lambda self: self.measuring)
    @rule(data=st.data(), held_mib=st.integers(0, 400))
    def end_measuring(self, data: st.DataObject, held_mib: int) -> None:
        container = data.draw(st.sampled_from(self.measuring))
        self.measuring.remove(container)
        self.feed(ev.Measured({container: held_mib}))

    @precondition(lambda self: self.removing)
    @rule(data=st.data())
    def end_removal(self, data: st.DataObject) -> None:
        container = data.draw(st.sampled_from(self.removing))
        self.removing.remove(container)
        self.feed(ev.Removed(container))

    @precondition(lambda self: self.driver.machine.books.containers)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        self.feed(ev.Died(data.draw(st.sampled_from(sorted(self.driver.machine.books.containers)))))

    @precondition(lambda self: self.driver.machine.books.containers)
    @rule(data=st.data())
    def spoil(self, data: st.DataObject) -> None:
        self.feed(ev.Spoiled(data.draw(st.sampled_from(sorted(self.driver.machine.books.containers)))))

    @rule(index=st.integers(0, 5), revision=st.sampled_from(["r1", None]))
    def retire(self, index: int, revision: str | None) -> None:
        self.feed(ev.Retired(self.keys[index].action, revision))

    @rule(index=st.integers(0, 5), count=st.integers(0, 2), reactive=st.booleans())
    def want_stems(self, index: int, count: int, reactive: bool) -> None:
        follow = Reactive(least=0, most=3, ttl_s=2.0) if reactive else None
        self.feed(ev.StemsWanted(self.keys[index].spec, count, follow))

    @rule(seconds=st.floats(0, 3))
    def pass_time(self, seconds: float) -> None:
        self.driver.now += seconds
        self.feed(ev.Tick())

    @invariant()
    def no_user_has_more_than_one_may_have(self) -> None:
        for user in self.driver.machine.books.users.values():
            assert user.containers <= 5
            assert user.limits_mib <= 640

    @invariant()
    def every_open_activation_is_in_exactly_one_place(self) -> None:
        machine = self.driver.machine
        for name in self.open:
            held = machine.holder(name) is not None
            assert held != machine.is_waiting(name)

    def teardown(self) -> None:
        self.feed(ev.Closed())
        for name in list(self.open):
            self.open.remove(name)
            self.feed(ev.Ended(name, False))
        for container in self.creating + self.exercising:
            self.feed(ev.Created(container, exercised=False))
        self.driver.now += 1000
        for _ in range(3):
            while self.freezing:
                self.feed(ev.FreezeConfirmed(self.freezing.pop()))
            while self.probing:
                self.feed(ev.Probed(self.probing.pop(), False, False))
            self.driver.now += 1000
            self.feed(ev.Tick())
        while self.removing:
            self.feed(ev.Removed(self.removing.pop()))
        assert not self.driver.machine.books.containers


AnyHistory.TestCase.settings = settings(
    max_examples=150, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)
TestAnyHistory = AnyHistory.TestCase
