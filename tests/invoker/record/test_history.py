"""A node's ledger as a trace: which rows count, and what is made of them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from invoker.activation import Activation, Meter, Phases, Status
from invoker.model import Limits
from invoker.record.history import UNSEEN_START_S, read_history
from invoker.record.ledger import Ledger, LedgerItem
from pool.model import StartKind
from pool.trace import BadTrace

NOVEMBER = int(datetime(2026, 11, 15, tzinfo=UTC).timestamp() * 1000)
FOR_EVER = {"since_ms": 0, "upto_ms": 2**60}


def finished(number: int, at_ms: int, path: str, start: StartKind, *, kind: str = "python:3", container: str | None = "c1"):
    phases = Phases(run=500_000, create=300_000 if start is StartKind.COLD else 0, init=100_000 if start is StartKind.COLD else 0)
    return LedgerItem.finished(
        Activation(
            activation_id=f"{number:032x}", node="n1", namespace="guest", subject="me", path=path, version="0.0.1", kind=kind,
            limits=Limits(), start_ms=at_ms, end_ms=at_ms + 500, status=Status.SUCCESS, container=container, transaction="t",
            meter=Meter(start_kind=start, memory_limit_mib=256, phases=phases),
        )
    )  # fmt: skip


def write(directory: Path, *items: LedgerItem) -> None:
    ledger = Ledger(directory, "n1")
    ledger.apply(list(items), 1)
    ledger.close()


async def test_calls_of_all_months_become_a_trace_with_measured_times(tmp_path: Path):
    later = NOVEMBER + 40 * 86_400_000
    write(
        tmp_path,
        finished(1, NOVEMBER, "guest/a", StartKind.COLD),
        finished(2, NOVEMBER + 1000, "guest/a", StartKind.WARM),
        finished(3, later, "guest/b", StartKind.WARM),
    )
    trace = await read_history(tmp_path, **FOR_EVER)
    assert [(each.name, each.memory_mib, each.run_s) for each in trace.functions] == [
        ("guest: guest/a", 256, 0.5),
        ("guest: guest/b", 256, 0.5),
    ]
    assert [each.start_s for each in trace.functions] == [0.4, UNSEEN_START_S]
    assert [(call.at_s, call.function) for call in trace.calls] == [(0.0, 0), (1.0, 0), ((later - NOVEMBER) / 1000, 1)]


async def test_sequences_and_what_never_ran_are_left_out(tmp_path: Path):
    write(
        tmp_path,
        finished(1, NOVEMBER, "guest/a", StartKind.WARM),
        finished(2, NOVEMBER, "guest/s", StartKind.WARM, kind="sequence"),
        finished(3, NOVEMBER, "guest/n", StartKind.WARM, container=None),
    )
    assert len((await read_history(tmp_path, **FOR_EVER)).calls) == 1


async def test_a_span_without_calls_is_said(tmp_path: Path):
    write(tmp_path, finished(1, NOVEMBER, "guest/a", StartKind.WARM))
    with pytest.raises(BadTrace, match="widen it with --days"):
        await read_history(tmp_path, since_ms=NOVEMBER + 1, upto_ms=2**60)
