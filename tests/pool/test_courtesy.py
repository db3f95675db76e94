import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pool.courtesy import HOLD_S, LINGER_S, PATIENCE_S, Courtesy, NoIdleCgroup, find_groups, idle_file
from pool.guard import CallClass, Deadlines, Guard

A_BIT = 0.001


class Clock:
    """An event loop's clock, with one timer after the other, moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self.planned: list[tuple[float, Callable[[], object], Any]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], object], /) -> Any:
        timer = _Timer(lambda: self.planned.remove(entry))
        entry = (when, callback, timer)
        self.planned.append(entry)
        return timer

    def pass_s(self, seconds: float) -> None:
        end = self.now + seconds
        while due := [each for each in self.planned if each[0] <= end]:
            first = min(due, key=lambda each: each[0])
            self.planned.remove(first)
            self.now = max(self.now, first[0])
            first[1]()
        self.now = end


class _Timer:
    def __init__(self, cancel: Callable[[], None]) -> None:
        self.cancel = cancel


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def group(tmp_path: Path) -> Path:
    """A cgroup that is no cgroup: its files keep what is written."""
    (tmp_path / "cpu.idle").write_text("1")
    (tmp_path / "cpu.weight").write_text("250")
    return tmp_path


@pytest.fixture
def courtesy(group: Path, clock: Clock) -> Courtesy:
    return Courtesy([group / "cpu.idle"], clock)


def is_idle(group: Path) -> bool:
    return (group / "cpu.idle").read_text() == "1"


def test_what_an_earlier_daemon_left_idle_is_a_usual_one_again(group, courtesy):
    assert not is_idle(group)
    assert not courtesy.gives_way


def test_the_engine_gives_way_while_it_starts_a_container_and_a_moment_longer(group, clock, courtesy):
    courtesy.began(starts_or_removes=True)
    assert is_idle(group)
    clock.pass_s(PATIENCE_S / 2)
    courtesy.ended()
    clock.pass_s(LINGER_S - A_BIT)
    assert is_idle(group)
    clock.pass_s(2 * A_BIT)
    assert not is_idle(group)
    assert courtesy.starved == 0
    assert not clock.planned


def test_a_question_to_the_engine_makes_it_give_way_to_nobody(group, courtesy):
    courtesy.began(starts_or_removes=False)
    assert not is_idle(group)


def test_an_engine_whose_calls_do_not_end_is_a_usual_one_for_a_while(group, clock, courtesy):
    courtesy.began(starts_or_removes=True)
    clock.pass_s(PATIENCE_S + A_BIT)
    assert not is_idle(group)
    assert courtesy.starved == 1
    courtesy.ended()
    courtesy.began(starts_or_removes=True)
    assert not is_idle(group)
    clock.pass_s(HOLD_S)
    courtesy.ended()
    courtesy.began(starts_or_removes=True)
    assert is_idle(group)


def test_an_engine_gives_way_for_as_long_as_one_call_after_the_other_ends(group, clock, courtesy):
    courtesy.began(starts_or_removes=True)
    for _ in range(20):
        courtesy.began(starts_or_removes=True)
        clock.pass_s(PATIENCE_S - A_BIT)
        courtesy.ended()
    assert is_idle(group)
    assert courtesy.starved == 0


def test_the_share_of_the_cpu_is_what_it_was_before(group, clock, courtesy):
    courtesy.began(starts_or_removes=True)
    (group / "cpu.weight").write_text("100")  # as the kernel does
    courtesy.ended()
    clock.pass_s(LINGER_S + A_BIT)
    assert (group / "cpu.weight").read_text() == "250"


def test_a_share_that_somebody_else_gives_meanwhile_stays(group, clock, courtesy):
    courtesy.began(starts_or_removes=True)
    (group / "cpu.idle").write_text("0\n")  # as systemd does when it reads its units again
    (group / "cpu.weight").write_text("400")
    courtesy.ended()
    clock.pass_s(LINGER_S + A_BIT)
    assert (group / "cpu.weight").read_text() == "400"
    courtesy.began(starts_or_removes=True)
    (group / "cpu.weight").write_text("100")
    courtesy.ended()
    clock.pass_s(LINGER_S + A_BIT)
    assert (group / "cpu.weight").read_text() == "400"


def test_it_ends_with_a_usual_engine_and_without_a_timer(group, clock, courtesy):
    courtesy.began(starts_or_removes=True)
    courtesy.close()
    assert not is_idle(group)
    assert not clock.planned
    courtesy.began(starts_or_removes=True)
    assert not is_idle(group)


def test_cgroups_that_are_gone_are_told_of_once_and_calls_go_on(tmp_path, group, clock, caplog):
    courtesy = Courtesy([group / "cpu.idle", tmp_path / "gone" / "cpu.idle"], clock)
    courtesy.began(starts_or_removes=True)
    assert not courtesy.gives_way
    assert not is_idle(group)
    assert [record.message for record in caplog.records] == [
        f"the engine cannot be made to give way: {tmp_path / 'gone' / 'cpu.idle'}: No such file or directory ([engine] cgroups)"
    ]


async def test_the_guard_tells_of_each_call_but_pulls(group):
    guard = Guard(deadlines=Deadlines(), courtesy=Courtesy([group / "cpu.idle"], asyncio.get_running_loop()))
    async with guard.call("pull", CallClass.PULL):
        assert not is_idle(group)
    with contextlib.suppress(ValueError):
        async with guard.call("start", CallClass.CREATE):
            assert is_idle(group)
            raise ValueError
    assert guard.courtesy is not None
    assert is_idle(group)
    guard.courtesy.close()
    assert not is_idle(group)


def test_the_file_is_looked_for_where_the_cpu_controller_is_mounted(tmp_path):
    (tmp_path / "self").mkdir()
    mounts = tmp_path / "self" / "mountinfo"
    v2 = "30 20 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup rw\n"
    v1 = "31 20 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    mounts.write_text(v2 + v1)
    assert idle_file("/engine", tmp_path) == Path("/sys/fs/cgroup/cpu,cpuacct/engine/cpu.idle")
    mounts.write_text(v2)
    assert idle_file("system.slice/x.service/", tmp_path) == Path("/sys/fs/cgroup/unified/system.slice/x.service/cpu.idle")
    mounts.write_text("")
    with pytest.raises(NoIdleCgroup):
        idle_file("/engine", tmp_path)


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[str]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "engine.sock"))
        listener.listen()
        yield str(tmp_path / "engine.sock")


@pytest.fixture
def processes(tmp_path: Path) -> Callable[[int, str, str], None]:
    """Puts processes into cgroups, below a /proc and a CPU hierarchy that are directories."""
    point = tmp_path / "cpu"
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "mountinfo").write_text(f"31 20 0:27 / {point} rw - cgroup cgroup rw,cpu\n")

    def add(pid: int, name: str, group: str) -> None:
        directory = point / group.strip("/")
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "cpu.idle").write_text("0")
        with (directory / "cgroup.procs").open("a") as procs:
            procs.write(f"{pid}\n")
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "comm").write_text(f"{name}\n")
        (tmp_path / str(pid) / "cgroup").write_text(f"2:cpu:{group}\n0::/\n")

    return add


@pytest.mark.parametrize(("beside", "found"), [("runc", ["/engine"]), ("bash", [])])
def test_an_engines_own_cgroup_is_found_by_who_listens_unless_others_are_in_it_too(tmp_path, listening, processes, beside, found):
    processes(os.getpid(), "dockerd", "/engine")
    processes(4_000_001, "containerd-shim", "/engine")
    processes(4_000_002, beside, "/engine")
    processes(4_000_003, "dockerd", "/system.slice/docker.service")  # another engine
    assert find_groups(listening, tmp_path) == found


def test_an_engine_of_the_distribution_has_two_services(tmp_path, listening, processes):
    processes(os.getpid(), "dockerd", "/system.slice/docker.service")
    processes(4_000_001, "containerd", "/system.slice/containerd.service")
    assert find_groups(listening, tmp_path) == ["/system.slice/docker.service", "/system.slice/containerd.service"]


def test_no_cgroup_is_found_where_nobody_listens(tmp_path):
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "mountinfo").write_text("")
    assert find_groups(str(tmp_path / "none"), tmp_path) == []


def test_a_real_cgroup_is_made_idle_and_keeps_its_share(clock):
    file = _real_group(f"invokerd-test-{os.getpid()}")
    try:
        shares = file.with_name("cpu.shares")
        weight = shares if shares.exists() else file.with_name("cpu.weight")
        weight.write_text("300")
        courtesy = Courtesy([file], clock)
        courtesy.began(starts_or_removes=True)
        assert file.read_text() == "1\n"
        courtesy.close()
        assert (file.read_text(), weight.read_text()) == ("0\n", "300\n")
    finally:
        file.parent.rmdir()


def _real_group(name: str) -> Path:
    try:
        file = idle_file(name)
        file.parent.mkdir()
    except (OSError, NoIdleCgroup) as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    if not file.exists():
        file.parent.rmdir()
        pytest.skip("this kernel, or this hierarchy, has no cpu.idle")
    return file
