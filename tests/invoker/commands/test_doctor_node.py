import contextlib
import dataclasses
import shutil
import socket
import sqlite3
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from invoker.commands import doctor_node
from invoker.commands.doctor import Finding, Node, Verdict
from invoker.config.keys import Address
from invoker.config.model import Config, HttpConfig, IsolationConfig, MetricsConfig, PoolConfig, SiteMount
from invoker.control.fake import FakeControl, serving
from invoker.record.damage import Damage
from tests.support.made_up_cgroups import fill_group, hierarchy


def node(**changes: Any) -> Node:
    return Node(config=dataclasses.replace(Config(), **changes))


@pytest.mark.parametrize(("part", "verdict"), [(0.5, Verdict.OK), (0.95, Verdict.WARNING), (1.5, Verdict.BAD)])
def test_the_budget_is_compared_with_the_machine(part: float, verdict: Verdict) -> None:
    memory_mib = int(Config().pool.memory_mib * 2 * part)
    (finding,) = doctor_node.check_memory(node(pool=PoolConfig(memory_mib=memory_mib)))
    assert finding.verdict is verdict


def examine_state(state: Path) -> dict[str, Finding]:
    return {finding.check: finding for finding in doctor_node.check_state_dir(node(state_dir=state))}


def test_a_state_directory_is_fit_when_it_is_closed_to_others_or_yet_to_be_made(tmp_path: Path) -> None:
    state = tmp_path / "a" / "state"
    assert "will be created" in examine_state(state)["state-dir"].text
    state.mkdir(parents=True, mode=0o700)
    assert examine_state(state)["state-dir"].verdict is Verdict.OK
    state.chmod(0o755)
    assert examine_state(state)["state-dir"].verdict is Verdict.WARNING
    assert list(state.iterdir()) == []


def test_a_file_in_place_of_the_state_directory_is_bad(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    finding = examine_state(tmp_path / "state")["state-dir"]
    assert finding.verdict is Verdict.BAD


def test_pages_of_the_databases_are_looked_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("entities.db", "ledger/2026-11.db", "ledger/2026-12.db"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        with contextlib.closing(sqlite3.connect(tmp_path / name)) as connection, connection:
            connection.execute("CREATE TABLE t (a TEXT)")
            connection.executemany("INSERT INTO t VALUES (?)", [("x" * 100,)] * 200)
    with (tmp_path / "ledger" / "2026-11.db").open("r+b") as file:
        file.seek(3 * 4096)
        file.write(b"\xa5" * 4096)
    (tmp_path / "apis.db").write_bytes(b"no database" * 1000)
    findings = list(doctor_node.check_files(node(state_dir=tmp_path)))
    for name in ("apis.db", "2026-11.db"):
        (finding,) = (each for each in findings if f"{name}:" in each.text)
        assert (finding.verdict, "faults.md" in finding.advice) == (Verdict.BAD, True)
    whole = [finding.text for finding in findings if finding.verdict is Verdict.OK]
    assert whole == [f"{tmp_path / name} is whole" for name in ("entities.db", "ledger/2026-12.db")]
    monkeypatch.setattr(doctor_node, "_EXAMINED_BYTES", 1000)
    for finding in doctor_node.check_files(node(state_dir=tmp_path)):
        assert (finding.verdict, "quick_check" in finding.advice) == (Verdict.WARNING, True)


MOUNTS = "1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:5 / /home rw - nfs4 s:/home rw\n3 1 0:6 / /a\\040b rw - tmpfs t rw\n"


@pytest.mark.parametrize(("path", "kind"), [("/var/lib", "ext4"), ("/home/x", "nfs4"), ("/homes", "ext4"), ("/a b/c", "tmpfs")])
def test_the_file_system_of_a_path_is_that_of_its_nearest_mount(path: str, kind: str) -> None:
    assert doctor_node.file_system_of(Path(path), MOUNTS) == kind


@pytest.mark.parametrize(
    ("kind", "allocates", "verdict"),
    [
        ("ext4", True, Verdict.OK),
        ("nfs4", True, Verdict.BAD),
        ("ext3", False, Verdict.WARNING),
        ("tmpfs", True, Verdict.WARNING),
    ],
)
def test_the_file_system_of_the_state_is_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, allocates: bool, verdict: Verdict
) -> None:
    monkeypatch.setattr(doctor_node, "_allocates", lambda _: allocates)
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "mountinfo").write_text(f"1 0 8:1 / / rw - {kind} x rw\n")
    examined = Node(config=Config(state_dir=tmp_path / "state"), proc=tmp_path)
    found = {finding.check: finding for finding in doctor_node.check_state_dir(examined)}
    assert found["state-fs"].verdict is verdict


class Usage(NamedTuple):
    free: int


@pytest.mark.parametrize(("gib", "verdict"), [(0.5, Verdict.BAD), (5, Verdict.WARNING), (50, Verdict.OK)])
def test_free_space_is_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gib: float, verdict: Verdict) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(int(gib * 2**30)))
    assert examine_state(tmp_path)["state-space"].verdict is verdict


def test_the_wal_reset_bug_is_told_with_why_it_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    for version, told in (((3, 40, 1), True), ((3, 51, 3), False)):
        monkeypatch.setattr(sqlite3, "sqlite_version_info", version)
        (finding,) = doctor_node.check_sqlite(node())
        assert finding.verdict is Verdict.OK
        assert ("WAL-reset bug" in finding.text) is told


def test_a_port_that_is_taken_is_bad_unless_our_own_daemon_has_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = Address("127.0.0.1", server.getsockname()[1])
        examined = node(state_dir=tmp_path, http=HttpConfig(listen=taken), metrics=MetricsConfig(listen=Address("127.0.0.1", 0)))
        found = list(doctor_node.check_daemon_and_ports(examined))
        assert [each.verdict for each in found] == [Verdict.OK, Verdict.BAD, Verdict.OK]
        assert "Address already in use" in found[1].text
        with serving(FakeControl(), tmp_path / "control.sock"):
            (running,) = doctor_node.check_daemon_and_ports(examined)
        assert "runs, pid 4711, ready" in running.text


def test_mounts_are_looked_at(tmp_path: Path) -> None:
    mounts = tuple(SiteMount(name=name, source=tmp_path / name, target=Path("/d")) for name in ("here", "absent"))
    (tmp_path / "here").mkdir()
    here, absent = doctor_node.check_mounts(node(isolation=IsolationConfig(mounts=mounts)))
    assert (here.verdict, absent.verdict) == (Verdict.OK, Verdict.BAD)
    assert absent.text == f"mount absent: {tmp_path}/absent cannot be used: No such file or directory"


def test_a_mount_that_root_may_not_reach_is_told_from_one_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = ["/bin/sh", "-c", "echo Permission denied >&2; exit 1"]
    monkeypatch.setattr(doctor_node, "look_command", lambda _: refusing)
    mounts = (SiteMount(name="squashed", source=tmp_path, target=Path("/d")),)
    (finding,) = doctor_node.check_mounts(node(isolation=IsolationConfig(mounts=mounts)))
    assert finding.verdict is Verdict.BAD
    assert "root may not reach" in finding.text
    assert "above it" in finding.advice


def test_a_mount_that_does_not_answer_is_left_at_the_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_node, "_MOUNT_DEADLINE_S", 0.05)
    monkeypatch.setattr(doctor_node, "look_command", lambda _: ["sleep", "30"])
    mounts = (SiteMount(name="dead", source=tmp_path, target=Path("/d")),)
    (finding,) = doctor_node.check_mounts(node(isolation=IsolationConfig(mounts=mounts)))
    assert finding.verdict is Verdict.BAD
    assert "does not answer" in finding.text


def test_rows_that_a_daemon_has_set_aside_are_named_until_their_copies_are_gone(tmp_path: Path) -> None:
    (finding,) = doctor_node.check_damage(node(state_dir=tmp_path))
    assert finding.verdict is Verdict.OK
    Damage(tmp_path).found("entities", "guest/x", b"{", "torn", then="t")
    (finding,) = doctor_node.check_damage(node(state_dir=tmp_path))
    assert finding.verdict is Verdict.WARNING
    assert "entities guest/x" in finding.text
    assert str(tmp_path / "damaged") in finding.advice


def look_at_the_wall(proc: Path, **pool: Any) -> Finding:
    (finding,) = doctor_node.check_second_wall(Node(config=Config(node="n", pool=PoolConfig(memory_mib=1000, **pool)), proc=proc))
    return finding


@pytest.mark.parametrize(
    ("limit_mib", "verdict", "words"),
    [
        (1050, Verdict.OK, "functions_n is limited to 1050 MiB"),
        (2100, Verdict.WARNING, "more than the 1050 MiB that go with"),
        (None, Verdict.OK, "is limited when the daemon starts"),
    ],
)
def test_the_limit_around_all_containers_is_compared_with_the_pool(
    tmp_path: Path, limit_mib: int | None, verdict: Verdict, words: str
) -> None:
    proc, point = hierarchy(tmp_path, 1)
    if limit_mib is not None:
        fill_group(point / "functions_n", 1, limit=limit_mib << 20)
    finding = look_at_the_wall(proc)
    assert finding.verdict is verdict
    assert words in finding.text


@pytest.mark.parametrize(("parent", "verdict"), [("", Verdict.WARNING), ("site", Verdict.BAD)])
def test_a_machine_without_a_memory_controller_is_told_of(tmp_path: Path, parent: str, verdict: Verdict) -> None:
    proc, _ = hierarchy(tmp_path, 1)
    (proc / "self" / "mountinfo").write_text("")
    finding = look_at_the_wall(proc, cgroup_parent=parent)
    assert finding.verdict is verdict
    assert "cannot be limited" in finding.text
