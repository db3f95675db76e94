import os
import subprocess
import sys
from pathlib import Path

import pytest

from pool import fifo
from pool.cgroup import CgroupNotFoundError
from pool.descriptors import open_descriptors
from pool.model import ContainerId

NAME = ContainerId("c")
pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="opening cgroup files needs root")


def cgroup_word() -> str:
    """Something that stands in the cgroup paths of this process' children, as an engine's id does in a container's."""
    return Path("/proc/self/cgroup").read_text().splitlines()[0].rpartition(":")[2]


def open_count() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def child():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        yield child
        child.kill()


def test_a_process_whose_cgroup_names_another_container_is_not_taken_for_ours(child):
    before = open_count()
    with pytest.raises(ProcessLookupError, match="is not of container"):
        open_descriptors(child.pid, "f" * 64, NAME, None)
    assert open_count() == before


def test_a_process_that_has_ended_is_not_found(child):
    child.kill()
    child.wait()
    before = open_count()
    with pytest.raises(ProcessLookupError):
        open_descriptors(child.pid, cgroup_word(), NAME, None)
    assert open_count() == before


@pytest.mark.parametrize(("after", "error"), [("0::/\n", ProcessLookupError), ("0::/docker/e1\n", CgroupNotFoundError)])
def test_a_process_that_has_left_its_cgroup_is_ending_though_its_pidfd_does_not_say_so_yet(child, monkeypatch, after, error):
    looks = iter(["0::/docker/e1\n", after])
    monkeypatch.setattr("pool.descriptors._cgroups_of", lambda _pid: next(looks))

    def lost(pid: int) -> None:
        raise CgroupNotFoundError(f"no mounted cgroup hierarchy shows / of process {pid}")

    monkeypatch.setattr("pool.cgroup.find_directories", lost)
    before = open_count()
    with pytest.raises(error):
        open_descriptors(child.pid, "e1", NAME, None)
    assert open_count() == before


def test_a_process_that_ends_while_its_files_are_opened_leaves_none_open(child, monkeypatch, tmp_path):
    really_open = fifo.open_fifo

    def too_late(run_dir: Path, container_id: ContainerId) -> int:
        child.kill()
        child.wait()
        return really_open(run_dir, container_id)

    monkeypatch.setattr(fifo, "open_fifo", too_late)
    (tmp_path / NAME).mkdir()
    os.mkfifo(tmp_path / NAME / "log")
    monkeypatch.setattr("pool.cgroup.find_directories", fake_directories(tmp_path))
    before = open_count()
    with pytest.raises(ProcessLookupError):
        open_descriptors(child.pid, cgroup_word(), NAME, tmp_path)
    assert open_count() == before


def test_a_path_that_could_come_to_be_another_containers_is_not_kept(child, monkeypatch, tmp_path):
    (tmp_path / "memory.events").write_text("oom_kill 0\n")
    monkeypatch.setattr("pool.cgroup.find_directories", fake_directories(tmp_path))
    before = open_count()
    with pytest.raises(CgroupNotFoundError, match=r"memory\.events is not of container"):
        open_descriptors(child.pid, Path(f"/proc/{child.pid}/cgroup").read_text(), NAME, None)
    assert open_count() == before


def test_without_its_log_pipe_nothing_stays_open(child, monkeypatch, tmp_path):
    monkeypatch.setattr("pool.cgroup.find_directories", fake_directories(tmp_path))
    before = open_count()
    with pytest.raises(FileNotFoundError):
        open_descriptors(child.pid, cgroup_word(), NAME, tmp_path)
    assert open_count() == before


def fake_directories(path: Path):
    """A version 2 cgroup on disk: the root cgroup in which tests may run cannot be frozen."""
    from pool.cgroup import Directories

    for name in ("cgroup.freeze", "cgroup.events", "cpu.stat"):
        (path / name).write_text("0\n")
    return lambda _pid: Directories(version=2, path={"": path})
