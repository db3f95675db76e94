"""The writer in a process of its own: the same as in a thread, over the journal's files alone."""

import asyncio
import os
import resource
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from invoker.activation import Activation, Status
from invoker.errors import JournalFull
from invoker.model import Limits
from invoker.record.activations import ActivationReader, Retention
from invoker.record.recorder import Recorder
from invoker.record.store import StoreTooNew
from invoker.record.talk import Committed, pack
from invoker.record.writer import Written
from invoker.record.writer_client import WriterEnded, WriterProcess
from tests.support.cpu_group import cpu_group_of

#: By the real clock: the process has no other, and drops what is old.
NOW_MS = time.time_ns() // 1_000_000
#: Far more than a busy machine needs; only what hangs reaches it.
DEADLINE_S = 60


def an_activation(number: int, **changes) -> Activation:
    values = {
        "activation_id": f"{number:032x}", "node": "n", "namespace": "g", "subject": "g", "path": "g/a", "version": "0.0.1",
        "kind": "k", "limits": Limits(), "start_ms": NOW_MS, "end_ms": NOW_MS, "status": Status.SUCCESS,
        "result": msgspec.Raw(b'{"a":1}'),
    }  # fmt: skip
    return Activation(**(values | changes))


@pytest.fixture
async def open_recorder(tmp_path):
    opened = []

    async def open_(**options):
        options = {"segment_bytes": 64 * 1024, "linger_s": 0.001} | options
        recorder = await Recorder.open(tmp_path, node="n", apart=True, **options)
        opened.append(recorder)
        return recorder

    yield open_
    for recorder in opened:
        if recorder._journal._thread.is_alive():
            await recorder.close()


async def committed(recorder: Recorder) -> None:
    async with asyncio.timeout(DEADLINE_S):
        await recorder._intake.wait_committed()


def writer_pid(recorder: Recorder) -> int:
    return recorder._writer._process.pid


async def test_many_records_over_many_segments_are_all_committed_and_read(open_recorder, tmp_path):
    recorder = await open_recorder()
    for number in range(2000):
        recorder.finish(an_activation(number), logs=["a line"])
    assert await recorder.records.get("g", f"{1999:032x}") == an_activation(1999)
    async with asyncio.timeout(DEADLINE_S):
        while (found := await recorder.records.count("g")) != 2000:
            assert found < 2000
    assert recorder.lag().rows == 0
    assert await recorder.records.get_logs("g", f"{7:032x}") == ["a line"]
    reader = await ActivationReader.open(tmp_path / "activations.db")
    assert await reader.get("g", f"{1234:032x}") == an_activation(1234)
    await reader.close()


async def test_what_is_committed_is_taken_off_a_few_at_a_time_so_that_calls_need_not_wait_for_all(tmp_path):
    groups: list[list[int]] = []
    writer = WriterProcess(
        tmp_path,
        node="n",
        retention=Retention(),
        on_committed=lambda group: groups.append([each.sequence for each in group]),
        release=lambda _: None,
        linger_s=DEADLINE_S,
    )
    for sequence in range(1, 41):
        writer.put(Written((), position=sequence, size=1, sequence=sequence))
    writer.data_received(pack(Committed(position=20, asides=0)))
    assert groups == [list(range(1, 9))], "the loop is free again"
    writer.data_received(pack(Committed(position=30, asides=0)))
    for _ in range(10):
        await asyncio.sleep(0)
    assert max(map(len, groups)) == 8
    assert [sequence for group in groups for sequence in group] == list(range(1, 31))
    writer.data_received(pack(Committed(position=31, asides=0)))
    assert groups[-1] == [31]


async def test_a_large_record_and_what_overtakes_it_are_committed(open_recorder):
    recorder = await open_recorder()
    large = an_activation(1, result=msgspec.Raw(b'"' + b"x" * 300_000 + b'"'))
    async with asyncio.TaskGroup() as group:
        group.create_task(recorder.finish_large(large, logs=[]))
        for number in range(2, 50):
            recorder.finish(an_activation(number), logs=[])
            await asyncio.sleep(0)
    await committed(recorder)
    assert await recorder.records.count("g") == 49
    assert await recorder.records.get("g", large.activation_id) == large


async def test_lines_that_pass_the_journal_by_are_committed(open_recorder):
    recorder = await open_recorder()
    lines = ["y" * 1000] * 40
    recorder.finish(an_activation(1), logs=lines)
    await committed(recorder)
    assert recorder._uncommitted.lines == {}
    assert await recorder.records.get_logs("g", f"{1:032x}") == lines


async def test_a_process_that_is_killed_stops_admission_and_the_next_start_has_everything(open_recorder, caplog):
    recorder = await open_recorder()
    recorder.finish(an_activation(1), logs=[])
    os.kill(writer_pid(recorder), signal.SIGKILL)
    async with asyncio.timeout(DEADLINE_S):
        while recorder.room():
            await asyncio.sleep(0.01)
    assert "the journal keeps everything" in caplog.text
    recorder.finish(an_activation(2), logs=[])  # what was admitted before still ends
    with pytest.raises(JournalFull):
        await recorder.accepted(None)
    with pytest.raises(WriterEnded):
        await recorder.close()
    assert await (await open_recorder()).records.count("g") == 2


async def test_a_disk_that_takes_nothing_is_told_of_at_the_first_write_and_no_longer_than_it_does(open_recorder):
    recorder = await open_recorder()
    pid, unlimited = writer_pid(recorder), resource.RLIM_INFINITY
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, unlimited))
    recorder.finish(an_activation(1), logs=[])
    async with asyncio.timeout(DEADLINE_S):
        while not recorder.refusal:
            await asyncio.sleep(0.01)
        assert recorder.failure == ""
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (unlimited, unlimited))
        await recorder._intake.wait_committed()
        while recorder.refusal:
            await asyncio.sleep(0.01)
    assert await recorder.records.count("g") == 1


async def test_signals_meant_for_the_daemon_do_not_end_the_process(open_recorder):
    recorder = await open_recorder()
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(writer_pid(recorder), number)
    recorder.finish(an_activation(1), logs=[])
    await committed(recorder)
    assert await recorder.records.count("g") == 1


def gives_way(recorder: Recorder) -> bool:
    """Whether it does, by its cgroup or by the policy of all of its threads."""
    pid = writer_pid(recorder)
    group = cpu_group_of(pid)
    if group.name == f"invokerd-writer-{pid}":
        return (group / "cpu.idle").read_text() == "1\n"
    return {os.sched_getscheduler(int(thread.name)) for thread in Path(f"/proc/{pid}/task").iterdir()} == {os.SCHED_IDLE}


async def test_the_process_gives_way_to_calls_but_not_while_somebody_waits_for_it(open_recorder):
    recorder = await open_recorder()
    assert gives_way(recorder)
    recorder.finish(an_activation(1), logs=[])
    await committed(recorder)
    assert not gives_way(recorder)


async def test_the_process_gives_way_again_once_it_keeps_up_and_not_while_it_does_not(open_recorder, monkeypatch):
    monkeypatch.setattr("invoker.record.yielding.PATIENCE_S", 0.0)
    recorder = await open_recorder()
    os.kill(writer_pid(recorder), signal.SIGSTOP)
    async with asyncio.timeout(DEADLINE_S):
        for number in range(1, 4):
            recorder.finish(an_activation(number), logs=[])
            while recorder._writer._timer is not None:
                await asyncio.sleep(0.001)
        assert not gives_way(recorder)
        os.kill(writer_pid(recorder), signal.SIGCONT)
        while recorder.lag().rows:
            await asyncio.sleep(0.001)
        recorder.finish(an_activation(4), logs=[])
        while recorder._writer._timer is not None:
            await asyncio.sleep(0.001)
    assert gives_way(recorder)


async def test_the_process_is_gone_when_the_recorder_is_closed(open_recorder):
    recorder = await open_recorder()
    recorder.finish(an_activation(1), logs=[])
    await recorder.close()
    with pytest.raises(ProcessLookupError):
        os.kill(writer_pid(recorder), 0)


async def test_the_process_ends_when_the_daemon_is_gone(open_recorder):
    recorder = await open_recorder()
    ended = os.pidfd_open(writer_pid(recorder))
    seen = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(ended, seen.set)
    recorder._writer._transport.abort()  # as the kernel does for a daemon that was killed
    async with asyncio.timeout(DEADLINE_S):
        await seen.wait()
    loop.remove_reader(ended)
    os.close(ended)
    with pytest.raises(WriterEnded):
        await recorder.close()


async def test_a_newer_database_stops_the_start_with_the_same_error_as_in_a_thread(open_recorder, tmp_path):
    await (await open_recorder()).close()
    with closing(sqlite3.connect(tmp_path / "activations.db")) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreTooNew, match="99"):
        await open_recorder()
