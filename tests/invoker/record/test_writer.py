"""The writer: groups, retries, replays; the journal is released only for what both databases durably hold."""

import asyncio
import sqlite3

import msgspec
import pytest

from invoker.activation import Activation, Status
from invoker.model import Limits
from invoker.record.activations import ActivationReader, Retention
from invoker.record.entries import FinishedEntry, encode_entry, join_entries
from invoker.record.journal import Journal
from invoker.record.store import StoreTooNew
from invoker.record.writer import Writer, Written

NOW_MS = 1_790_000_000_000


def an_entry(number: int) -> FinishedEntry:
    activation = Activation(
        activation_id=f"{number:032x}", node="n", namespace="g", subject="g", path="g/a", version="0.0.1", kind="k",
        limits=Limits(), start_ms=NOW_MS, end_ms=NOW_MS, status=Status.SUCCESS,
    )  # fmt: skip
    return FinishedEntry(activation, "1", [])


class Seen:
    def __init__(self) -> None:
        self.groups: list[list[Written]] = []
        self.released: list[int] = []
        self.changed = asyncio.Event()

    def committed(self, group) -> None:
        self.groups.append(list(group))
        self.changed.set()

    async def wait(self, records: int) -> None:
        async with asyncio.timeout(10):
            while sum(map(len, self.groups)) < records:
                self.changed.clear()
                await self.changed.wait()


@pytest.fixture
def seen():
    return Seen()


@pytest.fixture
async def new_writer(tmp_path, seen):
    made = []

    def new(**options):
        options = {"linger_s": 0.001, "retention": Retention(), "wall_ms": lambda: NOW_MS} | options
        writer = Writer(tmp_path, node="n", on_committed=seen.committed, release=seen.released.append, **options)
        made.append(writer)
        return writer

    yield new
    for writer in made:
        if writer._thread.is_alive():
            await writer.close()


async def count(tmp_path) -> int:
    reader = await ActivationReader.open(tmp_path / "activations.db")
    found = await reader.count("g", name=None, since_ms=None, upto_ms=None, hidden=())
    await reader.close()
    return found


async def test_what_is_put_is_committed_and_at_the_end_released(new_writer, seen, tmp_path):
    writer = new_writer()
    assert (await writer.start()).position == 0
    for number in range(1, 11):
        writer.put(Written([an_entry(number)], number, 100))
    await seen.wait(10)
    assert await count(tmp_path) == 10
    await writer.close()
    assert seen.released[-1] == 10


async def test_records_that_arrive_together_are_committed_together(new_writer, seen):
    writer = new_writer(linger_s=0.2)
    await writer.start()
    for number in range(1, 51):
        writer.put(Written([an_entry(number)], number, 100))
    await seen.wait(50)
    assert len(seen.groups) <= 2


async def test_a_hurry_ends_the_lingering(new_writer, seen):
    writer = new_writer(linger_s=60)
    await writer.start()
    writer.put(Written([an_entry(1)], 1, 100))
    writer.hurry()
    await seen.wait(1)


async def test_what_may_not_be_kept_is_deleted_faster_than_it_is_written(new_writer, seen, monkeypatch):
    """A look deletes at most so much: where it leaves something, the next one follows the next group, not a minute later."""
    looks: list[int] = []
    monkeypatch.setattr("invoker.record.writer._RETAIN_MORE_S", 3600.0)
    monkeypatch.setattr("invoker.record.writer.ActivationDatabase.retain", lambda *_: looks.append(1) or True)
    writer = new_writer()
    await writer.start()
    for number in range(1, 6):
        writer.put(Written([an_entry(number)], number, 100))
        await seen.wait(number)
    await writer.close()
    assert len(looks) >= len(seen.groups) == 5


async def test_a_refusing_disk_is_asked_again_and_nothing_is_lost(new_writer, seen, tmp_path, monkeypatch):
    told = []
    writer = new_writer(on_refused=lambda reason: told.append((reason, writer.refusal)))
    await writer.start()
    real, refusals = writer._ledger.apply, [sqlite3.OperationalError("database or disk is full")] * 2

    def apply(items, position):
        if refusals:
            raise refusals.pop()
        real(items, position)

    monkeypatch.setattr("invoker.record.writer._RETRY_S", 0.01)
    monkeypatch.setattr(writer._ledger, "apply", apply)
    writer.put(Written([an_entry(1)], 1, 100))
    await seen.wait(1)
    assert refusals == []
    assert await count(tmp_path) == 1
    full = "database or disk is full"
    assert told == [(full, full), ("", "")]


async def test_a_disk_that_refuses_at_the_end_does_not_hold_up_the_end(new_writer, seen, tmp_path, monkeypatch):
    writer = new_writer()
    await writer.start()

    def refuse(*_):
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(writer._ledger, "apply", refuse)
    writer.put(Written([an_entry(1)], 1, 100))
    async with asyncio.timeout(30):
        await writer.close()
    assert seen.groups == []


async def test_a_bug_ends_the_writer_loudly(new_writer, caplog, monkeypatch):
    writer = new_writer()
    await writer.start()
    monkeypatch.setattr(writer, "_apply", None)
    writer.put(Written([an_entry(1)], 1, 100))
    async with asyncio.timeout(30):
        while not writer.failure:
            await asyncio.sleep(0.005)
    assert "the journal keeps everything" in caplog.text
    with pytest.raises(TypeError):
        await writer.close()
    assert not writer._thread.is_alive()


async def test_the_journal_is_replayed_from_the_older_of_both_positions(new_writer, tmp_path):
    journal = Journal(tmp_path / "journal", segment_bytes=65536)
    for number in range(1, 4):
        journal.append(join_entries([encode_entry(an_entry(number))]))
    await journal.close()
    first = new_writer()
    assert (await first.start()).position == 3
    await first.close()
    (tmp_path / "activations.db").unlink()
    second = new_writer()
    assert (await second.start()).position == 3
    assert await count(tmp_path) == 3
    connection = sqlite3.connect(tmp_path / "ledger" / "2026-09.db")
    assert connection.execute("SELECT count(*) FROM ledger").fetchone() == (3,)
    connection.close()


async def test_lines_that_were_on_their_way_are_said_to_be_lost(new_writer, tmp_path):
    journal = Journal(tmp_path / "journal", segment_bytes=65536)
    entry = FinishedEntry(an_entry(1).activation, "1", None)
    journal.append(join_entries([encode_entry(entry)]))
    await journal.close()
    writer = new_writer()
    await writer.start()
    reader = await ActivationReader.open(tmp_path / "activations.db")
    (line,) = await reader.get_logs("g", entry.activation.activation_id)
    await reader.close()
    assert "were lost" in line


async def test_a_newer_database_stops_the_start(new_writer, tmp_path):
    connection = sqlite3.connect(tmp_path / "activations.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    writer = new_writer()
    with pytest.raises(StoreTooNew, match="99"):
        await writer.start()
    await writer.close()


async def test_an_unreadable_record_stops_the_start_and_is_not_passed_over(new_writer, tmp_path):
    journal = Journal(tmp_path / "journal", segment_bytes=65536)
    journal.append(b'[{"type":"from-the-future"}]')
    await journal.close()
    with pytest.raises(msgspec.ValidationError):
        await new_writer().start()
