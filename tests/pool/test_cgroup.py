"""Version 1 and 2 on the kernel's own cgroups where this process may make some; every layout of hosts on text."""

import contextlib
import errno
import os
import subprocess
import sys
import time
import uuid
from dataclasses import fields
from pathlib import Path

import pytest

from pool import cgroup
from pool.backend import Descriptors
from pool.cgroup import CgroupFiles, CgroupNotFoundError, Directories, KernelHandle, find_directories, open_files
from pool.live import OOM_MARGIN
from pool.model import ContainerId, PeakQuality

SPIN = "print('ready', flush=True)\nwhile True: pass"
ROOT = Path("/sys/fs/cgroup")


def has_v1() -> bool:
    return all((ROOT / name / "cgroup.procs").exists() for name in ("freezer", "cpuacct", "memory", "cpu")) and os.getuid() == 0


def v2_root() -> Path | None:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if " - cgroup2 " in line and os.getuid() == 0:
            return Path(line.split()[4])
    return None


needs_v1 = pytest.mark.skipif(not has_v1(), reason="needs root and version 1 hierarchies")
needs_v2 = pytest.mark.skipif(v2_root() is None, reason="needs root and a unified hierarchy")


class Process:
    """A Python process in cgroups of its own, with a handle on it."""

    def __init__(self, directories: list[Path], code: str) -> None:
        self.directories = directories
        self.child = subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.readline()\n" + code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.handle: KernelHandle = None
        try:
            for directory in directories:
                (directory / "cgroup.procs").write_text(str(self.child.pid))
            self.found = find_directories(self.child.pid)
        except OSError:
            self.end()
            raise

    def go(self, found: Directories) -> "Process":
        self.handle = handle_of(open_files(found), self.child.pid)
        self.child.stdin.write("go\n")
        self.child.stdin.flush()
        return self

    def said(self) -> str:
        return self.child.stdout.readline().strip()

    def end(self) -> None:
        self.child.kill()
        self.child.communicate()


def handle_of(files: CgroupFiles, pid: int) -> KernelHandle:
    values = {field.name: getattr(files, field.name) for field in fields(files)}
    descriptors = Descriptors(pid=pid, pidfd=os.pidfd_open(pid), log=-1, **values)
    return KernelHandle(ContainerId("c"), "e", descriptors)


@contextlib.contextmanager
def scratch(parents: list[Path], code: str):
    directories = [parent / f"invokerd-test-{uuid.uuid4().hex[:8]}" for parent in parents]
    for directory in directories:
        directory.mkdir()
    process = None
    try:
        process = Process(directories, code)
        yield process
    finally:
        if process is not None:
            if process.handle is not None:
                process.handle.kill()
                process.handle.close()
            process.end()
        for directory in directories:
            directory.rmdir()


def v1(code: str):
    return scratch([ROOT / name for name in ("freezer", "cpuacct", "cpu", "memory")], code)


def v2(code: str):
    return scratch([v2_root()], code)


def wait_frozen(handle: KernelHandle, *, frozen: bool) -> None:
    for _ in range(1_000_000):
        if handle.is_frozen() is frozen:
            return
    pytest.fail(f"never became frozen={frozen}")


def settled_cpu(handle: KernelHandle) -> int:
    """The CPU counter once it stands still for 20 ms: the last slice before a freeze is counted a tick later."""
    seen, since, began = handle.cpu_us(), time.perf_counter(), time.perf_counter()
    while time.perf_counter() - since < 0.02:
        if (now := handle.cpu_us()) != seen:
            seen, since = now, time.perf_counter()
        assert since - began < 2.0, "it uses CPU though frozen"
    assert seen > 0
    return seen


def open_descriptors() -> set[int]:
    return {fd for fd in range(1024) if _is_open(fd)}


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


# ---- where a process' cgroups lie


def tree(tmp_path: Path, groups: str, mounts: str, members: list[str], pid: int = 42) -> Path:
    """A `/proc` on disk, and the cgroup directories in which the process is listed."""
    proc = tmp_path / "proc"
    (proc / str(pid)).mkdir(parents=True)
    (proc / "self").mkdir()
    (proc / str(pid) / "cgroup").write_text(groups)
    (proc / "self" / "mountinfo").write_text(mounts.replace("@", str(tmp_path)))
    for member in members:
        (tmp_path / member).mkdir(parents=True, exist_ok=True)
        (tmp_path / member / "cgroup.procs").write_text(f"1\n{pid}\n")
    return proc


V1_MOUNTS = """\
30 23 0:27 / @/cg/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
31 23 0:28 / @/cg/memory rw,nosuid shared:10 master:2 - cgroup cgroup rw,memory
32 23 0:29 / @/cg/freezer rw,nosuid - cgroup cgroup rw,freezer
33 23 0:30 / @/cg/unified rw,nosuid - cgroup2 cgroup2 rw
"""


def test_version_1_with_joint_controllers_is_found(tmp_path):
    groups = "4:memory:/docker/ID\n3:freezer:/docker/ID\n2:cpu,cpuacct:/docker/ID\n0::/docker/ID\n"
    proc = tree(tmp_path, groups, V1_MOUNTS, ["cg/memory/docker/ID", "cg/freezer/docker/ID", "cg/cpu,cpuacct/docker/ID"])
    found = find_directories(42, proc)
    assert found.version == 1  # hybrid: the unified hierarchy has no controllers
    assert found.path == {
        "freezer": tmp_path / "cg/freezer/docker/ID",
        "cpuacct": tmp_path / "cg/cpu,cpuacct/docker/ID",
        "cpu": tmp_path / "cg/cpu,cpuacct/docker/ID",
        "memory": tmp_path / "cg/memory/docker/ID",
    }


def test_version_2_with_the_systemd_driver_is_found(tmp_path):
    mounts = "26 23 0:22 / @/sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"
    proc = tree(tmp_path, "0::/system.slice/docker-ID.scope\n", mounts, ["sys/fs/cgroup/system.slice/docker-ID.scope"])
    found = find_directories(42, proc)
    assert (found.version, found.path) == (2, {"": tmp_path / "sys/fs/cgroup/system.slice/docker-ID.scope"})


def test_a_process_in_the_root_cgroup_is_found(tmp_path):
    mounts = "26 23 0:22 / @/cg rw - cgroup2 cgroup2 rw\n"
    assert find_directories(42, tree(tmp_path, "0::/\n", mounts, ["cg"])).path[""] == tmp_path / "cg"


def test_a_daemon_in_a_container_sees_its_own_part_of_the_hierarchy(tmp_path):
    mounts = "26 23 0:22 /docker/OUTER @/cg ro - cgroup2 cgroup2 rw\n"
    proc = tree(tmp_path, "0::/docker/OUTER/docker/ID\n", mounts, ["cg/docker/ID"])
    assert find_directories(42, proc).path[""] == tmp_path / "cg/docker/ID"


def test_a_cgroup_outside_of_what_is_mounted_is_not_found(tmp_path):
    mounts = "26 23 0:22 /docker/OUTER @/cg ro - cgroup2 cgroup2 rw\n"
    proc = tree(tmp_path, "0::/docker/ID\n", mounts, ["cg/docker/ID", "docker/ID"])
    with pytest.raises(CgroupNotFoundError, match="/docker/ID"):
        find_directories(42, proc)


def test_a_path_above_the_cgroup_namespace_is_not_found(tmp_path):
    proc = tree(tmp_path, "0::/../ID\n", "26 23 0:22 / @/cg ro - cgroup2 cgroup2 rw\n", ["cg", "ID"])
    with pytest.raises(CgroupNotFoundError):
        find_directories(42, proc)


def test_a_directory_that_does_not_list_the_process_is_not_believed(tmp_path):
    mounts = "26 23 0:22 / @/stale rw - cgroup2 cgroup2 rw\n27 23 0:22 / @/cg rw - cgroup2 cgroup2 rw\n"
    proc = tree(tmp_path, "0::/ID\n", mounts, ["stale/ID", "cg/ID"])
    (tmp_path / "stale/ID/cgroup.procs").write_text("421\n142\n")
    assert find_directories(42, proc).path[""] == tmp_path / "cg/ID"


def test_a_list_of_version_1_that_misses_the_youngest_is_read_again(tmp_path, monkeypatch):
    """The kernel counts the processes before it lists them; a fork in between costs the last ones their place."""
    mounts = "32 23 0:29 / @/freezer rw,nosuid - cgroup cgroup rw,freezer\n"
    proc = tree(tmp_path, "3:freezer:/docker/ID\n", mounts, ["freezer/docker/ID"])
    really_read, looks = Path.read_text, []

    def truncated(path, *rest, **named):
        if path.name == "cgroup.procs":
            looks.append(path)
            return "1\n" if len(looks) < 3 else really_read(path, *rest, **named)
        return really_read(path, *rest, **named)

    monkeypatch.setattr(Path, "read_text", truncated)
    assert find_directories(42, proc).path == {"freezer": tmp_path / "freezer/docker/ID"}
    assert len(looks) == 3


def test_mount_points_with_spaces_are_read(tmp_path):
    mounts = "26 23 0:22 / @/my\\040cgroups rw - cgroup2 cgroup2 rw\n"
    assert find_directories(42, tree(tmp_path, "0::/ID\n", mounts, ["my cgroups/ID"])).path[""] == tmp_path / "my cgroups/ID"


def test_a_process_that_has_ended_is_not_found(tmp_path):
    with pytest.raises(FileNotFoundError):
        find_directories(43, tree(tmp_path, "0::/\n", "", []))


# ---- version 1, for real


@needs_v1
def test_v1_a_frozen_process_uses_no_cpu_until_it_is_thawed():
    with v1(SPIN) as process:
        handle = process.go(process.found).handle
        assert process.said() == "ready"
        assert handle.descriptors.cgroup_version == 1
        handle.freeze()
        wait_frozen(handle, frozen=True)
        stopped_at = settled_cpu(handle)
        handle.thaw()
        handle.thaw()
        wait_frozen(handle, frozen=False)
        while handle.cpu_us() < stopped_at + 5000:
            pass


@needs_v1
def test_v1_a_frozen_process_can_be_killed():
    with v1(SPIN) as process:
        handle = process.go(process.found).handle
        handle.freeze()
        wait_frozen(handle, frozen=True)
        handle.kill()
        assert process.child.wait(5) == -9
        handle.kill()


@needs_v1
def test_v1_the_peak_begins_anew_after_a_reset():
    code = "b=bytearray(40<<20); del b; print('big', flush=True); sys.stdin.readline(); b=bytearray(12<<20)"
    with v1(code + "; print('small', flush=True); sys.stdin.readline()") as process:
        handle = process.go(process.found).handle
        assert process.said() == "big"
        first = handle.memory()
        assert first.peak > 40 << 20
        assert first.peak_quality is PeakQuality.LIFETIME
        handle.reset_memory_peak()
        process.child.stdin.write("go\n")
        process.child.stdin.flush()
        assert process.said() == "small"
        second = handle.memory()
        assert second.peak_quality is PeakQuality.EXACT
        assert 12 << 20 < second.anonymous <= second.peak < 40 << 20


@needs_v1
def test_v1_shared_memory_is_told_from_page_cache_and_from_anonymous(tmp_path):
    shm = Path("/dev/shm") / f"invokerd-test-{uuid.uuid4().hex}"
    file = tmp_path / "file"
    code = (
        f"open({str(shm)!r},'wb').write(bytes(8<<20)); open({str(file)!r},'wb').write(bytes(16<<20)); print('done', flush=True)"
    )
    try:
        with v1(code + "; sys.stdin.readline()") as process:
            handle = process.go(process.found).handle
            assert process.said() == "done"
            reading = handle.memory()
            shm.unlink()
    finally:
        shm.unlink(missing_ok=True)
    assert 8 << 20 <= reading.shared < 9 << 20
    assert 16 << 20 <= reading.cache < 20 << 20


@needs_v1
def test_v1_a_kill_for_memory_is_counted():
    with v1("b=bytearray(60<<20); print(len(b), flush=True); sys.stdin.readline()") as process:
        memory = process.directories[3]
        (memory / "memory.limit_in_bytes").write_text(str(24 << 20))
        (memory / "memory.memsw.limit_in_bytes").write_text(str(24 << 20))
        handle = process.go(process.found).handle
        assert handle.oom_kills() == 0
        assert process.said() == ""
        assert process.child.wait(5) == -9
        assert handle.oom_kills() == 1


@needs_v1
def test_v1_a_child_that_is_killed_for_memory_is_counted_and_leaves_a_peak_near_the_limit():
    code = """
import subprocess
greedy = "open('/proc/self/oom_score_adj', 'w').write('1000'); b = bytearray(60 << 20)"
print(subprocess.run([sys.executable, "-c", greedy]).returncode, flush=True)
sys.stdin.readline()
"""
    with v1(code) as process:
        limit, memory = 32 << 20, process.directories[3]
        (memory / "memory.limit_in_bytes").write_text(str(limit))
        (memory / "memory.memsw.limit_in_bytes").write_text(str(limit))
        handle = process.go(process.found).handle
        handle.reset_memory_peak()
        assert process.said() == "-9"
        assert process.child.poll() is None, "the main process has survived"
        assert handle.memory().peak > limit - OOM_MARGIN
        assert handle.oom_kills() == 1


@needs_v1
def test_v1_time_lost_to_the_quota_is_counted():
    with v1(SPIN) as process:
        (process.directories[2] / "cpu.cfs_quota_us").write_text("5000")
        handle = process.go(process.found).handle
        assert handle.throttled_us() == 0
        while handle.throttled_us() < 20_000:
            pass
        assert handle.cpu_us() < handle.throttled_us()


@needs_v1
def test_v1_a_handle_opens_five_cgroup_files_and_closes_them_all():
    with v1("sys.stdin.readline()") as process:
        before = open_descriptors()
        handle = process.go(process.found).handle
        assert len(open_descriptors() - before) == 6  # and the pidfd
        handle.close()
        handle.close()
        assert open_descriptors() <= before
        process.handle = None


# ---- version 2, for real where there is a unified hierarchy, even without controllers


@needs_v2
def test_v2_a_frozen_process_uses_no_cpu_until_it_is_thawed():
    with v2(SPIN) as process:
        handle = process.go(Directories(version=2, path={"": process.directories[0]})).handle
        assert process.said() == "ready"
        assert handle.descriptors.cgroup_version == 2
        handle.freeze()
        wait_frozen(handle, frozen=True)
        stopped_at = settled_cpu(handle)
        handle.thaw()
        wait_frozen(handle, frozen=False)
        while handle.cpu_us() < stopped_at + 5000:
            pass


@needs_v2
def test_v2_a_frozen_process_can_be_killed():
    with v2(SPIN) as process:
        handle = process.go(Directories(version=2, path={"": process.directories[0]})).handle
        handle.freeze()
        wait_frozen(handle, frozen=True)
        handle.kill()
        assert process.child.wait(5) == -9


@needs_v2
def test_v2_without_a_memory_controller_says_nothing_rather_than_something_wrong():
    with v2(SPIN) as process:
        if (process.directories[0] / "memory.stat").exists():
            pytest.skip("this hierarchy has the memory controller")
        handle = process.go(Directories(version=2, path={"": process.directories[0]})).handle
        handle.reset_memory_peak()
        assert handle.memory().peak_quality is PeakQuality.SAMPLED
        assert (handle.memory().peak, handle.oom_kills()) == (0, 0)


# ---- version 2's files, as text


@pytest.fixture
def v2_files(tmp_path):
    texts = {
        "cgroup.freeze": "0\n",
        "cgroup.events": "populated 1\nfrozen 0\n",
        "cpu.stat": "usage_usec 5123\nuser_usec 5000\nsystem_usec 123\nnr_periods 7\nnr_throttled 2\nthrottled_usec 456\n",
        "memory.peak": "9000000\n",
        "memory.stat": "anon 4096000\nfile 3000000\nkernel 5\nfile_mapped 9\nshmem 1000000\n",
        "memory.events": "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_v2_counters_are_read_by_name(v2_files):
    handle = handle_of(open_files(Directories(version=2, path={"": v2_files})), os.getpid())
    reading = handle.memory()
    assert (handle.cpu_us(), handle.throttled_us(), handle.oom_kills()) == (5123, 456, 2)
    assert (reading.anonymous, reading.shared, reading.cache, reading.peak) == (4096000, 1000000, 2000000, 9000000)
    handle.close()


def test_v2_kills_for_memory_are_looked_for_by_path_and_are_unknown_with_the_cgroup_gone(v2_files):
    handle = handle_of(open_files(Directories(version=2, path={"": v2_files})), os.getpid())
    (v2_files / "memory.events").write_text("oom 4\noom_kill 3\n")
    assert handle.oom_kills() == 3
    (v2_files / "memory.events").unlink()
    with pytest.raises(FileNotFoundError):
        handle.oom_kills()
    handle.close()
    handle = handle_of(open_files(Directories(version=2, path={"": v2_files})), os.getpid())
    assert handle.oom_kills() == 0, "a kernel without this file has no such count"
    handle.close()


def test_v2_a_peak_that_can_be_reset_is_exact_after_the_reset(v2_files):
    handle = handle_of(open_files(Directories(version=2, path={"": v2_files})), os.getpid())
    assert handle.memory().peak_quality is PeakQuality.LIFETIME
    handle.reset_memory_peak()
    assert handle.memory().peak_quality is PeakQuality.EXACT
    handle.close()


def test_v2_before_linux_6_12_the_peak_stays_a_lifetime_peak_and_is_not_written_to(v2_files):
    """There root may open the file for writing, and each write fails: only its mode tells."""
    (v2_files / "memory.peak").chmod(0o444)
    handle = handle_of(open_files(Directories(version=2, path={"": v2_files})), os.getpid())
    handle.reset_memory_peak()
    assert (handle.memory().peak, handle.memory().peak_quality) == (9000000, PeakQuality.LIFETIME)
    assert (v2_files / "memory.peak").read_text() == "9000000\n"
    handle.close()


def test_v2_where_cgroups_are_mounted_read_only_the_peak_is_read_all_the_same(v2_files, monkeypatch):
    really_open = os.open

    def read_only(path, flags, *rest, **named):
        if Path(path).name == "memory.peak" and flags & os.O_ACCMODE != os.O_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return really_open(path, flags, *rest, **named)

    monkeypatch.setattr(cgroup.os, "open", read_only)
    handle = handle_of(open_files(Directories(version=2, path={"": v2_files})), os.getpid())
    handle.reset_memory_peak()
    assert (handle.memory().peak, handle.memory().peak_quality) == (9000000, PeakQuality.LIFETIME)
    handle.close()


@pytest.mark.parametrize("verb", ["freeze", "thaw"])
def test_a_freezer_that_is_open_for_reading_only_says_what_the_matter_is(v2_files, monkeypatch, verb):
    def as_kernfs_does(_fd, _data, _offset):
        raise OSError(errno.ESPIPE, os.strerror(errno.ESPIPE))

    handle = handle_of(open_files(Directories(version=2, path={"": v2_files})), os.getpid())
    monkeypatch.setattr(cgroup.os, "pwrite", as_kernfs_does)
    with pytest.raises(OSError, match="the freezer of its cgroup cannot be written") as caught:
        getattr(handle, verb)()
    assert caught.value.errno == errno.EROFS
    handle.close()


def test_v2_before_linux_5_19_the_peak_is_a_sample(v2_files):
    (v2_files / "memory.peak").unlink()
    handle = handle_of(open_files(Directories(version=2, path={"": v2_files})), os.getpid())
    assert (handle.memory().peak, handle.memory().peak_quality) == (7096000, PeakQuality.SAMPLED)
    handle.close()


def test_a_cgroup_that_cannot_be_frozen_opens_nothing(v2_files):
    (v2_files / "cgroup.freeze").unlink()
    before = open_descriptors()
    with pytest.raises(FileNotFoundError):
        open_files(Directories(version=2, path={"": v2_files}))
    assert open_descriptors() == before


@needs_v1
def test_a_process_of_which_nothing_is_open_can_be_thawed():
    with v1(SPIN) as process:
        handle = process.go(process.found).handle
        handle.freeze()
        wait_frozen(handle, frozen=True)
        cgroup.thaw_process(process.child.pid)
        assert not handle.is_frozen()


def test_reclaim_writes_to_the_containers_own_cgroup_and_to_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ours = tmp_path / "docker-abc.scope"
    ours.mkdir()
    (ours / "memory.reclaim").write_text("")
    monkeypatch.setattr(cgroup, "find_directories", lambda _pid: cgroup.Directories(version=2, path={"": ours}))
    cgroup.reclaim_cache(1, "abc", 4096)
    assert (ours / "memory.reclaim").read_text() == "4096"
    cgroup.reclaim_cache(1, "somebody-elses", 8192)
    assert (ours / "memory.reclaim").read_text() == "4096", "the pid is another process by now"
