"""A corrupt database is made anew from the rows of it that can still be read. For operators, while no daemon runs."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from invoker.record.corruption import StoreCorrupt, broken, is_corruption, store_of
from invoker.record.damage import Damage
from invoker.record.disk import sync
from invoker.record.store import load_migrations, migrate, read_only

#: Of the rows between the first and the last page that cannot be read, so many are asked for one by one.
_PROBES = 1_000_000

_Row = tuple[object, ...]


class Rescued(NamedTuple):
    """What became of one table.

    Attributes:
        rows: how many were saved.
        gaps: reasons why there may be more; empty when it was read whole.
    """

    table: str
    rows: int
    gaps: list[str]


def databases(state_dir: Path) -> dict[str, Path]:
    """Name the databases that can be rescued, as operators write them: `entities.db`, `ledger/2026-11.db`."""
    files = [state_dir / name for name in ("entities.db", "apis.db", "alarms.db")]
    files += sorted((state_dir / "ledger").glob("[0-9]*.db"))
    return {str(path.relative_to(state_dir)): path for path in files if path.exists()}


def rescue(path: Path, damage: Damage) -> tuple[Path, list[Rescued]]:
    """Make a new database of what can be read of one, and put it in its place; the old one is set aside. Blocks.

    Args:
        path: of the database. Nobody uses it.
        damage: where it is moved to.

    Returns:
        Where the old one is now, and what became of each table.

    Raises:
        StoreCorrupt: nothing can be read. Nothing was changed.
        StoreTooNew: it was written by a newer invokerd. Nothing was changed.
        StoreBroken, OSError: the new one cannot be written.
    """
    store = store_of(path)
    scratch = path.with_name(f"{path.name}.rescued")
    scratch.unlink(missing_ok=True)
    os.close(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        with (
            contextlib.closing(sqlite3.connect(read_only(path), uri=True)) as old,
            contextlib.closing(sqlite3.connect(scratch, isolation_level=None)) as new,
        ):
            migrate(new, scratch, load_migrations(store))
            told = [_copy(old, new, table) for table in _tables(new)]
            if not any(each.rows for each in told):
                raise StoreCorrupt(f"nothing of {path} can be read: {'; '.join({gap for each in told for gap in each.gaps})}")
            if store == "ledger" and any(each.gaps for each in told):  # then the journal is asked for what it still holds
                new.execute("DELETE FROM journal_position")
        sync(scratch)
        aside = damage.set_database_aside(path, "its rows were read by invokerd rescue", then="what can be read is in a new one")
        scratch.replace(path)
    except sqlite3.Error as error:
        raise broken(path, error) from error
    finally:
        scratch.unlink(missing_ok=True)
    return aside, told


def _tables(connection: sqlite3.Connection) -> list[str]:
    return [
        name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    ]


def _copy(old: sqlite3.Connection, new: sqlite3.Connection, table: str) -> Rescued:
    gaps: list[str] = []
    columns = ", ".join(name for _, name, *_ in new.execute(f"PRAGMA table_info({table})"))
    places = ", ".join("?" * (columns.count(",") + 1))
    new.execute("BEGIN")
    rows = 0
    for row in _rows(old, table, columns, gaps):
        try:
            new.execute(f"INSERT INTO {table} ({columns}) VALUES ({places})", row)  # noqa: S608 - names of our own schema
        except sqlite3.IntegrityError as error:  # a page may hold rows that are no rows
            gaps.append(str(error))
        else:
            rows += 1
    new.execute("COMMIT")
    return Rescued(table, rows, sorted(set(gaps)))


def _rows(connection: sqlite3.Connection, table: str, columns: str, gaps: list[str]) -> Iterator[_Row]:
    """Yield the rows of a table: from its beginning to the first that cannot be read, from its end likewise, from between."""
    select = f"SELECT rowid, {columns} FROM {table} WHERE rowid"  # noqa: S608 - as above
    low, high = 0, 2**63 - 1  # no table of ours has a row below 1
    try:
        for row in connection.execute(f"{select} >= ? ORDER BY rowid", (low,)):
            low = int(row[0])
            yield row[1:]
    except sqlite3.DatabaseError as error:
        _note(error, gaps)
        if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
            return  # its very first page is none: no row is found by asking for it alone
    else:
        return
    try:
        for row in connection.execute(f"{select} > ? ORDER BY rowid DESC", (low,)):
            high = int(row[0])
            yield row[1:]
    except sqlite3.DatabaseError as error:
        _note(error, gaps)
    end = min(high, low + 1 + _PROBES)
    if end < high < 2**63 - 1:
        gaps.append(f"what stands between the rows {end} and {high} was not looked for")
    for rowid in range(low + 1, end):
        with contextlib.suppress(sqlite3.DatabaseError):
            yield from (row[1:] for row in connection.execute(f"{select} = ?", (rowid,)))


def _note(error: sqlite3.DatabaseError, gaps: list[str]) -> None:
    if not is_corruption(error) and not isinstance(error, sqlite3.OperationalError):
        raise error
    gaps.append(str(error))
