"""The ledger: append-only integers, each row once, the position in the same transaction."""

import sqlite3
from datetime import UTC, datetime

import pytest

from invoker.activation import Activation, Meter, Phases, Status
from invoker.model import Limits
from invoker.record.ledger import Ledger, LedgerItem, Rounding, month_of, months, read_usage
from pool.model import PeakQuality, StartKind

NOVEMBER = int(datetime(2026, 11, 15, tzinfo=UTC).timestamp() * 1000)
DECEMBER = int(datetime(2026, 12, 15, tzinfo=UTC).timestamp() * 1000)


def finished(number: int, at_ms: int = NOVEMBER, **meter) -> LedgerItem:
    activation = Activation(
        activation_id=f"{number:032x}", node="n1", namespace="guest", subject="me", path="guest/hello", version="0.0.1", kind="k",
        limits=Limits(), start_ms=at_ms, end_ms=at_ms + 5, status=Status.SUCCESS, container="c1", transaction="t",
        meter=Meter(**meter),
    )  # fmt: skip
    return LedgerItem.finished(activation)


@pytest.fixture
def ledger(tmp_path):
    opened = Ledger(tmp_path, "n1")
    yield opened
    opened.close()


def rows(path, columns="*"):
    connection = sqlite3.connect(path)
    found = connection.execute(f"SELECT {columns} FROM ledger ORDER BY seq").fetchall()
    connection.close()
    return found


def test_every_number_of_the_meter_arrives_in_its_column(ledger, tmp_path):
    names = (
        "billed_us cpu_us peak_bytes anonymous_bytes shared_bytes cache_bytes throttled_us oom_kills request_bytes "
        "response_bytes memory_limit_mib"
    )
    meter = {name: number for number, name in enumerate(names.split(), 100)}
    phases = {name: number for number, name in enumerate(Phases.__struct_fields__, 200)}
    item = finished(
        1, start_kind=StartKind.FROZEN, peak_quality=PeakQuality.SAMPLED, outcome="fine", phases=Phases(**phases), **meter
    )
    ledger.apply([item], 1)
    for name, number in (*meter.items(), *((f"{phase}_us", number) for phase, number in phases.items())):
        assert rows(tmp_path / "2026-11.db", name) == [(number,)]
    columns = "node, subject, type, part, namespace, action, actor, start_kind, peak_quality, outcome, status, container, end_ms"
    assert rows(tmp_path / "2026-11.db", columns) == [
        ("n1", f"{1:032x}", "finished", 0, "guest", "guest/hello", "me", "frozen", "sampled", "fine", 0, "c1", NOVEMBER + 5)
    ]


def test_no_column_is_real_and_every_number_is_stored_as_an_integer(ledger, tmp_path):
    ledger.apply([finished(1, cpu_us=2**62)], 1)
    connection = sqlite3.connect(tmp_path / "2026-11.db")
    types = {row[2] for row in connection.execute("PRAGMA table_info(ledger)")}
    assert types == {"INTEGER", "TEXT"}
    assert connection.execute("SELECT typeof(cpu_us) FROM ledger").fetchall() == [("integer",)]
    connection.close()


@pytest.mark.parametrize(
    "statement", ["UPDATE ledger SET cpu_us = 0", "DELETE FROM ledger", "REPLACE INTO ledger SELECT * FROM ledger"]
)
def test_rows_are_never_changed(ledger, tmp_path, statement):
    ledger.apply([finished(1, cpu_us=7)], 1)
    other = sqlite3.connect(tmp_path / "2026-11.db")
    other.execute("PRAGMA recursive_triggers = ON")
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        other.execute(statement)
    other.close()
    assert rows(tmp_path / "2026-11.db", "cpu_us") == [(7,)]


def test_any_order_and_repetition_gives_the_same_rows(ledger, tmp_path):
    items = [finished(number) for number in range(5)]
    ledger.apply(items[2:] + items[:3], 5)
    ledger.apply([items[0]], 3)
    assert sorted(row[0] for row in rows(tmp_path / "2026-11.db", "subject")) == [item.subject for item in items]
    assert [row[0] for row in rows(tmp_path / "2026-11.db", "seq")] == [1, 2, 3, 4, 5]
    assert ledger.position() == 5


def test_a_batch_that_fails_leaves_neither_rows_nor_position(ledger, tmp_path):
    ledger.apply([finished(1)], 1)
    bad = finished(3)._replace(values=(None, *finished(3).values[1:]))
    with pytest.raises(sqlite3.IntegrityError):
        ledger.apply([finished(2), bad], 3)
    assert len(rows(tmp_path / "2026-11.db")) == 1
    assert ledger.position() == 1


def test_each_month_has_its_file_and_the_newest_has_the_position(ledger, tmp_path):
    ledger.apply([finished(1), finished(2, DECEMBER)], 2)
    ledger.apply([finished(3)], 3)
    assert [path.name for path in months(tmp_path)] == ["2026-11.db", "2026-12.db"]
    ledger.close()
    again = Ledger(tmp_path, "n1")
    assert again.position() == 3
    again.apply([], 9)
    assert again.position() == 9
    again.close()
    assert len(rows(tmp_path / "2026-11.db")) == 2


def test_a_position_is_never_ahead_of_a_row_in_any_month(ledger, tmp_path, monkeypatch):
    """A crash between the commits of two months: the newest month, which has the position, comes last."""
    ledger.apply([finished(1)], 1)
    real = ledger._apply_month

    def crash_at_the_second(month, by_type, position):
        if month == "2026-12":
            raise sqlite3.OperationalError("crash")
        real(month, by_type, position)

    monkeypatch.setattr(ledger, "_apply_month", crash_at_the_second)
    with pytest.raises(sqlite3.OperationalError):
        ledger.apply([finished(2, DECEMBER), finished(3)], 3)
    assert ledger.position() == 1
    monkeypatch.undo()
    ledger.apply([finished(2, DECEMBER), finished(3)], 3)
    assert ledger.position() == 3
    assert len(rows(tmp_path / "2026-11.db")) == 2


def test_months_are_utc_and_begin_at_midnight():
    assert month_of(int(datetime(2026, 12, 1, tzinfo=UTC).timestamp() * 1000)) == "2026-12"
    assert month_of(int(datetime(2026, 12, 1, tzinfo=UTC).timestamp() * 1000) - 1) == "2026-11"


async def test_usage_is_summed_over_months_and_its_end_is_excluded(ledger, tmp_path):
    ledger.apply([finished(1, billed_us=10), finished(2, DECEMBER, billed_us=20)], 2)
    for upto_ms, billed_us in ((DECEMBER + 1, 30), (DECEMBER, 10)):
        (row,) = await read_usage(tmp_path, namespace=None, since_ms=NOVEMBER, upto_ms=upto_ms, rounding=Rounding())
        assert row.billed_us == billed_us
    assert await read_usage(tmp_path, namespace=None, since_ms=NOVEMBER + 1, upto_ms=DECEMBER, rounding=Rounding()) == []


async def test_sums_go_far_beyond_what_anybody_uses_in_a_month(ledger, tmp_path):
    """Ten thousand hours of 1 TiB: byte-microseconds would have overflowed 64 bits 4,000 times."""
    hour = 3600 * 10**6
    ledger.apply([finished(number, billed_us=hour, memory_limit_mib=2**20) for number in range(1000)], 1)
    (row,) = await read_usage(tmp_path, namespace="guest", since_ms=0, upto_ms=2**60, rounding=Rounding())
    assert row.memory_byte_us == 1000 * hour * 2**40
    assert row.charged_memory_mib_us == 1000 * hour * 2**20
