"""Rows of the ledger as they stand, for who wants to compute a bill anew: read from the files, which are not touched."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

from invoker.record.ledger import months
from invoker.record.store import load_queries, reading

#: What a row consists of, in the order of the statement `export`; docs/billing.md tells what the columns mean.
COLUMNS = (
    *("seq", "node", "subject", "type", "part", "at_ms", "end_ms", "namespace", "action", "actor", "version", "kind"),
    *("container", "cause", "transaction_id", "status", "outcome", "start_kind", "timed_out", "memory_limit_mib"),
    *("billed_us", "cpu_us", "cpu_quality", "peak_bytes", "peak_quality", "anonymous_bytes", "shared_bytes", "cache_bytes"),
    *("throttled_us", "oom_kills", "request_bytes", "response_bytes", "authenticate_us", "authorise_us", "resolve_us"),
    *("queue_us", "pull_us", "create_us", "thaw_us", "init_us", "run_us", "collect_us", "memory_mib_us", "memory_byte_us"),
    *("fact", "reason"),
)
#: Rows that are in memory at a time.
PAGE = 5000

Row = tuple[str | int | None, ...]


async def read_rows(
    directory: Path, *, namespace: str | None, since_ms: int, upto_ms: int, every_type: bool = False, page: int = PAGE
) -> AsyncGenerator[Row, None]:
    """Read the rows of `since_ms <= at < upto_ms` in the order of their time.

    Args:
        directory: of the months.
        namespace: None is all.
        since_ms: wall clock.
        upto_ms: wall clock, exclusive.
        every_type: also rows that no bill depends on: `accepted`, `begun`, `container`.
        page: rows that are in memory at a time.

    Raises:
        StoreBroken: a month cannot be read.
    """
    statement = load_queries("ledger")["export"]
    span = {"namespace": namespace, "since_ms": since_ms, "upto_ms": upto_ms, "every_type": every_type, "page": page}
    at, seq = COLUMNS.index("at_ms"), COLUMNS.index("seq")
    for path in months(directory):
        async with reading(path) as reader:
            last = {"at_ms": since_ms - 1, "seq": 0}
            while rows := await reader.fetch(statement, span | last):
                for row in rows:
                    yield row
                last = {"at_ms": rows[-1][at], "seq": rows[-1][seq]}
