from __future__ import annotations

import asyncio
import fcntl
import os
import re
import tracemalloc
from collections.abc import AsyncIterator

import pytest

from pool.fifo import PIPE_BYTES
from pool.logs import READ_BYTES, TURN_FRAMES, AttachedLogReader, LogCollection, PipeLogReader, ReadingTurns, format_line
from pool.model import ActivationId

ONE, TWO = ActivationId("1" * 32), ActivationId("2" * 32)
#: What upstream's tests match.
LINE = re.compile(r"\d+-\d+-\d+T\d+:\d+:\d+\.\d+Z\s+(stdout|stderr): (.*)")


def frame(activation: str, seq: int, stream: str, text: str, time_us: int = 1_700_000_000_123_456) -> bytes:
    return f"{activation} {seq} {stream} {time_us} {text}\n".encode()


def texts(lines: list[str]) -> list[tuple[str, str]]:
    return [match.groups() for line in lines if (match := LINE.fullmatch(line))]  # type: ignore[misc]


def test_line_has_the_form_that_clients_strip():
    line = format_line(1_700_000_000_123_456, "stdout", "hello")
    assert line == "2023-11-14T22:13:20.123456000Z stdout: hello"
    assert line.index(" ") == 30


async def test_lines_are_sorted_to_their_activations_and_others_are_counted():
    read, write = os.pipe()
    os.set_blocking(read, False)
    late: list[int] = []
    reader = PipeLogReader(read, asyncio.get_running_loop(), on_late=late.append)
    reader.begin(ONE, limit_bytes=1000)
    reader.begin(TWO, limit_bytes=1000)
    os.write(
        write, frame(ONE, 0, "o", "a") + frame(TWO, 0, "e", "b") + frame("3" * 32, 0, "o", "whose?") + frame(ONE, 1, "o", "c")
    )
    reader.drain()
    assert texts(reader.end(ONE)) == [("stdout", "a"), ("stdout", "c")]
    assert texts(reader.end(TWO)) == [("stderr", "b")]
    assert sum(late) == 1
    reader.close()
    os.close(read)
    os.close(write)


async def test_long_line_is_put_together_also_when_its_end_never_comes():
    read, write = os.pipe()
    os.set_blocking(read, False)
    reader = PipeLogReader(read, asyncio.get_running_loop())
    reader.begin(ONE, limit_bytes=1000)
    os.write(
        write,
        frame(ONE, 0, "O", "long ") + frame(ONE, 1, "e", "between") + frame(ONE, 2, "o", "line") + frame(ONE, 3, "O", "cut"),
    )
    reader.drain()
    assert texts(reader.end(ONE)) == [("stderr", "between"), ("stdout", "long line"), ("stdout", "cut")]
    reader.close()
    os.close(read)
    os.close(write)


@pytest.mark.parametrize("complete", [True, False])
async def test_what_a_line_was_so_far_counts_where_neither_its_end_nor_an_answer_comes(complete):
    read, write = os.pipe()
    os.set_blocking(read, False)
    late: list[int] = []
    reader = PipeLogReader(read, asyncio.get_running_loop(), on_late=late.append)
    reader.begin(ONE, limit_bytes=1000)
    os.write(
        write, frame(ONE, 0, "h", "fir") + frame(ONE, 0, "o", "first") + frame(ONE, 1, "h", "seco") + frame(ONE, 1, "h", "second")
    )
    os.write(write, frame(ONE, 1, "E", "long, ") + frame(ONE, 2, "H", "longer") + frame(TWO, 0, "h", "nobody's"))
    assert reader.drain()
    lines = texts(reader.end(ONE, complete=complete))
    if complete:  # its runtime says that there was no more than what it had written
        assert lines == [("stdout", "first"), ("stderr", "long, ")]
    else:
        assert lines[:-1] == [("stdout", "first"), ("stderr", "long, longer"), ("stdout", "second")]
        assert "Log data might be missing" in lines[-1][1]
    reader.close()
    os.close(read)
    os.close(write)


def test_limit_is_kept_and_the_last_line_says_so():
    collection = LogCollection(60)
    for _ in range(5):
        collection.add("stdout", 0, b"1234567890" * 4)
    lines = texts(collection.finish())
    assert lines[:2] == [("stdout", "1234567890" * 4), ("stdout", "1234567890" * 2)]
    assert "Logs were truncated" in lines[2][1]
    assert "exceeds the limit of 60 bytes." in lines[2][1]
    assert len(lines) == 3


def test_lines_without_text_are_bounded_too():
    collection = LogCollection(1600)
    for _ in range(10_000):
        collection.add("stdout", 0, b"")
    lines = texts(collection.finish())
    assert lines[:-1] == [("stdout", "")] * 100
    assert "exceeds the limit of 1600 bytes." in lines[-1][1]


async def test_what_comes_beyond_the_limit_is_not_even_read_as_lines_and_the_next_activation_has_all_of_its(monkeypatch):
    read, write = os.pipe()
    os.set_blocking(read, False)
    reader = PipeLogReader(read, asyncio.get_running_loop())
    reader.begin(ONE, limit_bytes=100)
    os.write(write, b"".join(frame(ONE, seq, "o", "x" * 60) for seq in range(2)))
    reader.drain()
    with monkeypatch.context() as patched:
        patched.setattr(reader, "_take", lambda _frame: pytest.fail("somebody pays for it"))
        os.write(write, b"".join(frame(ONE, seq, "o", "x" * 60) for seq in range(2, 500)))
        reader.drain()
    reader.begin(TWO, limit_bytes=100)
    lines = texts(reader.end(ONE))
    assert [len(text) for _, text in lines[:2]] == [60, 40]
    assert "exceeds the limit of 100 bytes." in lines[2][1]
    os.write(write, frame(ONE, 500, "o", "late") + frame(TWO, 0, "o", "hello"))
    reader.drain()
    assert texts(reader.end(TWO)) == [("stdout", "hello")]
    reader.close()
    os.close(read)
    os.close(write)


def test_turns_of_all_that_write_without_end_take_a_quarter_of_the_time():
    turns = ReadingTurns()
    assert turns.next_at(0.01, now=100.0) == pytest.approx(100.03)
    assert turns.next_at(0.01, now=100.01) == pytest.approx(100.07), "another container, meanwhile"
    assert turns.next_at(0.01, now=200.0) == pytest.approx(200.03), "what was not used is not saved up"


async def test_a_pipe_with_more_in_it_than_a_turns_worth_waits_for_its_next_turn_and_all_comes(monkeypatch):
    turns = ReadingTurns()
    asked: list[float] = []
    go_on = asyncio.Event()
    loop = asyncio.get_running_loop()

    def next_at(took_s: float, now: float) -> float:
        asked.append(took_s)
        if go_on.is_set() and len(asked) == 2:
            os.write(write, frame(ONE, 3000, "o", "after the answer") * 3000)
        return now if go_on.is_set() else now + 3600.0

    monkeypatch.setattr(turns, "next_at", next_at)
    read, write = os.pipe()
    os.set_blocking(read, False)
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    written = b"".join(frame(ONE, seq, "o", "x" * 100) for seq in range(3000))
    os.write(write, written)
    reader = PipeLogReader(read, loop, turns=turns)
    collection = reader.begin(ONE, limit_bytes=1_000_000)
    async with asyncio.timeout(10):
        while not asked:
            await asyncio.sleep(0)
        for _ in range(10):
            await asyncio.sleep(0)
        assert len(asked) == 1
        first = len(collection.lines)
        assert TURN_FRAMES <= first < TURN_FRAMES + READ_BYTES // 100, "others have their turns first"
        assert not reader.drain(), "it has answered"
        assert first < len(collection.lines) < 3000, "nor does it hold them up for its end"
        go_on.set()
        await reader.wait_complete(loop.time() + 3600)
        lines = texts(reader.end(ONE))
        assert 3000 <= len(lines) < 6000, "what is written meanwhile is not waited for"
        assert lines[:3000] == [("stdout", "x" * 100)] * 3000
    reader.close()
    os.close(read)
    os.close(write)


async def test_lines_that_have_not_had_their_turn_at_the_deadline_are_read_at_once(monkeypatch):
    turns = ReadingTurns()
    monkeypatch.setattr(turns, "next_at", lambda _took_s, now: now + 3600.0)
    read, write = os.pipe()
    os.set_blocking(read, False)
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    reader = PipeLogReader(read, loop := asyncio.get_running_loop(), turns=turns)
    reader.begin(ONE, limit_bytes=1_000_000)
    os.write(write, b"".join(frame(ONE, seq, "o", f"{seq}") for seq in range(3000)))
    assert not reader.drain()
    await reader.wait_complete(loop.time())
    assert texts(reader.end(ONE)) == [("stdout", f"{seq}") for seq in range(3000)]
    reader.close()
    os.close(read)
    os.close(write)


async def test_a_pipe_of_few_long_lines_is_empty_after_one_turn():
    read, write = os.pipe()
    os.set_blocking(read, False)
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    reader = PipeLogReader(read, asyncio.get_running_loop())
    reader.begin(ONE, limit_bytes=PIPE_BYTES)
    os.write(write, frame(ONE, 0, "o", "x" * 3900) * 200)
    assert reader.drain()
    assert len(reader.end(ONE)) == 200
    reader.close()
    os.close(read)
    os.close(write)


async def test_what_is_in_the_pipe_of_nobody_is_counted_and_not_taken_apart(monkeypatch):
    read, write = os.pipe()
    os.set_blocking(read, False)
    late: list[int] = []
    reader = PipeLogReader(read, asyncio.get_running_loop(), on_late=late.append)
    monkeypatch.setattr(reader, "_take", lambda _frame: pytest.fail("it is nobody's"))
    os.write(write, frame(ONE, 0, "o", "late") * 300)
    reader.close()
    assert sum(late) == 300
    os.close(read)
    os.close(write)


async def test_bare_newlines_in_the_pipe_have_turns_too():
    read, write = os.pipe()
    os.set_blocking(read, False)
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    reader = PipeLogReader(read, asyncio.get_running_loop())
    reader.begin(ONE, limit_bytes=1000)
    os.write(write, b"\n" * (2 * READ_BYTES))
    assert not reader.drain()
    reader.close()
    os.close(read)
    os.close(write)


def test_bytes_that_are_no_text_are_replaced_and_not_left_out():
    collection = LogCollection(1000)
    collection.add("stdout", 0, b"a\xff\xfeb")
    collection.begin_line("stderr", 0, "ä".encode()[:1])
    assert texts(collection.finish()) == [("stdout", "a\ufffd\ufffdb"), ("stderr", "\ufffd")]


def test_limit_zero_collects_nothing():
    collection = LogCollection(0)
    collection.add("stdout", 0, b"x")
    assert collection.finish() == []


def test_lost_lines_are_said_to_be_lost():
    collection = LogCollection(10)
    collection.dropped = 7
    assert "7 lines were lost" in collection.finish()[-1]


async def test_a_line_in_very_many_pieces_takes_no_more_than_its_limit_and_no_time_that_grows_with_them():
    read, write = os.pipe()
    os.set_blocking(read, False)
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    reader = PipeLogReader(read, asyncio.get_running_loop())
    collection = reader.begin(ONE, limit_bytes=5000)
    pieces = b"".join(frame(ONE, 0, "O", text) for text in ("x", "") * 6000)
    os.write(write, pieces)
    await reader.wait_complete(0.0)
    assert sum(len(text) for _, text in collection.partial.values()) == 5001
    lines = texts(reader.end(ONE))
    assert lines[0] == ("stdout", "x" * 5000)
    assert "exceeds the limit of 5000 bytes." in lines[1][1]
    reader.close()
    os.close(read)
    os.close(write)


async def stream(*chunks: tuple[str, bytes]) -> AsyncIterator[tuple[str, bytes]]:
    for chunk in chunks:
        yield chunk
        await asyncio.sleep(0)


async def test_attached_stream_is_complete_with_both_sentinels_which_never_appear():
    loop = asyncio.get_running_loop()
    reader = AttachedLogReader(loop)
    reader.begin(ONE, limit_bytes=1000)
    sentinel = b"XXX_THE_END_OF_A_WHISK_ACTIVATION_XXX\n"
    await reader.read(stream(("stdout", b"he"), ("stdout", b"llo\n" + sentinel), ("stderr", b"oops\n" + sentinel)))
    await reader.wait_complete(loop.time() + 60)
    assert texts(reader.end(ONE)) == [("stdout", "hello"), ("stderr", "oops")]


async def test_lines_of_an_attached_stream_go_to_all_that_run_at_the_same_time_and_say_so():
    loop = asyncio.get_running_loop()
    reader = AttachedLogReader(loop)
    reader.begin(ONE, limit_bytes=1000)
    await reader.read(stream(("stdout", b"alone\n")))
    reader.begin(TWO, limit_bytes=1000)
    sentinel = b"XXX_THE_END_OF_A_WHISK_ACTIVATION_XXX\n"
    await reader.read(stream(("stdout", b"both\n" + sentinel), ("stderr", sentinel)))
    await reader.wait_complete(loop.time() + 60)
    notice = ("stderr", "Other activations ran in this container at the same time: lines of theirs may be among these.")
    assert texts(reader.end(ONE)) == [("stdout", "alone"), ("stdout", "both"), notice]
    assert texts(reader.end(TWO)) == [("stdout", "both"), notice]
    reader.begin(ONE, limit_bytes=1000)
    await reader.read(stream(("stdout", b"alone again\n")))
    assert texts(reader.end(ONE)) == [("stdout", "alone again")]


async def test_attached_stream_without_sentinels_is_complete_when_it_is_quiet():
    loop = asyncio.get_running_loop()
    reader = AttachedLogReader(loop)
    reader.begin(ONE, limit_bytes=1000)
    open_end = asyncio.Event()

    async def talk() -> AsyncIterator[tuple[str, bytes]]:
        yield "stdout", b"no newline"
        await open_end.wait()

    async with asyncio.TaskGroup() as group:
        group.create_task(reader.read(talk()))
        await reader.wait_complete(loop.time() + 60)
        open_end.set()
    assert texts(reader.end(ONE)) == [("stdout", "no newline")]


async def test_an_attached_line_without_end_takes_no_more_memory_than_its_limit():
    loop = asyncio.get_running_loop()
    reader = AttachedLogReader(loop)
    reader.begin(ONE, limit_bytes=1000)
    piece = b"y" * 65_536
    tracemalloc.start()
    await reader.read(stream(*[("stdout", piece)] * 100))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 2 * len(piece), "of more than six megabytes"
    await reader.wait_complete(loop.time() + 60)
    lines = texts(reader.end(ONE))
    assert lines[0] == ("stdout", "y" * 1000)
    assert "exceeds the limit of 1000 bytes." in lines[1][1]
    assert len(lines) == 2


async def test_what_an_attached_container_says_between_activations_is_nobodys_and_the_next_line_is_whole():
    loop = asyncio.get_running_loop()
    late: list[int] = []
    reader = AttachedLogReader(loop, on_late=late.append)
    await reader.read(stream(("stdout", b"z" * 1000), ("stdout", b"\n")))
    reader.begin(ONE, limit_bytes=1000)
    await reader.read(stream(("stdout", b"n" * 600), ("stdout", b"n" * 300 + b"\n")))
    assert sum(late) == 1
    assert texts(reader.end(ONE)) == [("stdout", "n" * 900)]


async def test_draining_ends_while_others_go_on_to_write(monkeypatch):
    """A pipe that is full again whenever it was read: its user is as fast as we are."""
    reads = []

    def endless(_fd: int, buffers: list[bytearray]) -> int:
        reads.append(len(buffers[0]))
        assert sum(reads) <= 4 * PIPE_BYTES, "it would have read for ever"
        buffers[0][:] = b"x" * len(buffers[0])
        return len(buffers[0])

    read, write = os.pipe()
    reader = PipeLogReader(read, asyncio.get_running_loop())
    reader.begin(ONE, limit_bytes=1000)
    with monkeypatch.context() as patched:
        patched.setattr("pool.logs.os.readv", endless)
        reader.drain()
    assert sum(reads) >= PIPE_BYTES
    os.close(write)
    reader.close()
    os.close(read)


async def test_lines_that_a_runtime_could_not_write_are_told():
    read, write = os.pipe()
    told: list[int] = []
    reader = PipeLogReader(read, asyncio.get_running_loop(), on_dropped=told.append)
    reader.begin(ONE, limit_bytes=1000)
    reader.note_dropped(ONE, 7)
    reader.note_dropped(TWO, 8)  # nobody's
    assert told == [7]
    os.close(write)
    reader.close()
    os.close(read)


async def test_lines_of_an_action_without_an_answer_end_with_a_warning():
    read, write = os.pipe()
    os.set_blocking(read, False)
    reader = PipeLogReader(read, asyncio.get_running_loop())
    reader.begin(ONE, limit_bytes=1000)
    os.write(write, frame(ONE, 0, "o", "last words"))
    reader.drain()
    lines = texts(reader.end(ONE, complete=False))
    assert lines[0] == ("stdout", "last words")
    assert lines[1][0] == "stderr"
    assert lines[1][1].endswith("Log data might be missing.")
    reader.close()
    os.close(read)
    os.close(write)
