"""The ledger: what is billed, in integers, one row a fact, appended once and never changed.

One file a month, by the wall clock of the fact, `ledger/2026-11.db`: a month that is closed can be copied, archived or
handed to an accountant as it is, and no file grows without end. A batch that reaches several months commits the newest
month last, and the journal's position stands in that one alone, in the same transaction: so a position is never ahead
of a row in any month. A row is known by its full key (node, subject, type, part); writing it again changes nothing.
"""

from __future__ import annotations

import functools
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple, Self

import msgspec

from invoker.activation import Activation
from invoker.model import MIB
from invoker.record.corruption import corruption_named
from invoker.record.entries import join_entries
from invoker.record.store import checkpoint, load_queries, open_writer, reading

#: Months whose files stay open. The present one, and its neighbours around midnight.
_OPEN_MONTHS = 3
#: Repeats of one activation may disagree on its start by this much and still count once.
_REPEAT_SPAN = timedelta(days=2)
_HOUR_MS = 3_600_000


class LedgerItem(NamedTuple):
    """A row to be written.

    Attributes:
        type: its type, which is also the name of its statement.
        at_ms: wall clock; finds the month.
        subject: activation or container.
        text: JSON of the entry, as the statement expects it; not of `finished`.
        values: of `finished`, from `finished_values`.
    """

    type: str
    at_ms: int
    subject: str
    text: bytes = b""
    values: tuple[str | int | None, ...] = ()

    @classmethod
    def finished(cls, activation: Activation) -> Self:
        """Make the row of an activation's end."""
        return cls("finished", activation.start_ms, activation.activation_id, values=finished_values(activation))


def finished_values(activation: Activation) -> tuple[str | int | None, ...]:
    """Give the values of a `finished` row in the order of its statement."""
    meter = activation.meter
    return (
        activation.node,
        activation.activation_id,
        activation.start_ms,
        activation.namespace,
        activation.path,
        activation.subject,
        activation.version,
        activation.kind,
        activation.container,
        activation.cause,
        activation.transaction,
        activation.end_ms,
        int(activation.status),
        meter.outcome,
        None if meter.start_kind is None else meter.start_kind.value,
        int(activation.timed_out),
        meter.memory_limit_mib,
        meter.billed_us,
        meter.cpu_us,
        meter.cpu_quality.value,
        meter.peak_bytes,
        meter.peak_quality.value,
        meter.anonymous_bytes,
        meter.shared_bytes,
        meter.cache_bytes,
        meter.throttled_us,
        meter.oom_kills,
        meter.request_bytes,
        meter.response_bytes,
        *msgspec.structs.astuple(meter.phases),
    )


class Rounding(msgspec.Struct, frozen=True, kw_only=True):
    """How a price plan rounds the duration of one activation, before anything is summed.

    Attributes:
        step_us: durations are rounded up to a multiple of it.
        minimum_us: least duration of an activation that ran at all.
        bill_init: whether init is part of it.
    """

    step_us: int = 1000
    minimum_us: int = 0
    bill_init: bool = True


class UsageRow(msgspec.Struct, kw_only=True):
    """Sums over the activations of one action. All are facts but those named `charged_...`, which a plan's rounding made.

    Attributes:
        action: `ns/[package/]name`; empty for idle containers without an action.
        activations, failed: how many ended; how many of these without success.
        outcomes: activations by their outcome.
        billed_us: init plus run, microseconds, as measured.
        memory_mib_us: declared memory times that.
        cpu_us: until the reply.
        tail_cpu_us: after the reply.
        idle_cpu_us: used by idle containers beside that.
        idle_byte_us: memory held by idle containers, byte-microseconds.
        charged_activations: those that a plan bills.
        charged_memory_mib_us: declared memory times rounded duration, of those.
        charged_cpu_us: CPU time of those until the reply, and all tails.
        corrections: number of corrections; their differences are in the `charged_...` sums.
    """

    namespace: str
    action: str
    activations: int = 0
    failed: int = 0
    outcomes: dict[str, int] = {}
    billed_us: int = 0
    memory_mib_us: int = 0
    cpu_us: int = 0
    tail_cpu_us: int = 0
    idle_cpu_us: int = 0
    idle_byte_us: int = 0
    charged_activations: int = 0
    charged_memory_mib_us: int = 0
    charged_cpu_us: int = 0
    corrections: int = 0

    @property
    def memory_byte_us(self) -> int:
        """Declared memory times duration, byte-microseconds. May exceed 64 bits."""
        return self.memory_mib_us * MIB


def month_of(at_ms: int) -> str:
    """Name the month of a wall clock time, UTC: `2026-11`."""
    return _months_around(at_ms // _HOUR_MS)[0]


@functools.lru_cache(maxsize=64)
def _months_around(hour: int) -> tuple[str, frozenset[str]]:
    """Name the month that an hour since the epoch is in, and the other months within `_REPEAT_SPAN` of it."""
    start = datetime.fromtimestamp(hour * _HOUR_MS / 1000, UTC)
    month = start.strftime("%Y-%m")
    around = (start - _REPEAT_SPAN, start + timedelta(hours=1) + _REPEAT_SPAN)
    return month, frozenset(each.strftime("%Y-%m") for each in around) - {month}


class Ledger:
    """The writing side. All calls from one thread."""

    def __init__(self, directory: Path, node: str) -> None:
        """Open the newest month, if there is one.

        Args:
            directory: of the months.
            node: name of this node, for rows that do not bear it themselves.

        Raises:
            StoreTooNew, StoreBroken.
        """
        self._directory = directory
        self._node = node
        self._queries = load_queries("ledger")
        #: Open months, least recently used first.
        self._open: dict[str, sqlite3.Connection] = {}
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._newest = max((path.stem for path in months(directory)), default="")

    def position(self) -> int:
        """Up to which sequence of the journal every row is here."""
        for path in sorted(months(self._directory), reverse=True):
            with corruption_named(path):
                row = self._connection(path.stem).execute(self._queries["read_position"]).fetchone()
            if row is not None:
                return int(row[0])
        return 0

    def apply(self, items: Iterable[LedgerItem], position: int) -> None:
        """Add rows, durably, those that are new; and remember `position`.

        Args:
            items: in any order, repeated or not.
            position: up to which sequence of the journal all rows are among these or were added before.

        Raises:
            sqlite3.Error: not all of it was written; apply it again.
        """
        by_month: dict[str, dict[str, list[LedgerItem]]] = defaultdict(lambda: defaultdict(list))
        for item in items:
            by_month[month_of(item.at_ms)][item.type].append(item)
        if not by_month and not self._newest:
            return
        newest = max(self._newest, *by_month) if by_month else self._newest
        for month in sorted({*by_month, newest}):
            with corruption_named(self._file(month)):
                self._apply_month(month, by_month.get(month, {}), position if month == newest else None)
        self._newest = newest

    def checkpoint(self) -> None:
        """Move what is committed from the logs into the files."""
        for month, connection in self._open.items():
            with corruption_named(self._file(month)):
                checkpoint(connection)

    def find_finished(self, activation_ids: Sequence[str]) -> set[str]:
        """Find which of these activations have ended, whenever that was. Looks into all months.

        Raises:
            StoreBroken, sqlite3.Error: a month cannot be read.
        """
        found: set[str] = set()
        if activation_ids:
            for path in months(self._directory):
                with corruption_named(path):
                    found |= self._finished_in(path.stem, activation_ids)
        return found

    def close(self) -> None:
        """Close all months."""
        while self._open:
            self._open.popitem()[1].close()

    def _apply_month(self, month: str, by_type: Mapping[str, list[LedgerItem]], position: int | None) -> None:
        finished = by_type.get("finished", [])
        elsewhere = self._finished_elsewhere(finished)
        connection = self._connection(month)
        connection.execute("BEGIN IMMEDIATE")
        try:
            for name, rows in by_type.items():
                if name == "finished":
                    connection.executemany(self._queries[name], [row.values for row in rows if row.subject not in elsewhere])
                else:
                    parameters = {"node": self._node, "rows": as_text(join_entries([row.text for row in rows]))}
                    connection.execute(self._queries[name], parameters)
            if position is not None:
                connection.execute(self._queries["write_position"], {"position": position})
        except BaseException:
            connection.rollback()
            raise
        connection.execute("COMMIT")

    def _finished_elsewhere(self, rows: Sequence[LedgerItem]) -> set[str]:
        """Find activations that have their finished row in a neighbouring month already. Only near a month's edge."""
        ids: dict[str, list[str]] = defaultdict(list)
        for row in rows:
            for neighbour in _months_around(row.at_ms // _HOUR_MS)[1]:
                ids[neighbour].append(row.subject)
        found: set[str] = set()
        for neighbour, subjects in ids.items():
            if (path := self._file(neighbour)).exists():
                with corruption_named(path):
                    found |= self._finished_in(neighbour, subjects)
        return found

    def _finished_in(self, month: str, subjects: Sequence[str]) -> set[str]:
        parameters = {"ids": msgspec.json.encode(subjects).decode()}
        return {row[0] for row in self._connection(month).execute(self._queries["is_finished"], parameters)}

    def _file(self, month: str) -> Path:
        return self._directory / f"{month}.db"

    def _connection(self, month: str) -> sqlite3.Connection:
        connection = self._open.pop(month, None)
        if connection is None:
            connection = open_writer(self._file(month), "ledger", durable=True)
        self._open[month] = connection
        while len(self._open) > _OPEN_MONTHS:
            self._open.pop(next(iter(self._open))).close()
        return connection


def months(directory: Path) -> list[Path]:
    """List the files of all months, oldest first."""
    return sorted(directory.glob("[0-9][0-9][0-9][0-9]-[0-9][0-9].db"))


def as_text(rows: bytes) -> str:
    """Make a parameter of JSON. What is not UTF-8 in somebody's text must not hold up everybody's rows."""
    return rows.decode("utf-8", "replace")


async def read_usage(
    directory: Path, *, namespace: str | None, since_ms: int, upto_ms: int, rounding: Rounding
) -> list[UsageRow]:
    """Sum the ledger over `since_ms <= at < upto_ms`, by namespace and action, in this order.

    Args:
        directory: of the months.
        namespace: None is all.
        since_ms: wall clock.
        upto_ms: wall clock, exclusive.
        rounding: of the plan that is to price it.

    Raises:
        StoreBroken: a month cannot be read.
    """
    query = load_queries("ledger")["usage"]
    parameters = {"namespace": namespace, "since_ms": since_ms, "upto_ms": upto_ms} | msgspec.structs.asdict(rounding)
    sums: dict[tuple[str, str], UsageRow] = {}
    for path in months(directory):
        if overlaps(path.stem, since_ms, upto_ms):
            async with reading(path) as reader:
                for row in await reader.fetch(query, parameters):
                    key = (row[0], row[1])
                    _add(sums.setdefault(key, UsageRow(namespace=row[0], action=row[1])), row[2:])
    return [sums[key] for key in sorted(sums)]


def overlaps(month: str, since_ms: int, upto_ms: int) -> bool:
    """Tell whether a span of wall clock, its end excluded, reaches into a month."""
    first = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
    following = (first + timedelta(days=32)).replace(day=1)
    return since_ms < following.timestamp() * 1000 and upto_ms > first.timestamp() * 1000


def _add(usage: UsageRow, row: Sequence[str | int]) -> None:
    """Add one row of the statement `usage`: its columns from `type` on."""
    kind, outcome = str(row[0]), str(row[1])
    (status, count, billed, cpu, memory, held_mib, held_bytes, charged, charged_memory, charged_cpu) = map(int, row[2:])
    match kind:
        case "finished":
            usage.activations += count
            usage.failed += count if status else 0
            usage.outcomes[outcome] = usage.outcomes.get(outcome, 0) + count
            usage.billed_us += billed
            usage.cpu_us += cpu
            usage.memory_mib_us += memory
            usage.charged_activations += charged
            usage.charged_memory_mib_us += charged_memory
            usage.charged_cpu_us += charged_cpu
        case "tail":
            usage.tail_cpu_us += cpu
            usage.charged_cpu_us += cpu
        case "idle":
            usage.idle_cpu_us += cpu
            usage.idle_byte_us += held_mib * MIB + held_bytes
        case "correction":
            usage.corrections += count
            usage.charged_cpu_us += cpu
            usage.charged_memory_mib_us += held_mib
