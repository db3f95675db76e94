"""Databases whose file itself is damaged, as opposed to one row of it (`damage.py`): recognised, named, told what to do about.

What users have written and what is billed is never replaced without an operator: the daemon does not start, or takes no more
work. Records of activations are: see `salvage.py`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pool.errors import PlatformError

_PRIMARY = 0xFF
_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

#: What each holds.
_HOLDS = {
    "entities": "all namespaces with their keys, and every action, package, trigger and rule",
    "apis": "the APIs of the gateway",
    "alarms": "the alarms of all namespaces",
    "ledger": "what is billed in that month",
    "activations": "records, results and logs",
}


class StoreBroken(PlatformError):
    """The database cannot be read or written."""

    code = "store-broken"
    #: What users are told of it; the message names files of the node, and is for its operator.
    told = "The database cannot be read or written."


class StoreCorrupt(StoreBroken):
    """The file of a database is damaged."""

    code = "store-corrupt"

    @classmethod
    def found(cls, path: Path, reason: object) -> StoreCorrupt:
        """Name the file, what it holds, and where it says what to do."""
        store = store_of(path)
        if store == "activations":
            return cls(f"{path} is corrupt ({reason}); it holds {_HOLDS[store]}, and is set aside for a new one")
        return cls(
            f"{path} is corrupt ({reason}); it holds {_HOLDS.get(store, 'data of the daemon')}, and nothing was changed: "
            "restore a copy, or run `invokerd rescue`: docs/faults.md, 'A database that is corrupt'"
        )


def store_of(path: Path) -> str:
    """Name the store that a database belongs to: `entities`, `ledger`, ..."""
    return "ledger" if path.parent.name == "ledger" else path.stem


def is_corruption(error: BaseException) -> bool:
    """Tell whether SQLite says that the file is damaged, or no database at all."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & _PRIMARY in _CORRUPT


@contextmanager
def corruption_named(path: Path) -> Iterator[None]:
    """Turn what SQLite says of a damaged file into an error that names it; others pass as they are."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if not is_corruption(error):
            raise
        raise StoreCorrupt.found(path, error) from error


def broken(path: Path, error: sqlite3.Error) -> StoreBroken:
    """Make the error of ours for one of SQLite's."""
    return StoreCorrupt.found(path, error) if is_corruption(error) else StoreBroken(f"{path}: {error}")
