"""The kernel's word that a cgroup has run out of memory: for real, in scratch cgroups of both versions."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from pool.cgroup import mount_points
from pool.overflow import OverflowWatch
from pool.parent import MemoryGroup, NoParentCgroup, find_memory_group, make_limited

MIB = 2**20
GREEDY = "b = bytearray(b'x') * (96 << 20)"

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root")


@pytest.fixture
def group() -> Iterator[MemoryGroup]:
    """A scratch cgroup of 32 MiB in the hierarchy of the memory controller, with another one below it."""
    try:
        group = find_memory_group(f"invokerd-test-{uuid.uuid4().hex[:8]}", driver="cgroupfs")
        make_limited(group, 32 * MIB)
    except NoParentCgroup as error:
        pytest.skip(f"this machine has no memory cgroups for us: {error}")
    with contextlib.suppress(OSError):  # version 2: what is below is counted likewise
        (group.directory / "cgroup.subtree_control").write_text("+memory")
    inner = group.directory / "inner"
    inner.mkdir()
    yield group
    for directory in (inner, group.directory):
        with contextlib.suppress(OSError):
            directory.rmdir()


def eat(directory: Path) -> int:
    """Run a process below a cgroup that takes more memory than there is; return how it ended."""
    code = f"open({str(directory / 'cgroup.procs')!r}, 'w').write('0')\n{GREEDY}"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode


@needs_root
async def test_the_end_of_a_process_below_is_told_each_time(group: MemoryGroup):
    heard = asyncio.Event()
    watch = OverflowWatch.open(group, asyncio.get_running_loop(), heard.set)
    assert watch is not None
    for _ in range(2):
        assert not heard.is_set()
        assert await asyncio.to_thread(eat, group.directory / "inner") == -9
        async with asyncio.timeout(30):
            await heard.wait()
        await settled()
        heard.clear()
    watch.close()
    watch.close()
    assert watch.closed


@needs_root
async def test_what_runs_out_of_its_own_memory_below_is_none_of_its_parents_business(group: MemoryGroup):
    heard = asyncio.Event()
    watch = OverflowWatch.open(group, asyncio.get_running_loop(), heard.set)
    assert watch is not None
    inner = MemoryGroup(group.version, group.directory / "inner")
    make_limited(inner, 16 * MIB)
    assert await asyncio.to_thread(eat, inner.directory) == -9
    await settled()
    assert not heard.is_set()
    watch.close()


@needs_root
async def test_a_watch_ends_with_its_cgroup_which_is_no_overflow(group: MemoryGroup):
    heard = asyncio.Event()
    watch = OverflowWatch.open(group, asyncio.get_running_loop(), heard.set)
    assert watch is not None
    for directory in (group.directory / "inner", group.directory):
        directory.rmdir()
    assert not watch.is_there()
    await settled()
    assert watch.closed
    assert not heard.is_set()


async def test_a_cgroup_that_is_not_there_is_not_watched(tmp_path: Path):
    for version in (1, 2):
        assert OverflowWatch.open(MemoryGroup(version, tmp_path / "none"), asyncio.get_running_loop(), pytest.fail) is None


@needs_root
async def test_the_second_versions_counts_wake_who_polls_them():
    """Where the unified hierarchy has no memory controller another count of it stands in: how often it was frozen."""
    root = next((point for version, point, _ in mount_points(Path("/proc/self/mountinfo").read_text()) if version == 2), None)
    if root is None:
        pytest.skip("no unified hierarchy")
    directory = root / f"invokerd-test-{uuid.uuid4().hex[:8]}"
    directory.mkdir()
    heard = asyncio.Event()
    watch = OverflowWatch(asyncio.get_running_loop(), heard.set)
    watch.poll(directory / "cgroup.events", b"frozen")
    for _ in range(2):
        (directory / "cgroup.freeze").write_text("1")
        async with asyncio.timeout(30):
            await heard.wait()
        (directory / "cgroup.freeze").write_text("0")
        await settled()
        heard.clear()
    assert watch.is_there()
    directory.rmdir()
    assert not watch.is_there()
    assert watch.closed


async def settled() -> None:
    """Let the loop hear of what the kernel has told by now."""
    for _ in range(5):
        await asyncio.sleep(0.02)
