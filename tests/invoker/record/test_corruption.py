"""Databases whose pages are overwritten: what users wrote and what is billed stops the start; records are begun anew."""

import asyncio
import os
import sqlite3
import time
from contextlib import asynccontextmanager, closing

import msgspec
import pytest

from invoker.activation import Accepted, Activation, Status
from invoker.alarms.store import AlarmStore
from invoker.gateway import swagger
from invoker.gateway.model import Api
from invoker.model import Action, Exec, Limits, Namespace
from invoker.record import writer as writer_module
from invoker.record.apis import ApiStore
from invoker.record.corruption import StoreBroken, StoreCorrupt, broken, is_corruption
from invoker.record.damage import Damage, read_damage
from invoker.record.entities import EntityStore
from invoker.record.entries import AcceptedEntry, TickEntry, encode_entry, join_entries
from invoker.record.ledger import Ledger
from invoker.record.recorder import Recorder
from pool.model import ActivationId

#: The present: the writer's process has a clock of its own.
NOW = time.time_ns() // 1_000_000
WALL = {"wall_ms": lambda: NOW, "segment_bytes": 1024 * 1024, "linger_s": 0.001}


def spoil_header(path):
    with path.open("r+b") as file:
        file.write(os.urandom(4096))


def spoil_rest(path):
    """Overwrite all pages but the first: the file opens, and nothing in it can be read."""
    size = path.stat().st_size
    assert size > 4096
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))


def spoil_table(path, table):
    """Overwrite the root page of one table or index."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xa5" * size)


async def make_entities(directory):
    store = await EntityStore.open(directory / "entities.db", directory / "code")
    await store.put_namespace(Namespace(name="guest", uuid="u", key_hash="h", uid=1, gid=1, created_ms=1))
    digest = await store.code.put("def main(args): return args")
    executable = Exec(kind="python:3", code=digest)
    await store.put(Action(namespace="guest", path="a", revision="r", updated=NOW, exec=executable), expected_revision=None)
    await store.close()
    return digest


def activation(number=1, **changes):
    values = {"path": "anna/a", "version": "0.0.1", "kind": "python:3", "limits": Limits(), "status": Status.SUCCESS}
    values |= {"start_ms": NOW + number, "end_ms": NOW + number, "result": msgspec.Raw(b"1")}
    name = ActivationId(f"{number:032x}")
    return Activation(activation_id=name, node="n", namespace="anna", subject="anna", **(values | changes))


def promise(number, **changes):
    values = {"subject": "anna", "path": "anna/a", "payload": msgspec.Raw(b'{"x":1}'), "transaction": "t", "accepted_ms": NOW}
    return Accepted(activation_id=ActivationId(f"{number:032x}"), namespace="anna", **(values | changes))


async def leave(directory):
    """Leave what a daemon leaves: one finished, one promised, one begun, a key that counts, an alarm's progress."""
    recorder = await Recorder.open(directory, node="n", **WALL)
    recorder.finish(activation(1), logs=["line"])
    await recorder.accepted(promise(2, idempotency_key="k", body_sha256="d"))
    await recorder.accepted(promise(3))
    await recorder.begun(ActivationId(f"{3:032x}"))
    await recorder.ticked(TickEntry("alarm", NOW, 7))
    await recorder.close()


@asynccontextmanager
async def opened(directory, **options):
    """Open a recorder, and close it whatever happens: its threads would outlive the test."""
    recorder = await Recorder.open(directory, node="n", **WALL, **options)
    try:
        yield recorder
    finally:
        failed = recorder.failure
        try:
            await recorder.close()
        except StoreBroken:
            assert failed


async def usage_of(recorder):
    (row,) = await recorder.records.usage(since_ms=0, upto_ms=2**53)
    return row.activations


# ---- what SQLite says


def test_only_damaged_files_are_called_corrupt(tmp_path):
    path = tmp_path / "x.db"
    path.write_bytes(b"this is no database, and long enough to be seen as none" * 100)
    with closing(sqlite3.connect(path)) as connection, pytest.raises(sqlite3.DatabaseError) as caught:
        connection.execute("SELECT * FROM sqlite_master")
    assert is_corruption(caught.value)
    assert isinstance(broken(path, caught.value), StoreCorrupt)
    with closing(sqlite3.connect(":memory:")) as connection, pytest.raises(sqlite3.OperationalError) as caught:
        connection.execute("SELECT * FROM nothing")
    assert not is_corruption(caught.value)
    assert not isinstance(broken(path, caught.value), StoreCorrupt)
    assert not is_corruption(ValueError())


# ---- what is not replaced


@pytest.mark.parametrize("spoil", [spoil_header, spoil_rest])
async def test_corrupt_entities_stop_the_start_and_stay_as_they_are(tmp_path, spoil):
    digest = await make_entities(tmp_path)
    path = tmp_path / "entities.db"
    spoil(path)
    left = path.read_bytes()
    with pytest.raises(StoreCorrupt, match=r"entities\.db is corrupt .* holds all namespaces .* docs/faults\.md") as caught:
        await EntityStore.open(path, tmp_path / "code")
    assert caught.value.code == "store-corrupt"
    assert path.read_bytes() == left
    assert [each.name for each in (tmp_path / "code").iterdir()] == [digest]


@pytest.mark.parametrize("empty", [True, False])
async def test_entities_that_are_gone_while_their_code_is_there_stop_the_start_and_no_code_is_deleted(tmp_path, empty):
    digest = await make_entities(tmp_path)
    path = tmp_path / "entities.db"
    path.write_bytes(b"") if empty else path.unlink()
    with pytest.raises(StoreCorrupt, match=r"missing or empty, but .*code holds the code of its actions"):
        await EntityStore.open(path, tmp_path / "code")
    assert [each.name for each in (tmp_path / "code").iterdir()] == [digest]
    (tmp_path / "code").rename(tmp_path / "code.aside")
    store = await EntityStore.open(path, tmp_path / "code")
    assert store.list_namespaces() == []
    await store.close()


@pytest.mark.parametrize("spoil", [spoil_header, spoil_rest])
async def test_corrupt_apis_and_alarms_stop_the_start(tmp_path, spoil):
    apis = await ApiStore.open(tmp_path / "apis.db", namespaces=("u",))
    await apis.put(Api.of_document("u", swagger.new_document("/demo", "Demo"), updated=1))
    await apis.close()
    alarms = await AlarmStore.open(tmp_path / "alarms.db")
    await alarms.close()
    for name in ("apis.db", "alarms.db"):
        spoil(tmp_path / name)
    with pytest.raises(StoreCorrupt, match="the APIs of the gateway"):
        await ApiStore.open(tmp_path / "apis.db", namespaces=("u",))
    with pytest.raises(StoreCorrupt, match="the alarms of all namespaces"):
        await AlarmStore.open(tmp_path / "alarms.db")


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("spoil", [spoil_header, spoil_rest])
async def test_a_corrupt_month_of_the_ledger_stops_the_start_and_put_aside_is_filled_from_the_journal(tmp_path, spoil, apart):
    await leave(tmp_path)
    (month,) = (tmp_path / "ledger").glob("*.db")
    spoil(month)
    left = month.read_bytes()
    with pytest.raises(StoreCorrupt, match=rf"{month.name} is corrupt .* what is billed in that month"):
        await Recorder.open(tmp_path, node="n", apart=apart, **WALL)
    assert month.read_bytes() == left
    month.rename(tmp_path / "aside.db")
    async with opened(tmp_path) as recorder:
        assert await usage_of(recorder) == 1
        assert [each.activation_id for each in recorder.recovery.unbegun] == [promise(2).activation_id]
        assert [each.activation_id for each in recorder.recovery.begun] == [promise(3).activation_id]


async def test_a_ledger_that_becomes_corrupt_refuses_new_work_and_loses_nothing(tmp_path, monkeypatch):
    await leave(tmp_path)
    (month,) = (tmp_path / "ledger").glob("*.db")
    copy = month.read_bytes()
    async with opened(tmp_path) as recorder:
        assert recorder.failure == ""
        ledger = recorder._writer._ledger

        def apply(items, position):
            ledger.close()  # its pages are in no memory then; only the writer's own thread may
            spoil_header(month)
            Ledger.apply(ledger, items, position)

        monkeypatch.setattr(ledger, "apply", apply)
        recorder.finish(activation(4), logs=[])
        async with asyncio.timeout(20):
            while not recorder.failure:
                await asyncio.sleep(0.01)
        assert f"{month.name} is corrupt" in recorder.failure
        assert not recorder.room()
    month.write_bytes(copy)
    async with opened(tmp_path) as recorder:
        assert await usage_of(recorder) == 2, "the copy had one, and the journal the other"
        assert await recorder.records.get("anna", activation(4).activation_id) == activation(4)


# ---- records


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("spoil", [spoil_header, spoil_rest])
async def test_corrupt_records_are_set_aside_at_the_start_and_the_journal_fills_a_new_database(tmp_path, spoil, apart, caplog):
    await leave(tmp_path)
    path = tmp_path / "activations.db"
    spoil(path)
    left = path.read_bytes()
    damage = Damage(tmp_path)
    async with opened(tmp_path, apart=apart, damage=damage) as recorder:
        assert await recorder.records.list("anna") == [activation(1)]
        assert await recorder.records.get_logs("anna", activation(1).activation_id) == ["line"]
        assert [each.activation_id for each in recorder.recovery.unbegun] == [promise(2).activation_id]
        assert bytes(recorder.recovery.unbegun[0].payload) == b'{"x":1}'
        assert [each.activation_id for each in recorder.recovery.begun] == [promise(3).activation_id]
        assert recorder.find_idempotent("anna", "anna/a", "k") == (promise(2).activation_id, "d")
        assert recorder.ticks["alarm"].fired == 7
        assert await usage_of(recorder) == 1
        recorder.finish(activation(4), logs=[])
        assert await recorder.records.list("anna") == [activation(4), activation(1)]
    (aside,) = (tmp_path / "damaged").glob("activations-*.db")
    assert aside.read_bytes() == left
    damage.look()
    assert "1 damaged rows or databases are left out (activations the whole database)" in damage.summary()
    assert [row.key for row in read_damage(tmp_path).values()] == ["the whole database"]
    if not apart:
        assert f"{path} is corrupt" in caplog.text
        assert str(aside) in caplog.text


async def test_promises_keys_and_alarms_are_carried_over_where_the_journal_has_them_no_more(tmp_path):
    await leave(tmp_path)
    for segment in (tmp_path / "journal").iterdir():
        segment.unlink()
    spoil_table(tmp_path / "activations.db", "records")
    path = tmp_path / "activations.db"
    async with opened(tmp_path) as recorder:
        assert not list((tmp_path / "damaged").glob("*")), "nobody has looked at the page yet"
        inode = path.stat().st_ino
        with pytest.raises(StoreCorrupt):
            await recorder.records.list("anna")
        async with asyncio.timeout(20):
            while not path.exists() or path.stat().st_ino == inode:
                await asyncio.sleep(0.01)
            while await _fails(recorder):
                await asyncio.sleep(0.01)
        assert await recorder.records.list("anna") == []
        recorder.finish(activation(2), logs=[])
        assert await recorder.records.list("anna") == [activation(2)]
    assert len(list((tmp_path / "damaged").glob("activations-*.db"))) == 1
    async with opened(tmp_path) as recorder:
        assert recorder.recovery.unbegun == []
        assert [each.activation_id for each in recorder.recovery.begun] == [promise(3).activation_id]
        assert recorder.find_idempotent("anna", "anna/a", "k") == (promise(2).activation_id, "d")
        assert recorder.ticks["alarm"].fired == 7


async def _fails(recorder):
    """Whether a list still fails: between two files there may be none, for a moment."""
    try:
        await recorder.records.list("anna")
    except StoreBroken:
        return True
    return False


@pytest.mark.parametrize("apart", [False, True])
async def test_a_commit_that_meets_a_corrupt_page_goes_to_a_new_database(tmp_path, apart):
    await leave(tmp_path)
    spoil_table(tmp_path / "activations.db", "results")
    async with opened(tmp_path, apart=apart) as recorder:
        recorder.finish(activation(4), logs=["other"])
        async with asyncio.timeout(20):
            while not list((tmp_path / "damaged").glob("activations-*.db")) or await _fails(recorder):
                await asyncio.sleep(0.01)
        assert await recorder.records.get("anna", activation(4).activation_id) == activation(4)
        assert await usage_of(recorder) == 2
        assert recorder.failure == ""


@pytest.mark.parametrize("apart", [False, True])
async def test_what_was_committed_is_in_the_new_database_too_and_another_file_is_let_be(tmp_path, apart):
    path = tmp_path / "activations.db"
    async with opened(tmp_path, apart=apart) as recorder:
        recorder.finish(activation(5), logs=["line"])
        assert await recorder.records.list("anna") == [activation(5)]
        await recorder.accepted(promise(6))
        inode = path.stat().st_ino
        for _ in range(2):  # as by two readers
            recorder._writer.renew(inode)
        recorder.finish(activation(7), logs=[])
        async with asyncio.timeout(20):
            while not path.exists() or path.stat().st_ino == inode or await _fails(recorder):
                await asyncio.sleep(0.01)
            while len(await recorder.records.list("anna")) < 2:  # it is being filled
                await asyncio.sleep(0.01)
        assert await recorder.records.list("anna") == [activation(7), activation(5)]
        assert await recorder.records.get_logs("anna", activation(5).activation_id) == ["line"]
        assert len(list((tmp_path / "damaged").glob("activations-*.db"))) == 1
    async with opened(tmp_path) as recorder:
        assert [each.activation_id for each in recorder.recovery.unbegun] == [promise(6).activation_id]
        assert await usage_of(recorder) == 2


async def test_a_promise_that_was_kept_is_not_run_again_though_an_old_file_of_the_journal_has_it(tmp_path, monkeypatch):
    await leave(tmp_path)
    async with opened(tmp_path) as recorder:
        recorder.finish(activation(2), logs=[])
    spoil_header(tmp_path / "activations.db")
    promises = [(number, join_entries([encode_entry(AcceptedEntry.of(promise(number)))])) for number in (2, 5)]
    monkeypatch.setattr(writer_module, "read_records", lambda _directory, after=0: iter(promises))
    async with opened(tmp_path) as recorder:
        assert [each.activation_id for each in recorder.recovery.unbegun] == [promise(5).activation_id]


async def test_a_disk_that_corrupts_again_and_again_is_a_failure(tmp_path, monkeypatch):
    await leave(tmp_path)
    async with opened(tmp_path) as recorder:
        error = sqlite3.DatabaseError("database disk image is malformed")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT

        def apply(batch, position):
            raise error

        monkeypatch.setattr(recorder._writer._activations, "apply", apply)
        recorder.finish(activation(4), logs=[])
        async with asyncio.timeout(20):
            while not recorder.failure:
                await asyncio.sleep(0.01)
        assert "malformed" in recorder.failure
