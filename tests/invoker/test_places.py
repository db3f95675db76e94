"""Places in the queue: who is refused before anything is made of the call, and whose place is kept until it waits itself."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from invoker_site import a_call, action

from invoker.errors import EntityNotFound
from invoker.invocation import Call
from invoker.model import Action, Exec, Identity
from invoker.places import Places
from invoker.resolve import ResolvedAction
from pool.errors import PoolOverloaded, TooManyWaiting
from pool.model import ContainerId, ReuseKey
from tests.pool.machine_driver import key


@dataclass
class Node:
    """A queue with so many places, and the plans of actions that ran before; remembers what it was asked."""

    free: int = 0
    planned: set[str] = field(default_factory=lambda: {"anna/hello"})
    ready: bool = False
    actions: dict[str, Action] = field(default_factory=dict)
    refused: list[tuple[Call, PoolOverloaded]] = field(default_factory=list)

    def places(self) -> Places:
        return Places(self, self, self.resolve, lambda call, refusal: self.refused.append((call, refusal)))

    # ---- of the pool

    def refusal(self, _key: ReuseKey, *, coming: int) -> PoolOverloaded | None:
        return TooManyWaiting(f"{coming} are coming") if coming >= self.free else None

    def is_ready(self, _key: ReuseKey) -> bool:
        return self.ready

    # ---- of the planner

    def find(self, _namespace: Any, an_action: Action) -> Any:
        return plan(an_action.path) if an_action.full_path in self.planned else None

    def resolve(self, _identity: Identity, path: str) -> ResolvedAction:
        if path not in self.actions:
            raise EntityNotFound
        return ResolvedAction(self.actions[path])


def plan(name: str = "hello") -> Any:
    return SimpleNamespace(key=key(name))


def sequence(*components: str) -> Action:
    return action("all", exec=Exec(kind="sequence", components=components))


def test_a_place_is_kept_for_as_long_as_the_block_runs_and_counts_for_those_after_it():
    node = Node(free=2)
    places = node.places()
    with places.keep(plan()):
        places.check(a_call(), plan())
        with places.keep(plan()), pytest.raises(TooManyWaiting, match="2 are coming"):
            places.check(a_call(), plan())
        places.check(a_call(), plan())
        assert places.has_coming(plan())
    assert not places.has_coming(plan())


def test_a_place_is_free_again_though_its_promise_failed():
    places = Node().places()
    with pytest.raises(OSError, match="journal"), places.keep(plan()):
        raise OSError("journal")
    assert not places.has_coming(plan())


def test_places_are_of_one_action_and_what_has_no_plan_yet_keeps_none():
    places = Node().places()
    with places.keep(None), places.keep(plan("other")):
        assert places.has_coming(plan("other"))
        assert not places.has_coming(plan())


def test_a_refusal_is_raised_and_told_once():
    node = Node()
    refused = a_call()
    with pytest.raises(TooManyWaiting) as raised:
        node.places().check(refused, plan())
    assert node.refused == [(refused, raised.value)]


@pytest.mark.parametrize(("blocking", "refused"), [(True, 0), (False, 1)])
def test_what_a_container_waits_for_may_wait_in_any_case(blocking: bool, refused: int):
    node = Node()
    with contextlib.suppress(TooManyWaiting):
        node.places().check(a_call(origin=ContainerId("c1"), blocking=blocking), plan())
    assert len(node.refused) == refused


@pytest.mark.parametrize(
    ("node", "an_action"),
    [
        (Node(ready=True), action()),
        (Node(planned=set()), action()),
        (Node(), sequence("anna/gone")),
        (Node(), sequence()),
    ],
    ids=["a container stands ready", "never ran", "its first part is gone", "an empty sequence"],
)
def test_what_need_not_wait_or_what_nothing_is_known_of_is_let_in(node: Node, an_action: Action):
    node.places().check_first(a_call(an_action))
    assert node.refused == []


@pytest.mark.parametrize("first", [action(), sequence("anna/hello", "anna/gone")], ids=["an action", "a sequence"])
def test_a_sequence_is_taken_or_refused_as_its_first_part_would_be(first: Action):
    node = Node(actions={"anna/first": first, "anna/hello": action()})
    whole = a_call(sequence("anna/first", "anna/gone"))
    found = node.places().plan_first(whole)
    assert found is not None
    assert found.key == plan().key
    with pytest.raises(TooManyWaiting):
        node.places().check_first(whole)
    node.free = 1
    node.places().check_first(whole)
