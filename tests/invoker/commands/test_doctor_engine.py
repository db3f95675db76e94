import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any

import pytest

from invoker.commands import doctor_engine
from invoker.commands.doctor import Check, Finding, Node, Verdict
from invoker.config.model import Config, EngineConfig, RuntimesConfig
from pool.disk import Room

GOOD_INFO = {
    "CgroupDriver": "systemd",
    "CgroupVersion": "2",
    "MemoryLimit": True,
    "SwapLimit": True,
    "PidsLimit": True,
    "CpuCfsQuota": True,
    "Driver": "overlay2",
    "SecurityOptions": ["name=seccomp,profile=default"],
    "LiveRestoreEnabled": True,
}


@contextmanager
def engine(path: Path, answers: dict[str, Any]) -> Iterator[Node]:
    """An engine that knows these paths; every other one is 404."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path in answers
            body = json.dumps(answers.get(self.path, {"message": "no such thing"})).encode()
            self.send_response(200 if known else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def address_string(self) -> str:
            return "unix"

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingMixIn, UnixStreamServer):
        daemon_threads = False

    with Server(str(path), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield Node(config=Config(engine=EngineConfig(url=f"unix://{path}")))
        finally:
            server.shutdown()
            thread.join()
            path.unlink()


@pytest.fixture
def examine(tmp_path: Path) -> Callable[..., dict[str, Finding]]:
    def run(check: Check = doctor_engine.check_engine, api: str = "1.41", **changes: Any) -> dict[str, Finding]:
        answers = {"/version": {"Version": "20.10.24", "ApiVersion": api}, "/info": GOOD_INFO | changes}
        with engine(tmp_path / "engine.sock", answers) as node:
            return {finding.check: finding for finding in check(node)}

    return run


def test_a_good_engine_is_good_in_every_part(examine: Callable[..., dict[str, Finding]]) -> None:
    found = examine()
    assert set(found) == {
        "engine",
        "engine-cgroup-driver",
        "engine-limits",
        "engine-storage",
        "engine-security",
        "engine-live-restore",
    }
    assert {finding.verdict for finding in found.values()} == {Verdict.OK}


@pytest.mark.parametrize(
    ("change", "check", "verdict", "says"),
    [
        ({"CgroupDriver": "none"}, "engine-cgroup-driver", Verdict.BAD, "driver none"),
        ({"CgroupDriver": "cgroupfs"}, "engine-cgroup-driver", Verdict.WARNING, "cgroupfs, cgroup v2"),
        ({"PidsLimit": False, "MemoryLimit": False}, "engine-limits", Verdict.BAD, "memory, processes"),
        ({"SwapLimit": False}, "engine-limits", Verdict.WARNING, "swap"),
        ({"Driver": "vfs"}, "engine-storage", Verdict.WARNING, "vfs"),
        ({"SecurityOptions": ["name=rootless"]}, "engine-security", Verdict.BAD, "rootless"),
        ({"SecurityOptions": ["name=seccomp", "name=userns"]}, "engine-security", Verdict.BAD, "remaps"),
        ({"SecurityOptions": None}, "engine-security", Verdict.WARNING, "no seccomp"),
        ({"LiveRestoreEnabled": False}, "engine-live-restore", Verdict.WARNING, "off"),
        ({"api": "1.39"}, "engine", Verdict.BAD, "too old"),
    ],
)
def test_each_fault_of_an_engine_is_found_with_what_to_do(
    examine: Callable[..., dict[str, Finding]], change: dict[str, Any], check: str, verdict: Verdict, says: str
) -> None:
    finding = examine(**change)[check]
    assert finding.verdict is verdict
    assert says in finding.text
    assert finding.advice


@pytest.mark.parametrize(
    ("room", "verdict", "says"),
    [
        (Room(9 << 20, 10 << 20), Verdict.BAD, "9 MiB free, less than 10 MiB"),
        (Room(90 << 20, 10 << 20, 5, 6), Verdict.BAD, "5 inodes free, less than 6"),
        (Room(19 << 20, 10 << 20), Verdict.WARNING, "19 MiB"),
        (Room(20 << 20, 10 << 20), Verdict.OK, "20 MiB free"),
    ],
)
def test_the_engines_disk_is_judged_by_what_new_containers_need(
    examine: Callable[..., dict[str, Finding]], monkeypatch: pytest.MonkeyPatch, room: Room, verdict: Verdict, says: str
) -> None:
    monkeypatch.setattr(doctor_engine, "room_on", {"/engine": room}.get)
    finding = examine(DockerRootDir="/engine")["engine-space"]
    assert (finding.verdict, bool(finding.advice)) == (verdict, verdict is not Verdict.OK)
    assert says in finding.text
    assert "/engine" in finding.text


def test_the_disk_of_a_containerd_that_keeps_the_images_is_judged(
    examine: Callable[..., dict[str, Finding]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_engine, "directory_of", lambda info: f"{info['DockerRootDir']}/images")
    monkeypatch.setattr(doctor_engine, "room_on", {"/engine/images": Room(9 << 20, 10 << 20)}.get)
    assert "/engine/images has 9 MiB free" in examine(DockerRootDir="/engine")["engine-space"].text


def test_apparmor_without_its_parser_means_that_no_container_starts(
    examine: Callable[..., dict[str, Finding]], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["name=apparmor", "name=seccomp,profile=default"]
    for found, verdict in ((None, Verdict.BAD), ("/usr/sbin/apparmor_parser", Verdict.OK)):
        monkeypatch.setattr(doctor_engine.shutil, "which", lambda _, found=found: found)
        assert examine(SecurityOptions=options)["engine-security"].verdict is verdict


def test_an_engine_that_is_not_there_is_one_finding(tmp_path: Path) -> None:
    node = Node(config=Config(engine=EngineConfig(url=f"unix://{tmp_path}/absent.sock")))
    (finding,) = doctor_engine.check_engine(node)
    assert finding.verdict is Verdict.BAD
    assert "systemctl start docker" in finding.advice


def test_an_engine_that_hangs_is_left_at_the_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_engine, "_DEADLINE_S", 0.05)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "hung.sock"))
        silent.listen()
        node = Node(config=Config(engine=EngineConfig(url=f"unix://{tmp_path}/hung.sock")))
        (finding,) = doctor_engine.check_engine(node)
    assert "no answer within" in finding.text


def test_images_of_the_manifest_that_the_engine_has_not_are_named(tmp_path: Path) -> None:
    manifest = tmp_path / "runtimes.json"
    kinds = [{"kind": f"python:{n}", "image": {"prefix": "site", "name": f"python{n}"}, "default": n == 3} for n in (3, 4)]
    manifest.write_text(json.dumps({"runtimes": {"python": kinds}}))
    with engine(tmp_path / "engine.sock", {"/images/site/python3/json": {}}) as node:
        here = Node(config=Config(engine=node.config.engine, runtimes=RuntimesConfig(manifest=manifest)))
        (finding,) = doctor_engine.check_images(here)
        assert (finding.verdict, finding.text) == (Verdict.WARNING, "not in the engine: site/python4")
        manifest.write_text(json.dumps({"runtimes": {"python": kinds[:1]}}))
        assert next(iter(doctor_engine.check_images(here))).verdict is Verdict.OK
        manifest.write_text("{")
        assert next(iter(doctor_engine.check_images(here))).verdict is Verdict.BAD


@pytest.fixture
def node_with_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Finding]:
    """Check a node on which an engine's own cgroups, and those that can be idle, are these."""

    def check(*, own: tuple[str, ...], named: tuple[str, ...], mounted: bool = True) -> Finding:
        (tmp_path / "self").mkdir(exist_ok=True)
        mount = f"31 20 0:27 / {tmp_path}/cpu rw - cgroup cgroup rw,cpu\n"
        (tmp_path / "self" / "mountinfo").write_text(mount if mounted else "")
        for group in own:
            directory = tmp_path / "cpu" / group.strip("/")
            directory.mkdir(parents=True, exist_ok=True)
            (directory / "cpu.idle").write_text("0")
        monkeypatch.setattr(doctor_engine.courtesy, "find_groups", lambda _socket, _proc: list(own))
        config = Config(engine=EngineConfig(url="unix:///nowhere.sock", cgroups=named))
        (finding,) = doctor_engine.check_courtesy(Node(config=config, proc=tmp_path))
        return finding

    return check


@pytest.mark.parametrize(
    ("own", "named", "verdict", "says", "advises"),
    [
        (
            ("/a.service", "/b.service"),
            ("/b.service", "/a.service"),
            Verdict.OK,
            "gives way to calls: /a.service, /b.service",
            "",
        ),
        (("/a.service",), (), Verdict.WARNING, "does not give way", '[engine] cgroups = ["/a.service"]'),
        (("/a.service", "/b.service"), ("/a.service",), Verdict.WARNING, "/b.service is not in", '["/a.service", "/b.service"]'),
        (("/a.service",), ("/other",), Verdict.WARNING, "/other cannot be made idle", '[engine] cgroups = ["/a.service"]'),
        ((), ("/other",), Verdict.WARNING, "/other cannot be made idle", "Linux 5.15"),
        ((), (), Verdict.OK, "has no CPU cgroup of its own", ""),
    ],
)
def test_it_is_told_whether_the_engine_gives_way_to_calls_and_what_to_write(
    node_with_groups: Callable[..., Finding],
    own: tuple[str, ...],
    named: tuple[str, ...],
    verdict: Verdict,
    says: str,
    advises: str,
) -> None:
    finding = node_with_groups(own=own, named=named)
    assert finding.verdict is verdict
    assert says in finding.text
    assert (advises in finding.advice) if advises else not finding.advice


def test_cgroups_are_named_and_no_cpu_controller_is_mounted(node_with_groups: Callable[..., Finding]) -> None:
    assert "no cgroup hierarchy" in node_with_groups(own=(), named=("/a.service",), mounted=False).text
