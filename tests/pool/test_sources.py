"""Directories that are there, that are not, and that do not answer: in these is a pipe, which hangs whoever reads it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import pytest

from pool.errors import MountUnavailable
from pool.model import Mount
from pool.sources import Sources

#: Prints the path once somebody has written to the pipe in it, as a directory of a dead file server answers once it is back.
HANGING = 'read word <"$0/gate"; echo "$0"'
DEADLINE_S = 30.0


def mount(path: object, *, read_only: bool = True) -> Mount:
    return Mount(source=str(path), target="/data", read_only=read_only)


def hanging(path: str) -> list[str]:
    return ["/bin/sh", "-c", HANGING, path]


@pytest.fixture
async def make_sources(tmp_path):
    """Make looks at directories that a made-up table has as shared; they end with the test."""
    made = []
    (tmp_path / "mountinfo").write_text("22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n")

    def make(**options) -> Sources:
        made.append(Sources(mountinfo=tmp_path / "mountinfo", **{"answer_within_s": DEADLINE_S, **options}))
        return made[-1]

    yield make
    for each in made:
        each.close()


class Gate:
    """A pipe that hangs the looks at the directory it is in."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._fd = os.open(path, os.O_RDWR)  # one that is open in both directions keeps what was written

    def open(self) -> None:
        """Let one look go on, now or when it comes."""
        os.write(self._fd, b"go\n")

    def close(self) -> None:
        """Let go of it."""
        os.close(self._fd)


@pytest.fixture
def gate(tmp_path):
    with contextlib.closing(Gate(tmp_path / "gate")) as gate:
        yield gate


async def test_directories_that_answer_are_told_when_what_is_mounted_below_them_later_can_appear_inside(make_sources, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    mounts = [mount(tmp_path / "a"), mount(tmp_path / "b", read_only=False)]
    assert await make_sources().wait_shared(mounts) == {str(tmp_path / "a")}


async def test_nothing_is_started_where_nothing_is_mounted(make_sources):
    def never(path: str) -> list[str]:
        raise AssertionError(path)

    assert await make_sources(command=never).wait_shared(()) == frozenset()


async def test_a_directory_that_is_not_there_is_named_with_the_reason(make_sources, tmp_path):
    with pytest.raises(MountUnavailable, match=r"site mount \S+/absent cannot be used: No such file or directory"):
        await make_sources().wait_shared([mount(tmp_path), mount(tmp_path / "absent")])


async def test_a_directory_that_does_not_answer_is_told_at_the_deadline_and_the_next_to_come_need_not_wait(
    make_sources, tmp_path, gate
):
    started = []

    def command(path: str) -> list[str]:
        started.append(path)
        return hanging(path)

    sources = make_sources(command=command, answer_within_s=0.2)
    for _ in range(3):
        with pytest.raises(MountUnavailable, match="has not answered for"):
            await sources.wait_shared([mount(tmp_path)])
    assert started == [str(tmp_path)]


async def test_a_directory_that_answers_again_is_used_again(make_sources, tmp_path, gate):
    sources = make_sources(command=hanging)
    for _ in range(2):
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(sources.wait_shared([mount(tmp_path)]))
            gate.open()
        assert waiting.result() == {str(tmp_path)}


async def test_a_look_that_hangs_for_too_long_is_given_up_and_another_one_begun(make_sources, tmp_path, gate):
    commands = [hanging(str(tmp_path)), ["/bin/echo", str(tmp_path)]]

    def command(_: str) -> list[str]:
        return commands.pop(0) if len(commands) > 1 else commands[0]

    sources = make_sources(command=command, answer_within_s=0.5, give_up_after_s=0.5)
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                found = await sources.wait_shared([mount(tmp_path)])
            except MountUnavailable:
                continue
            break
    assert found == {str(tmp_path)}


async def test_a_call_that_is_cancelled_leaves_the_look_to_the_others(make_sources, tmp_path, gate):
    sources = make_sources(command=hanging)
    async with asyncio.TaskGroup() as group:
        first, second = (group.create_task(sources.wait_shared([mount(tmp_path)])) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        gate.open()
    assert (first.cancelled(), second.result()) == (True, {str(tmp_path)})


async def test_a_command_that_cannot_be_run_is_told(make_sources, tmp_path):
    with pytest.raises(MountUnavailable, match="cannot be looked at: No such file"):
        await make_sources(command=lambda _: [str(tmp_path / "absent")]).wait_shared([mount(tmp_path)])


async def test_closing_kills_what_hangs_and_tells_who_waits(make_sources, tmp_path, gate):
    sources = make_sources(command=lambda path: ["/bin/sh", "-c", 'echo $$ >"$0/pid"; read word <"$0/gate"', path])

    async def close_once_it_hangs() -> int:
        while not (tmp_path / "pid").exists() or not (text := (tmp_path / "pid").read_text()).endswith("\n"):
            await asyncio.sleep(0.01)
        sources.close()
        return int(text)

    async with asyncio.TaskGroup() as group:
        closing = group.create_task(close_once_it_hangs())
        with pytest.raises(MountUnavailable, match="stopping"):
            await sources.wait_shared([mount(tmp_path)])
    found = os.waitid(os.P_PID, closing.result(), os.WEXITED)
    assert found is not None
    assert found.si_status == signal.SIGKILL


async def test_what_is_the_daemons_own_is_not_looked_at_and_what_is_beside_it_is(make_sources, tmp_path):
    looked: list[str] = []

    def command(source: str) -> list[str]:
        looked.append(source)
        return ["/bin/echo", source]

    mounts = [mount(tmp_path / "state" / "code" / "1"), mount(tmp_path / "state-of-others")]
    sources = make_sources(own=tmp_path / "state", command=command)
    assert await sources.wait_shared(mounts) == {each.source for each in mounts}
    assert looked == [str(tmp_path / "state-of-others")]
