"""How much of the CPU the writer's process gets: what calls leave over, as long as it keeps up.

A group is committed in one go, some milliseconds of a core. The kernel (from Linux 6.6) lets a task that runs go on for a slice
of about 3 ms whoever wakes up, so a container that was called could wait for that long; one that is idle, by its cgroup or by
its policy, it interrupts at once. On a node whose cores are always busy such a task gets next to nothing, so one that falls
behind becomes a usual one again.
"""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path

from invoker.record.idle_group import IdleGroup

#: How long the writer may take over what it was told of, s, before it is held to be behind.
PATIENCE_S = 1.0

_CAP_SYS_NICE = 23
#: `RLIMIT_NICE` that allows the niceness of 0.
_USUAL = 20


class Yielding:
    """A process that gives way to all others, or does not: by a cgroup of its own, or else by `SCHED_IDLE`."""

    def __init__(self, pid: int) -> None:
        """Give way.

        Args:
            pid: of a process of the same user.
        """
        self._pid = pid
        self._group = IdleGroup.enter(pid)
        self._able = self._group is not None or _may_return()
        self._yields = self._group is not None
        self.give_way(True)

    def give_way(self, gives: bool) -> None:
        """Let it give way, or not. Does nothing where the way back is not allowed, or it has ended."""
        if gives is self._yields or not self._able:
            return
        self._yields = gives
        with contextlib.suppress(OSError):
            if self._group is not None:
                self._group.be_idle(gives)
            else:
                self._set_policy(os.SCHED_IDLE if gives else os.SCHED_OTHER)

    def close(self) -> None:
        """Leave nothing behind. The process must have ended."""
        if self._group is not None:
            self._group.close()

    def _set_policy(self, policy: int) -> None:
        for thread in Path(f"/proc/{self._pid}/task").iterdir():  # it is each thread's own
            os.sched_setscheduler(int(thread.name), policy, os.sched_param(0))


class Progress:
    """Tells whether the writer keeps up: whether it has committed by now what it was told of a while ago."""

    def __init__(self) -> None:
        self._asked_at = float("-inf")
        self._asked_for = 0

    def is_behind(self, committed: int, told: int, now: float) -> bool | None:
        """Look, once in `PATIENCE_S`; None between two looks.

        Args:
            committed: position up to which it has committed.
            told: position up to which it is told.
            now: seconds of a monotonic clock.
        """
        if now < self._asked_at + PATIENCE_S:
            return None
        behind = committed < self._asked_for
        self._asked_at, self._asked_for = now, told
        return behind


def _may_return() -> bool:
    """Whether the kernel lets this user take a process out of `SCHED_IDLE`. Source: sched(7)."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NICE)
    if soft >= _USUAL or soft == resource.RLIM_INFINITY:
        return True
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    return bool(int(status["CapEff"], 16) >> _CAP_SYS_NICE & 1)
