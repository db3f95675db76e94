"""Stores: schema versions, migrations, named statements, read-only connections."""

import re
import sqlite3
from pathlib import Path

import pytest

from invoker.record import store
from invoker.record.store import (
    Reader,
    StoreBroken,
    StoreTooNew,
    Writer,
    load_migrations,
    load_queries,
    migrate,
    open_writer,
    reading,
)

SQL = Path(store.__file__).parent / "sql"
STORES = sorted(path.stem.removeprefix("queries_") for path in SQL.glob("queries_*.sql"))


@pytest.mark.parametrize("name", STORES)
def test_a_newer_store_is_refused_with_both_versions_named_and_left_alone(tmp_path, name):
    path = tmp_path / "x.db"
    open_writer(path, name, durable=True).close()
    known = load_migrations(name)[-1][0]
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {known + 1}")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreTooNew, match=rf"version {known + 1}.*knows up to {known}"):
        open_writer(path, name, durable=True)
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", STORES)
def test_statements_number_no_parameters(name):
    """Python 3.12 warns of `?1`, and takes four times as long for it."""
    assert [name for name, sql in load_queries(name).items() if re.search(r"\?\d", sql)] == []


def test_migrations_are_applied_once_each_in_order(tmp_path):
    connection = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    first = (1, "CREATE TABLE t (a INTEGER);")
    second = (2, "INSERT INTO t VALUES (1);\nALTER TABLE t ADD COLUMN b INTEGER NOT NULL DEFAULT 7;")
    migrate(connection, tmp_path, (first,))
    migrate(connection, tmp_path, (first, second))
    migrate(connection, tmp_path, (first, second))
    assert connection.execute("SELECT a, b FROM t").fetchall() == [(1, 7)]
    assert connection.execute("PRAGMA user_version").fetchone() == (2,)
    connection.close()


def test_a_migration_that_fails_leaves_the_version_before_it(tmp_path):
    connection = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    with pytest.raises(sqlite3.OperationalError):
        migrate(connection, tmp_path, ((1, "CREATE TABLE t (a INTEGER);"), (2, "CREATE TABLE u (a);\nCREATE TABLE t (a);")))
    assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("t",)]
    connection.close()


@pytest.mark.parametrize("name", STORES)
def test_every_statement_is_accepted_by_sqlite_and_has_a_purpose(tmp_path, name):
    connection = open_writer(tmp_path / "x.db", name, durable=True)
    queries = load_queries(name)
    text = (SQL / f"queries_{name}.sql").read_text()
    assert re.findall(r"(?m)^-- name: (.*)$", text) == list(queries), "one without its line of purpose is part of the one before"
    for sql in queries.values():
        if not sql.startswith("PRAGMA"):
            parameters = {word.strip(":,;()"): None for word in sql.replace("(", " ").replace(")", " ").split() if word[0] == ":"}
            numbered = len(set(re.findall(r"\?[0-9]+", sql))) or sql.count("?")
            connection.execute(f"EXPLAIN {sql}", parameters or [None] * numbered)
    connection.close()


def test_the_database_is_private_and_waits_for_the_disk_where_asked(tmp_path):
    for durable, mode in ((True, 2), (False, 1)):
        path = tmp_path / f"{durable}.db"
        connection = open_writer(path, "ledger", durable=durable)
        assert path.stat().st_mode & 0o777 == 0o600
        assert connection.execute("PRAGMA synchronous").fetchone() == (mode,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA wal_autocheckpoint").fetchone() == (0,)
        connection.close()


def test_rubbish_is_told_as_a_broken_store(tmp_path):
    (tmp_path / "x.db").write_bytes(b"not a database, but long enough to look like one" * 100)
    with pytest.raises(StoreBroken, match=r"x\.db"):
        open_writer(tmp_path / "x.db", "ledger", durable=True)


def test_an_old_sqlite_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(store.sqlite3, "sqlite_version_info", (3, 34, 1))
    with pytest.raises(StoreBroken, match=r"needs 3\.38"):
        open_writer(tmp_path / "x.db", "ledger", durable=True)


async def test_a_reader_reads_and_cannot_write(tmp_path):
    connection = open_writer(tmp_path / "x.db", "entities", durable=True)
    connection.execute("INSERT INTO namespaces VALUES ('n', 'u', '{}')")
    reader = await Reader.open(tmp_path / "x.db", connections=2)
    assert await reader.fetch("SELECT name FROM namespaces", {}) == [("n",)]
    with pytest.raises(StoreBroken, match="readonly"):
        await reader.fetch("DELETE FROM namespaces", {})
    await reader.close()
    connection.close()


async def test_a_database_that_was_closed_cleanly_can_be_read(tmp_path):
    open_writer(tmp_path / "x.db", "entities", durable=True).close()
    async with reading(tmp_path / "x.db") as reader:
        assert await reader.fetch("SELECT count(*) FROM entities", {}) == [(0,)]


async def test_a_missing_database_is_told_and_not_made(tmp_path):
    with pytest.raises(StoreBroken):
        await Reader.open(tmp_path / "none.db")
    assert list(tmp_path.iterdir()) == []


async def test_a_writer_that_is_waited_for_writes_durably(tmp_path):
    writer = await Writer.open(tmp_path / "x.db", "entities")
    assert await writer.fetch("PRAGMA synchronous", {}) == [(2,)]
    await writer.execute("INSERT INTO namespaces VALUES ('n', 'u', '{}')", {})
    with pytest.raises(StoreBroken):
        await writer.execute("INSERT INTO namespaces VALUES ('m', 'u', '{}')", {})
    await writer.close()
    async with reading(tmp_path / "x.db") as reader:
        assert await reader.fetch("SELECT name FROM namespaces", {}) == [("n",)]
