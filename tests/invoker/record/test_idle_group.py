"""A process in a CPU cgroup of its own: on the kernel where it can be had, and on directories where a kernel refuses."""

import subprocess
import sys
from pathlib import Path

import pytest

from invoker.record.idle_group import IdleGroup
from pool.courtesy import NoIdleCgroup, idle_file
from tests.support.cpu_group import cpu_group_of


@pytest.fixture
def process():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as started:
        yield started


@pytest.fixture
def entered(process):
    group = IdleGroup.enter(process.pid)
    if group is None:
        pytest.skip("this kernel, this hierarchy or this user cannot have a cgroup with cpu.idle at the root")
    yield group
    process.communicate()
    group.close()


def test_the_process_is_alone_in_an_idle_cgroup_beside_all_others_which_can_be_a_usual_one(process, entered):
    directory = cpu_group_of(process.pid)
    assert (directory / "cgroup.procs").read_text().split() == [str(process.pid)]
    assert directory.parent == idle_file("x").parent.parent
    assert (directory / "cpu.idle").read_text() == "1\n"
    entered.be_idle(False)
    assert (directory / "cpu.idle").read_text() == "0\n"


def test_it_is_removed_when_its_process_has_ended_and_not_before(process, entered):
    directory = cpu_group_of(process.pid)
    entered.close()
    assert directory.is_dir()
    process.communicate()
    entered.close()
    assert not directory.exists()


def test_one_that_a_killed_daemon_has_left_is_removed_by_the_next_and_one_in_use_is_not(process, entered):
    directory = cpu_group_of(process.pid)
    left_over = directory.with_name("invokerd-writer-0")
    left_over.mkdir(exist_ok=True)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        group = IdleGroup.enter(other.pid)
        assert not left_over.exists()
        assert directory.is_dir()
        other.communicate()
    group.close()


@pytest.fixture
def proc(tmp_path):
    """A /proc whose hierarchy is a directory of no kernel."""
    (tmp_path / "self").mkdir()
    (tmp_path / "cpu").mkdir()
    (tmp_path / "self" / "mountinfo").write_text(f"31 20 0:27 / {tmp_path / 'cpu'} rw - cgroup cgroup rw,cpu\n")
    return tmp_path


def test_a_kernel_that_refuses_is_left_as_it_was(proc, monkeypatch):
    def refuse(self, _):
        raise PermissionError(13, "as a kernel without cpu.idle does: nothing can be made in there", str(self))

    monkeypatch.setattr(Path, "write_text", refuse)
    assert IdleGroup.enter(4711, proc=proc) is None
    assert not list((proc / "cpu").iterdir())


def test_a_hierarchy_that_cannot_be_written_gives_none(proc):
    (proc / "cpu").rmdir()
    assert IdleGroup.enter(4711, proc=proc) is None


def test_without_a_cpu_controller_there_is_none(proc):
    (proc / "self" / "mountinfo").write_text("")
    with pytest.raises(NoIdleCgroup):
        idle_file("x", proc)
    assert IdleGroup.enter(4711, proc=proc) is None
