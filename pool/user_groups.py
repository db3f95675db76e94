"""The users' cgroups: all containers of one user are in one, below the parent of all, so the CPU is divided between users first.

Side by side, a user with eight containers that compute would get eight times what a user with one gets. This way each gets the
same, or as `pool.shares` weighs them; what one does not use the others have.

The engine makes these cgroups with the first container of a user. They stay, empty, when the last one is gone, until the daemon
starts or stops: to remove them in between would race with the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

from pool.cgroup import mount_points
from pool.courtesy import NoIdleCgroup, idle_file, weight_file
from pool.model import ContainerSpec
from pool.parent import NoParentCgroup, run_command, slice_path

log = logging.getLogger(__name__)

#: What a cgroup of the weight 1 has, and the bounds: by the file's name, version 1 and 2.
_UNITS = {"cpu.shares": (1024, 2, 262_144), "cpu.weight": (100, 1, 10_000)}


def default_parent(node: str) -> str:
    """Name the parent where the site names none: one for each daemon on a machine. A dash would nest slices."""
    return f"functions_{node.replace('-', '_')}"


def parent_path(name: str, driver: str) -> str | None:
    """Return what the engine is told as the parent of all containers; None where it has no cgroups of ours to make.

    Args:
        name: `pool.cgroup_parent`.
        driver: of the engine's cgroups.
    """
    return {"cgroupfs": f"/{name}", "systemd": f"{name}.slice"}.get(driver)


class UserGroups:
    """Names them, and gives them their weights."""

    def __init__(
        self,
        parent: str,
        weight_of: Callable[[str], float],
        *,
        weight: float | None = None,
        proc: Path = Path("/proc"),
        run: Callable[[list[str]], None] = run_command,
    ) -> None:
        """Join the parts.

        Args:
            parent: of all: a path or, of an engine that leaves cgroups to systemd, a slice.
            weight_of: the weight of a namespace; 1 is usual. Of several with one uid the last to start a container counts.
            weight: of the parent among the other cgroups of the machine; None leaves it as it is.
            proc: where `self/mountinfo` is.
            run: runs a command.
        """
        self._parent = parent
        self._weight_of = weight_of
        #: Of the parent, until it has been given.
        self._weight = weight
        self._proc = proc
        self._run = run
        #: By uid, the namespace that last started a container, and the weight that the group was given, or could not be given.
        self._weighed: dict[int, tuple[str, float]] = {}

    def of(self, spec: ContainerSpec) -> str:
        """Return what the engine is told as the parent of a container."""
        return self._group(spec.uid)

    async def weigh(self, spec: ContainerSpec) -> None:
        """Give the group its weight, where it has another. A container in it must have been started."""
        await self._weigh(spec.uid, spec.namespace)
        if self._weight is not None:
            weight, self._weight = self._weight, None
            await self._give(self._parent, weight, "all containers together do not")

    async def weigh_anew(self) -> None:
        """The weights may have changed: give each group that has been weighed the one it has now."""
        for uid, (namespace, _) in list(self._weighed.items()):
            if self._is_there(uid):
                await self._weigh(uid, namespace)
            else:
                del self._weighed[uid]  # the user's next container brings the group back, and weighs it

    async def _weigh(self, uid: int, namespace: str) -> None:
        weight = self._weight_of(namespace)
        _, before = self._weighed.get(uid, ("", None))
        self._weighed[uid] = namespace, weight
        if weight != before:
            await self._give(self._group(uid), weight, f"the containers of uid {uid} do not")

    async def _give(self, group: str, weight: float, not_done: str) -> None:
        try:
            await asyncio.to_thread(self._set, group, weight)
        except (OSError, NoIdleCgroup, NoParentCgroup) as error:
            log.warning("%s get their weight of %g in CPU time: %s", not_done, weight, error)

    def remove_empty(self, *, parent: bool = False) -> None:
        """Remove the groups without containers, which the kernel tells: it keeps the others. No container may be being created.

        Slices are systemd's, and left to it.

        Args:
            parent: remove that too, where no container is left at all.
        """
        if self._parent.endswith(".slice"):
            return
        for _, point, _ in mount_points((self._proc / "self" / "mountinfo").read_text()):
            directory = point / self._parent.strip("/")
            for each in (*directory.glob("u[0-9]*"), *((directory,) if parent else ())):
                with contextlib.suppress(OSError):
                    each.rmdir()

    def _group(self, uid: int) -> str:
        if self._parent.endswith(".slice"):
            return f"{self._parent.removesuffix('.slice')}-u{uid}.slice"
        return f"{self._parent}/u{uid}"

    def _is_there(self, uid: int) -> bool:
        try:
            return self._weight_file(self._group(uid)).parent.is_dir()
        except NoIdleCgroup:
            return False

    def _weight_file(self, group: str) -> Path:
        path = slice_path(group.removesuffix(".slice")) if group.endswith(".slice") else group
        return weight_file(idle_file(path, self._proc))

    def _set(self, group: str, weight: float) -> None:
        file = self._weight_file(group)
        value = _in_units(file.name, weight)
        if file.read_text().strip() == str(value):
            return
        if group.endswith(".slice"):  # written by ourselves, systemd would take it back when it reads its units again
            self._run(["systemctl", "set-property", "--runtime", group, f"CPUWeight={_in_units('cpu.weight', weight)}"])
        else:
            file.write_text(str(value))


def _in_units(file: str, weight: float) -> int:
    usual, least, most = _UNITS[file]
    return min(max(round(usual * weight), least), most)
