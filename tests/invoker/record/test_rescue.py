"""A corrupt database is made anew from what can be read, and only by an operator."""

import os
import sqlite3
from contextlib import closing

import pytest

from invoker.model import Action, Collection, Exec, Namespace
from invoker.record import rescue as rescuing
from invoker.record.corruption import StoreCorrupt
from invoker.record.damage import Damage
from invoker.record.entities import EntityStore
from invoker.record.ledger import Ledger, LedgerItem
from invoker.record.rescue import databases, rescue

NOW = 1_790_000_000_000


@pytest.fixture(autouse=True)
def few_probes(monkeypatch):
    """Beyond a last page that cannot be read, each row that there might be is asked for: a million of them takes long."""
    monkeypatch.setattr(rescuing, "_PROBES", 10_000)


async def make_entities(directory, count):
    store = await EntityStore.open(directory / "entities.db", directory / "code")
    await store._writer.execute("PRAGMA synchronous = OFF", {})
    await store.put_namespace(Namespace(name="guest", uuid="u", key_hash="h", uid=1, gid=1, created_ms=1))
    for number in range(count):
        action = Action(namespace="guest", path=f"a{number}", revision="r", updated=number, exec=Exec(kind="python:3"))
        await store.put(action, expected_revision=None)
    await store.close()
    return directory / "entities.db"


def leaves(path, table):
    """Numbers of the leaf pages of a table, in the order of its rows, from the table's own root page."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        (root,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
    data = path.read_bytes()
    page = data[(root - 1) * 4096 : root * 4096]
    assert page[0] == 5, "its root is an interior page"
    cells = [int.from_bytes(page[12 + 2 * n : 14 + 2 * n]) for n in range(int.from_bytes(page[3:5]))]
    return [int.from_bytes(page[cell : cell + 4]) for cell in cells] + [int.from_bytes(page[8:12])]


def spoil(path, *pages):
    with path.open("r+b") as file:
        for page in pages:
            file.seek((page - 1) * 4096)
            file.write(b"\xa5" * 4096)


async def test_code_is_kept_until_the_note_of_the_old_database_is_removed(tmp_path):
    path = await make_entities(tmp_path, 200)
    spoil(path, leaves(path, "entities")[3])
    lost = tmp_path / "code" / ("0" * 64)
    lost.write_text("def main(args): return args")
    rescue(path, Damage(tmp_path))
    for _ in range(2):
        await (await EntityStore.open(path, tmp_path / "code")).close()
        assert lost.exists()
    for note in (tmp_path / "damaged").glob("entities-*.json"):
        note.unlink()
    await (await EntityStore.open(path, tmp_path / "code")).close()
    assert not lost.exists()


@pytest.mark.parametrize("which", [[0], [-1], [3], [2, 5], [0, 4, -1]], ids=str)
async def test_all_rows_but_those_of_the_spoilt_pages_are_saved(tmp_path, which):
    path = await make_entities(tmp_path, 200)
    pages = leaves(path, "entities")
    assert len(pages) > 8
    spoil(path, *(pages[each] for each in which))
    with pytest.raises(StoreCorrupt):
        await EntityStore.open(path, tmp_path / "code")
    damage = Damage(tmp_path)
    aside, told = rescue(path, damage)
    by_table = {each.table: each for each in told}
    assert (by_table["namespaces"].rows, by_table["namespaces"].gaps) == (1, [])
    saved = by_table["entities"].rows
    assert by_table["entities"].gaps
    assert 200 * (1 - 2 * len(which) / len(pages)) < saved < 200
    store = await EntityStore.open(path, tmp_path / "code")
    try:
        assert store.count("guest", Collection.ACTIONS) == saved
        assert store.get_namespace("guest") is not None
    finally:
        await store.close()
    assert path.stat().st_mode & 0o777 == 0o600
    assert aside.parent == tmp_path / "damaged"
    assert "entities the whole database" in damage.summary()
    assert sorted(each.name for each in tmp_path.iterdir() if "rescued" in each.name) == []


async def test_a_sound_database_is_saved_whole(tmp_path):
    path = await make_entities(tmp_path, 50)
    _, told = rescue(path, Damage(tmp_path))
    assert {each.table: (each.rows, each.gaps) for each in told} == {"namespaces": (1, []), "entities": (50, [])}


async def test_where_nothing_can_be_read_nothing_is_changed(tmp_path):
    path = await make_entities(tmp_path, 5)
    path.write_bytes(os.urandom(8192))
    left = path.read_bytes()
    with pytest.raises(StoreCorrupt):
        rescue(path, Damage(tmp_path))
    assert path.read_bytes() == left
    assert not (tmp_path / "damaged").exists()


@pytest.mark.parametrize("corrupt", [False, True])
def test_a_month_of_the_ledger_that_is_not_whole_asks_the_journal_again(tmp_path, corrupt):
    ledger = Ledger(tmp_path / "ledger", "n")
    row = '{"activation_id":"%s","namespace":"g","subject":"g","path":"g/a","payload":null,"transaction":"t","accepted_ms":%d}'
    items = [LedgerItem("accepted", NOW, f"{n}", (row % (n, NOW)).encode()) for n in range(500)]
    ledger.apply(items, 77)
    ledger.close()
    (path,) = (tmp_path / "ledger").glob("*.db")
    if corrupt:
        spoil(path, leaves(path, "ledger")[2])
    rescue(path, Damage(tmp_path))
    ledger = Ledger(tmp_path / "ledger", "n")
    assert ledger.position() == (0 if corrupt else 77)
    ledger.apply(items, 77)
    ledger.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*), count(DISTINCT subject) FROM ledger").fetchone() == (500, 500)


async def test_only_databases_that_are_there_are_named(tmp_path):
    assert databases(tmp_path) == {}
    await make_entities(tmp_path, 1)
    (tmp_path / "ledger").mkdir()
    (tmp_path / "ledger" / "2026-11.db").touch()
    (tmp_path / "activations.db").touch()
    assert list(databases(tmp_path)) == ["entities.db", "ledger/2026-11.db"]
