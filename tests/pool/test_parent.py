"""The parent cgroup: found, made and limited on v1 and v2, or by systemd; tried on made-up hierarchies."""

from __future__ import annotations

import contextlib
import uuid
from pathlib import Path

import pytest

from pool.parent import NoParentCgroup, find_memory_group, limit_bytes, limit_slice, make_limited, read_limit
from tests.support.made_up_cgroups import fill_group, hierarchy

MIB = 2**20
NAME = "functions_n"


@pytest.mark.parametrize(("memory_mib", "limit_mib"), [(64, 80), (320, 336), (1000, 1050)])
def test_the_limit_is_a_little_above_the_pool(memory_mib: int, limit_mib: int):
    assert limit_bytes(memory_mib) == limit_mib * MIB


@pytest.mark.parametrize(("version", "files"), [(1, ["memory.limit_in_bytes"]), (2, ["memory.max"])])
def test_the_parent_is_made_and_limited(tmp_path: Path, version: int, files: list[str]):
    proc, point = hierarchy(tmp_path, version)
    group = find_memory_group(NAME, driver="cgroupfs", proc=proc)
    make_limited(group, 100 * MIB)
    assert group == (version, point / NAME)
    assert sorted(file.name for file in group.directory.iterdir()) == files, "swap is limited where the kernel counts it"
    assert group.read_limit() == read_limit(NAME, proc=proc) == 100 * MIB
    if version == 2:
        assert (point / "cgroup.subtree_control").read_text() == "+memory"


@pytest.mark.parametrize(
    ("version", "swap", "value"), [(1, "memory.memsw.limit_in_bytes", str(70 * MIB)), (2, "memory.swap.max", "0")]
)
def test_one_that_is_there_is_limited_with_its_swap_and_all_below_it(tmp_path: Path, version: int, swap: str, value: str):
    proc, point = hierarchy(tmp_path, version)
    fill_group(point / NAME, version)
    group = find_memory_group(NAME, driver="cgroupfs", proc=proc)
    assert group.read_limit() is None
    make_limited(group, 70 * MIB)
    assert group.read_limit() == 70 * MIB
    assert (point / NAME / swap).read_text() == value
    if version == 1:
        assert (point / NAME / "memory.use_hierarchy").read_text() == "1"


@pytest.mark.parametrize("version", [1, 2])
def test_what_is_held_is_what_the_kernel_cannot_take_back(tmp_path: Path, version: int):
    proc, point = hierarchy(tmp_path, version)
    fill_group(point / NAME, version, usage=90 * MIB, cache=30 * MIB)
    assert find_memory_group(NAME, driver="cgroupfs", proc=proc).read_held() == 60 * MIB


def test_systemd_is_told_of_its_slice():
    told: list[list[str]] = []
    limit_slice("invokerd", 1000, told.append)
    assert told == [["systemctl", "set-property", "--runtime", "invokerd.slice", "MemoryMax=1000", "MemorySwapMax=0"]]


def test_what_cannot_be_made_is_named(tmp_path: Path):
    proc, point = hierarchy(tmp_path, 1)
    (point / "invokerd").write_text("a file")
    with pytest.raises(NoParentCgroup, match=str(point / "invokerd")):
        make_limited(find_memory_group("invokerd", driver="cgroupfs", proc=proc), MIB)


def test_without_a_memory_controller_there_is_nothing_to_limit(tmp_path: Path):
    proc, _ = hierarchy(tmp_path, 1)
    (proc / "self" / "mountinfo").write_text("")
    with pytest.raises(NoParentCgroup, match="memory controller"):
        read_limit("invokerd", proc=proc)


def test_a_limit_that_is_not_there_is_none(tmp_path: Path):
    proc, _ = hierarchy(tmp_path, 2)
    assert read_limit("invokerd", proc=proc) is None


def test_a_real_cgroup_is_limited_and_its_limit_raised_and_lowered():
    try:
        group = find_memory_group(f"invokerd-test-{uuid.uuid4().hex[:8]}", driver="cgroupfs")
        make_limited(group, 300 * MIB)
    except NoParentCgroup as error:
        pytest.skip(f"this machine has no memory cgroups for us: {error}")
    try:
        for mib in (100, 200, 50):
            make_limited(group, mib * MIB)
            assert group.read_limit() == mib * MIB
        assert group.read_held() < MIB
    finally:
        with contextlib.suppress(OSError):
            group.directory.rmdir()


@pytest.mark.parametrize(
    ("name", "directory"), [("functions", "functions.slice"), ("site-functions", "site.slice/site-functions.slice")]
)
def test_the_limit_of_a_slice_is_found_where_systemd_puts_it(tmp_path: Path, name: str, directory: str):
    proc, point = hierarchy(tmp_path, 2)
    (point / directory).mkdir(parents=True)
    (point / directory / "memory.max").write_text("1691353088\n")
    assert read_limit(name, proc=proc) == 1691353088
    (point / directory / "memory.max").write_text("max\n")
    assert read_limit(name, proc=proc) is None
