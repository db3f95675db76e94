"""The parent cgroup of all containers, with a memory limit of its own: the second wall behind the books.

The books never reserve more than `pool.memory_mib`; if they were ever wrong, or somebody made a container grow from outside,
the kernel reclaims and kills within this cgroup, and the rest of the machine notices nothing.

Engines that manage cgroups themselves (driver `cgroupfs`) take a path, which is made here and kept: limits survive restarts of
the daemon, as containers do. Those that leave it to systemd take a slice, whose limit systemd is told.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable
from pathlib import Path

from pool.cgroup import mount_points
from pool.errors import PlatformError

_MIB = 1024 * 1024
#: Beyond the sum of the limits: what the kernel keeps for a container outside of its own cgroup, and rounding.
MARGIN = 1.05
_SYSTEMCTL_S = 10.0


class NoParentCgroup(PlatformError):
    """The parent cgroup of the containers cannot be made, or cannot be limited."""

    code = "no-parent-cgroup"


def limit_bytes(memory_mib: int) -> int:
    """Return the limit of the parent, bytes, for a pool of this size."""
    return round(memory_mib * MARGIN) * _MIB


def prepare_parent(
    name: str, *, driver: str, memory_mib: int, proc: Path = Path("/proc"), run: Callable[[list[str]], None] | None = None
) -> str:
    """Make the parent cgroup and limit it; return what the engine is to be told as `CgroupParent`.

    Args:
        name: letters, digits and dashes; the node's.
        driver: of the engine: `cgroupfs` or `systemd`.
        memory_mib: of the pool.
        proc: where `self/mountinfo` is.
        run: runs a command, for tests.

    Raises:
        NoParentCgroup: the message says what failed.
    """
    limit = limit_bytes(memory_mib)
    if driver == "systemd":
        slice_name = f"{name}.slice"
        (run or run_command)(["systemctl", "set-property", "--runtime", slice_name, f"MemoryMax={limit}"])
        return slice_name
    version, point = _memory_hierarchy(proc)
    directory = point / name
    try:
        if version == 2:
            with contextlib.suppress(OSError):  # on already, or by the engine's own root
                (point / "cgroup.subtree_control").write_text("+memory")
        directory.mkdir(exist_ok=True)
        (directory / ("memory.max" if version == 2 else "memory.limit_in_bytes")).write_text(str(limit))
    except OSError as error:
        raise NoParentCgroup(f"{error.filename or directory}: {error.strerror}") from error
    return f"/{name}"


def read_limit(name: str, *, proc: Path = Path("/proc")) -> int | None:
    """Read the limit of the parent cgroup, made here or systemd's slice, bytes; None where there is none (yet).

    Raises:
        NoParentCgroup: no memory controller is mounted.
    """
    version, point = _memory_hierarchy(proc)
    for directory in (point / name, point / slice_path(name)):
        try:
            text = (directory / ("memory.max" if version == 2 else "memory.limit_in_bytes")).read_text().strip()
        except OSError:
            continue
        return int(text) if text.isdigit() else None
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
