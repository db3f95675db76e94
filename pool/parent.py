"""The parent cgroup of all containers: where it is, and how its memory is limited.

Engines that manage cgroups themselves (driver `cgroupfs`) take a path, which is made here; those that leave it to systemd take a
slice, whose limit systemd is told: written by ourselves, systemd would take it back when it reads its units again.
`wall.Wall` is who keeps the limit.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pool.cgroup import mount_points
from pool.errors import PlatformError

_MIB = 1024 * 1024
#: Beyond the sum of what is reserved: what the kernel keeps for containers outside of their own cgroups, and rounding.
MARGIN = 1.05
#: At least so much, MiB.
LEAST_MARGIN_MIB = 16
_SYSTEMCTL_S = 10.0


class NoParentCgroup(PlatformError):
    """The parent cgroup of the containers cannot be made, or cannot be limited."""

    code = "no-parent-cgroup"


def limit_bytes(memory_mib: int) -> int:
    """Return the limit of the parent, bytes, for a pool of this size."""
    return max(round(memory_mib * MARGIN), memory_mib + LEAST_MARGIN_MIB) * _MIB


class MemoryGroup(NamedTuple):
    """A cgroup in the hierarchy of the memory controller; it need not be there.

    Attributes:
        version: of cgroups, 1 or 2.
        directory: where it is, or would be.
    """

    version: int
    directory: Path

    @property
    def limit_file(self) -> Path:
        """The file that has its limit."""
        return self.directory / ("memory.max" if self.version == 2 else "memory.limit_in_bytes")

    def read_limit(self) -> int | None:
        """Read its limit, bytes; None without one. Raises OSError where there is no such cgroup."""
        text = self.limit_file.read_text().strip()
        return int(text) if text.isdigit() and int(text) < 1 << 62 else None

    def read_held(self) -> int:
        """Read what the kernel cannot take back from it, bytes: all but page cache of files. Raises OSError."""
        usage = int((self.directory / ("memory.current" if self.version == 2 else "memory.usage_in_bytes")).read_text())
        pairs = (line.split() for line in (self.directory / "memory.stat").read_text().splitlines())
        counted = {name: int(value) for name, value in pairs}
        if self.version == 2:
            return usage - counted["file"] + counted["shmem"] - counted.get("slab_reclaimable", 0)
        return usage - counted["total_cache"] + counted.get("total_shmem", 0)


def find_memory_group(name: str, *, driver: str, proc: Path = Path("/proc")) -> MemoryGroup:
    """Find the parent cgroup.

    Args:
        name: letters, digits, dashes and underscores; the node's.
        driver: of the engine: `cgroupfs` or `systemd`.
        proc: where `self/mountinfo` is.

    Raises:
        NoParentCgroup: no memory controller is mounted.
    """
    version, point = _memory_hierarchy(proc)
    return MemoryGroup(version, point / (slice_path(name) if driver == "systemd" else name))


def make_limited(group: MemoryGroup, limit: int) -> None:
    """Make a cgroup where there is none, and limit what it and all below it may have, swap included.

    Args:
        group: of an engine that manages cgroups itself.
        limit: bytes.

    Raises:
        NoParentCgroup: the message says what failed.
    """
    directory = group.directory
    try:
        if group.version == 2:
            with contextlib.suppress(OSError):  # on already, or by the engine's own root
                (directory.parent / "cgroup.subtree_control").write_text("+memory")
            directory.mkdir(exist_ok=True)
            _write_if_there(directory / "memory.swap.max", "0")
            group.limit_file.write_text(str(limit))
        else:
            directory.mkdir(exist_ok=True)
            _limit_v1(group, limit)
    except OSError as error:
        raise NoParentCgroup(f"{error.filename or directory}: {error.strerror}") from error


def _limit_v1(group: MemoryGroup, limit: int) -> None:
    hierarchy = group.directory / "memory.use_hierarchy"  # 0 in the root before Linux 5.11, unless systemd has set it
    if hierarchy.exists() and hierarchy.read_text().strip() == "0":
        hierarchy.write_text("1")
    before = group.read_limit() if group.limit_file.exists() else None
    with_swap = group.directory / "memory.memsw.limit_in_bytes"
    if before is not None and limit > before:  # at no time may there be more memory than memory and swap together
        _write_if_there(with_swap, str(limit))
    group.limit_file.write_text(str(limit))
    _write_if_there(with_swap, str(limit))


def _write_if_there(file: Path, text: str) -> None:
    if file.exists():
        file.write_text(text)


def limit_slice(name: str, limit: int, run: Callable[[list[str]], None]) -> None:
    """Tell systemd the limit of a slice, which need not be there yet. A page of swap each functions have there: see `recipe`.

    Raises:
        NoParentCgroup: it refuses, or is not there.
    """
    run(["systemctl", "set-property", "--runtime", f"{name}.slice", f"MemoryMax={limit}", "MemorySwapMax=0"])


def read_limit(name: str, *, proc: Path = Path("/proc")) -> int | None:
    """Read the limit of the parent cgroup, made here or systemd's slice, bytes; None where there is none (yet).

    Raises:
        NoParentCgroup: no memory controller is mounted.
    """
    for driver in ("cgroupfs", "systemd"):
        with contextlib.suppress(OSError):
            return find_memory_group(name, driver=driver, proc=proc).read_limit()
    return None


def slice_path(name: str) -> str:
    """Return where in a hierarchy systemd puts `NAME.slice`: `a-b` is below `a.slice`. Source: systemd.slice(5)."""
    parts = name.split("-")
    return "/".join("-".join(parts[: length + 1]) + ".slice" for length in range(len(parts)))


def _memory_hierarchy(proc: Path) -> tuple[int, Path]:
    """Find where memory is limited: (cgroup version, mount point)."""
    for version, point, controllers in mount_points((proc / "self" / "mountinfo").read_text()):
        if version == 1 and "memory" in controllers:
            return 1, point
    for version, point, _ in mount_points((proc / "self" / "mountinfo").read_text()):
        if version == 2 and "memory" in (point / "cgroup.controllers").read_text().split():
            return 2, point
    raise NoParentCgroup("no cgroup hierarchy with a memory controller is mounted")


def run_command(command: list[str]) -> None:
    """Run a command of systemd's.

    Raises:
        NoParentCgroup: it is not there, fails, or hangs.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SYSTEMCTL_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoParentCgroup(f"{' '.join(command)}: {error}") from error
    if done.returncode:
        raise NoParentCgroup(f"{' '.join(command)}: {done.stderr.strip()}")
