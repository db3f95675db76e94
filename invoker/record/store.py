"""How the databases are opened: settings, schema versions, named statements, read-only connections.

The only importer of aiosqlite. Each database has exactly one connection that writes, and that one alone checkpoints.
"""

from __future__ import annotations

import asyncio
import functools
import re
import sqlite3
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import aiosqlite

from invoker.record.corruption import StoreBroken, broken
from pool.errors import PlatformError

__all__ = ["StoreBroken"]

_SQL = Path(__file__).parent / "sql"
_NAMED = re.compile(r"^-- name: (\w+)\n-- \S.*\n", re.MULTILINE)
#: Strict tables came with 3.37, the operator `->>` with 3.38.
_OLDEST_SQLITE = (3, 38)
_BUSY_S = 5.0

Parameters = Mapping[str, Any]


class StoreTooNew(PlatformError):
    """The database was written by a newer invokerd."""

    code = "store-too-new"

    @classmethod
    def found(cls, path: Path, version: int, known: int) -> StoreTooNew:
        """Name both versions, and what to do."""
        return cls(
            f"{path} has schema version {version}, this invokerd knows up to {known}: "
            "start the invokerd that wrote it, or restore a copy from before the upgrade"
        )


def read_only(path: Path) -> str:
    """Return the URI by which SQLite opens a database and changes nothing."""
    return f"file:{quote(str(path))}?mode=ro"


@functools.cache
def load_queries(store: str) -> Mapping[str, str]:
    """Read the statements of `sql/queries_STORE.sql` by name. Each has a line of purpose."""
    text = (_SQL / f"queries_{store}.sql").read_text(encoding="utf-8")
    parts = _NAMED.split(text)
    return {name: "\n".join(_code_lines(body)) for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def _code_lines(body: str) -> list[str]:
    return [line for line in body.strip().removesuffix(";").splitlines() if not line.startswith("--")]


def load_migrations(store: str) -> tuple[tuple[int, str], ...]:
    """Read the migrations of a store: (version it leads to, script), in order."""
    found = [(int(path.name.partition("_")[0]), path) for path in (_SQL / store).glob("[0-9]*.sql")]
    return tuple((version, path.read_text(encoding="utf-8")) for version, path in sorted(found))


def migrate(connection: sqlite3.Connection, path: Path, migrations: tuple[tuple[int, str], ...]) -> None:
    """Bring a database to the latest schema, each step in one transaction with its version.

    Raises:
        StoreTooNew: it is beyond what we know; it was not touched.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    known = migrations[-1][0]
    if version > known:
        raise StoreTooNew.found(path, version, known)
    for number, script in migrations:
        if number > version:
            # A vacuum mode must be set before the first table, outside of a transaction.
            pragmas, statements = _split_pragmas(script)
            try:
                connection.executescript(f"{pragmas}\nBEGIN IMMEDIATE;\n{statements}\nPRAGMA user_version = {number:d};\nCOMMIT;")
            except sqlite3.Error:
                if connection.in_transaction:
                    connection.rollback()
                raise


def _split_pragmas(script: str) -> tuple[str, str]:
    lines = script.splitlines()
    pragmas = [line for line in lines if line.startswith("PRAGMA")]
    return "\n".join(pragmas), "\n".join(line for line in lines if not line.startswith("PRAGMA"))


def open_writer(path: Path, store: str, *, durable: bool) -> sqlite3.Connection:
    """Open the one connection that writes, and bring the schema up to date. Blocks.

    Args:
        path: of the database; made, mode 0600, when missing.
        store: name of its migrations.
        durable: whether each commit waits for the disk. Otherwise a power cut may take the last commits, never the rest.

    Raises:
        StoreTooNew, StoreBroken.
    """
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise StoreBroken(f"SQLite {sqlite3.sqlite_version} is too old: invokerd needs 3.38")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.touch(mode=0o600)
    connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)
    try:
        migrate(connection, path, load_migrations(store))
        for pragma in (
            "journal_mode = WAL",
            f"synchronous = {'FULL' if durable else 'NORMAL'}",
            "wal_autocheckpoint = 0",
            "journal_size_limit = 67108864",
            "temp_store = MEMORY",
            "foreign_keys = ON",
        ):
            connection.execute(f"PRAGMA {pragma}").fetchall()
    except BaseException as error:
        connection.close()
        if isinstance(error, sqlite3.DatabaseError):
            raise broken(path, error) from error
        raise
    return connection


def checkpoint(connection: sqlite3.Connection) -> bool:
    """Move committed pages from the log into the database and sync both.

    Returns:
        Whether all that was committed is now in the database itself, on the disk. False while a reader holds it up.
    """
    busy, pages, moved = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return not busy and pages == moved


@contextmanager
def _foreign_errors_turned(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise broken(path, error) from error


def _refuse_missing(path: Path) -> None:
    """Say that a file is missing, before aiosqlite does: its thread outlives a connection that could not be opened."""
    if not path.exists():
        raise StoreBroken(f"{path}: there is no such database")


def _inode_of(path: Path, *, otherwise: int) -> int:
    """Number of a file; `otherwise` while there is none."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return otherwise


class Reader:
    """Read-only connections to one database. Short transactions, so that the writer's log can start over."""

    def __init__(self, path: Path) -> None:
        """Begin without connections; `open` makes them."""
        self._path = path
        #: Each with the number of the file that it reads.
        self._idle: asyncio.LifoQueue[tuple[aiosqlite.Connection, int]] = asyncio.LifoQueue()
        self._all: list[aiosqlite.Connection] = []
        #: Number of the file that was read last: another one is another database.
        self.inode = 0

    @classmethod
    async def open(cls, path: Path, connections: int = 1) -> Self:
        """Open a database that exists.

        Raises:
            StoreBroken: it cannot be opened.
        """
        reader = cls(path)
        _refuse_missing(path)
        try:
            for _ in range(connections):
                reader._idle.put_nowait(await reader._connect())
        except BaseException:
            await reader.close()
            raise
        return reader

    async def fetch(self, sql: str, parameters: Parameters) -> list[tuple[Any, ...]]:
        """Run one SELECT and return its rows, of the file that is there now.

        Raises:
            StoreBroken: the database failed.
        """
        connection, inode = await self._idle.get()
        try:
            if inode != _inode_of(self._path, otherwise=inode):
                self._all.remove(connection)
                await connection.close()
                connection, inode = await self._connect()
            self.inode = inode
            with _foreign_errors_turned(self._path):
                return [tuple(row) for row in await connection.execute_fetchall(sql, parameters)]
        finally:
            self._idle.put_nowait((connection, inode))

    async def _connect(self) -> tuple[aiosqlite.Connection, int]:
        inode = _inode_of(self._path, otherwise=0)
        with _foreign_errors_turned(self._path):
            connection = await aiosqlite.connect(read_only(self._path), uri=True, timeout=_BUSY_S)
        self._all.append(connection)
        return connection, inode

    async def close(self) -> None:
        """Close the connections and end their threads."""
        while self._all:
            await self._all.pop().close()


@asynccontextmanager
async def reading(path: Path) -> AsyncIterator[Reader]:
    """Open a read-only connection for the block."""
    reader = await Reader.open(path)
    try:
        yield reader
    finally:
        await reader.close()


class Writer:
    """A connection that writes, for those who wait for each write. Cancelling the wait does not stop the write."""

    def __init__(self, path: Path, connection: aiosqlite.Connection) -> None:
        """Take over an open connection; `open` makes it."""
        self._path = path
        self._connection = connection

    @classmethod
    async def open(cls, path: Path, store: str) -> Self:
        """Open a database as `open_writer` does, durable, and checkpointed by SQLite itself.

        Raises:
            StoreTooNew, StoreBroken.
        """
        await asyncio.to_thread(lambda: open_writer(path, store, durable=True).close())
        with _foreign_errors_turned(path):
            connection = await aiosqlite.connect(path, timeout=_BUSY_S, isolation_level=None)
        writer = cls(path, connection)
        try:
            await writer.execute("PRAGMA synchronous = FULL", {})
        except BaseException:
            await writer.close()
            raise
        return writer

    async def fetch(self, sql: str, parameters: Parameters) -> list[tuple[Any, ...]]:
        """Run one SELECT and return its rows.

        Raises:
            StoreBroken: the database failed.
        """
        with _foreign_errors_turned(self._path):
            return [tuple(row) for row in await self._connection.execute_fetchall(sql, parameters)]

    async def execute(self, sql: str, parameters: Parameters) -> None:
        """Run one statement; it is durable when this returns.

        Raises:
            StoreBroken: the database failed; nothing was changed.
        """
        await self.fetch(sql, parameters)

    async def close(self) -> None:
        """Close the connection and end its thread."""
        await self._connection.close()
