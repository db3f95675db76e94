"""When the writer gives way, and when it does not."""

import os
import resource
import subprocess
import sys

import pytest

from invoker.record import yielding
from invoker.record.idle_group import IdleGroup
from invoker.record.yielding import PATIENCE_S, Progress, Yielding


@pytest.fixture
def process():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as started:
        yield started


@pytest.fixture
def no_cgroups(monkeypatch):
    monkeypatch.setattr(IdleGroup, "enter", lambda _: None)


class Group:
    """In place of a cgroup."""

    def __init__(self):
        self.idle = [True]

    def be_idle(self, idle):
        self.idle.append(idle)


def test_a_process_with_a_cgroup_of_its_own_gives_way_by_that_and_comes_back(process, monkeypatch):
    group = Group()
    monkeypatch.setattr(IdleGroup, "enter", lambda _: group)
    monkeypatch.setattr(yielding, "_may_return", lambda: False)  # of its policy, which stays
    it = Yielding(process.pid)
    it.give_way(True)
    assert group.idle == [True]
    it.give_way(False)
    assert group.idle == [True, False]
    assert os.sched_getscheduler(process.pid) == os.SCHED_OTHER


@pytest.mark.usefixtures("no_cgroups")
def test_a_process_without_gives_way_by_its_policy_and_comes_back(process):
    it = Yielding(process.pid)
    assert os.sched_getscheduler(process.pid) == os.SCHED_IDLE
    it.give_way(False)
    assert os.sched_getscheduler(process.pid) == os.SCHED_OTHER


@pytest.mark.usefixtures("no_cgroups")
def test_a_process_that_could_not_come_back_is_left_as_it_is(process, monkeypatch):
    monkeypatch.setattr(yielding, "_may_return", lambda: False)
    Yielding(process.pid)
    assert os.sched_getscheduler(process.pid) == os.SCHED_OTHER


def test_a_process_that_has_ended_is_no_error(process):
    it = Yielding(process.pid)
    process.communicate()
    it.give_way(False)
    it.close()


@pytest.mark.parametrize(("limit", "capable", "may"), [(0, False, False), (19, False, False), (20, False, True), (0, True, True)])
def test_the_way_back_needs_the_limit_or_the_capability(monkeypatch, tmp_path, limit, capable, may):
    (tmp_path / "status").write_text(f"Name:\tx\nCapEff:\t{(1 << 23 if capable else 0):016x}\n")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    monkeypatch.setattr(yielding, "Path", lambda _: tmp_path / "status")
    assert yielding._may_return() is may


def test_it_is_behind_when_what_it_was_told_of_at_the_last_look_is_not_committed():
    progress = Progress()
    assert progress.is_behind(0, 10, 100.0) is False
    assert progress.is_behind(0, 50, 100.0 + PATIENCE_S / 2) is None
    assert progress.is_behind(9, 60, 100.0 + PATIENCE_S) is True
    assert progress.is_behind(60, 70, 100.0 + 2 * PATIENCE_S) is False
