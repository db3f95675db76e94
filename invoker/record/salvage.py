"""A corrupt `activations.db` is set aside, and what must outlive it is read from it as far as it can be.

Records are no money: the ledger has what is billed, and the journal the records since its last release. But promises that were
not kept, idempotency keys, and how far the alarms have come stand in this database alone.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from invoker.activation import Accepted
from invoker.record.entries import TickEntry
from invoker.record.rows import read_promise
from invoker.record.store import load_queries, read_only

log = logging.getLogger(__name__)


class Salvaged(msgspec.Struct, frozen=True):
    """What was read of a corrupt database, as `ActivationDatabase` reads it of a sound one.

    Attributes:
        unbegun, begun: promises that were not kept.
        keys: idempotency keys: namespace, action, key, activation, digest of the body, when.
        ticks: how far the alarms have come.
        failures: why it is not all.
    """

    unbegun: list[Accepted]
    begun: list[Accepted]
    keys: list[tuple[Any, ...]]
    ticks: list[TickEntry]
    failures: list[str]


def salvage(path: Path) -> Salvaged:
    """Read from a corrupt database, which nobody writes any more, what it still gives. Blocks."""
    queries = load_queries("activations")
    found = Salvaged([], [], [], [], [])
    try:
        connection = sqlite3.connect(read_only(path), uri=True)
    except sqlite3.Error as error:
        found.failures.append(str(error))
        return found
    try:
        for name, text, payload, may_have_run in _rows(connection, queries["read_pending"], {}, found):
            try:
                accepted = read_promise(text, payload)
            except msgspec.MsgspecError as error:
                found.failures.append(f"promise {name}: {error}")
            else:
                (found.begun if may_have_run else found.unbegun).append(accepted)
        found.keys.extend(_rows(connection, queries["read_idempotency"], {"since_ms": 0}, found))
        found.ticks.extend(TickEntry(*row) for row in _rows(connection, queries["read_ticks"], {}, found))
    finally:
        connection.close()
    return found


def _rows(connection: sqlite3.Connection, sql: str, parameters: dict[str, int], found: Salvaged) -> Iterator[tuple[Any, ...]]:
    """Yield rows up to the first that cannot be read."""
    try:
        yield from connection.execute(sql, parameters)
    except sqlite3.Error as error:
        found.failures.append(str(error))
