import os
import platform
import resource
import socket
from pathlib import Path

import pytest

from invoker.commands import doctor_kernel
from invoker.commands.doctor import Node, Verdict
from invoker.config.model import Config, PoolConfig

CONFIG = Config(pool=PoolConfig(memory_mib=16384))


def node(tmp_path: Path, **files: str) -> Node:
    """A node whose /proc and /sys hold these files only; `__` stands for a slash."""
    for name, text in files.items():
        path = tmp_path / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Node(config=CONFIG, proc=tmp_path / "proc", sys=tmp_path / "sys")


@pytest.mark.parametrize(
    ("release", "verdict"),
    [("5.4.0-generic", Verdict.BAD), ("5.10.0-amd64", Verdict.WARNING), ("5.14.0-4.el9", Verdict.OK), ("6.18.1", Verdict.OK)],
)
def test_old_kernels_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release: str, verdict: Verdict) -> None:
    monkeypatch.setattr(platform, "release", lambda: release)
    (finding,) = doctor_kernel.check_kernel(node(tmp_path))
    assert finding.verdict is verdict
    assert release in finding.text


def cgroup_lines(*controllers: str, v2: bool) -> str:
    v1 = [f"30 20 0:26 / /sys/fs/cgroup/{name} rw - cgroup cgroup rw,{name}" for name in controllers]
    return "\n".join([*v1, *(["31 20 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"] if v2 else [])]) + "\n"


V1 = ("freezer", "memory", "cpu", "cpuacct", "pids")


@pytest.mark.parametrize(
    ("mounts", "controllers", "verdict", "says"),
    [
        (cgroup_lines(*V1, v2=False), "", Verdict.OK, "v1"),
        (cgroup_lines(*V1, v2=True), "", Verdict.OK, "v1, hybrid"),
        (cgroup_lines("freezer", "cpu", v2=True), "", Verdict.BAD, "v1, hybrid, without memory, cpuacct, pids"),
        (cgroup_lines(v2=True), "cpuset cpu io memory pids", Verdict.OK, "v2"),
        (cgroup_lines(v2=True), "cpu pids", Verdict.BAD, "v2, without memory"),
        ("", "", Verdict.BAD, "no cgroups are mounted"),
    ],
)
def test_the_mode_of_cgroups_is_told_with_missing_controllers(
    tmp_path: Path, mounts: str, controllers: str, verdict: Verdict, says: str
) -> None:
    examined = node(tmp_path, proc__self__mountinfo=mounts, **{"sys__fs__cgroup__cgroup.controllers": controllers})
    (finding,) = doctor_kernel.check_cgroups(examined)
    assert (finding.verdict, finding.text) == (verdict, says)


def cgroups_of_this_process() -> set[str]:
    """Scratch cgroups by this process; other tests' containers, and their doctors' cgroups, come and go meanwhile."""
    name = f"invokerd-doctor-{os.getpid()}"
    return {parent for parent, below, _ in os.walk("/sys/fs/cgroup") if name in below}  # what has gone is passed over


@pytest.mark.skipif(os.geteuid() != 0, reason="a scratch cgroup needs root")
def test_freezing_is_tried_for_real_and_leaves_nothing_behind(tmp_path: Path) -> None:
    (finding,) = doctor_kernel.check_freezer(node(tmp_path))
    assert finding.verdict is Verdict.OK, finding.text
    assert "freeze" in finding.text
    assert cgroups_of_this_process() == set()


def test_a_kernel_that_refuses_to_freeze_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(doctor_kernel.cgroup, "find_directories", refuse)
    (finding,) = doctor_kernel.check_freezer(node(tmp_path))
    assert finding.verdict is Verdict.BAD
    assert "Read-only file system" in finding.text
    assert "stay warm" in finding.advice


@pytest.mark.skipif(os.geteuid() != 0, reason="entering a namespace needs root")
def test_a_foreign_network_namespace_is_entered_for_real(tmp_path: Path) -> None:
    before = Path("/proc/self/ns/net").readlink()
    (finding,) = doctor_kernel.check_namespaces(node(tmp_path))
    assert finding.verdict is Verdict.OK, finding.text
    assert Path("/proc/self/ns/net").readlink() == before


@pytest.mark.parametrize(
    ("error", "advice"),
    [(PermissionError(1, "Operation not permitted"), "CAP_SYS_ADMIN"), (OSError(22, "Invalid argument"), "Linux 5.8")],
)
def test_a_namespace_that_cannot_be_entered_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, advice: str
) -> None:
    async def refuse(_: object, __: int) -> socket.socket:
        raise error

    monkeypatch.setattr(doctor_kernel.netns.Dialer, "dial", refuse)
    (finding,) = doctor_kernel.check_namespaces(node(tmp_path))
    assert finding.verdict is Verdict.BAD
    assert str(error) in finding.text
    assert advice in finding.advice


def test_few_processes_are_warned_of(tmp_path: Path) -> None:
    few, many = doctor_kernel.check_processes(
        node(tmp_path, **{"proc__sys__kernel__pid_max": "1024\n", "proc__sys__kernel__threads-max": "500000\n"})
    )
    assert (few.verdict, many.verdict) == (Verdict.WARNING, Verdict.OK)
    assert "sysctl -w kernel.pid_max=4194304" in few.advice


@pytest.mark.parametrize(("limit", "verdict"), [(1024, Verdict.WARNING), (1_048_576, Verdict.OK)])
def test_few_open_files_are_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, verdict: Verdict) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    (finding,) = doctor_kernel.check_open_files(node(tmp_path))
    assert finding.verdict is verdict


def test_selinux_is_told_of_only_where_it_enforces(tmp_path: Path) -> None:
    assert list(doctor_kernel.check_security_modules(node(tmp_path))) == []
    (finding,) = doctor_kernel.check_security_modules(node(tmp_path, sys__fs__selinux__enforce="1"))
    assert finding.verdict is Verdict.WARNING


@pytest.mark.parametrize(("euid", "verdict"), [(0, Verdict.OK), (4711, Verdict.BAD)])
def test_only_root_can_do_the_daemons_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, euid: int, verdict: Verdict) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: euid)
    (finding,) = doctor_kernel.check_user(node(tmp_path))
    assert finding.verdict is verdict
