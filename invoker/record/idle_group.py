"""A CPU cgroup of its own for one process, with `cpu.idle` (Linux 5.15): it gets what all others leave over.

Linux compares cgroups before tasks, from 6.12 on strictly: for a container that wakes up, a running task of `SCHED_IDLE` is no
more than the cgroup, or the session, in which it stands together with the daemon. Hence a cgroup at the root of the hierarchy,
where the ways to the daemon and to all containers part. One that is left over, its process gone, the next daemon removes.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Self

from pool.courtesy import NoIdleCgroup, idle_file

_PREFIX = "invokerd-writer-"


class IdleGroup:
    """Made by `enter`, removed by `close`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @classmethod
    def enter(cls, pid: int, *, proc: Path = Path("/proc")) -> Self | None:
        """Put a process with all of its threads into an idle cgroup of its own.

        Args:
            pid: of the process.
            proc: where `self/mountinfo` is.

        Returns:
            None: this kernel, this hierarchy or this user cannot have one; nothing has changed.
        """
        try:
            directory = idle_file(f"{_PREFIX}{pid}", proc).parent
        except (NoIdleCgroup, OSError):
            return None
        for old in directory.parent.glob(f"{_PREFIX}*"):
            with contextlib.suppress(OSError):
                old.rmdir()  # refused while anything runs in it
        group = cls(directory)
        try:
            directory.mkdir()
            group.be_idle(True)
            (directory / "cgroup.procs").write_text(str(pid))
        except OSError:
            group.close()
            return None
        return group

    def be_idle(self, idle: bool) -> None:
        """Get what others leave over, or as much as a usual cgroup.

        Raises:
            OSError: the kernel refuses, or somebody has removed it.
        """
        (self._directory / "cpu.idle").write_text("1" if idle else "0")

    def close(self) -> None:
        """Remove it. Its process must have ended."""
        with contextlib.suppress(OSError):
            self._directory.rmdir()
