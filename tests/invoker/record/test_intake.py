"""The intake: what may wait travels with the next record; a position never overtakes a body that is being written."""

import asyncio

import pytest

from invoker.errors import JournalFull
from invoker.record.entries import BegunEntry, TailEntry, decode_record, encode_entry
from invoker.record.intake import INLINE_ENTRY_BYTES, Intake
from invoker.record.journal import RecordTooLarge


class FakeJournal:
    def __init__(self) -> None:
        self.position = 0
        self.records: list[bytes] = []
        self.large = []
        self.full = False

    def append(self, record: bytes) -> int:
        if self.full:
            raise JournalFull
        if len(record) > INLINE_ENTRY_BYTES + 2:
            raise RecordTooLarge
        self.records.append(record)
        self.position += 1
        return self.position

    def start_large(self, record, done) -> int:
        self.large.append(done)
        self.position += 1
        return self.position


class FakeWriter:
    failure = ""

    def __init__(self) -> None:
        self.written = []
        self.hurried = 0

    def put(self, written) -> None:
        self.written.append(written)

    def hurry(self) -> None:
        self.hurried += 1


@pytest.fixture
def parts():
    return FakeJournal(), FakeWriter()


@pytest.fixture
async def intake(parts):
    made = Intake(*parts, lambda: 5.0)
    yield made
    parts[0].full = False
    made.close()


def a_tail(number: int) -> TailEntry:
    return TailEntry("a" * 32, "g", "", number, 0, number)


A_BEGINNING = BegunEntry("b" * 32, "g", "g/a", 1)


async def test_what_was_deferred_travels_with_the_next_record(parts, intake):
    journal, writer = parts
    intake.defer(a_tail(1))
    intake.defer(a_tail(2))
    assert journal.records == []
    intake.append_any(A_BEGINNING)
    assert [type(each).__name__ for each in decode_record(journal.records[0])] == ["TailEntry", "TailEntry", "BegunEntry"]
    assert [len(each.entries) for each in writer.written] == [3]
    intake.flush()
    assert len(journal.records) == 1


async def test_what_does_not_fit_together_goes_in_two_records(parts, intake):
    journal, _ = parts
    intake.defer(a_tail(1))
    encoded = encode_entry(BegunEntry("b" * 32, "g", "x" * 3900, 1))
    intake.append(BegunEntry("b" * 32, "g", "x" * 3900, 1), encoded)
    assert len(journal.records) == 2


async def test_many_deferred_entries_never_exceed_a_record(parts, intake):
    journal, _ = parts
    for number in range(100):
        intake.defer(a_tail(number))
    intake.close()
    assert sum(len(decode_record(record)) for record in journal.records) == 100
    assert max(map(len, journal.records)) <= INLINE_ENTRY_BYTES + 2


async def test_deferred_entries_wait_for_room_and_are_not_lost(parts, intake):
    journal, _ = parts
    intake.defer(a_tail(1))
    journal.full = True
    intake.flush()
    with pytest.raises(JournalFull):
        intake.append_any(A_BEGINNING)
    journal.full = False
    intake.append_any(A_BEGINNING)
    assert len(decode_record(journal.records[0])) == 2


async def test_a_position_never_overtakes_a_body_that_is_being_written(parts, intake):
    journal, writer = parts
    big = BegunEntry("c" * 32, "g", "x" * 5000, 1)
    intake.append_any(A_BEGINNING)
    for _ in range(2):
        intake.append_any(big)
    intake.append_any(A_BEGINNING)
    journal.large[1](None)
    journal.large[0](None)
    assert [each.position for each in writer.written] == [1, 1, 1, 4]


async def test_a_body_that_could_not_be_written_holds_nothing_up(parts, intake):
    journal, writer = parts
    intake.append_any(BegunEntry("c" * 32, "g", "x" * 5000, 1))
    journal.large[0](OSError())
    intake.append_any(A_BEGINNING)
    assert [each.position for each in writer.written] == [2]


async def test_a_wait_for_the_commit_ends_with_the_commit(parts, intake):
    _, writer = parts
    await intake.wait_committed()
    intake.append_any(A_BEGINNING)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(intake.wait_committed())
        await asyncio.sleep(0)
        assert writer.hurried == 1
        intake.append_any(A_BEGINNING)
        assert not waiting.done()
        intake.on_committed(writer.written[:1])
    assert intake.lag() == (1, 0.0)


async def test_capacity_is_bounded_by_records_and_by_bytes(parts, intake):
    _, writer = parts
    intake.append_any(A_BEGINNING)
    assert intake.has_capacity(2, 1000)
    assert not intake.has_capacity(1, 1000)
    assert not intake.has_capacity(2, 10)
    writer.failure = "its disk is gone"
    assert not intake.has_capacity(2, 1000)
