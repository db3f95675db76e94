"""Rows that cannot be read: a copy of each is kept, each is told once, and nothing else is held up."""

import hashlib
import logging
import sqlite3
import time
from contextlib import closing

import msgspec
import pytest

from invoker.activation import Accepted, Activation, Status
from invoker.errors import EntityCorrupted
from invoker.model import Action, Collection, Exec, Limits, Namespace
from invoker.record.damage import Damage, read_damage
from invoker.record.entities import EntityStore
from invoker.record.recorder import Recorder
from pool.model import ActivationId

NOW = int(time.time() * 1000)


# ---- copies


def test_a_row_is_kept_byte_for_byte_and_counted_once_however_often_it_is_found(tmp_path, caplog):
    value = b'{"half": "\xff'
    for _ in range(2):
        damage = Damage(tmp_path)
        for _ in range(2):
            damage.found("entities", "guest/x", value, "torn", then="write it anew")
        assert damage.counts() == {"entities": 1}
        assert "1 damaged rows are left out (entities guest/x)" in damage.summary()
    (row,) = read_damage(tmp_path).values()
    assert (row.content, row.key, row.reason) == (value, "guest/x", "torn")
    told = [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]
    assert len(told) == 2, "once a start"
    assert all(part in told[0] for part in ("entities.db", "guest/x", "torn", "write it anew", str(tmp_path / "damaged")))


def test_what_another_process_found_is_known_after_a_look_and_forgotten_when_its_file_is_gone(tmp_path):
    ours, others = Damage(tmp_path), Damage(tmp_path)
    others.found("activations", "a", b"1", "r", then="t")
    assert ours.counts() == {}
    ours.look()
    assert ours.counts() == {"activations": 1}
    for file in (tmp_path / "damaged").iterdir():
        file.unlink()
    assert Damage(tmp_path).summary() == ""


def test_where_no_copy_can_be_made_it_is_said_and_nothing_stops(tmp_path, caplog):
    (tmp_path / "damaged").touch()
    damage = Damage(tmp_path)
    damage.found("entities", "guest/x", b"1", "torn", then="t")
    assert damage.counts() == {"entities": 1}
    assert "no copy could be made" in caplog.text


def test_a_file_that_is_no_copy_is_told_and_left_out(tmp_path, caplog):
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "other.json").write_text("{}")
    assert read_damage(tmp_path) == {}
    assert "other.json is no copy" in caplog.text


# ---- entities


def an_action(path: str, code: str | None = None) -> Action:
    return Action(namespace="guest", path=path, revision=path, updated=NOW, exec=Exec(kind="python:3", code=code))


async def make_store(tmp_path) -> None:
    store = await EntityStore.open(tmp_path / "entities.db", tmp_path / "code")
    try:
        for name in ("guest", "other"):
            namespace = Namespace(name=name, uuid=name, key_hash="h", uid=1, gid=1, created_ms=1)
            await store.put_namespace(namespace)
        for path in ("good", "bad"):
            await store.put(an_action(path, await store.code.put(path)), expected_revision=None)
    finally:
        await store.close()


def spoil(file, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        assert connection.execute(statement, values).rowcount == 1


SPOILT = [
    pytest.param("UPDATE entities SET value = '{' WHERE path = 'bad'", id="torn"),
    pytest.param("UPDATE entities SET value = '{\"type\":\"nothing\"}' WHERE path = 'bad'", id="another shape"),
    pytest.param("UPDATE entities SET value = CAST(x'7bff' AS TEXT) WHERE path = 'bad'", id="no UTF-8"),
    pytest.param(
        "UPDATE entities SET value = (SELECT value FROM entities WHERE path = 'good') WHERE path = 'bad'", id="another's"
    ),
]


@pytest.mark.parametrize("statement", SPOILT)
async def test_an_entity_that_cannot_be_read_is_500_and_all_others_serve(tmp_path, statement):
    await make_store(tmp_path)
    spoil(tmp_path / "entities.db", statement)
    store = await EntityStore.open(tmp_path / "entities.db", tmp_path / "code")
    try:
        with pytest.raises(EntityCorrupted, match="Resource 'guest/bad' is corrupted and cannot be read"):
            store.get("guest", "bad")
        assert store.get("guest", "good") is not None
        assert store.get("guest", "none") is None
        assert [each.path for each in store.list("guest", Collection.ACTIONS, limit=9)] == ["good"]
        assert await store.code.read(hashlib.sha256(b"bad").hexdigest()) == "bad", "it is kept as well"
    finally:
        await store.close()
    assert [row.key for row in read_damage(tmp_path).values()] == ["guest/bad"]


async def test_what_is_written_anew_is_sound_again_and_the_copy_stays(tmp_path):
    await make_store(tmp_path)
    spoil(tmp_path / "entities.db", "UPDATE entities SET value = '{' WHERE path = 'bad'")
    for _ in range(2):
        store = await EntityStore.open(tmp_path / "entities.db", tmp_path / "code")
        try:
            if store.count("guest", Collection.ACTIONS) != 2:
                await store.put(an_action("bad"), expected_revision=None)
            assert store.get("guest", "bad") == an_action("bad")
        finally:
            await store.close()
    (row,) = read_damage(tmp_path).values()
    assert row.content == b"{"


async def test_a_namespace_that_cannot_be_read_keeps_its_entities_until_it_is_made_anew(tmp_path):
    await make_store(tmp_path)
    spoil(tmp_path / "entities.db", "UPDATE namespaces SET value = '{' WHERE name = 'guest'")
    store = await EntityStore.open(tmp_path / "entities.db", tmp_path / "code")
    try:
        assert [each.name for each in store.list_namespaces()] == ["other"]
        assert store.lacks_namespaces
        anew = Namespace(name="guest", uuid="new", key_hash="h", uid=1, gid=1, created_ms=1)
        await store.put_namespace(anew)
        assert not store.lacks_namespaces
    finally:
        await store.close()
    store = await EntityStore.open(tmp_path / "entities.db", tmp_path / "code")
    try:
        assert store.get_namespace("guest") == anew
        assert store.count("guest", Collection.ACTIONS) == 2
    finally:
        await store.close()


# ---- records and promises


def activation(name: str) -> Activation:
    values = {"path": "anna/a", "version": "0.0.1", "kind": "python:3", "limits": Limits(), "status": Status.SUCCESS}
    return Activation(
        activation_id=ActivationId(name), node="n", namespace="anna", subject="anna", start_ms=NOW, end_ms=NOW, **values
    )


async def test_a_record_that_cannot_be_read_is_500_and_left_out_of_lists(tmp_path):
    recorder = await Recorder.open(tmp_path, node="n")
    for name in ("a", "b"):
        recorder.finish(activation(name), logs=["line"])
    await recorder.close()
    spoil(tmp_path / "activations.db", "UPDATE records SET record = CAST(x'7bff' AS TEXT) WHERE activation_id = 'a'")
    spoil(tmp_path / "activations.db", "UPDATE logs SET lines = '[' WHERE activation_id = 'b'")
    damage = Damage(tmp_path)
    recorder = await Recorder.open(tmp_path, node="n", damage=damage)
    try:
        with pytest.raises(EntityCorrupted, match="'anna/a' is corrupted"):
            await recorder.records.get("anna", ActivationId("a"))
        with pytest.raises(EntityCorrupted, match="'anna/b/logs' is corrupted"):
            await recorder.records.get_logs("anna", ActivationId("b"))
        assert await recorder.records.get("anna", ActivationId("b")) == activation("b")
        assert [each.activation_id for each in await recorder.records.list("anna")] == ["b"]
        assert await recorder.records.parts_of("anna", ActivationId("x"), since_ms=0) == []
        assert damage.counts() == {"activations": 2}
        (usage,) = await recorder.records.usage(since_ms=0, upto_ms=2**53)
        assert usage.activations == 2, "the bill does not depend on records"
    finally:
        await recorder.close()


async def test_a_promise_that_cannot_be_read_is_set_aside_once_and_the_others_are_kept(tmp_path):
    recorder = await Recorder.open(tmp_path, node="n")
    for name in ("a", "b"):
        accepted = Accepted(
            activation_id=ActivationId(name), namespace="anna", subject="anna", path="anna/a", payload=msgspec.Raw(b"{}"),
            transaction="t", accepted_ms=NOW,
        )  # fmt: skip
        await recorder.accepted(accepted)
    await recorder.close()
    spoil(tmp_path / "activations.db", "UPDATE pending SET accepted = '{' WHERE activation_id = 'a'")
    for _ in range(2):
        recorder = await Recorder.open(tmp_path, node="n")
        assert [each.activation_id for each in recorder.recovery.unbegun] == ["b"]
        await recorder.close()
        assert [row.key for row in read_damage(tmp_path).values()] == ["promise a"]
    with closing(sqlite3.connect(tmp_path / "activations.db")) as connection:
        assert connection.execute("SELECT activation_id FROM pending").fetchall() == [("b",)]
