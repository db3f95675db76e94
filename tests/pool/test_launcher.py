"""Who gets room when there is none: the machine with several users, several actions, and frozen containers that give back."""

from __future__ import annotations

import pytest

from pool import events as ev
from pool.errors import MemoryNeverAvailable, PlatformError, PoolOverloaded, TooManyWaiting
from pool.keepalive import Idle
from pool.launcher import MOST_BLOCKED, Launcher
from pool.model import ActivationId, ContainerId, ContainerState, Reactive, ReuseKey, Standing, StartKind
from tests.pool.machine_driver import Driver, key, kinds, only, spec

S = ContainerState


def of(uid: int, name: str = "hello", *, memory_mib: int = 256) -> ReuseKey:
    return key(name, namespace=f"u{uid}", uid=uid, memory_mib=memory_mib)


def busy(driver: Driver, name: str, a_key: ReuseKey) -> ContainerId:
    """Bring up a container and leave the activation running in it."""
    container = only(driver.arrive(name, a_key), ev.Create).container
    driver.feed(ev.Created(container, exercised=False))
    driver.feed(ev.Initialised(ActivationId(name)))
    driver.now += 1.0  # beyond the patience with those that may soon be free
    return container


def frozen(driver: Driver, name: str, a_key: ReuseKey) -> ContainerId:
    container = driver.warm(name, a_key)
    driver.tick(driver.machine.settings.freeze_grace_s)
    driver.feed(ev.FreezeConfirmed(container))
    return container


def test_a_flood_gives_way_to_another_user_at_the_first_container_that_comes_free():
    driver = Driver(memory_mib=1024)
    for number in range(4):
        busy(driver, f"a{number}", of(1))
    for number in range(4, 20):
        driver.arrive(f"a{number}", of(1))
    assert driver.arrive("b0", of(2)) == []
    commands = driver.feed(ev.Ended(ActivationId("a0"), True))
    assert kinds(commands) == ["Remove"], "not the next of the flood"
    assert "Remove" not in kinds(driver.feed(ev.Ended(ActivationId("a1"), True))), "one is enough"
    (create,) = driver.feed(ev.Removed(only(commands, ev.Remove).container))
    assert driver.machine.books.containers[create.container].spec.uid == 2


class NeverAsked:
    """A policy that nobody may ask what a container is worth."""

    def worth(self, _: Idle) -> float:
        raise AssertionError(
            "what may not go for it need not be valued: with hundreds of them each arrival would cost milliseconds"
        )

    def keep_s(self, _: Idle) -> float:
        return 3600.0


def test_a_flood_with_the_memory_full_does_not_value_what_is_protected_from_it():
    driver = Driver(memory_mib=1024, policy=NeverAsked())
    frozen(driver, "b0", of(2))
    driver.feed(ev.Measured(dict.fromkeys(driver.machine.books.resting, 256)))
    for number in range(3):
        busy(driver, f"a{number}", of(1))
    for number in range(3, 20):
        assert "Remove" not in kinds(driver.arrive(f"a{number}", of(1)))


def test_with_hundreds_of_lines_only_those_are_looked_at_that_could_get_something(monkeypatch: pytest.MonkeyPatch):
    looked: list[str] = []
    look = Launcher._launch_line
    monkeypatch.setattr(
        Launcher, "_launch_line", lambda self, digest, *rest: (looked.append(digest), look(self, digest, *rest))[1]
    )

    def looked_at(event: ev.Event) -> int:
        looked.clear()
        driver.feed(event)
        return len(looked)

    driver = Driver(memory_mib=1024, parallel_starts=2)
    created = [c.container for n in range(200) for c in driver.arrive(f"a{n}", of(1, f"f{n}")) if isinstance(c, ev.Create)]
    assert len(created) == 2, "the engine starts two at a time"
    assert looked_at(ev.Arrived(ActivationId("b"), of(2))) <= 1, "the engine has enough to do"
    assert looked_at(ev.Created(created[0], exercised=False)) <= 2, "it can start one more"
    driver = Driver(memory_mib=512, parallel_starts=4)
    for number in range(2):
        busy(driver, f"b{number}", of(3, f"g{number}"))
    for number in range(200):
        driver.arrive(f"a{number}", of(1, f"f{number}"))
    assert 1 < looked_at(ev.Arrived(ActivationId("b"), of(2))) <= MOST_BLOCKED + 1, "there is no memory for any of them"


def test_however_many_lines_wait_within_their_users_cap_nobody_else_waits_for_them():
    driver = Driver(memory_mib=4096, parallel_starts=4, max_containers_per_user=2)
    for number in range(2):
        busy(driver, f"a{number}", of(1, f"f{number}"))
    busy(driver, "b0", of(2, memory_mib=1024))  # so much that the other user's lines are looked at first
    for number in range(2, MOST_BLOCKED + 10):
        assert driver.arrive(f"a{number}", of(1, f"f{number}")) == []
    (create,) = driver.arrive("b1", of(2, "other"))
    assert driver.machine.books.containers[create.container].spec.uid == 2


def test_an_idle_container_of_a_quiet_but_active_user_survives_a_flood():
    driver = Driver(memory_mib=1024)
    kept = driver.warm("b0", of(2))
    for number in range(3):
        busy(driver, f"a{number}", of(1))
    for number in range(3, 20):
        assert driver.arrive(f"a{number}", of(1)) == []
    driver.tick(1.0)
    assert driver.state(kept) in {S.WARM, S.FREEZING}
    assert only(driver.arrive("b1", of(2)), ev.Grant).container == kept


def test_long_calls_get_more_containers_while_the_first_of_them_run():
    """Nothing ends and nothing arrives: what makes the pool look again is that a container has begun to run."""
    driver = Driver(memory_mib=4096)
    most = driver.machine.settings.parallel_starts
    for number in range(2 * most):
        driver.arrive(f"a{number}", of(1))
    first = list(driver.machine.books.containers)
    assert len(first) == most
    for number, container in enumerate(first):
        driver.feed(ev.Created(container, exercised=False))
        driver.feed(ev.Initialised(ActivationId(f"a{number}")))
    wake = driver.machine.next_wake()
    assert wake is not None, "a look when the patience with those that run is over"
    assert kinds(driver.tick(wake - driver.now)) == ["Create"] * most


@pytest.mark.parametrize(("ago_s", "at_a_time"), [(0.1, 1), (2.0, 4)])
def test_a_user_with_containers_starts_one_at_a_time_while_another_is_active(ago_s: float, at_a_time: int):
    driver = Driver(memory_mib=8192, parallel_starts=4)
    driver.warm("b0", of(2))
    busy(driver, "a0", of(1))
    driver.now += 10.0
    driver.arrive("b1", of(2))
    driver.feed(ev.Ended(ActivationId("b1"), True))
    driver.now += ago_s
    commands = [command for number in range(1, 20) for command in driver.arrive(f"a{number}", of(1))]
    assert kinds(commands) == ["Create"] * at_a_time


def serve_once(driver: Driver, count: int, seconds: float) -> None:
    """Bring up containers of an action whose runs take so long, and let them rest."""
    names = [ActivationId(f"first{number}") for number in range(count)]
    for name in names:
        driver.arrive(name, of(1))
    for name, container in zip(names, list(driver.machine.books.containers), strict=True):
        driver.feed(ev.Created(container, exercised=False))
        driver.feed(ev.Initialised(name))
    driver.now += seconds
    for name in names:
        driver.feed(ev.Ended(name, True))


def first_start_s(driver: Driver, within_s: float) -> float | None:
    """Let time pass, with a tick whenever one was asked for; tell after how long a container is started."""
    began = driver.now
    while (wake := driver.machine.next_wake()) is not None and wake <= began + within_s:
        if "Create" in kinds(driver.tick(max(wake - driver.now, 0.0))):
            return driver.now - began
    return None


def test_long_calls_of_an_action_that_ran_before_get_more_containers_though_nothing_ends_nor_arrives():
    driver = Driver(memory_mib=4096)
    most = driver.machine.settings.parallel_starts
    serve_once(driver, most, 10.0)
    for number in range(4 * most):
        assert "Create" not in kinds(driver.arrive(f"a{number}", of(1))), "it may be a herd that is served in a moment"
    cost_s = driver.machine.launcher.width.cost_s
    assert first_start_s(driver, 30.0) == pytest.approx(4 * cost_s, abs=0.01)


def test_what_a_container_waits_for_is_no_herd_and_gets_one_as_soon_as_nobody_can_be_expected_to_come_free():
    """A recursion: all containers of the action are busy, and wait for the one that waits here."""
    driver = Driver(memory_mib=4096)
    most = driver.machine.settings.parallel_starts
    serve_once(driver, most, 10.0)
    for number in range(most):
        driver.arrive(f"a{number}", of(1))
    driver.feed(ev.Arrived(ActivationId("nested"), of(1), Standing.NESTED))
    assert first_start_s(driver, 30.0) == pytest.approx(driver.machine.settings.launch_patience_s, abs=0.01)


def test_a_request_larger_than_its_users_share_takes_idle_containers_rather_than_wait_for_ever():
    driver = Driver(memory_mib=512)
    idle = driver.warm("b0", of(2))
    assert ev.Remove(idle) in driver.arrive("a0", of(1, memory_mib=512))


def test_the_idle_container_of_a_user_who_left_goes():
    driver = Driver(memory_mib=1024)
    left = driver.warm("b0", of(2))
    for number in range(3):
        busy(driver, f"a{number}", of(1))
    driver.now += 100.0
    assert ev.Remove(left) in driver.arrive("a3", of(1))


def test_another_action_of_the_same_user_gets_its_turn_in_time():
    """X has all the memory and a queue that never empties; Y's first call is not to wait for ever."""
    driver = Driver(memory_mib=512)
    for number in range(2):
        busy(driver, f"x{number}", of(1, "x"))
    driver.arrive("y0", of(1, "y"))
    driver.now += 0.1
    for number in range(2, 12):
        driver.arrive(f"x{number}", of(1, "x"))
    assert "Grant" in kinds(driver.feed(ev.Ended(ActivationId("x0"), True))), "not at once: a start costs, too"
    driver.now += 5.0
    assert kinds(driver.feed(ev.Ended(ActivationId("x1"), True))) == ["Remove"]


def test_user_queue_is_bounded_and_the_refusal_says_why_and_when():
    driver = Driver(memory_mib=256, max_waiting_per_user=3)
    for number in range(3):
        driver.arrive(f"a{number}", of(1))
    error = only(driver.arrive("a3", of(1)), ev.Reject).error
    assert isinstance(error, TooManyWaiting)
    assert isinstance(error, PlatformError), "an activation that is refused is recorded, and ends nothing else"
    assert "3 of your activations wait" in str(error)
    assert error.retry_after_s >= 1
    assert "Reject" not in kinds(driver.arrive("b0", of(2))), "others still may"


def test_node_queue_is_bounded_for_all():
    driver = Driver(memory_mib=256, max_waiting=2)
    driver.arrive("a0", of(1))
    driver.arrive("b0", of(2))
    error = only(driver.arrive("c0", of(3)), ev.Reject).error
    assert isinstance(error, PoolOverloaded)
    assert "busy" in str(error)


def test_after_an_overflow_too_who_came_first_is_served_first():
    driver = Driver(memory_mib=256, max_waiting_per_user=2)
    busy(driver, "a0", of(1))
    driver.arrive("a1", of(1))
    driver.arrive("a2", of(1))
    driver.arrive("refused", of(1))
    assert only(driver.feed(ev.Ended(ActivationId("a0"), True)), ev.Grant).activation == "a1"
    assert only(driver.feed(ev.Ended(ActivationId("a1"), True)), ev.Grant).activation == "a2"


def test_the_expected_wait_counts_on_the_containers_that_an_action_could_still_have():
    driver = Driver(memory_mib=1024, max_containers_per_action=3)
    expected_wait_s = driver.machine.launcher.expected_wait_s
    assert expected_wait_s(of(1), 100) == 0, "nothing is known of it: nothing is said"
    busy(driver, "a0", of(1))
    driver.now += 1.0
    driver.feed(ev.Ended(ActivationId("a0"), True))
    assert expected_wait_s(of(1), 6) == pytest.approx(4.0), "six runs of two seconds, on three containers at most"
    busy(driver, "b0", of(2))
    busy(driver, "c0", of(3))
    assert expected_wait_s(of(1), 6) == pytest.approx(6.0), "there is room for one more only"
    busy(driver, "d0", of(4))
    assert expected_wait_s(of(1), 6) == pytest.approx(12.0)


def test_the_expected_wait_counts_on_no_more_containers_than_the_user_may_have():
    driver = Driver(memory_mib=10_240, max_containers_per_user=2)
    busy(driver, "a0", of(1))
    driver.now += 1.0
    driver.feed(ev.Ended(ActivationId("a0"), True))
    expected_wait_s = driver.machine.launcher.expected_wait_s
    assert expected_wait_s(of(1), 6) == pytest.approx(6.0), "six runs of two seconds, on the two that it may have"
    busy(driver, "other", of(1, "other"))
    assert expected_wait_s(of(1), 6) == pytest.approx(12.0), "another action of the user has one of them"


def test_there_is_room_where_a_start_fits_into_memory_and_caps():
    driver = Driver(memory_mib=768, max_containers_per_action=2)
    has_room = driver.machine.launcher.has_room
    busy(driver, "a0", of(1))
    assert has_room(of(1))
    assert not has_room(of(1, memory_mib=768))
    busy(driver, "a1", of(1))
    assert not has_room(of(1)), "it has its two"
    assert has_room(of(1, "other"))
    busy(driver, "b0", of(2))
    assert not has_room(of(1, "other"))


def test_hard_caps_hold_for_action_and_user():
    driver = Driver(memory_mib=100_000, parallel_starts=64, max_containers_per_action=2, max_containers_per_user=3)
    for name in ("x", "y"):
        for number in range(5):
            driver.arrive(f"{name}{number}", of(1, name))
            driver.now += 1.0
            driver.tick(0.0)
    assert len(driver.machine.books.by_key[of(1, "x").digest]) == 2
    assert driver.machine.books.users[1].containers == 3


def test_a_user_has_no_more_memory_than_one_may_have_though_there_is_more_and_others_have_theirs():
    driver = Driver(memory_mib=100_000, parallel_starts=64, max_memory_per_user_mib=700)
    for number in range(5):
        driver.arrive(f"a{number}", of(1))
        driver.now += 1.0
        driver.tick(0.0)
    assert driver.machine.books.users[1].limits_mib == 512
    assert kinds(driver.arrive("small", of(1, "small", memory_mib=128))) == ["Create"]
    assert kinds(driver.arrive("b", of(2))) == ["Create"]


def test_what_is_more_than_a_user_may_have_at_all_is_refused_at_once():
    driver = Driver(memory_mib=4096, max_memory_per_user_mib=700)
    refused = only(driver.arrive("a", of(1, memory_mib=701)), ev.Reject).error
    assert isinstance(refused, MemoryNeverAvailable)
    assert "701 MB is more than the 700 MB that one user may have" in str(refused)
    assert kinds(driver.arrive("b", of(1, memory_mib=700))) == ["Create"]


CAPS = [{"max_memory_per_user_mib": 512}, {"max_containers_per_user": 2}]


@pytest.mark.parametrize("cap", CAPS)
def test_at_a_users_cap_an_idle_container_of_another_action_goes_and_nobody_elses(cap: dict[str, int]):
    driver = Driver(memory_mib=100_000, **cap)
    of_another_user = only(driver.feed(ev.StemsWanted(of(2).spec, 1)), ev.Create).container
    driver.come_up(of_another_user)
    driver.feed(ev.FreezeConfirmed(of_another_user))
    oldest = frozen(driver, "a0", of(1, "old"))
    driver.now += 10.0
    newer = frozen(driver, "a1", of(1, "newer"))
    driver.now += 10.0
    commands = driver.arrive("a2", of(1, "new"))
    assert [each.container for each in commands if isinstance(each, ev.Remove)] == [oldest]
    assert driver.tick(0.01) == [], "one is enough, and on its way"
    create = only(driver.feed(ev.Removed(oldest)), ev.Create)
    assert driver.machine.books.containers[create.container].key == of(1, "new")
    assert (driver.state(newer), driver.state(of_another_user)) == (S.FROZEN, S.STEM_FROZEN), "though nobody has used that yet"


def test_a_frozen_container_counts_in_full_for_its_user():
    driver = Driver(memory_mib=100_000, max_memory_per_user_mib=512)
    kept = frozen(driver, "a0", of(1))
    driver.feed(ev.Measured({kept: 20}))
    busy(driver, "a1", of(1, "busy"))
    assert driver.machine.books.users[1].limits_mib == 512
    assert only(driver.arrive("a2", of(1, "new")), ev.Remove).container == kept


@pytest.mark.parametrize("cap", CAPS)
def test_an_action_whose_user_is_at_the_cap_waits_for_what_comes_free_and_not_for_ever(cap: dict[str, int]):
    driver = Driver(memory_mib=100_000, **cap)
    busy(driver, "b0", of(2))
    for number in range(2):
        busy(driver, f"a{number}", of(1))
    for number in range(2, 6):
        driver.arrive(f"a{number}", of(1))
    assert driver.arrive("new", of(1, "new")) == []
    driver.now += 1.0
    driver.arrive("b1", of(2))
    driver.now += 100.0
    driver.arrive("a6", of(1))
    assert "Remove" not in kinds(driver.feed(ev.Ended(ActivationId("b0"), True))), "another user's helps nothing"
    granted = []
    while "Remove" not in kinds(commands := driver.feed(ev.Ended(ActivationId(f"a{len(granted)}"), True))):
        granted.append(only(commands, ev.Grant).activation)
    assert granted == ["a2", "a3", "a4", "a5"], "those that were there before it"
    removed = only(commands, ev.Remove).container
    assert "Remove" not in kinds(driver.feed(ev.Ended(ActivationId("a5"), True))), "one is enough"
    creates = [each for each in driver.feed(ev.Removed(removed)) if isinstance(each, ev.Create)]
    assert [driver.machine.books.containers[each.container].key for each in creates if each] == [of(1, "new")]


@pytest.mark.parametrize("cap", CAPS)
def test_a_nested_call_gets_the_first_place_that_comes_free_at_its_users_cap(cap: dict[str, int]):
    driver = Driver(memory_mib=100_000, **cap)
    for number in range(2):
        busy(driver, f"a{number}", of(1))
    for number in range(2, 6):
        driver.arrive(f"a{number}", of(1))
    assert driver.feed(ev.Arrived(ActivationId("nested"), of(1, "called"), Standing.NESTED)) == []
    assert kinds(driver.feed(ev.Ended(ActivationId("a0"), True))) == ["Remove"]


def test_the_expected_wait_and_the_room_count_on_no_more_memory_than_the_user_may_have():
    driver = Driver(memory_mib=10_240, max_memory_per_user_mib=600)
    busy(driver, "a0", of(1))
    driver.now += 1.0
    driver.feed(ev.Ended(ActivationId("a0"), True))
    launcher = driver.machine.launcher
    assert launcher.expected_wait_s(of(1), 6) == pytest.approx(6.0), "six runs of two seconds, on the two that it may have"
    assert launcher.has_room(of(1))
    busy(driver, "other", of(1, "other"))
    assert launcher.expected_wait_s(of(1), 6) == pytest.approx(12.0)
    assert not launcher.has_room(of(1))
    assert launcher.has_room(of(1, memory_mib=64))


def test_stem_cells_are_within_what_their_user_may_have():
    driver = Driver(memory_mib=100_000, parallel_starts=64, max_memory_per_user_mib=600)
    commands = driver.feed(ev.StemsWanted(spec(), 5, Reactive(least=5, most=5, ttl_s=60.0)))
    assert kinds(commands) == ["Create"] * 2


def test_stem_cells_follow_demand_and_fall_back():
    driver = Driver(memory_mib=100_000, parallel_starts=16, stem_keep_s=600.0)
    driver.feed(ev.StemsWanted(spec(), 1, Reactive(least=1, most=4, ttl_s=120.0)))
    for number in range(6):
        for create in [c for c in driver.machine.books.containers.values() if c.state is S.STARTING and c.key is None]:
            driver.come_up(create.container_id)
            driver.feed(ev.FreezeConfirmed(create.container_id))
        only(driver.arrive(f"a{number}", key(f"k{number}")), ev.Grant)
    while waiting := [c for c in driver.machine.books.containers.values() if c.state is S.STARTING]:
        driver.come_up(waiting[0].container_id)
        driver.feed(ev.FreezeConfirmed(waiting[0].container_id))
    assert driver.machine.statistics().containers[S.STEM_FROZEN] == 4
    driver.tick(300.0)
    assert driver.machine.statistics().containers[S.STEM_FROZEN] == 1, "the least, two minutes after the last use"


def test_stem_cells_go_first_when_memory_is_wanted():
    driver = Driver(memory_mib=512, shrink_frozen=False)
    create = only(driver.feed(ev.StemsWanted(spec(), 1)), ev.Create)
    driver.come_up(create.container)
    driver.feed(ev.FreezeConfirmed(create.container))
    driver.now += 1.0
    other = only(driver.arrive("b0", of(2)), ev.Create).container
    driver.feed(ev.Created(other, exercised=False))
    driver.feed(ev.Initialised(ActivationId("b0")))
    driver.feed(ev.Ended(ActivationId("b0"), True))
    driver.now += 100.0
    assert driver.arrive("c0", of(3)) == [ev.Remove(create.container)]


def test_frozen_containers_give_back_what_they_do_not_hold_before_any_is_removed():
    driver = Driver(memory_mib=512, frozen_margin_mib=16)
    first, second = frozen(driver, "a1", key("one")), frozen(driver, "a2", key("two"))
    (measure,) = driver.arrive("a3", key("three"))
    assert set(measure.containers) == {first, second}
    create = only(driver.feed(ev.Measured({first: 20, second: 24})), ev.Create)
    assert driver.machine.books.used_mib == 36 + 40 + 256
    assert driver.state(create.container) is S.STARTING


def test_shrunk_container_gets_its_limit_back_before_it_runs():
    driver = Driver(memory_mib=512)
    first = frozen(driver, "a1", key("one"))
    frozen(driver, "a2", key("two"))
    driver.arrive("a3", key("three"))
    create = only(driver.feed(ev.Measured({first: 20, ContainerId("c2"): 20})), ev.Create)
    driver.feed(ev.CreateFailed(create.container, PoolOverloaded()))
    driver.feed(ev.Removed(create.container))
    grant = only(driver.arrive("a4", key("one")), ev.Grant)
    assert (grant.container, grant.start_kind) == (first, StartKind.FROZEN)
    assert driver.machine.books.containers[first].held_mib == 256


def test_shrunk_container_waits_while_its_memory_is_in_use_and_runs_when_it_is_free():
    driver = Driver(memory_mib=512)
    first = frozen(driver, "a1", key("one"))
    second = frozen(driver, "a2", key("two"))
    driver.arrive("a3", key("three"))
    create = only(driver.feed(ev.Measured({first: 20, second: 20})), ev.Create)
    driver.feed(ev.Created(create.container, exercised=False))
    driver.feed(ev.Initialised(ActivationId("a3")))
    assert only(driver.arrive("a4", key("two")), ev.Remove).container == first, "one idle container goes so that it may run"
    assert only(driver.feed(ev.Removed(first)), ev.Grant).container == second


@pytest.mark.parametrize("state", [S.FROZEN, S.BUSY])
def test_measurement_that_comes_late_changes_nothing(state: ContainerState):
    driver = Driver(memory_mib=512)
    first, second = frozen(driver, "a1", key("one")), frozen(driver, "a2", key("two"))
    driver.arrive("a3", key("three"))
    if state is S.BUSY:
        driver.arrive("a4", key("one"))
        driver.feed(ev.Measured({first: 20}))
        assert driver.machine.books.containers[first].held_mib == 256
    else:
        driver.feed(ev.Measured({second: 4096}))
        assert driver.machine.books.containers[second].held_mib == 256


def test_no_more_starts_are_under_way_than_were_seen_to_gain():
    driver = Driver(memory_mib=100_000, parallel_starts=4)
    for number in range(8):
        driver.arrive(f"a{number}", key(f"action{number}"))
    assert driver.machine.books.starting == 4
    driver.now = 0.2
    for container in ("c1", "c2"):  # begun alone, and beside one other
        driver.feed(ev.Created(ContainerId(container), exercised=False))
    driver.now = 1.2
    for container in ("c3", "c4"):  # begun as the third and the fourth: six times as long
        driver.feed(ev.Created(ContainerId(container), exercised=False))
    assert driver.machine.statistics().waiting == 4, "the last one is not started beside three others any more"
    assert driver.machine.books.starting == 3
    driver.feed(ev.Created(ContainerId("c5"), exercised=False))
    assert driver.machine.books.starting == 2
    driver.feed(ev.Created(ContainerId("c6"), exercised=False))
    assert driver.machine.books.starting == 2, "two at a time are worth it"
