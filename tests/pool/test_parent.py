"""The parent cgroup: made and limited on v1 and v2, or by systemd; tried on made-up hierarchies."""

from __future__ import annotations

from pathlib import Path

import pytest

from pool.parent import NoParentCgroup, limit_bytes, prepare_parent, read_limit


def host(tmp_path: Path, version: int) -> tuple[Path, Path]:
    """Make a procfs whose mountinfo shows one hierarchy; return both."""
    proc, point = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    point.mkdir()
    kind = "cgroup rw,memory" if version == 1 else "cgroup2 rw"
    (proc / "self" / "mountinfo").write_text(f"35 31 0:32 / {point} rw - {kind.split(maxsplit=1)[0]} cgroup {kind.split()[1]}\n")
    if version == 2:
        (point / "cgroup.controllers").write_text("cpu memory pids\n")
        (point / "cgroup.subtree_control").write_text("")
    return proc, point


@pytest.mark.parametrize(("version", "file"), [(1, "memory.limit_in_bytes"), (2, "memory.max")])
def test_the_parent_is_made_and_limited_and_may_be_there_already(tmp_path: Path, version: int, file: str):
    proc, point = host(tmp_path, version)
    for memory_mib in (1000, 2000):
        assert prepare_parent("invokerd", driver="cgroupfs", memory_mib=memory_mib, proc=proc) == "/invokerd"
        assert (point / "invokerd" / file).read_text() == str(limit_bytes(memory_mib))
        assert read_limit("invokerd", proc=proc) == limit_bytes(memory_mib)
    if version == 2:
        assert (point / "cgroup.subtree_control").read_text() == "+memory"


def test_the_limit_is_a_little_above_the_pool():
    assert limit_bytes(1000) == 1050 * 2**20


def test_systemd_is_told_of_its_slice(tmp_path: Path):
    told: list[list[str]] = []
    assert prepare_parent("invokerd", driver="systemd", memory_mib=1000, proc=tmp_path, run=told.append) == "invokerd.slice"
    assert told == [["systemctl", "set-property", "--runtime", "invokerd.slice", f"MemoryMax={limit_bytes(1000)}"]]


def test_what_cannot_be_made_is_named(tmp_path: Path):
    proc, point = host(tmp_path, 1)
    (point / "invokerd").write_text("a file")
    with pytest.raises(NoParentCgroup, match=str(point / "invokerd")):
        prepare_parent("invokerd", driver="cgroupfs", memory_mib=1000, proc=proc)


def test_without_a_memory_controller_there_is_no_wall(tmp_path: Path):
    proc, _ = host(tmp_path, 1)
    (proc / "self" / "mountinfo").write_text("")
    with pytest.raises(NoParentCgroup, match="memory controller"):
        prepare_parent("invokerd", driver="cgroupfs", memory_mib=1000, proc=proc)


def test_a_limit_that_is_not_there_is_none(tmp_path: Path):
    proc, _ = host(tmp_path, 2)
    assert read_limit("invokerd", proc=proc) is None


@pytest.mark.parametrize(
    ("name", "directory"), [("functions", "functions.slice"), ("site-functions", "site.slice/site-functions.slice")]
)
def test_the_limit_of_a_slice_is_found_where_systemd_puts_it(tmp_path: Path, name: str, directory: str):
    proc, point = host(tmp_path, 2)
    (point / directory).mkdir(parents=True)
    (point / directory / "memory.max").write_text("1691353088\n")
    assert read_limit(name, proc=proc) == 1691353088
    (point / directory / "memory.max").write_text("max\n")
    assert read_limit(name, proc=proc) is None
