"""The tail: another process's records, in order, over segments that come, go and are used again."""

import asyncio

import pytest
from journals import append_large

from invoker.record.journal import Journal
from invoker.record.tail import JournalTail


@pytest.fixture
async def journal(tmp_path):
    opened = Journal(tmp_path, segment_bytes=16384, spares=1)
    yield opened
    await opened.close()


async def test_what_was_appended_is_read_in_order_and_no_further_than_told(journal, tmp_path):
    tail = JournalTail(tmp_path, 0)
    for number in range(1, 6):
        journal.append(b"%d" % number)
    assert list(tail.read(3)) == [(1, b"1"), (2, b"2"), (3, b"3")]
    assert list(tail.read(3)) == []
    journal.append(b"6")
    assert [body for _, body in tail.read(6)] == [b"4", b"5", b"6"]
    tail.close()


async def test_it_goes_on_from_segment_to_segment_while_released_ones_are_used_again(journal, tmp_path):
    tail = JournalTail(tmp_path, 0)
    bodies = []
    for number in range(1, 401):
        journal.append(b"%d" % number * 100)
        if number % 10 == 0:
            bodies += [body for _, body in tail.read(number)]
            journal.release(number)
            await journal.wait_synced(number)
    assert bodies == [b"%d" % number * 100 for number in range(1, 401)]
    assert len(list(tmp_path.glob("*.seg"))) < 400 * 300 // 16384
    tail.close()


async def test_it_begins_behind_its_position_in_a_journal_that_was_opened_again(tmp_path):
    first = Journal(tmp_path, segment_bytes=16384)
    first.append(b"old")
    await first.close()
    second = Journal(tmp_path, applied=1, segment_bytes=16384)
    second.append(b"new")
    tail = JournalTail(tmp_path, 1)
    assert list(tail.read(2)) == [(2, b"new")]
    tail.close()
    await second.close()


async def test_a_large_record_is_read_once_its_body_is_there(journal, tmp_path):
    tail = JournalTail(tmp_path, 0)
    async with asyncio.timeout(30):
        sequence = await append_large(journal, b"x" * 50_000)
    journal.append(b"behind")
    assert list(tail.read(sequence + 1)) == [(sequence, b"x" * 50_000), (sequence + 1, b"behind")]
    tail.close()


async def test_a_record_that_no_file_has_is_an_error_that_names_it(journal, tmp_path):
    tail = JournalTail(tmp_path, 0)
    journal.append(b"1")
    with pytest.raises(LookupError, match="record 2"):
        list(tail.read(2))
