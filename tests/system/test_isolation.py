"""Who a function runs as, what bounds it and what it can see: read from inside, on every kind of start."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from site_mounts import at_mount

from bench.daemon import Daemon, DaemonFailed

pytestmark = pytest.mark.docker

MIB = 1024 * 1024
#: No default value among them: a default would also be seen where a key is not obeyed.
ISOLATION = {
    "isolation.cpu_millis": 2000,
    "isolation.pids": 77,
    "isolation.open_files": 222,
    "isolation.tmp_mib": 24,
}
MEMORY_MIB = 320
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
STARTS = ("cold", "stem", "warm", "frozen", "adopted")
DEVICES = {
    *("console", "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm"),
    *("stderr", "stdin", "stdout", "tty", "urandom", "zero"),
}
#: What one process of a container looks like to itself.
PROBE = """
import ctypes, errno, os, resource, socket, stat, subprocess, tempfile

def attempt(act):
    try:
        act()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"

def read(*paths):
    for path in paths:
        if os.path.exists(path):
            return open(path).read().strip()

def status_of(path):
    wanted = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")
    lines = dict(line.split(":", 1) for line in open(path).read().splitlines())
    return {name: lines[name].split() for name in wanted}

def execute_in_tmp():
    path = os.path.join("/tmp", "script")
    with open(path, "w") as file:
        file.write("#!/bin/sh\\necho ran\\n")
    os.chmod(path, 0o700)
    try:
        return subprocess.run([path], capture_output=True, text=True).stdout
    finally:
        os.unlink(path)

def fill_tmp():
    with tempfile.TemporaryFile(dir="/tmp") as file:
        os.posix_fallocate(file.fileno(), 0, 25 << 20)

def connect(family, address):
    with socket.socket(family) as client:
        client.settimeout(5)
        client.connect(address)

def main(args):
    home = os.statvfs("/tmp")
    mounts = [line.split() for line in open("/proc/self/mountinfo")]
    return {
        "ids": [*os.getresuid(), *os.getresgid()],
        "groups": sorted(os.getgroups()),
        "processes": [status_of(f"/proc/{pid}/task/{task}/status")
                      for pid in os.listdir("/proc") if pid.isdigit() for task in os.listdir(f"/proc/{pid}/task")],
        "writes": {path: attempt(lambda: open(path, "w")) for path in
                   ("/x", "/etc/x", "/usr/bin/x", "/var/tmp/x", "/invokerd/x", "/run/x", "/run/invokerd/x",
                    "/proc/sys/kernel/x")},
        "replace_pipe": attempt(lambda: os.unlink("/run/invokerd/log")),
        "set_time": attempt(lambda: __import__("time").clock_settime(0, 0)),
        "set_uid": attempt(lambda: os.setuid(0)),
        "set_groups": attempt(lambda: os.setgroups([0])),
        "make_device": attempt(lambda: os.mknod("/tmp/disk", 0o600 | stat.S_IFBLK, os.makedev(8, 0))),
        "mount": ctypes.CDLL(None, use_errno=True).mount(b"none", b"/tmp", b"tmpfs", 0, None),
        "tmp": {"bytes": home.f_blocks * home.f_frsize, "exec": execute_in_tmp(), "fill": attempt(fill_tmp),
                "owner": os.stat("/tmp").st_uid},
        "memory": read("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory.max"),
        "memory_and_swap": read("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes"),
        "swap": read("/sys/fs/cgroup/memory.swap.max"),
        "cpu": read("/sys/fs/cgroup/cpu.max") or " ".join(
            read(f"/sys/fs/cgroup/cpu/cpu.cfs_{name}_us") for name in ("quota", "period")),
        "pids": read("/sys/fs/cgroup/pids/pids.max", "/sys/fs/cgroup/pids.max"),
        "files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "interfaces": os.listdir("/sys/class/net"),
        "routes": open("/proc/net/route").read().splitlines()[1:],
        "routes_v6": [line.split()[-1] for line in (read("/proc/net/ipv6_route") or "").splitlines()],
        "connect": {
            "daemon": attempt(lambda: connect(socket.AF_INET, ("127.0.0.1", args["port"]))),
            "outside": attempt(lambda: connect(socket.AF_INET, ("192.0.2.1", 80))),
            "abstract": attempt(lambda: connect(socket.AF_UNIX, args["abstract"])),
        },
        "namespaces": {name: os.readlink(f"/proc/self/ns/{name}") for name in ("ipc", "mnt", "net", "pid", "uts")},
        "devices": os.listdir("/dev"),
        "block_devices": [entry.name for entry in os.scandir("/dev") if stat.S_ISBLK(entry.stat(follow_symlinks=False).st_mode)],
        "sockets": [os.path.join(root, name) for top in ("/run", "/var", "/tmp", "/etc") for root, _, names in os.walk(top)
                    for name in names if stat.S_ISSOCK(os.lstat(os.path.join(root, name)).st_mode)],
        "mounted": [fields[4] for fields in mounts],
        "host_paths": {path: os.path.exists(path) for path in args["host_paths"]},
        "environment": dict(os.environ),
        "first_environment": open("/proc/1/environ").read(),
    }
"""


def containers(daemon: Daemon, **wanted: Any) -> list[dict[str, Any]]:
    listed = json.loads(daemon.control("pool", "--json"))["containers"]
    return [each for each in listed if wanted.items() <= each.items()]


@dataclass
class Site:
    """The daemon and what a function of `anna` saw on each kind of start."""

    daemon: Daemon
    anna: Any
    arguments: dict[str, Any]
    seen: dict[str, dict[str, Any]]
    container: dict[str, str]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, engine_url: str, make_user: Any) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("isolation")
    daemon = Daemon(root, engine_url, {"pool.memory_mib": 4096, "pool.freeze_grace_s": 3.0, **ISOLATION})
    shared, library = root / "shared", root / "library"
    shared.mkdir()
    shared.chmod(0o1777)
    library.mkdir()
    library.chmod(0o777)
    (library / "book").write_text("read me")
    at_mount(
        daemon,
        shared={"source": str(shared), "target": "/data", "read_only": False, "namespaces": ["anna", "bert", "carl"]},
        library={"source": str(library), "target": "/library"},
    )
    daemon.start()
    listening = socket.socket(socket.AF_UNIX)
    abstract = f"\0invokerd-{daemon.node}"
    listening.bind(abstract)  # reachable for every process of this network namespace, whatever it may see of the files
    listening.listen()
    try:
        anna = make_user(
            daemon, "anna", words=("--group", "20501", "--group", "20500", "--mount", "library", "--mount", "shared")
        )
        arguments = {
            "port": daemon.port,
            "abstract": abstract,
            "host_paths": [
                str(daemon.state_dir),
                str(root),
                engine_url.removeprefix("unix://"),
                "/var/run/docker.sock",
                "/data/nothing",
            ],
        }
        site = Site(daemon, anna, arguments, {}, {})
        look_on_every_start(site)
        yield site
    finally:
        listening.close()
        daemon.stop()


def look_on_every_start(site: Site) -> None:
    daemon, anna = site.daemon, site.anna

    def look(start: str, action: str, expected: str) -> None:
        answer = anna.invoke(action, site.arguments)
        assert answer.status == 200, answer.text
        assert answer.annotations["startKind"] == expected
        site.seen[start] = answer.json["response"]["result"]
        site.container[start] = answer.annotations["container"]

    anna.deploy("look", PROBE, memory=MEMORY_MIB)  # no stem cell has this size
    look("cold", "look", "cold")
    look("warm", "look", "warm")
    daemon.wait(lambda: containers(daemon, action="anna/look", state="frozen"), "to freeze it")
    look("frozen", "look", "frozen")
    anna.deploy("young", PROBE, memory=256)
    daemon.wait(lambda: containers(daemon, namespace="anna", state="stem_frozen"), "to have a stem cell")
    look("stem", "young", "stem")
    daemon.stop()
    daemon.start()
    look("adopted", "look", "frozen")


@pytest.fixture(params=STARTS)
def seen(request: pytest.FixtureRequest, site: Site) -> dict[str, Any]:
    """What a function saw, on one kind of start."""
    result = dict(site.seen[request.param])
    result["memory_mib"] = 256 if request.param == "stem" else MEMORY_MIB
    return result


def test_reuse_is_of_the_same_container_also_over_a_restart(site):
    assert len({site.container[start] for start in ("cold", "warm", "frozen", "adopted")}) == 1
    assert site.container["stem"] != site.container["cold"]


def test_it_is_the_user_with_the_groups_of_the_namespace(seen):
    assert seen["ids"] == [20_001] * 6
    assert seen["groups"] == [20_001, 20_500, 20_501]


def test_every_process_and_thread_is_without_capabilities_and_can_gain_none(seen):
    assert len(seen["processes"]) >= 2
    for status in seen["processes"]:
        assert status["Uid"] == status["Gid"] == ["20001"] * 4
        assert sorted(status["Groups"]) == ["20001", "20500", "20501"]
        assert {status[name][0] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
        assert status["NoNewPrivs"] == ["1"]
        assert status["Seccomp"] == ["2"]


def test_what_needs_a_privilege_is_refused(seen):
    assert seen["set_time"] == seen["set_uid"] == seen["set_groups"] == seen["make_device"] == "EPERM"
    assert seen["mount"] == -1


def test_the_root_is_read_only(seen):
    assert {path: said for path, said in seen["writes"].items() if said not in {"EROFS", "ENOENT", "EACCES"}} == {}
    assert seen["writes"]["/run/invokerd/x"] == seen["replace_pipe"] == "EROFS"


def test_tmp_has_its_size_is_the_users_and_programs_in_it_run(seen):
    assert seen["tmp"] == {"bytes": 24 * MIB, "exec": "ran\n", "fill": "ENOSPC", "owner": 20_001}


def test_memory_cpu_processes_files_and_cores_are_limited(seen):
    assert int(seen["memory"]) == seen["memory_mib"] * MIB
    if seen["swap"] is None:
        assert int(seen["memory_and_swap"]) == int(seen["memory"])
    else:
        assert seen["swap"] == "0"
    quota, period = map(int, seen["cpu"].split())
    assert quota == 2 * period
    assert seen["pids"] == "77"
    assert seen["files"] == [222, 222]
    assert seen["core"] == [0, 0]


def test_there_is_no_network(seen):
    assert seen["interfaces"] == ["lo"]
    assert seen["routes"] == []
    assert set(seen["routes_v6"]) <= {"lo"}
    assert seen["connect"] == {"daemon": "ECONNREFUSED", "outside": "ENETUNREACH", "abstract": "ECONNREFUSED"}


def test_namespaces_are_its_own(seen):
    assert set(seen["namespaces"]) == {"ipc", "mnt", "net", "pid", "uts"}
    for name, link in seen["namespaces"].items():
        assert link != str(Path(f"/proc/self/ns/{name}").readlink())


def test_there_are_no_devices_beyond_the_usual(seen):
    assert set(seen["devices"]) <= DEVICES
    assert seen["block_devices"] == []


def test_neither_engine_nor_state_directory_can_be_seen(seen):
    assert set(seen["host_paths"].values()) == {False}
    assert seen["sockets"] == []
    ours = {path for path in seen["mounted"] if not path.startswith(("/proc", "/sys", "/dev"))}
    assert ours == {"/", "/tmp", "/data", "/library", "/run/invokerd", "/etc/resolv.conf", "/etc/hostname", "/etc/hosts"}


def test_the_environment_holds_no_secret(seen, site):
    uuid, _, secret = site.anna.key.partition(":")
    pepper = (site.daemon.state_dir / "pepper").read_bytes()
    text = json.dumps(seen["environment"]) + seen["first_environment"]
    assert uuid not in text
    assert secret not in text
    assert pepper.hex() not in text
    names = {*seen["environment"], *(line.partition("=")[0] for line in seen["first_environment"].split("\0"))}
    assert not {name for name in names if any(word in name for word in ("KEY", "SECRET", "TOKEN", "DOCKER", "AUTH", "PASS"))}
    assert not {name for name in names if name.startswith("INVOKERD")}


def test_libraries_are_told_the_cpu_limit(seen):
    assert {name: seen["environment"].get(name) for name in THREADS} == dict.fromkeys(THREADS, "2")


OTHERS = {
    "nodejs:20": """
const read = path => require('fs').readFileSync(path, 'utf8')
const main = () => ({ me: read('/proc/self/status'), first: read('/proc/1/status') })
""",
    "blackbox": """#!/usr/bin/env python3
import json
print(json.dumps({"me": open("/proc/self/status").read(), "first": open("/proc/1/status").read()}))
""",
}


@pytest.mark.parametrize("kind", OTHERS)
def test_the_other_runtimes_run_as_the_user_too(site, kind):
    site.anna.deploy("other", OTHERS[kind], kind=kind, image="openwhisk/dockerskeleton" if kind == "blackbox" else None)
    answer = site.anna.invoke("other")
    assert answer.status == 200, answer.text
    for status in answer.json["response"]["result"].values():
        lines = dict(line.split(":\t", 1) for line in status.splitlines())
        assert lines["Uid"].split() == lines["Gid"].split() == ["20001"] * 4
        assert sorted(lines["Groups"].split()) == ["20001", "20500", "20501"]
        assert {lines[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
        assert (lines["NoNewPrivs"], lines["Seccomp"]) == ("1", "2")


# ---- mounts

FILES = """
import errno, os
def main(args):
    path = args["path"]
    try:
        if "write" in args:
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.write(args["write"])
        with open(path) as file:
            return {"uid": os.getuid(), "text": file.read()}
    except OSError as error:
        return {"uid": os.getuid(), "errno": errno.errorcode[error.errno]}
"""


def test_two_users_share_a_mount_and_neither_reads_the_others_private_file_however_often_containers_are_reused(site, make_user):
    bert = make_user(site.daemon, "bert", uid=20_002, gid=20_002, words=("--mount", "shared"))
    users = {20_001: site.anna, 20_002: bert}
    for user in users.values():
        user.deploy("files", FILES, memory=192)
    held: dict[int, set[str]] = {uid: set() for uid in users}
    starts = set()
    for turn in range(4):
        if turn == 2:  # from here on out of the frozen pool
            site.daemon.wait(lambda: len(containers(site.daemon, state="frozen", memory_mib=192)) == 2, "to freeze both")
        for uid, user in users.items():
            own, foreign = f"/data/of-{uid}", f"/data/of-{40_003 - uid}"
            answer = user.invoke("files", {"path": own, "write": f"{uid} {turn}"})
            assert answer.json["response"]["result"] == {"uid": uid, "text": f"{uid} {turn}"}
            held[uid].add(answer.annotations["container"])
            starts.add(answer.annotations["startKind"])
            if turn or uid == 20_002:
                refused = user.invoke("files", {"path": foreign})
                assert refused.json["response"]["result"] == {"uid": uid, "errno": "EACCES"}
    assert starts == {"cold", "warm", "frozen"}
    assert not held[20_001] & held[20_002]
    assert {len(each) for each in held.values()} == {1}
    source = site.daemon.state_dir.parent / "shared"
    assert {(source / f"of-{uid}").stat().st_uid for uid in users} == set(users)


def test_a_mount_is_seen_only_by_a_namespace_that_was_granted_it(site, make_user):
    carl = make_user(site.daemon, "carl", uid=20_003, gid=20_003)
    carl.deploy("files", FILES)
    for path in ("/data/x", "/library/book"):
        assert carl.invoke("files", {"path": path}).json["response"]["result"] == {"uid": 20_003, "errno": "ENOENT"}
    assert site.anna.ask("GET", "actions").status == 200
    site.anna.deploy("files", FILES, memory=192)
    assert site.anna.invoke("files", {"path": "/library/book"}).json["response"]["result"]["text"] == "read me"


def test_a_mount_is_granted_and_taken_away_while_the_namespace_keeps_its_key_and_actions(site, make_user):
    late = make_user(site.daemon, "late", uid=20_006, gid=20_006)
    late.deploy("files", FILES)

    def read() -> str | None:
        return late.invoke("files", {"path": "/library/book"}).json["response"]["result"].get("text")

    assert (read(), read()) == (None, None)
    site.daemon.control("namespace", "update", "late", "--mount", "library")
    assert (read(), read()) == ("read me", "read me")
    assert late.invoke("files", {"path": "/library/book"}).annotations["startKind"] in ("warm", "frozen")
    site.daemon.control("namespace", "update", "late", "--no-mounts")
    assert read() is None
    with pytest.raises(DaemonFailed, match="nowhere"):
        site.daemon.control("namespace", "update", "late", "--mount", "nowhere")
    with pytest.raises(DaemonFailed, match="group 0 is root"):
        site.daemon.control("namespace", "update", "late", "--group", "0")


def test_a_mount_that_is_not_offered_to_a_namespace_cannot_be_granted(site, make_user):
    with pytest.raises(DaemonFailed, match="shared"):
        make_user(site.daemon, "dora", words=("--mount", "shared"))
    with pytest.raises(DaemonFailed, match="nowhere"):
        make_user(site.daemon, "dora", words=("--mount", "nowhere"))


def test_a_read_only_mount_is_read_only_whatever_its_mode_allows(site):
    site.anna.deploy("files", FILES, memory=192)
    assert site.anna.invoke("files", {"path": "/library/new", "write": "x"}).json["response"]["result"]["errno"] == "EROFS"
    assert site.anna.invoke("files", {"path": "/library/book", "write": "x"}).json["response"]["result"]["errno"] == "EROFS"
    assert (site.daemon.state_dir.parent / "library" / "book").read_text() == "read me"


# ---- root


@pytest.mark.parametrize("words", [("--uid", "0", "--gid", "20001"), ("--uid", "20001", "--gid", "0")])
def test_root_is_refused_and_the_key_that_would_allow_it_is_named(site, words):
    with pytest.raises(DaemonFailed, match=r"isolation\.allow_root"):
        site.daemon.control("namespace", "create", "root", *words)
    assert '"root"' not in site.daemon.control("namespace", "list", "--json")


def test_root_as_a_supplementary_group_is_refused_too(site):
    with pytest.raises(DaemonFailed, match=r"isolation\.allow_root"):
        site.daemon.control("namespace", "create", "root", "--uid", "20001", "--gid", "20001", "--group", "0")


def test_where_root_is_allowed_it_is_root_without_capabilities(tmp_path: Path, engine_url, make_user):
    daemon = Daemon(tmp_path, engine_url, {"pool.memory_mib": 1024, "isolation.allow_root": True})
    daemon.start()
    try:
        root = make_user(daemon, "root", uid=0, gid=0)
        root.deploy("look", PROBE)
        answer = root.invoke("look", {"port": daemon.port, "abstract": f"\0invokerd-{daemon.node}", "host_paths": []})
        assert answer.status == 200, answer.text
        result = answer.json["response"]["result"]
        assert result["ids"] == [0] * 6
        for status in result["processes"]:
            assert {status[name][0] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
            assert (status["NoNewPrivs"], status["Seccomp"]) == (["1"], ["2"])
        assert result["make_device"] == "EPERM"
        assert result["mount"] == -1
    finally:
        daemon.stop()
