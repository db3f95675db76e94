"""The activation store: records, results and logs as users see them, bounded by age and by bytes for each namespace.

Here also stands what a restart needs: promises not kept yet, and idempotency keys. Commits do not wait for the disk:
after a power cut the journal replays what the last checkpoint had not. `ActivationDatabase` is the writing side and
belongs to one thread; `ActivationReader` reads, on the loop.
"""

from __future__ import annotations

import builtins
import logging
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import msgspec

from invoker.activation import Accepted, Activation
from invoker.errors import EntityCorrupted
from invoker.record.corruption import StoreCorrupt, corruption_named
from invoker.record.damage import Damage
from invoker.record.entries import AcceptedEntry, TickEntry
from invoker.record.rows import ActivationBatch, IdempotencyRow, PendingRow, read_promise, with_bytes
from invoker.record.salvage import salvage
from invoker.record.sizes import Sizes
from invoker.record.store import Parameters, Reader, checkpoint, load_queries, open_writer
from pool.model import ActivationId

log = logging.getLogger(__name__)

#: For how long an idempotency key counts.
IDEMPOTENCY_MS = 24 * 3600 * 1000
#: Rows that retention deletes in one transaction, so that it never holds up the commits for long.
_EXPIRE_ROWS = 2000
_FIRST_MS, _LAST_MS = -(2**63), 2**63 - 1

#: With a record that cannot be read.
_NOTHING_TO_DO = "what it cost is in the ledger, which does not depend on it"
#: With the whole database.
_GOES_ON = "a new one is begun with what the journal still holds; bills do not depend on it (docs/faults.md)"

_decode_record = msgspec.json.Decoder(Activation).decode
_decode_lines = msgspec.json.Decoder(list[str]).decode


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """How long, and how much of each namespace, is kept."""

    records_s: int = 30 * 86_400
    records_bytes: int = 2**30
    results_s: int = 7 * 86_400
    results_bytes: int = 2**30
    logs_s: int = 7 * 86_400
    logs_bytes: int = 2**30


class ActivationDatabase:
    """The writing side. All calls from one thread."""

    def __init__(self, path: Path, retention: Retention, damage: Damage | None = None) -> None:
        """Open the database, and make it when it is missing.

        Args:
            path: of the database.
            retention: what is kept.
            damage: keeps what cannot be read; by default beside the database.

        One that is corrupt is set aside, and a new one made.

        Raises:
            StoreTooNew, StoreBroken.
        """
        self._queries = load_queries("activations")
        self._path = path
        self._retention = retention
        self._damage = damage or Damage(path.parent)
        try:
            self._open()
        except StoreCorrupt as error:
            self._begin_anew(error)

    def _open(self) -> None:
        self._connection = open_writer(self._path, "activations", durable=False)
        self._sizes = Sizes()
        #: The last look at what may be kept did not get to its end: what it found out of sizes still holds.
        self._unfinished = False
        #: All ids in the table `pending`: most activations were never promised, and cost no look-up there.
        self._pending: set[str] = set()
        try:
            with corruption_named(self._path):
                self._pending.update(row[0] for row in self._connection.execute(self._queries["read_pending_ids"]))
        except BaseException:
            self._connection.close()
            raise

    def renew(self, error: Exception) -> None:
        """Set the database aside, for its file is corrupt, and go on with a new one.

        It has the promises, the keys and the alarms' progress of the old one as far as they could be read, and no records.

        Raises:
            StoreBroken, OSError: it cannot be moved, or none can be made.
        """
        self._connection.close()
        self._begin_anew(error)

    def _begin_anew(self, error: Exception) -> None:
        aside = self._damage.set_database_aside(self._path, error, then=_GOES_ON)
        saved = salvage(aside)
        for each in sorted(set(saved.failures)):
            log.error("%s: not all of promises, idempotency keys and alarms could be read: %s", aside, each)
        self._open()
        promises = [*saved.unbegun, *saved.begun]
        batch = ActivationBatch(
            pending=[PendingRow.of(AcceptedEntry.of(each)) for each in promises],
            begun=[each.activation_id for each in saved.begun],
            keys=[IdempotencyRow(*row) for row in saved.keys],
            ticks=saved.ticks,
        )
        self.apply(batch, 0)
        log.warning("of %s %d promises and %d alarms were carried over", aside, len(promises), len(saved.ticks))

    @property
    def inode(self) -> int:
        """Number of the file: another one is another database."""
        return self._path.stat().st_ino

    def pending_ids(self) -> list[str]:
        """List the promises not kept."""
        return sorted(self._pending)

    def forget(self, activation_ids: Sequence[str]) -> None:
        """Forget promises that are known to have been kept."""
        self._run("drop_pending", ids=_json(activation_ids))
        self._pending.difference_update(activation_ids)

    def position(self) -> int:
        """Up to which sequence of the journal everything is here."""
        row = self._connection.execute(self._queries["read_position"]).fetchone()
        return 0 if row is None else int(row[0])

    def apply(self, batch: ActivationBatch, position: int) -> None:
        """Write a batch and the journal's position in one transaction. What is there already stays as it is.

        Raises:
            sqlite3.Error: nothing was written.
        """
        run = self._run
        promised = {row.activation_id for row in batch.pending}
        kept = [each for each in batch.kept if each in self._pending or each in promised]
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            if batch.pending:
                run("add_pending", rows=_json(batch.pending))
            if batch.keys:
                run("add_idempotency", rows=_json(batch.keys), keep_ms=IDEMPOTENCY_MS)
            if batch.begun:
                run("mark_begun", ids=_json(batch.begun))
            for name, rows in (("add_records", batch.records), ("add_results", batch.results), ("add_logs", batch.logs)):
                if rows:
                    self._connection.executemany(self._queries[name], with_bytes(rows))
            if batch.ticks:
                run("add_ticks", rows=_json(batch.ticks))
                run("drop_ticks", rows=_json(batch.ticks))
            if kept:
                run("drop_pending", ids=_json(kept))
            run("write_position", position=position)
        except BaseException:
            self._connection.rollback()
            raise
        self._connection.execute("COMMIT")
        for what, texts in (("records", batch.records), ("results", batch.results), ("logs", batch.logs)):
            self._sizes.add(what, texts)
        self._pending |= promised
        self._pending.difference_update(kept)

    def read_pending(self) -> tuple[list[Accepted], list[Accepted]]:
        """Return the promises not kept: those not begun, and those that may have run.

        One that cannot be read cannot be kept: it is set aside, once.
        """
        unbegun: list[Accepted] = []
        begun: list[Accepted] = []
        damaged: list[str] = []
        for name, text, payload, may_have_run in self._connection.execute(self._queries["read_pending"]):
            try:
                accepted = read_promise(text, payload)
            except msgspec.MsgspecError as error:
                self._damage.found("activations", f"promise {name}", text, error, then="call the action again")
                damaged.append(name)
            else:
                (begun if may_have_run else unbegun).append(accepted)
        if damaged:
            self._run("drop_pending", ids=_json(damaged))
            self._pending.difference_update(damaged)
        return unbegun, begun

    def read_idempotency(self, now_ms: int) -> list[IdempotencyRow]:
        """Return the keys that still count, oldest first."""
        found = self._connection.execute(self._queries["read_idempotency"], {"since_ms": now_ms - IDEMPOTENCY_MS})
        return [IdempotencyRow(*row) for row in found]

    def read_ticks(self) -> list[TickEntry]:
        """Return how far each alarm has come."""
        return [TickEntry(*row) for row in self._connection.execute(self._queries["read_ticks"])]

    def retain(self, now_ms: int) -> bool:
        """Delete some of what is too old or too much.

        Returns:
            Whether there may be more to delete.
        """
        keep = self._retention
        more = False
        for what, age_s, size in (
            ("records", keep.records_s, keep.records_bytes),
            ("results", keep.results_s, keep.results_bytes),
            ("logs", keep.logs_s, keep.logs_bytes),
        ):
            expired = self._run(f"expire_{what}", before_ms=now_ms - age_s * 1000, limit=_EXPIRE_ROWS)
            more = more or expired.rowcount == _EXPIRE_ROWS
            more = self._trim(what, size) or more
        self._unfinished = more
        self._run("drop_idempotency", before_ms=now_ms - IDEMPOTENCY_MS)
        # Not `execute`: Python's module steps a statement without columns only once, which frees one page.
        self._connection.executescript(self._queries["shrink"])
        return more

    def _trim(self, what: str, bound: int) -> bool:
        """Delete the oldest of the namespaces that have more bytes than they may. True when there may be more to delete."""
        if not self._sizes.knows(what):
            self._sizes.learn(what, self._run(f"sizes_of_{what}"))
        more = False
        for namespace, at_most in self._sizes.over(what, bound).items():
            size = at_most
            if not self._unfinished:
                (size,) = self._run(f"size_of_{what}", namespace=namespace).fetchone()
            if size > bound:
                trimmed = self._run(f"trim_{what}", namespace=namespace, excess=size - bound, limit=_EXPIRE_ROWS).fetchall()
                more = more or len(trimmed) == _EXPIRE_ROWS
                size -= sum(freed for (freed,) in trimmed)
            self._sizes.correct(what, namespace, size)
        return more

    def checkpoint(self) -> bool:
        """Bring all that was committed to the disk. False when a reader held it up."""
        return checkpoint(self._connection)

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def _run(self, name: str, **parameters: str | int) -> sqlite3.Cursor:
        return self._connection.execute(self._queries[name], parameters)


class ActivationReader:
    """The reading side, on the loop."""

    def __init__(self, reader: Reader, damage: Damage, on_corrupt: Callable[[int], None]) -> None:
        """Use open connections; the rest as in `open`."""
        self._reader = reader
        self._damage = damage
        self._on_corrupt = on_corrupt
        self._queries = load_queries("activations")

    @classmethod
    async def open(
        cls, path: Path, damage: Damage | None = None, on_corrupt: Callable[[int], None] = lambda _inode: None
    ) -> Self:
        """Open a database that exists. When another file takes its place, that one is read.

        Args:
            path: of the database.
            damage: keeps what cannot be read; by default beside the database.
            on_corrupt: told the number of a file that was found to be corrupt. May be told often; may not raise.

        Raises:
            StoreBroken.
        """
        # Two: a long count must not hold up those who ask for one record.
        return cls(await Reader.open(path, connections=2), damage or Damage(path.parent), on_corrupt)

    async def get(self, namespace: str, activation_id: ActivationId) -> Activation | None:
        """Find a record of a namespace.

        Raises:
            EntityCorrupted: there is one, and it cannot be read.
        """
        rows = await self._fetch("get", {"namespace": namespace, "id": activation_id})
        if not rows:
            return None
        found = self._activation(*rows[0])
        if found is None:
            raise EntityCorrupted.named(f"{namespace}/{activation_id}")
        return found

    async def get_logs(self, namespace: str, activation_id: ActivationId) -> list[str] | None:
        """Find the log lines of a record; None when there is no such record.

        Raises:
            EntityCorrupted: there are some, and they cannot be read.
        """
        rows = await self._fetch("get_logs", {"namespace": namespace, "id": activation_id})
        if not rows:
            return None
        ((text,),) = rows
        try:
            return _decode_lines(text) if text is not None else []
        except msgspec.MsgspecError as error:
            self._damage.found("activations", f"logs {activation_id}", text, error, then=_NOTHING_TO_DO)
            raise EntityCorrupted.named(f"{namespace}/{activation_id}/logs") from error

    async def list(
        self,
        namespace: str,
        *,
        name: str | None,
        since_ms: int | None,
        upto_ms: int | None,
        limit: int,
        skip: int,
        hidden: Sequence[str],
    ) -> list[Activation]:
        """List records, latest start first.

        Args:
            namespace: whose.
            name: `[package/]name` of the action, exactly; None or empty is all.
            since_ms: earliest start, inclusive.
            upto_ms: latest start, inclusive.
            limit: at most so many.
            skip: after leaving out so many.
            hidden: ids to leave out.
        """
        parameters = _range(namespace, name, since_ms, upto_ms, hidden) | {"limit": limit, "skip": skip}
        rows = await self._fetch("list_of_action" if name else "list", parameters)
        return [found for row in rows if (found := self._activation(*row)) is not None]

    async def parts_of(self, namespace: str, cause: ActivationId, since_ms: int) -> builtins.list[Activation]:
        """List the records whose cause is another one, in the order they ran, without results."""
        parameters = {"namespace": namespace, "cause": cause, "since_ms": since_ms}
        rows = await self._fetch("parts_of", parameters)
        return [found for row in rows if (found := self._activation(row[0], row[1], None)) is not None]

    async def count(
        self, namespace: str, *, name: str | None, since_ms: int | None, upto_ms: int | None, hidden: Sequence[str]
    ) -> int:
        """Count what `list` would list without limit."""
        rows = await self._fetch("count_of_action" if name else "count", _range(namespace, name, since_ms, upto_ms, hidden))
        return int(rows[0][0])

    async def close(self) -> None:
        """Close the connections."""
        await self._reader.close()

    async def _fetch(self, name: str, parameters: Parameters) -> builtins.list[tuple[Any, ...]]:
        try:
            return await self._reader.fetch(self._queries[name], parameters)
        except StoreCorrupt as error:
            error.told = "The database of records is corrupt, and a new one is begun: ask again."
            self._on_corrupt(self._reader.inode)
            raise

    def _activation(self, activation_id: str, record: bytes, result: bytes | None) -> Activation | None:
        """Read a record; one that cannot be read is set aside, and left out of lists."""
        try:
            activation = _decode_record(record)
        except msgspec.MsgspecError as error:
            self._damage.found("activations", f"record {activation_id}", record, error, then=_NOTHING_TO_DO)
            return None
        if result is None:
            return activation
        return msgspec.structs.replace(activation, result=msgspec.Raw(result))


def _range(
    namespace: str, name: str | None, since_ms: int | None, upto_ms: int | None, hidden: Sequence[str]
) -> dict[str, str | int | None]:
    return {
        "namespace": namespace,
        "name": name or None,
        "since_ms": _FIRST_MS if since_ms is None else since_ms,
        "upto_ms": _LAST_MS if upto_ms is None else upto_ms,
        "hidden": _json(hidden),
    }


def _json(rows: Sequence[str] | Sequence[msgspec.Struct]) -> str:
    return msgspec.json.encode(rows).decode()
