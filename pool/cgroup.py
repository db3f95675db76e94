"""Cgroups through open files: freeze, thaw, CPU, memory, out-of-memory kills; versions 1 and 2.

Two parts. `find_directories` says where the cgroups of a process lie, whatever mix of hierarchies, drivers and
namespaces the host has. `KernelHandle` reads and writes the descriptors that `open_files` opened there, and one
file by its path, which anybody may read: it works the same in a process which was only given the descriptors.

Measured on Linux 6.18, one `pread`: `cpuacct.usage` 0.8 us, `cpu.stat` 1.1 us, v1 `memory.stat` 4.7 us,
`memory.max_usage_in_bytes` 0.8 us; a write to `freezer.state` about 100 us, most of it waking the processes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from pool.backend import Descriptors
from pool.model import ContainerId, MemoryReading, PeakQuality

#: The v1 controllers whose files we read; each may be mounted alone or with others.
_V1_CONTROLLERS = ("freezer", "cpuacct", "cpu", "memory")
_READ_BYTES = 8192
#: How often a cgroup is asked for a process that it does not list.
_LOOKS = 5


class CgroupNotFoundError(OSError):
    """The cgroup of a process cannot be reached from here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mount:
    """A mounted cgroup hierarchy: the cgroup `root` of it is visible at `point`."""

    root: str
    point: str
    version: int
    options: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Directories:
    """Where the cgroups of one process lie.

    Attributes:
        version: 1 or 2. As runc does, one version for all: a v1 freezer hierarchy means version 1.
        path: directory by v1 controller name; under version 2 the key is the empty string.
    """

    version: int
    path: Mapping[str, Path]


def find_directories(pid: int, proc: Path = Path("/proc")) -> Directories:
    """Find the cgroup directories of a process, as this process can reach them.

    `/proc/PID/cgroup` names paths relative to the reader's cgroup namespace; `mountinfo` says which part of each
    hierarchy is mounted where. A container that mounts only its own subtree sees `root` other than `/`.

    Raises:
        CgroupNotFoundError: no mount shows the process' cgroup.
        FileNotFoundError: no such process.
    """
    groups = controller_paths((proc / str(pid) / "cgroup").read_text())
    mounts = list(_parse_mountinfo((proc / "self" / "mountinfo").read_text()))
    if "freezer" in groups and any(m.version == 1 and "freezer" in m.options for m in mounts):
        found = {name: _locate(pid, groups[name], _with_controller(mounts, name)) for name in _V1_CONTROLLERS if name in groups}
        return Directories(version=1, path=found)
    if "" in groups:
        return Directories(version=2, path={"": _locate(pid, groups[""], [m for m in mounts if m.version == 2])})
    raise CgroupNotFoundError(f"process {pid} is in no cgroup that we can freeze")


def controller_paths(text: str) -> dict[str, str]:
    """Return the path by controller from the text of `/proc/PID/cgroup`, lines `hierarchy:controllers:path`; v2's is empty."""
    paths = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        paths.update(dict.fromkeys(controllers.split(","), path))
    return paths


def mount_points(text: str) -> Iterator[tuple[int, Path, frozenset[str]]]:
    """Yield the cgroup hierarchies that are mounted whole, from the text of mountinfo: (version, where, v1 controllers)."""
    for mount in _parse_mountinfo(text):
        if mount.root == "/":
            yield mount.version, Path(mount.point), mount.options


def _parse_mountinfo(text: str) -> Iterator[_Mount]:
    """Yield the cgroup mounts. Source: proc_pid_mountinfo(5); fields before ` - ` vary in number."""
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        kind = after.split(" ", 1)[0]
        if kind in ("cgroup", "cgroup2"):
            columns = before.split(" ")
            yield _Mount(
                root=_unescape(columns[3]),
                point=_unescape(columns[4]),
                version=2 if kind == "cgroup2" else 1,
                options=frozenset(after.rsplit(" ", 1)[-1].split(",")),
            )


def _unescape(field: str) -> str:
    """Undo the octal escapes of mountinfo: space, tab, newline, backslash."""
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, char)
    return field


def _with_controller(mounts: list[_Mount], controller: str) -> list[_Mount]:
    return [mount for mount in mounts if mount.version == 1 and controller in mount.options]


def _locate(pid: int, path: str, mounts: list[_Mount]) -> Path:
    """Map a path of `/proc/PID/cgroup` to a directory, and make sure that the process is in it."""
    for mount in mounts:
        relative = os.path.relpath(path, mount.root)
        if relative.startswith(".."):
            continue  # this mount shows another part of the hierarchy
        directory = Path(os.path.normpath(Path(mount.point) / relative))
        if _has_member(directory, pid):
            return directory
    raise CgroupNotFoundError(f"no mounted cgroup hierarchy shows {path} of process {pid}")


def _has_member(directory: Path, pid: int) -> bool:
    """Whether a cgroup lists a process. Version 1 counts before it lists: a fork meanwhile, and the youngest is missing."""
    for _ in range(_LOOKS):
        try:
            if str(pid) in (directory / "cgroup.procs").read_text().split():
                return True
        except OSError:
            return False
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupFiles:
    """Open cgroup files of one container; the names are those of `Descriptors`. -1, or empty, where this kernel has none."""

    freeze: int
    frozen: int
    cpu: int
    throttled: int
    memory_peak: int
    memory_stat: int
    cgroup_version: int
    oom_file: str

    def close(self) -> None:
        """Close them; for the case that no handle took them over."""
        close_all(getattr(self, field.name) for field in fields(self) if field.name not in ("cgroup_version", "oom_file"))


def open_files(directories: Directories) -> CgroupFiles:
    """Open what `KernelHandle` reads and writes: five files at most.

    Raises:
        OSError: the freezer or the CPU counter cannot be opened; without them nothing here makes sense.
    """
    opened: list[int] = []
    try:
        files = _open_v1(directories.path, opened) if directories.version == 1 else _open_v2(directories.path[""], opened)
        opened.clear()
        return files
    finally:
        close_all(opened)


def thaw_process(pid: int) -> None:
    """Thaw the cgroup of a process of which nothing is open.

    Raises:
        OSError: it has ended, or its cgroup cannot be reached.
    """
    directories = find_directories(pid)
    if directories.version == 1:
        (directories.path["freezer"] / "freezer.state").write_text("THAWED")
    else:
        (directories.path[""] / "cgroup.freeze").write_text("0")


def reclaim_cache(pid: int, engine_id: str, amount: int) -> None:
    """Ask the kernel to reclaim memory of a container (v2 from Linux 5.19); less than asked is no failure.

    Args:
        pid: of its main process.
        engine_id: that the path of its cgroup bears; another process with a recycled pid has another path.
        amount: bytes.
    """
    with contextlib.suppress(OSError, ValueError):
        directory = find_directories(pid).path.get("")
        if directory is not None and engine_id in str(directory):
            (directory / "memory.reclaim").write_text(str(amount))


def _open_v1(path: Mapping[str, Path], opened: list[int]) -> CgroupFiles:
    freeze = _open_freezer(path["freezer"] / "freezer.state", opened)
    memory = path.get("memory", Path("/nonexistent"))
    return CgroupFiles(
        freeze=freeze,
        frozen=freeze,
        cpu=_open(path["cpuacct"] / "cpuacct.usage", os.O_RDONLY, opened),
        throttled=_try_open(path.get("cpu", Path("/nonexistent")) / "cpu.stat", os.O_RDONLY, opened),
        memory_peak=_try_open(memory / "memory.max_usage_in_bytes", os.O_RDWR, opened),
        memory_stat=_try_open(memory / "memory.stat", os.O_RDONLY, opened),
        cgroup_version=1,
        oom_file=_readable(memory / "memory.oom_control"),
    )


def _open_v2(path: Path, opened: list[int]) -> CgroupFiles:
    cpu = _open(path / "cpu.stat", os.O_RDONLY, opened)
    # Before Linux 6.12 `memory.peak` cannot be reset. Root may open it for writing all the same: its mode tells.
    peak = _try_open(path / "memory.peak", os.O_RDWR, opened) if _takes_writes(path / "memory.peak") else -1
    if peak < 0:
        peak = _try_open(path / "memory.peak", os.O_RDONLY, opened)
    return CgroupFiles(
        freeze=_open_freezer(path / "cgroup.freeze", opened),
        frozen=_open(path / "cgroup.events", os.O_RDONLY, opened),
        cpu=cpu,
        throttled=cpu,
        memory_peak=peak,
        memory_stat=_try_open(path / "memory.stat", os.O_RDONLY, opened),
        cgroup_version=2,
        oom_file=_readable(path / "memory.events"),
    )


def _open_freezer(path: Path, opened: list[int]) -> int:
    """Open the freezer's file. One that cannot be written costs the freezing, not the container: it stays warm."""
    try:
        return _open(path, os.O_RDWR, opened)
    except OSError as error:
        if error.errno not in {errno.EROFS, errno.EACCES, errno.EPERM}:
            raise
        return _open(path, os.O_RDONLY, opened)


def _open(path: Path, flags: int, opened: list[int]) -> int:
    fd = os.open(path, flags | os.O_CLOEXEC)
    opened.append(fd)
    return fd


def _try_open(path: Path, flags: int, opened: list[int]) -> int:
    try:
        return _open(path, flags, opened)
    except OSError:
        return -1


def _takes_writes(path: Path) -> bool:
    """Whether the kernel takes writes to a file, whoever asks: where it does not, each would fail with EINVAL."""
    try:
        return bool(path.stat().st_mode & stat.S_IWUSR)
    except OSError:
        return False


def _readable(path: Path) -> str:
    return str(path) if os.access(path, os.R_OK) else ""


def close_all(descriptors: Iterable[int]) -> None:
    """Close each descriptor once; negative ones are none."""
    for fd in {fd for fd in descriptors if fd >= 0}:
        os.close(fd)


class KernelHandle:
    """A `ContainerHandle` made of descriptors and the path of one file: no engine. Takes them over and closes them.

    `frozen` and `throttled` may be the same descriptors as `freeze` and `cpu`.
    """

    def __init__(self, container_id: ContainerId, engine_id: str, descriptors: Descriptors) -> None:
        self.container_id = container_id
        self.engine_id = engine_id
        self.descriptors = descriptors
        self._closed = False
        self._v1 = descriptors.cgroup_version == 1
        self._peak_quality = PeakQuality.LIFETIME if descriptors.memory_peak >= 0 else PeakQuality.SAMPLED
        self._peak_resettable = descriptors.memory_peak >= 0 and _is_writable(descriptors.memory_peak)

    def freeze(self) -> None:
        """See `ContainerHandle`."""
        self._write_freezer(b"FROZEN" if self._v1 else b"1")

    def thaw(self) -> None:
        """See `ContainerHandle`."""
        self._write_freezer(b"THAWED" if self._v1 else b"0")

    def _write_freezer(self, state: bytes) -> None:
        try:
            os.pwrite(self.descriptors.freeze, state, 0)
        except OSError as error:
            if error.errno != errno.ESPIPE:
                raise
            # So the kernel says that the file is open for reading only, for which we have had a reason.
            raise OSError(errno.EROFS, "the freezer of its cgroup cannot be written") from error

    def is_frozen(self) -> bool:
        """See `ContainerHandle`. Under v1 the read itself moves the kernel from FREEZING to FROZEN."""
        text = os.pread(self.descriptors.frozen, _READ_BYTES, 0)
        return text.startswith(b"FROZEN") if self._v1 else b"frozen 1" in text

    def cpu_us(self) -> int:
        """See `ContainerHandle`."""
        text = os.pread(self.descriptors.cpu, _READ_BYTES, 0)
        return int(text) // 1000 if self._v1 else _value(text, b"usage_usec")

    def throttled_us(self) -> int:
        """See `ContainerHandle`."""
        if self.descriptors.throttled < 0:
            return 0
        text = os.pread(self.descriptors.throttled, _READ_BYTES, 0)
        return _value(text, b"throttled_time") // 1000 if self._v1 else _value(text, b"throttled_usec")

    def memory(self) -> MemoryReading:
        """See `ContainerHandle`. Without a high-water mark (v2 before Linux 5.19) the peak is this sample."""
        text = os.pread(self.descriptors.memory_stat, _READ_BYTES, 0) if self.descriptors.memory_stat >= 0 else b""
        anonymous = _value(text, b"rss" if self._v1 else b"anon")
        files = _value(text, b"cache" if self._v1 else b"file")  # both count tmpfs as page cache
        shared = _value(text, b"shmem")
        has_peak = self.descriptors.memory_peak >= 0
        return MemoryReading(
            peak=int(os.pread(self.descriptors.memory_peak, 64, 0)) if has_peak else anonymous + files,
            peak_quality=self._peak_quality,
            anonymous=anonymous,
            shared=shared,
            cache=max(0, files - shared),
        )

    def reclaim(self, amount: int) -> None:
        """See `ContainerHandle`. Under v1 the kernel has only `force_empty`, which waits for writes to disk: not used."""
        if not self._v1:
            reclaim_cache(self.descriptors.pid, self.engine_id, amount)

    def reset_memory_peak(self) -> None:
        """See `ContainerHandle`. Under v2 the new peak is this descriptor's own; other readers keep theirs."""
        if self._peak_resettable:
            os.pwrite(self.descriptors.memory_peak, b"0", 0)
            self._peak_quality = PeakQuality.EXACT

    def oom_kills(self) -> int:
        """See `ContainerHandle`. Opened for each look: looks are rare, and so an idle container costs a descriptor less."""
        if not self.descriptors.oom_file:
            return 0
        return _value(Path(self.descriptors.oom_file).read_bytes(), b"oom_kill")

    def kill(self) -> None:
        """Send SIGKILL to the main process; its PID namespace, and so every process, ends with it.

        Thaws first: under v1 no signal reaches a frozen process. Gone already is success.
        """
        with contextlib.suppress(OSError):
            self.thaw()
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.descriptors.pidfd, signal.SIGKILL)

    def close(self) -> None:
        """See `ContainerHandle`."""
        if not self._closed:
            self._closed = True
            close_all(self.descriptors.opened())


def _is_writable(fd: int) -> bool:
    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR


def _value(text: bytes, name: bytes) -> int:
    """Find `name value` in a flat keyed file; 0 when the kernel has no such line."""
    if text.startswith(name + b" "):
        start = len(name) + 1
    else:
        position = text.find(b"\n" + name + b" ")
        if position < 0:
            return 0
        start = position + len(name) + 2
    end = text.find(b"\n", start)
    return int(text[start : end if end >= 0 else None])
