"""The journal: what was appended is found again, in order, as a prefix; a full disk refuses new work only."""

import asyncio
import errno
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from journals import append_large

from invoker.errors import JournalFull
from invoker.record.journal import INLINE_RECORD_BYTES, Journal, JournalBroken, RecordTooLarge, read_records
from invoker.record.segment import FRAME_BYTES, START_BYTES

KIB = 1024


@pytest.fixture
async def open_journal(tmp_path):
    opened = []

    def open_(**options):
        options.setdefault("segment_bytes", 64 * KIB)
        options.setdefault("reserve_bytes", 16 * KIB)
        journal = Journal(tmp_path / "journal", **options)
        opened.append(journal)
        return journal

    yield open_
    for journal in opened:
        await journal.close()


def records(journal_dir: Path, after: int = 0) -> list[tuple[int, bytes]]:
    return list(read_records(journal_dir, after))


async def test_records_are_read_back_in_order_while_the_journal_is_open(open_journal, tmp_path):
    journal = open_journal()
    positions = [journal.append(b"%d" % number) for number in range(5)]
    assert positions == [1, 2, 3, 4, 5]
    assert records(tmp_path / "journal") == list(zip(positions, (b"0", b"1", b"2", b"3", b"4"), strict=True))
    assert records(tmp_path / "journal", after=3) == [(4, b"3"), (5, b"4")]


async def test_records_go_on_in_the_next_segment(open_journal, tmp_path):
    journal = open_journal()
    written = [bytes([number]) * 4000 for number in range(60)]
    for record in written:
        journal.append(record)
        await journal.wait_synced(journal.position)
    assert [body for _, body in records(tmp_path / "journal")] == written


async def test_a_record_beyond_a_page_takes_the_other_way(open_journal, tmp_path):
    journal = open_journal()
    journal.append(b"x" * INLINE_RECORD_BYTES)
    with pytest.raises(RecordTooLarge):
        journal.append(b"x" * (INLINE_RECORD_BYTES + 1))
    large = os.urandom(20 * KIB)
    assert await append_large(journal, large) == 2
    assert records(tmp_path / "journal", after=1) == [(2, large)]


async def test_a_record_larger_than_a_segment_has_one_of_its_own_which_is_deleted_later(open_journal, tmp_path):
    journal = open_journal()
    larger = os.urandom(300 * KIB)
    position = await append_large(journal, larger)
    journal.append(b"behind")
    assert records(tmp_path / "journal") == [(position, larger), (position + 1, b"behind")]
    while journal._current.size != 64 * KIB:
        journal.append(b"z" * 4000)
    await journal.wait_synced(journal.position)
    journal.release(journal.position)
    await journal.close()
    assert max(path.stat().st_size for path in (tmp_path / "journal").iterdir()) == 64 * KIB


async def test_small_records_may_be_written_while_a_large_one_is_on_its_way(open_journal, tmp_path):
    journal = open_journal()
    async with asyncio.TaskGroup() as group:
        group.create_task(append_large(journal, b"L" * 10_000))
        await asyncio.sleep(0)
        journal.append(b"small")
    assert records(tmp_path / "journal") == [(1, b"L" * 10_000), (2, b"small")]


async def test_a_cancelled_wait_does_not_stop_a_large_write(open_journal, tmp_path):
    journal = open_journal()
    task = asyncio.get_running_loop().create_task(append_large(journal, b"L" * 10_000))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await journal.wait_synced(journal.position)
    assert records(tmp_path / "journal") == [(1, b"L" * 10_000)]


async def test_a_waiter_is_told_after_the_disk_has_it(open_journal, monkeypatch):
    synced = []
    real = os.fdatasync
    journal = open_journal(sync_s=60)  # nobody waits that long: the request itself must bring it about
    monkeypatch.setattr("invoker.record.journal.os.fdatasync", lambda fd: (synced.append(fd), real(fd)))
    position = journal.append(b"one")
    assert synced == []
    await journal.wait_synced(position)
    assert synced
    await journal.wait_synced(position)  # and again, at once


async def test_a_sync_comes_by_itself(open_journal):
    journal = open_journal(sync_s=0.01)
    position = journal.append(b"one")
    async with asyncio.timeout(30):
        while journal._synced < position:
            await asyncio.sleep(0.005)


async def test_while_records_come_each_is_synced_though_the_thread_is_asked_once_and_a_pause_ends_that(open_journal, monkeypatch):
    journal = open_journal(sync_s=0.05)
    asked = []
    real = journal._jobs.put
    monkeypatch.setattr(
        journal,
        "_jobs",
        SimpleNamespace(
            put=lambda job: (asked.append(job), real(job)), get=journal._jobs.get, get_nowait=journal._jobs.get_nowait
        ),
    )

    async def synced_rounds(rounds: int) -> None:
        async with asyncio.timeout(60):
            for _ in range(rounds):
                position = journal.append(b"one")
                while journal._synced < position:
                    await asyncio.sleep(0)

    await synced_rounds(10)
    assert len(asked) <= 5, "once, but where the machine stood still between two records"
    async with asyncio.timeout(60):
        while journal._nudged:  # nothing comes any more
            await asyncio.sleep(0.001)
    asked.clear()
    await synced_rounds(1)
    assert len(asked) == 1


async def test_a_disk_that_fails_to_sync_is_never_believed_again(open_journal, monkeypatch):
    journal = open_journal()

    def broken(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("invoker.record.journal.os.fdatasync", broken)
        with pytest.raises(JournalBroken):
            await journal.wait_synced(journal.append(b"one"))
    with pytest.raises(JournalBroken):
        await journal.wait_synced(journal.append(b"two"))
    assert not journal.has_room()


async def test_reopening_goes_on_behind_everything_that_was_given_out(open_journal, tmp_path):
    first = open_journal()
    first.append(b"one")
    await first.close()
    second = open_journal(applied=1)
    assert second.append(b"two") == 2
    await second.close()
    # A database may know more than a journal that lost its end to a power cut.
    third = open_journal(applied=10)
    assert third.append(b"three") == 11
    assert records(tmp_path / "journal", after=1)[-1] == (11, b"three")


async def test_released_segments_are_used_again_and_others_are_kept(open_journal, tmp_path):
    journal = open_journal()
    for _ in range(100):
        journal.append(b"x" * 4000)
        await journal.wait_synced(journal.position)
    kept = len(list((tmp_path / "journal").iterdir()))
    assert len(records(tmp_path / "journal")) == 100
    for _ in range(10):
        for _ in range(100):
            journal.append(b"x" * 4000)
        journal.release(journal.position)
        await journal.wait_synced(journal.append(b"x"))
    assert len(list((tmp_path / "journal").iterdir())) <= kept + 2


class Disk:
    """Has room for so many bytes."""

    def __init__(self, room: int) -> None:
        self.room = room

    def allocate(self, fd: int, offset: int, size: int) -> None:
        if size > self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= size
        os.posix_fallocate(fd, offset, size)


async def test_a_full_disk_refuses_new_work_and_still_takes_the_records_of_admitted_work(open_journal, tmp_path):
    disk = Disk(3 * 64 * KIB)
    journal = open_journal(allocate=disk.allocate)
    admitted = 0
    while journal.has_room():
        journal.append(b"a" * INLINE_RECORD_BYTES)
        admitted += 1
    assert admitted >= 40
    with pytest.raises(JournalFull):
        await append_large(journal, b"L" * 10 * KIB)
    for _ in range(4):  # the reserve: 16 KiB are four records of a page
        journal.append(b"b" * INLINE_RECORD_BYTES)
    assert len(records(tmp_path / "journal")) == admitted + 4
    journal.release(journal.position)
    async with asyncio.timeout(30):
        while not journal.has_room():
            await asyncio.sleep(0.01)


async def test_a_disk_without_room_for_the_next_segment_is_told_of_before_the_journal_is_full_and_asked_again(open_journal):
    disk = Disk(2 * 64 * KIB)  # of the current segment and two spares, one does not fit
    journal = open_journal(allocate=disk.allocate)
    assert "no room for another journal segment" in journal.refusal
    assert journal.has_room()
    disk.room = 64 * KIB
    async with asyncio.timeout(30):
        while journal.refusal:  # nobody writes meanwhile
            await asyncio.sleep(0.01)


async def test_room_is_asked_for_all_that_may_follow(open_journal):
    journal = open_journal(allocate=Disk(3 * 64 * KIB).allocate)
    fits = next(number for number in range(1000) if not journal.has_room(number)) - 1
    assert fits == 3 * 15 - 4


async def test_a_file_size_limit_is_a_full_disk(tmp_path):
    """The kernel's own refusal, in a process of its own: RLIMIT_FSIZE."""
    script = """
import asyncio, resource, sys
from pathlib import Path
from invoker.errors import JournalFull
from invoker.record.journal import Journal, read_records
async def main(directory):
    journal = Journal(directory, segment_bytes=65536, reserve_bytes=16384)
    await journal.wait_synced(journal.append(b"one"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    written = 1
    try:
        while True:
            journal.append(b"x" * 1000)
            written += 1
    except JournalFull:
        pass
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    journal.append(b"after")
    await journal.close()
    bodies = [body for _, body in read_records(directory)]
    assert len(bodies) == written + 1 and bodies[-1] == b"after", (len(bodies), written)
    print("ok")
asyncio.run(main(Path(sys.argv[1])))
"""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "journal"], capture_output=True, text=True, check=False)
    assert done.stdout == "ok\n", done.stderr


async def test_no_thread_survives_close(open_journal):
    journal = open_journal()
    journal.append(b"one")
    await journal.close()
    assert not journal._thread.is_alive()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(bodies=st.lists(st.binary(max_size=9000), max_size=30), data=st.data())
def test_any_appends_cut_at_any_byte_replay_to_a_prefix(bodies, data):
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "journal"

        async def write() -> None:
            journal = Journal(directory, segment_bytes=1024 * KIB, reserve_bytes=0, spares=0)
            for body in bodies:
                if len(body) > INLINE_RECORD_BYTES:
                    await append_large(journal, body)
                else:
                    journal.append(body)
            await journal.close()

        asyncio.run(write())
        (path,) = directory.iterdir()
        end = START_BYTES + sum(FRAME_BYTES + len(body) for body in bodies)
        cut = data.draw(st.integers(0, end))
        # Half of the cuts lose the file's end, half leave rubbish there: both happen.
        if data.draw(st.booleans()):
            os.truncate(path, cut)
        else:
            content = path.read_bytes()
            path.write_bytes(content[:cut] + os.urandom(min(end - cut, 5000)))
        found = [body for _, body in read_records(directory)]
        whole = 0
        offset = START_BYTES
        for body in bodies:
            offset += FRAME_BYTES + len(body)
            whole += offset <= cut
        assert found == bodies[:whole]


async def test_each_append_is_told_with_the_time_it_took(open_journal):
    journal = open_journal()
    told = []
    journal.on_write = told.append
    journal.append(b"one")
    journal.append(b"two")
    assert len(told) == 2
    assert min(told) >= 0.0
