"""The recorder: true after kill -9, exactly once, read your writes, bounded."""

import asyncio
import errno
import os
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from datetime import UTC, datetime

import msgspec
import pytest

from invoker.activation import Accepted, Activation, Meter, Status
from invoker.errors import JournalFull
from invoker.model import Limits
from invoker.record.activations import Retention
from invoker.record.entries import Correction, TickEntry
from invoker.record.recorder import Recorder, RecordTooLarge

START_MS = 1_790_000_000_000
DAY_MS = 86_400_000


def an_activation(number: int = 1, **changes) -> Activation:
    values = {
        "activation_id": f"{number:032x}",
        "node": "n1",
        "namespace": "guest",
        "subject": "guest",
        "path": "guest/hello",
        "version": "0.0.1",
        "kind": "python:3",
        "limits": Limits(),
        "start_ms": START_MS + number,
        "end_ms": START_MS + number + 10,
        "status": Status.SUCCESS,
        "result": msgspec.Raw(b'{"answer": 42}'),
        "meter": Meter(billed_us=10_000, memory_limit_mib=256, cpu_us=7_000),
    }
    return Activation(**(values | changes))


def a_promise(number: int = 1, **changes) -> Accepted:
    values = {
        "activation_id": f"{number:032x}",
        "namespace": "guest",
        "subject": "guest",
        "path": "guest/hello",
        "payload": msgspec.Raw(b'{"name":"you"}'),
        "transaction": "t1",
        "accepted_ms": START_MS,
    }
    return Accepted(**(values | changes))


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0
        self.wall_ms = START_MS

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def open_recorder(tmp_path, clock):
    opened = []

    async def open_(**options):
        options.setdefault("segment_bytes", 256 * 1024)
        recorder = await Recorder.open(tmp_path, node="n1", clock=clock, wall_ms=lambda: clock.wall_ms, linger_s=0.001, **options)
        opened.append(recorder)
        return recorder

    yield open_
    for recorder in opened:
        if recorder._journal._thread.is_alive():
            await recorder.close()


def ledger_rows(state_dir, where="1", columns="subject, type, part") -> list[tuple]:
    rows = []
    for path in sorted((state_dir / "ledger").glob("*.db")):
        connection = sqlite3.connect(path)
        rows += connection.execute(f"SELECT {columns} FROM ledger WHERE {where} ORDER BY seq").fetchall()
        connection.close()
    return rows


# ---- one record


async def test_a_finished_record_is_read_back_at_once_and_after_a_restart(open_recorder):
    recorder = await open_recorder()
    activation = an_activation()
    recorder.finish(activation, logs=["a line"])
    for _ in range(2):
        assert await recorder.records.get("guest", activation.activation_id) == activation
        assert await recorder.records.get_logs("guest", activation.activation_id) == ["a line"]
        assert await recorder.records.list("guest") == [activation]
        assert await recorder.records.get("other", activation.activation_id) is None
        assert await recorder.records.get_logs("other", activation.activation_id) is None
        await recorder.close()
        recorder = await open_recorder()


async def test_exactly_one_finished_row_whatever_is_repeated(open_recorder, tmp_path):
    recorder = await open_recorder()
    first = an_activation()
    recorder.finish(first, logs=[])
    recorder.finish(msgspec.structs.replace(first, status=Status.INTERNAL_ERROR), logs=["later"])
    await recorder.records.count("guest")
    recorder.finish(msgspec.structs.replace(first, end_ms=0), logs=[])
    await recorder.records.count("guest")
    assert await recorder.records.get("guest", first.activation_id) == first
    await recorder.close()
    assert ledger_rows(tmp_path, "type = 'finished'") == [(first.activation_id, "finished", 0)]


async def test_a_repeat_that_starts_in_another_month_counts_once_too(open_recorder, tmp_path):
    recorder = await open_recorder()
    midnight = int(datetime(2026, 12, 1, tzinfo=UTC).timestamp() * 1000)
    recorder.finish(an_activation(start_ms=midnight - 1), logs=[])
    await recorder.records.count("guest")
    recorder.finish(an_activation(start_ms=midnight), logs=[])
    recorder.finish(an_activation(2, start_ms=midnight), logs=[])
    await recorder.close()
    assert [row[0] for row in ledger_rows(tmp_path, "type = 'finished'")] == [f"{1:032x}", f"{2:032x}"]
    assert [path.name for path in sorted((tmp_path / "ledger").glob("*.db"))] == ["2026-11.db", "2026-12.db"]


async def test_a_large_record_goes_the_other_way_and_comes_back_whole(open_recorder):
    recorder = await open_recorder()
    large = an_activation(result=msgspec.Raw(b'{"x":"' + b"y" * 100_000 + b'"}'))
    with pytest.raises(RecordTooLarge):
        recorder.finish(large)
    await recorder.finish_large(large, logs=["line"])
    assert await recorder.records.get("guest", large.activation_id) == large
    assert await recorder.records.list("guest") == [large]
    assert await recorder.records.get_logs("guest", large.activation_id) == ["line"]


async def test_a_cancelled_finish_large_is_written_nevertheless(open_recorder):
    recorder = await open_recorder()
    large = an_activation(result=msgspec.Raw(b'"' + b"y" * 100_000 + b'"'))
    task = asyncio.get_running_loop().create_task(recorder.finish_large(large, logs=[]))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await recorder.close()
    assert await (await open_recorder()).records.get("guest", large.activation_id) == large


def refuse_to_write(*_):
    raise sqlite3.OperationalError("database or disk is full")


async def test_a_result_that_nests_beyond_any_parser_does_no_harm(open_recorder):
    recorder = await open_recorder()
    recorder._writer._apply = refuse_to_write  # nothing reaches the databases: all of it must come from the journal
    deep = an_activation(result=msgspec.Raw(b"[" * 1500 + b"]" * 1500))
    recorder.finish(deep, logs=[])
    recorder.finish(an_activation(2, result=msgspec.Raw(b'"\xff\xfe"')), logs=[])
    await recorder.accepted(a_promise(3, payload=deep.result))
    await recorder.close()
    recorder = await open_recorder()
    assert await recorder.records.get("guest", deep.activation_id) == deep
    assert await recorder.records.count("guest") == 2
    assert [each.payload for each in recorder.recovery.unbegun] == [deep.result]


# ---- logs


async def test_a_record_is_hidden_until_its_logs_are_given(open_recorder):
    recorder = await open_recorder()
    activation = an_activation()
    recorder.finish(activation)
    assert await recorder.records.get("guest", activation.activation_id) is None
    assert await recorder.records.get_logs("guest", activation.activation_id) is None
    assert await recorder.records.list("guest") == []
    assert await recorder.records.count("guest") == 0
    recorder.logs(activation.activation_id, ["one", "two"])
    assert await recorder.records.get("guest", activation.activation_id) == activation
    assert await recorder.records.get_logs("guest", activation.activation_id) == ["one", "two"]
    assert await recorder.records.list("guest") == [activation]
    assert await recorder.records.get_logs("guest", activation.activation_id) == ["one", "two"]


async def test_a_record_waits_no_longer_than_two_seconds_for_its_logs(open_recorder, clock):
    recorder = await open_recorder()
    activation = an_activation()
    recorder.finish(activation)
    clock.now += 1.99
    assert await recorder.records.get("guest", activation.activation_id) is None
    clock.now += 0.02
    assert await recorder.records.list("guest") == [activation]
    assert await recorder.records.get_logs("guest", activation.activation_id) == []
    recorder.logs(activation.activation_id, ["a little late"])
    assert await recorder.records.get_logs("guest", activation.activation_id) == ["a little late"]
    recorder.logs(activation.activation_id, ["again"])
    assert await recorder.records.get_logs("guest", activation.activation_id) == ["a little late"]


async def test_many_lines_are_stored_beside_the_record(open_recorder):
    recorder = await open_recorder()
    lines = [f"{number} " + "x" * 100 for number in range(10_000)]
    activation = an_activation()
    recorder.finish(activation, logs=lines)
    assert await recorder.records.get_logs("guest", activation.activation_id) == lines
    assert await recorder.records.count("guest") == 1
    assert await recorder.records.get_logs("guest", activation.activation_id) == lines


# ---- lists


async def test_lists_and_counts_filter_by_name_and_start(open_recorder):
    recorder = await open_recorder()
    plain = [an_activation(number) for number in range(5)]
    packaged = an_activation(7, path="guest/pkg/hello")
    for activation in (*plain, packaged):
        recorder.finish(activation, logs=[])
    assert await recorder.records.list("guest") == [packaged, *reversed(plain)]
    assert await recorder.records.list("guest", limit=2, skip=1) == [plain[4], plain[3]]
    assert await recorder.records.list("guest", name="hello") == list(reversed(plain))
    assert await recorder.records.list("guest", name="pkg/hello") == [packaged]
    assert await recorder.records.list("guest", name="") == [packaged, *reversed(plain)]
    assert await recorder.records.list("guest", since_ms=START_MS + 1, upto_ms=START_MS + 3) == plain[3:0:-1]
    assert await recorder.records.count("guest", name="hello") == 5
    assert await recorder.records.count("guest", since_ms=START_MS + 4) == 2
    assert await recorder.records.count("guest", skip=4) == 2
    assert await recorder.records.count("guest", skip=40) == 0
    assert await recorder.records.list("nobody") == []


# ---- promises


async def test_a_promise_survives_and_is_recovered_until_it_is_kept(open_recorder):
    recorder = await open_recorder()
    for number in (1, 2, 3):
        await recorder.accepted(a_promise(number))
    await recorder.begun(a_promise(2).activation_id)
    recorder.finish(an_activation(3), logs=[])
    for _ in range(2):
        await recorder.close()
        recorder = await open_recorder()
        assert recorder.recovery.unbegun == [a_promise(1)]
        assert recorder.recovery.begun == [a_promise(2)]
    recorder.finish(an_activation(1), logs=[])
    recorder.finish(an_activation(2), logs=[])
    await recorder.close()
    recorder = await open_recorder()
    assert recorder.recovery == ([], [])


@pytest.mark.parametrize("step", ["accepted", "begun"])
async def test_what_is_promised_or_begun_is_on_the_disk_before_that_is_believed(open_recorder, monkeypatch, step):
    recorder = await open_recorder()
    journal, promise = recorder._journal, a_promise(1)
    if step == "begun":
        await recorder.accepted(promise)
    synced, may_go_on = [], asyncio.Event()

    async def wait_synced(position: int) -> None:
        synced.append(position)
        await may_go_on.wait()

    monkeypatch.setattr(journal, "wait_synced", wait_synced)
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        step_taken = recorder.accepted(promise) if step == "accepted" else recorder.begun(promise.activation_id)
        taken = group.create_task(step_taken)
        while not synced:
            assert not taken.done()
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not taken.done()
        assert synced == [journal.position], "all of it"
        may_go_on.set()


async def test_a_promise_with_a_large_payload_comes_back_whole(open_recorder):
    recorder = await open_recorder()
    promise = a_promise(payload=msgspec.Raw(b'{"x":"' + b"y" * 900_000 + b'"}'))
    await recorder.accepted(promise)
    await recorder.close()
    assert (await open_recorder()).recovery.unbegun == [promise]


async def test_an_idempotency_key_counts_for_a_day_over_restarts_too(open_recorder, clock):
    recorder = await open_recorder()
    await recorder.accepted(a_promise(1, idempotency_key="k", body_sha256="aa"))
    found = (a_promise(1).activation_id, "aa")
    assert recorder.find_idempotent("guest", "guest/hello", "k") == found
    assert recorder.find_idempotent("guest", "guest/other", "k") is None
    await recorder.close()
    clock.wall_ms += DAY_MS - 1
    recorder = await open_recorder()
    assert recorder.find_idempotent("guest", "guest/hello", "k") == found
    clock.wall_ms += 1
    assert recorder.find_idempotent("guest", "guest/hello", "k") is None
    await recorder.accepted(a_promise(2, idempotency_key="k", body_sha256="bb", accepted_ms=clock.wall_ms))
    await recorder.close()
    recorder = await open_recorder()
    assert recorder.find_idempotent("guest", "guest/hello", "k") == (a_promise(2).activation_id, "bb")


# ---- usage


async def test_usage_sums_by_namespace_and_action_and_keeps_tails_apart(open_recorder):
    recorder = await open_recorder()
    recorder.finish(an_activation(1), logs=[])
    recorder.finish(
        an_activation(2, status=Status.DEVELOPER_ERROR, meter=Meter(outcome="timeout", billed_us=1, cpu_us=5)), logs=[]
    )
    recorder.tail(an_activation(1).activation_id, "guest", 500, path="guest/hello")
    recorder.tail(an_activation(1).activation_id, "guest", 600, path="guest/hello")
    recorder.idle("c1", "guest", 20_000_000_000 * 3_600_000_000, cpu_us=3, path="guest/hello")  # 20 GB for an hour: > 2^63
    recorder.container("c1", "guest", "created")
    await recorder.correction(
        Correction(subject=an_activation(1).activation_id, namespace="guest", path="guest/hello", key=1, reason="r", author="a",
                   at_ms=START_MS, cpu_us=-100)
    )  # fmt: skip
    recorder.finish(an_activation(3, namespace="other", path="guest/pkg/shared"), logs=[])
    row, other = await recorder.records.usage(since_ms=START_MS - 1, upto_ms=START_MS + DAY_MS)
    assert (row.namespace, row.action, row.activations, row.failed) == ("guest", "guest/hello", 2, 1)
    assert row.outcomes == {"ok": 1, "timeout": 1}
    assert (row.billed_us, row.cpu_us, row.tail_cpu_us, row.idle_cpu_us) == (10_001, 7_005, 1_100, 3)
    assert row.memory_byte_us == 256 * 1024 * 1024 * 10_000
    assert row.idle_byte_us == 20_000_000_000 * 3_600_000_000
    assert (row.charged_cpu_us, row.corrections) == (7_005 + 1_100 - 100, 1)
    assert (other.namespace, other.action, other.activations) == ("other", "guest/pkg/shared", 1)
    assert await recorder.records.usage(namespace="other", since_ms=START_MS, upto_ms=START_MS + 10) == [other]
    assert await recorder.records.usage(since_ms=START_MS + 3, upto_ms=START_MS + 3) == []


async def test_a_tail_is_written_within_a_second_and_at_the_latest_at_close(open_recorder, tmp_path):
    recorder = await open_recorder()
    recorder.tail("a" * 32, "guest", 500)
    assert recorder._journal.position == 0
    recorder.finish(an_activation(), logs=[])
    assert recorder._journal.position == 1  # both in one record
    recorder.tail("b" * 32, "guest", 500)
    async with asyncio.timeout(30):
        while recorder._journal.position < 2:
            await asyncio.sleep(0.05)
    recorder.tail("c" * 32, "guest", 500)
    await recorder.close()
    assert [row[0][0] for row in ledger_rows(tmp_path, "type = 'tail'")] == ["a", "b", "c"]


# ---- a full disk, a slow disk


class Disk:
    def __init__(self) -> None:
        self.room = 10**9

    def allocate(self, fd: int, offset: int, size: int) -> None:
        if size > self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        os.posix_fallocate(fd, offset, size)


async def test_on_a_full_disk_new_work_is_refused_and_running_work_is_recorded(open_recorder, monkeypatch):
    disk = Disk()
    recorder = await open_recorder(allocate=disk.allocate)
    await recorder.accepted(a_promise(0))
    disk.room = 0

    def full(*_):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(recorder._writer._ledger, "apply", full)
    written = 0
    while recorder.room():
        written += 1
        recorder.finish(an_activation(written, result=msgspec.Raw(b'"' + b"x" * 3000 + b'"')), logs=[])
    with pytest.raises(JournalFull):
        await recorder.accepted(a_promise(10**6, idempotency_key="k"))
    assert recorder.find_idempotent("guest", "guest/hello", "k") is None
    large = an_activation(10**6, result=msgspec.Raw(b'"' + b"x" * 300_000 + b'"'))
    await recorder.finish_large(large, logs=[])
    kept = await recorder.records.get("guest", large.activation_id)
    assert b"not kept" in bytes(kept.result)
    assert kept.meter == large.meter
    monkeypatch.undo()
    disk.room = 10**9
    async with asyncio.timeout(10):
        while await recorder.records.count("guest") < written + 1 or not recorder.room():
            await asyncio.sleep(0.05)


async def test_a_writer_that_falls_behind_stops_admission_and_reports_its_lag(open_recorder, clock):
    recorder = await open_recorder(max_queued=10)
    hold = threading.Event()
    real = recorder._writer._apply
    recorder._writer._apply = lambda entries, position: (hold.wait(10), real(entries, position))
    for number in range(10):
        assert recorder.room()
        recorder.finish(an_activation(number), logs=[])
    assert not recorder.room()
    clock.now += 3
    assert recorder.lag() == (10, 3.0)
    hold.set()
    assert await recorder.records.count("guest") == 10
    assert recorder.room()
    assert recorder.lag() == (0, 0.0)


async def test_no_thread_survives_close(open_recorder):
    before = set(threading.enumerate())
    recorder = await open_recorder()
    recorder.finish(an_activation(), logs=[])
    await recorder.records.list("guest")
    await recorder.close()
    for thread in set(threading.enumerate()) - before:  # a reader's thread tells of its end just before it ends
        thread.join(5)
        assert not thread.is_alive()


# ---- kill -9

CHILD = textwrap.dedent("""
    import asyncio, os, sys, time
    from pathlib import Path
    import msgspec
    from invoker.activation import Accepted, Activation, Meter, Status
    from invoker.model import Limits
    from invoker.record.recorder import Recorder

    NOW = time.time_ns() // 1_000_000

    def activation(activation_id, size):
        return Activation(
            activation_id=activation_id, node="n1", namespace="guest", subject="guest", path="guest/hello", version="0.0.1",
            kind="python:3", limits=Limits(), start_ms=NOW, end_ms=NOW + 10, status=Status.SUCCESS,
            result=msgspec.Raw(b'"' + b"x" * size + b'"'), meter=Meter(billed_us=1000))

    def say(word, activation_id):
        os.write(1, f"{word} {activation_id}\\n".encode())  # one write: what was said was said

    async def caller(recorder, number):
        while True:
            blocking, large = os.urandom(32).hex()[:32], os.urandom(32).hex()[:32]
            recorder.finish(activation(blocking, 200), logs=["a line"])
            say("finished", blocking)
            recorder.tail(blocking, "guest", 10)
            await recorder.finish_large(activation(large, 9000), logs=[])
            say("finished", large)
            promised = os.urandom(16).hex()
            await recorder.accepted(Accepted(
                activation_id=promised, namespace="guest", subject="guest", path="guest/hello",
                payload=msgspec.Raw(b"{}"), transaction="t", accepted_ms=NOW))
            say("accepted", promised)
            if number % 2:
                await recorder.begun(promised)
                say("begun", promised)
                recorder.finish(activation(promised, 10), logs=[])
                say("finished", promised)

    async def main():
        recorder = await Recorder.open(Path(sys.argv[1]), node="n1", segment_bytes=1 << 20)
        for each in (*recorder.recovery.unbegun, *recorder.recovery.begun):
            recorder.finish(activation(each.activation_id, 10), logs=[])
            say("finished", each.activation_id)
        say("ready", "-")
        async with asyncio.TaskGroup() as group:
            for number in range(8):
                group.create_task(caller(recorder, number))

    asyncio.run(main())
""")


async def test_ten_rounds_of_kill_9_lose_nothing_and_repeat_nothing(tmp_path):
    said: dict[str, set[str]] = {"accepted": set(), "begun": set(), "finished": set()}
    rng = random.Random(3)
    for _ in range(10):
        child = subprocess.Popen([sys.executable, "-c", CHILD, tmp_path], stdout=subprocess.PIPE)
        after = rng.randint(5, 400)
        for count, line in enumerate(child.stdout):
            word, activation_id = line.decode().split()
            if word != "ready":
                said[word].add(activation_id)
            if count == after:
                child.send_signal(signal.SIGKILL)
        child.stdout.close()
        child.wait()
        assert child.returncode == -signal.SIGKILL

        recorder = await Recorder.open(tmp_path, node="n1", segment_bytes=1 << 20)
        unbegun = [each.activation_id for each in recorder.recovery.unbegun]
        begun = [each.activation_id for each in recorder.recovery.begun]
        total = await recorder.records.count("guest")
        await recorder.close()
        finished = [row[0] for row in ledger_rows(tmp_path, "type = 'finished'")]
        assert len(finished) == len(set(finished)) == total
        assert said["finished"] <= set(finished)
        waiting = {*unbegun, *begun}
        assert len(unbegun) + len(begun) == len(waiting)
        assert not waiting & set(finished)
        assert said["accepted"] <= waiting | set(finished)
        assert said["begun"] - set(finished) <= set(begun)
    assert len(said["finished"]) > 100
    tails = [row[0] for row in ledger_rows(tmp_path, "type = 'tail'")]
    assert len(tails) == len(set(tails))


# ---- triggers

FOREVER = Retention(records_s=10**9, results_s=10**9, logs_s=10**9)


def a_fire(number: int = 100, **changes) -> Activation:
    return an_activation(number, path="guest/t", kind="trigger", result=msgspec.Raw(b'{"x": 1.10}'), **changes)


async def fire(recorder: Recorder, number: int = 100, promised=(1, 2), tick: TickEntry | None = None) -> None:
    await recorder.fired(
        a_fire(number),
        lines=["one", "two"],
        promised=[a_promise(each) for each in promised],
        payload=msgspec.Raw(b'{"y":2}'),
        tick=tick,
    )


@pytest.mark.parametrize("apart", [False, True])
async def test_fired_trigger_is_read_at_once_and_what_it_promised_is_run_after_a_crash(tmp_path, apart):
    recorder = await Recorder.open(tmp_path, node="n1", apart=apart, retention=FOREVER)
    try:
        await fire(recorder, tick=TickEntry("alarm", START_MS, 3))
        assert (await recorder.records.get("guest", f"{100:032x}")).result == msgspec.Raw(b'{"x": 1.10}')
        assert await recorder.records.get_logs("guest", f"{100:032x}") == ["one", "two"]
        assert [each.path for each in await recorder.records.list("guest", name="t")] == ["guest/t"]
        assert not recorder._uncommitted.records
        recorder.finish(an_activation(1), logs=[])
    finally:
        await recorder.close()
    recorder = await Recorder.open(tmp_path, node="n1", apart=apart, retention=FOREVER)
    try:
        (left,) = recorder.recovery.unbegun
        assert (left.activation_id, bytes(left.payload)) == (f"{2:032x}", b'{"y":2}')
        assert recorder.ticks == {"alarm": TickEntry("alarm", START_MS, 3)}
        assert await recorder.records.get_logs("guest", f"{100:032x}") == ["one", "two"]
        billed = [row.action for row in await recorder.records.usage(since_ms=0, upto_ms=START_MS * 2)]
        assert billed == ["guest/hello"], "a trigger is not billed"
    finally:
        await recorder.close()


async def test_fire_larger_than_a_page_is_all_or_nothing_too(tmp_path):
    recorder = await Recorder.open(tmp_path, node="n1")
    try:
        text = msgspec.Raw(b'{"y":"' + b"y" * 900_000 + b'"}')
        promised = [a_promise(each) for each in range(1, 21)]
        await recorder.fired(a_fire(), lines=[], promised=promised, payload=text, tick=None)
    finally:
        await recorder.close()
    recorder = await Recorder.open(tmp_path, node="n1")
    try:
        assert len(recorder.recovery.unbegun) == 20
        assert all(len(each.payload) == len(text) for each in recorder.recovery.unbegun)
    finally:
        await recorder.close()


async def test_refused_fire_promises_nothing(tmp_path):
    recorder = await Recorder.open(tmp_path, node="n1", max_queued=0)
    try:
        with pytest.raises(JournalFull):
            await fire(recorder, tick=TickEntry("alarm", START_MS, 1))
        assert await recorder.records.get("guest", f"{100:032x}") is None
    finally:
        await recorder.close()
    recorder = await Recorder.open(tmp_path, node="n1")
    try:
        assert recorder.recovery.unbegun == []
        assert recorder.ticks == {}
    finally:
        await recorder.close()


async def test_how_far_an_alarm_came_is_known_until_it_is_forgotten(tmp_path):
    recorder = await Recorder.open(tmp_path, node="n1")
    try:
        for number in (1, 2, 3):
            await recorder.ticked(TickEntry("a", START_MS + number, number))
            await recorder.ticked(TickEntry("b", START_MS + number, number))
        recorder.forget_alarm("b")
    finally:
        await recorder.close()
    recorder = await Recorder.open(tmp_path, node="n1")
    try:
        assert recorder.ticks == {"a": TickEntry("a", START_MS + 3, 3)}
    finally:
        await recorder.close()


async def test_fire_of_a_namespace_that_keeps_no_records_promises_and_has_none(tmp_path):
    recorder = await Recorder.open(tmp_path, node="n1")
    try:
        await recorder.fired(a_fire(), lines=["one"], promised=[a_promise()], payload=msgspec.Raw(b"{}"), tick=None, stored=False)
        assert await recorder.records.get("guest", f"{100:032x}") is None
        assert await recorder.records.count("guest") == 0
    finally:
        await recorder.close()
    recorder = await Recorder.open(tmp_path, node="n1")
    try:
        assert [each.activation_id for each in recorder.recovery.unbegun] == [f"{1:032x}"]
    finally:
        await recorder.close()
