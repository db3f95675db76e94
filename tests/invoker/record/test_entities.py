"""The entity store: in memory, written through, one tree of names, last written first."""

import time

import msgspec
import pytest

from invoker.errors import ConcurrentModification, EntityNotFound
from invoker.model import (
    Action,
    Annotation,
    Binding,
    Collection,
    Exec,
    Namespace,
    Package,
    Rule,
    RuleStatus,
    Trigger,
)
from invoker.record.entities import COLLECTIONS, EntityStore
from invoker.record.store import StoreBroken

ACTIONS = Collection.ACTIONS


@pytest.fixture
async def open_store(tmp_path):
    opened = []

    async def open_():
        opened.append(await EntityStore.open(tmp_path / "entities.db", tmp_path / "code"))
        return opened[-1]

    yield open_
    for store in opened:
        await store.close()


def an_action(path="hello", revision="r1", updated=1, code=None, namespace="guest") -> Action:
    return Action(
        namespace=namespace, path=path, revision=revision, updated=updated, exec=Exec(kind="python:3", code=code),
        annotations=(Annotation(key="x", value=msgspec.Raw(b'{"a":[1, 2]}')),),
    )  # fmt: skip


def a_namespace(name="guest", uuid="u1") -> Namespace:
    return Namespace(name=name, uuid=uuid, key_hash="h", uid=1000, gid=1000, created_ms=1)


async def test_what_was_put_is_there_after_a_restart(open_store):
    store = await open_store()
    await store.put_namespace(a_namespace())
    await store.put(an_action(), expected_revision=None)
    await store.put(an_action("pkg/hello", updated=2), expected_revision=None)
    for _ in range(2):
        assert store.get("guest", "hello") == an_action()
        assert store.get("guest", "pkg/hello") == an_action("pkg/hello", updated=2)
        assert store.get("other", "hello") is None
        assert store.get_namespace("guest") == store.get_namespace_by_uuid("u1") == a_namespace()
        assert store.list_namespaces() == [a_namespace()]
        await store.close()
        store = await open_store()


async def test_the_last_written_is_listed_first_after_a_restart_too(open_store):
    store = await open_store()
    for updated, path in enumerate(("a", "b", "pkg/c", "d")):
        await store.put(an_action(path, updated=updated), expected_revision=None)
    await store.put(an_action("b", "r2", updated=9), expected_revision="r1")
    for _ in range(2):
        assert [each.path for each in store.list("guest", ACTIONS, limit=10)] == ["b", "d", "pkg/c", "a"]
        assert [each.path for each in store.list("guest", ACTIONS, limit=2, skip=1)] == ["d", "pkg/c"]
        assert [each.path for each in store.list("guest", ACTIONS, limit=10, package="pkg")] == ["pkg/c"]
        assert [each.path for each in store.list("guest", ACTIONS, limit=10, package="")] == ["b", "d", "a"]
        assert (store.count("guest", ACTIONS), store.count("guest", ACTIONS, "pkg"), store.count("x", ACTIONS)) == (4, 1, 0)
        assert store.list("guest", Collection.TRIGGERS, limit=10) == []
        await store.close()
        store = await open_store()


async def test_a_lost_race_changes_nothing(open_store):
    store = await open_store()
    with pytest.raises(ConcurrentModification):
        await store.put(an_action(), expected_revision="r0")
    await store.put(an_action(), expected_revision=None)
    with pytest.raises(ConcurrentModification):
        await store.put(an_action(revision="r2"), expected_revision=None)
    with pytest.raises(ConcurrentModification):
        await store.put(an_action(revision="r2"), expected_revision="r0")
    with pytest.raises(ConcurrentModification):
        await store.delete(an_action(revision="r0"))
    assert store.get("guest", "hello") == an_action()
    await store.delete(an_action())
    with pytest.raises(ConcurrentModification):
        await store.delete(an_action())


async def test_of_two_writers_at_the_same_moment_one_wins(open_store):
    import asyncio

    store = await open_store()
    await store.put(an_action(), expected_revision=None)
    outcomes = await asyncio.gather(
        store.put(an_action(revision="r2"), expected_revision="r1"),
        store.put(an_action(revision="r3"), expected_revision="r1"),
        return_exceptions=True,
    )
    assert [type(each) for each in outcomes] == [type(None), ConcurrentModification]
    assert store.get("guest", "hello").revision == "r2"


async def test_a_write_that_fails_leaves_memory_as_it_was(open_store, monkeypatch):
    store = await open_store()
    await store.put_namespace(a_namespace())
    await store.put(an_action(), expected_revision=None)

    async def broken(*_):
        raise StoreBroken

    monkeypatch.setattr(store._writer, "execute", broken)
    for attempt in (
        store.put(an_action(revision="r2"), expected_revision="r1"),
        store.put(an_action("new"), expected_revision=None),
        store.delete(an_action()),
        store.put_namespace(a_namespace("guest", "u2")),
        store.put_namespace(a_namespace("new", "u3")),
        store.delete_namespace("guest"),
    ):
        with pytest.raises(StoreBroken):
            await attempt
        assert store.list("guest", ACTIONS, limit=10) == [an_action()]
        assert store.list_namespaces() == [a_namespace()]
        assert store.get_namespace_by_uuid("u2") is None


async def test_listeners_see_each_change_with_before_and_after(open_store):
    store = await open_store()
    seen = []
    store.on_change(lambda before, after: seen.append((before and before.revision, after and after.revision)))
    await store.put(an_action(), expected_revision=None)
    await store.put(an_action(revision="r2"), expected_revision="r1")
    await store.delete(an_action(revision="r2"))
    assert seen == [(None, "r1"), ("r1", "r2"), ("r2", None)]


async def test_a_namespace_goes_with_its_entities_and_its_key_may_change(open_store):
    store = await open_store()
    await store.put_namespace(a_namespace())
    await store.put_namespace(a_namespace("other", "u9"))
    await store.put_namespace(a_namespace(uuid="u2"))
    assert store.get_namespace_by_uuid("u1") is None
    digest = await store.code.put("code")
    await store.put(an_action(code=digest), expected_revision=None)
    await store.put(an_action(namespace="other"), expected_revision=None)
    await store.delete_namespace("guest")
    with pytest.raises(EntityNotFound):
        await store.delete_namespace("guest")
    for _ in range(2):
        assert store.get("guest", "hello") is None
        assert store.get("other", "hello") is not None
        assert [each.name for each in store.list_namespaces()] == ["other"]
        assert not store.code.path(digest).exists()
        await store.close()
        store = await open_store()


async def test_code_lives_as_long_as_an_entity_uses_it(open_store):
    store = await open_store()
    digest = await store.code.put("code")
    await store.put(an_action("a", code=digest), expected_revision=None)
    assert await store.code.put("code") == digest
    await store.put(an_action("b", code=digest), expected_revision=None)
    await store.put(an_action("a", "r2"), expected_revision="r1")
    assert await store.code.read(digest) == "code"
    again = await store.code.put("code")  # somebody is about to use it, while the last one that does goes
    await store.delete(an_action("b", code=digest))
    assert await store.code.read(again) == "code"
    await store.put(an_action("c", code=digest), expected_revision=None)
    await store.delete(an_action("c", code=digest))
    assert not store.code.path(digest).exists()


async def test_a_hundred_thousand_entities_load_in_seconds_and_list_at_once(open_store):
    store = await open_store()
    statement = store._queries["put_entity"]
    value = {"namespace": "guest", "collection": "actions"}
    await store._writer.execute("BEGIN", {})
    connection = store._writer._connection
    rows = [
        value | {"path": f"a{n}", "updated": n, "value": msgspec.json.encode(an_action(f"a{n}", updated=n)).decode()}
        for n in range(100_000)
    ]
    await connection.executemany(statement, rows)
    await store._writer.execute("COMMIT", {})
    await store.close()
    began = time.process_time()  # not the clock: a machine that stands still is no fault of the store's
    store = await open_store()
    loaded = time.process_time()
    assert store.count("guest", ACTIONS) == 100_000
    for _ in range(100):
        assert store.list("guest", ACTIONS, limit=30)[0].path == "a99999"
    assert loaded - began < 10
    assert time.process_time() - loaded < 0.5


def a_trigger(birth="born", revision="t1") -> Trigger:
    return Trigger(namespace="guest", path="t", revision=revision, updated=1, birth=birth)


def a_rule(path, *, linked_ms, revision="r1", link="born", trigger="guest/t", status=RuleStatus.ACTIVE) -> Rule:
    return Rule(
        namespace="guest", path=path, revision=revision, updated=linked_ms, trigger=trigger, action="guest/a", link=link,
        linked_ms=linked_ms, status=status,
    )  # fmt: skip


async def test_entities_of_all_collections_share_one_tree_and_survive(open_store):
    store = await open_store()
    binding = Package(namespace="guest", path="b", revision="r", updated=5, binding=Binding(namespace="lib", name="p"))
    written = [an_action(), binding, a_trigger(), a_rule("r", linked_ms=7, status=RuleStatus.INACTIVE)]
    for each in written:
        await store.put(each, expected_revision=None)
    for _ in range(2):
        for each in written:
            assert store.get("guest", each.path) == each
            assert store.list("guest", COLLECTIONS[type(each)], limit=10) == [each]
        await store.close()
        store = await open_store()


async def test_the_rules_of_a_trigger_come_in_the_order_in_which_they_were_linked(open_store):
    store = await open_store()
    trigger = a_trigger()
    await store.put(trigger, expected_revision=None)
    inactive = a_rule("i", linked_ms=2, status=RuleStatus.INACTIVE)
    for rule in (a_rule("b", linked_ms=3), a_rule("a", linked_ms=1), inactive, a_rule("z", linked_ms=4, trigger="guest/u")):
        await store.put(rule, expected_revision=None)
    await store.put(a_rule("a", linked_ms=9, revision="r2"), expected_revision="r1")
    for _ in range(2):
        assert [rule.path for rule in store.rules_of(trigger)] == ["i", "b", "a"]
        await store.close()
        store = await open_store()
    await store.delete(a_rule("b", linked_ms=3))
    await store.put(a_rule("i", linked_ms=2, revision="r2", trigger="guest/u"), expected_revision="r1")
    assert [rule.path for rule in store.rules_of(trigger)] == ["a"]


async def test_a_trigger_made_again_has_no_rules_and_an_updated_one_keeps_them(open_store):
    store = await open_store()
    await store.put(a_trigger(), expected_revision=None)
    rule = a_rule("r", linked_ms=1)
    await store.put(rule, expected_revision=None)
    await store.put(a_trigger(revision="t2"), expected_revision="t1")
    trigger = store.get("guest", "t")
    assert store.rules_of(trigger) == [rule]
    assert rule.status_under(trigger) is RuleStatus.ACTIVE
    await store.delete(trigger)
    assert rule.status_under(store.get("guest", "t")) is RuleStatus.INACTIVE
    await store.put(a_trigger(birth="again"), expected_revision=None)
    assert store.rules_of(store.get("guest", "t")) == []
    assert rule.status_under(store.get("guest", "t")) is RuleStatus.INACTIVE
