"""The wall around all containers of this node: the memory limit of their parent cgroup, behind the books.

The books never reserve more than `pool.memory_mib`, so the limit, a little above that, binds nobody: at most it makes the kernel
take back page cache that containers left behind. It binds where the books are wrong, or somebody made a container grow from
outside. Then the kernel ends the largest process below it, frozen or not, and the rest of the machine notices nothing.

A wall that cannot be raised costs no call: it is told of, and tried again with each look at the engine.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from pool.overflow import OverflowWatch
from pool.parent import MemoryGroup, NoParentCgroup, find_memory_group, limit_bytes, limit_slice, make_limited, run_command

log = logging.getLogger(__name__)

_MIB = 1024 * 1024


class Wall:
    """Keeps the limit.

    Attributes:
        problem: why there is no limit, or another one; empty where all is well.
        hits: how often a process was ended because all containers together had reached the limit, as far as that was seen.
        on_hit: called then, in the loop.
    """

    def __init__(
        self,
        name: str,
        *,
        driver: str,
        memory_mib: int,
        proc: Path = Path("/proc"),
        run: Callable[[list[str]], None] = run_command,
    ) -> None:
        """Do nothing yet.

        Args:
            name: of the parent cgroup.
            driver: of the engine's cgroups.
            memory_mib: of the pool.
            proc: where `self/mountinfo` is.
            run: runs a command.
        """
        self.name = name
        self.limit = limit_bytes(memory_mib)
        self.problem = ""
        self.hits = 0
        self.on_hit: Callable[[], None] | None = None
        self._driver = driver
        self._proc = proc
        self._run = run
        self._group: MemoryGroup | None = None
        #: Where a container was that is not behind the wall.
        self._outside = ""
        #: systemd was told of the limit by this daemon.
        self._told = False
        self._watch: OverflowWatch | None = None

    async def keep(self) -> None:
        """Raise the wall, or raise it again where somebody has changed or removed it. Never raises an error."""
        try:
            problem = await asyncio.to_thread(self._limit)
        except NoParentCgroup as error:
            problem = str(error)
        self._note(problem or self._outside)
        self._watch_it()

    def raise_now(self) -> None:
        """Raise the wall, for a site that named the cgroup and relies on it.

        Raises:
            NoParentCgroup: it cannot be.
        """
        self._note(self._limit())

    def close(self) -> None:
        """Watch no more. The limit stays, as containers do."""
        if self._watch is not None:
            self._watch.close()

    def saw(self, memory_file: str) -> None:
        """Take note of where a container is.

        Args:
            memory_file: a file in its memory cgroup; empty where that is not known.
        """
        if memory_file and self._group is not None and f"/{self._group.directory.name}/" not in memory_file:
            self._outside = f"the engine made a container in {Path(memory_file).parent}, not below {self._group.directory}"
            self._note(self._outside)
        elif self._watch is None:  # under systemd the slice has come with the first container
            self._watch_it()

    def _watch_it(self) -> None:
        if self._group is not None and (self._watch is None or not self._watch.is_there()):
            self._watch = OverflowWatch.open(self._group, asyncio.get_running_loop(), self._hit)

    def _limit(self) -> str:
        """Set the limit where it is another one; return what hinders it. Raises NoParentCgroup."""
        try:
            return self._set()
        except OSError as error:
            raise NoParentCgroup(f"{error.filename or self.name}: {error.strerror}") from error

    def _set(self) -> str:
        if self._driver not in {"cgroupfs", "systemd"}:
            return f"the engine makes no cgroups (driver {self._driver!r})"
        group = self._group = find_memory_group(self.name, driver=self._driver, proc=self._proc)
        there = group.directory.is_dir()
        before = group.read_limit() if there else None
        if before == self.limit:
            return ""
        if there and (held := group.read_held()) > self.limit:  # version 2 would end processes at once
            return (
                f"{held // _MIB} MiB are held in {group.directory}, which stays as it is until it is {self.limit // _MIB} or less"
            )
        if self._driver == "cgroupfs":
            make_limited(group, self.limit)
        elif there or not self._told:
            limit_slice(self.name, self.limit, self._run)
            self._told = True
        return ""

    def _note(self, problem: str) -> None:
        if problem and problem != self.problem:
            log.warning("nothing bounds the memory of all containers together: %s", problem)
        elif self.problem and not problem:
            log.info("the memory of all containers together is bounded to %d MiB", self.limit // _MIB)
        self.problem = problem

    def _hit(self) -> None:
        self.hits += 1
        log.error(
            "all containers together had reached %d MiB, the limit of %s, and the kernel ended a process among them: "
            "more was used than is reserved, see docs/operations.md",
            self.limit // _MIB,
            self.name,
        )
        if self.on_hit is not None:
            self.on_hit()
