"""Who of those that wait gets which container: on books and a queue, without the machine; and what the machine's caps leave."""

from __future__ import annotations

from typing import Any

from pool import events as ev
from pool.books import Books, Container
from pool.launcher import Launcher, Orders
from pool.model import ActivationId, ContainerId, ContainerState, ReuseKey, Standing, StartKind
from pool.queueing import FairQueue, Waiter
from pool.serving import Serving
from pool.settings import PoolSettings
from tests.pool.machine_driver import Driver, key, kinds, only, spec

S = ContainerState


class Site:
    """Lines, containers, and who was given which. A granted container is leased, as the machine leases it."""

    def __init__(self, **settings: Any) -> None:
        self.settings = PoolSettings(**{"memory_mib": 2048, **settings})
        self.books = Books(freezing=lambda: True, keep_s=lambda _: 600.0)
        self.queue = FairQueue()
        never = Orders(start=self._never, remove=self._never, serve=self._never, measure=self._never)
        self.launcher = Launcher(lambda: self.settings, self.books, self.queue, never)
        self.serving = Serving(lambda: self.settings, self.books, self.queue, self.launcher, self._grant)
        self.granted: list[tuple[str, str]] = []

    def add(self, name: str, state: ContainerState, a_key: ReuseKey | None = None, held_mib: int = 0) -> Container:
        """A container, by default with the code of `hello`."""
        code = None if state in {S.STEM, S.STEM_FROZEN} else a_key or key()
        container = Container(ContainerId(name), (a_key or key()).spec, code, state, 0.0, 0.0, 0.0, held_mib=held_mib)
        self.books.add(container)
        return container

    def wait(self, name: str, a_key: ReuseKey | None = None, standing: Standing = Standing.NEW) -> None:
        self.queue.push(Waiter(ActivationId(name), a_key or key(), self.books.now, standing), weight=1.0)

    def _grant(self, activation: ActivationId, container: Container) -> None:
        container.leases[activation] = self.books.now
        if container.state is not S.BUSY:
            self.books.move(container, S.INITIALISING if container.state in {S.STEM, S.STEM_FROZEN} else S.BUSY)
        self.books.note_ready(container)
        self.granted.append((activation, container.container_id))
        self.books.check_invariants()

    def _never(self, *_: object) -> None:
        raise AssertionError("who brings lines and containers together orders nothing")


def test_a_line_gets_the_container_that_was_used_last_first_and_the_longest_waiting_is_served_first():
    site = Site()
    site.add("long-idle", S.WARM)
    site.add("just-used", S.WARM)
    for name in ("first", "second", "third"):
        site.wait(name)
    site.serving.serve(key())
    assert site.granted == [("first", "just-used"), ("second", "long-idle")]
    assert [waiter.activation for waiter in site.queue.all()] == ["third"]


def test_what_stands_ready_goes_before_what_must_grow_and_that_before_a_stem_cell():
    site = Site(launch_patience_s=0.0)  # busy ones are not counted on
    site.add("stem", S.STEM_FROZEN)
    site.add("shrunk", S.FROZEN, held_mib=20)
    site.add("ready", S.FROZEN)
    for name in ("first", "second", "third"):
        site.wait(name)
    site.serving.serve(key())
    assert site.granted == [("first", "ready"), ("second", "shrunk"), ("third", "stem")]


def test_a_container_that_must_grow_has_its_whole_limit_before_it_is_handed_out():
    site = Site(memory_mib=512)
    site.add("shrunk", S.FROZEN, held_mib=20)
    site.wait("first")
    site.serving.serve(key())
    assert site.books.used_mib == 256
    assert site.granted == [("first", "shrunk")]


def test_where_there_is_no_room_to_grow_nothing_is_handed_out_and_nothing_is_reserved():
    site = Site(memory_mib=512)
    site.add("shrunk", S.FROZEN, held_mib=20)
    site.add("other", S.WARM, key("other"))
    site.add("stem", S.STEM_FROZEN, held_mib=20)
    site.wait("first")
    site.serving.serve(key())
    assert site.granted == []
    assert site.books.used_mib == 256 + 20 + 20


def test_of_two_that_must_grow_the_last_used_is_taken_where_it_fits():
    site = Site()
    site.add("nearly-whole", S.FROZEN, held_mib=230)
    site.add("last-used", S.FROZEN, held_mib=20)
    site.wait("first")
    site.serving.serve(key())
    assert site.granted == [("first", "last-used")]


def test_a_smaller_need_is_met_where_the_last_used_does_not_fit():
    site = Site(memory_mib=300)
    site.add("nearly-whole", S.FROZEN, held_mib=230)
    site.add("last-used", S.FROZEN, held_mib=20)
    site.wait("first")
    site.serving.serve(key())
    assert site.granted == [("first", "nearly-whole")]


def test_a_stem_cell_of_another_spec_is_not_touched():
    site = Site()
    site.add("stem", S.STEM, key(uid=1002, namespace="bert"))
    site.wait("first")
    site.serving.serve(key())
    assert site.granted == []


def test_a_line_whose_action_has_all_the_containers_that_it_may_have_takes_no_stem_cell():
    site = Site(launch_patience_s=0.0, max_containers_per_action=1)
    site.add("own", S.WARM)
    site.add("stem", S.STEM_FROZEN)
    site.wait("first")
    site.wait("second")
    site.serving.serve(key())
    assert site.granted == [("first", "own")]


def test_while_enough_containers_are_coming_for_a_line_it_takes_no_stem_cell():
    site = Site()
    site.add("coming", S.STARTING)
    site.add("stem", S.STEM_FROZEN)
    site.wait("first")
    site.serving.serve(key())
    assert site.granted == []
    site.wait("second")
    site.serving.serve(key())
    assert site.granted == [("first", "stem")]


def test_a_container_with_code_is_given_to_its_own_line_as_often_as_its_concurrency_allows():
    site, shared = Site(), key(concurrency=3)
    container = site.add("c1", S.WARM, shared)
    site.wait("stranger")
    for number in range(4):
        site.wait(f"a{number}", shared)
    site.serving.serve_with(container)
    assert site.granted == [("a0", "c1"), ("a1", "c1"), ("a2", "c1")]


def test_a_container_without_code_becomes_that_of_the_longest_waiting_of_its_spec():
    site = Site()
    site.wait("stranger", key("strange", uid=1002, namespace="bert"))
    site.wait("first", key("one"))
    site.wait("second", key("two"))
    stem = site.add("stem", S.STEM)
    site.serving.serve_spec(stem)
    assert site.granted == [("first", "stem")]
    assert stem.key == key("one")


def test_a_container_without_code_goes_to_the_next_where_the_first_has_all_the_containers_that_it_may_have():
    site = Site(max_containers_per_action=1)
    site.add("busy-elsewhere", S.STARTING, key("one"))
    site.wait("first", key("one"))
    site.wait("second", key("two"))
    site.serving.serve_spec(site.add("stem", S.STEM))
    assert site.granted == [("second", "stem")]


def test_a_container_without_code_that_has_no_room_to_grow_is_given_to_nobody():
    site = Site(memory_mib=256)
    site.add("other", S.FROZEN, key("other"), held_mib=20)
    site.wait("first")
    site.serving.serve_spec(site.add("stem", S.STEM_FROZEN, held_mib=20))
    assert site.granted == []


def test_what_a_container_waits_for_is_served_before_those_that_came_earlier():
    site = Site()
    site.wait("first")
    site.wait("nested", standing=Standing.NESTED)
    site.add("c1", S.WARM)
    site.serving.serve(key())
    assert site.granted == [("nested", "c1")]


def test_waiting_is_booked_from_when_the_action_could_be_served():
    site = Site()
    site.wait("first")
    site.books.now = 5.0
    site.wait("second")
    site.launcher.pace_of(key()).serving_since = 4.0
    site.books.now = 7.0
    for name in ("c1", "c2"):
        site.add(name, S.WARM)
    site.serving.serve(key())
    assert site.launcher.pace_of(key()).waited_s == (7.0 - 4.0) + (7.0 - 5.0)


# ---- with the machine around it


def test_stem_cell_is_not_given_to_an_action_that_has_all_its_containers():
    driver = Driver(max_containers_per_action=1)
    create = only(driver.feed(ev.StemsWanted(spec(), 1)), ev.Create)
    driver.come_up(create.container)
    driver.feed(ev.FreezeConfirmed(create.container))
    busy_one = only(driver.arrive("a1"), ev.Grant).container
    replacement = [c for c in driver.machine.books.containers if c != busy_one]
    driver.come_up(replacement[0])
    assert "Grant" not in kinds(driver.arrive("a2")), "at its cap"
    driver.now += 60.0
    assert "Grant" not in kinds(driver.tick(0.0))
    assert only(driver.arrive("o1", key("other")), ev.Grant).start_kind is StartKind.STEM


def test_a_stem_cell_that_is_being_initialised_is_enough_for_as_many_as_it_will_take():
    driver = Driver(launch_patience_s=0.0)
    shared = key(concurrency=3)
    for command in driver.feed(ev.StemsWanted(shared.spec, 2)):
        driver.come_up(command.container)
    grants = [only(driver.arrive("a0", shared), ev.Grant)]
    assert "Grant" not in kinds(driver.arrive("a1", shared))
    assert "Grant" not in kinds(driver.arrive("a2", shared))
    grants += [each for each in driver.feed(ev.Initialised(ActivationId("a0"))) if isinstance(each, ev.Grant)]
    assert [grant.activation for grant in grants] == ["a0", "a1", "a2"]
    assert len({grant.container for grant in grants}) == 1
    assert "Grant" in kinds(driver.arrive("a3", shared)), "one more than it takes: the other stem cell"
