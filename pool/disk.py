"""How full the container engine's disk may get before new containers and images are refused."""

from __future__ import annotations

import contextlib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pool.errors import EngineDiskFull

#: Less free than both of these is too little: a large disk need not keep a twentieth free, a small one not ten GiB.
LEAST_FREE_SHARE = 0.05
LEAST_FREE_BYTES = 10 * 1024**3
#: Likewise of inodes; a container takes some thirty.
LEAST_FREE_INODES = 10_000
#: Of an engine whose images are containerd's (the default of new installations from Docker 29 on).
_CONTAINERDS_IMAGES = ["driver-type", "io.containerd.snapshotter.v1"]
#: A containerd that is a service of its own answers below this, and keeps its files where its configuration says.
_CONTAINERD_RUN = "/run/containerd/"
_CONTAINERD_CONFIG = Path("/etc/containerd/config.toml")
_CONTAINERD_ROOT = "/var/lib/containerd"
#: What an operator does about it.
ADVICE = "free space there (`docker system df` tells what takes it)"


class Room(NamedTuple):
    """Room on a disk, bytes and inodes.

    Attributes:
        free: bytes for an unprivileged writer.
        enough: bytes below which new containers are refused.
        inodes: that are free.
        enough_inodes: below which new containers are refused; 0 where the file system makes them as it needs them.
    """

    free: int
    enough: int
    inodes: int = 0
    enough_inodes: int = 0

    def is_below(self, times: float) -> bool:
        """Tell whether less is free, of bytes or of inodes, than so many times what would be enough."""
        return self.free < times * self.enough or self.inodes < times * self.enough_inodes

    def shortage(self) -> str:
        """Say what new containers lack; empty when they have enough."""
        if self.free < self.enough:
            return f"{self.free >> 20} MiB free, less than {self.enough >> 20} MiB"
        if self.inodes < self.enough_inodes:
            return f"{self.inodes} inodes free, less than {self.enough_inodes}"
        return ""


def directory_of(info: Mapping[str, Any], config: Path = _CONTAINERD_CONFIG) -> str:
    """Find where an engine keeps images and the files of containers: its own directory, or that of a containerd beside it.

    Args:
        info: the engine's own description of itself.
        config: of that containerd; where it cannot be read, its default counts.
    """
    own = str(info.get("DockerRootDir") or "")
    address = str((info.get("Containerd") or {}).get("Address") or "")
    if _CONTAINERDS_IMAGES not in (info.get("DriverStatus") or ()) or not address.startswith(_CONTAINERD_RUN):
        return own  # a containerd that the engine has started itself has its files below the engine's directory
    root = None
    with contextlib.suppress(OSError, ValueError):
        root = tomllib.loads(config.read_text()).get("root")
    return str(root or _CONTAINERD_ROOT)


def room_on(path: str) -> Room | None:
    """Look at the file system of the engine's own directory; None where it is empty or not of this machine."""
    try:
        disk = os.statvfs(path)
    except OSError:
        return None
    free, size = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    enough = min(int(LEAST_FREE_SHARE * size), LEAST_FREE_BYTES)
    return Room(free, enough, disk.f_favail, min(int(LEAST_FREE_SHARE * disk.f_files), LEAST_FREE_INODES))


def refuse_on_full_disk(path: str) -> None:
    """Refuse what writes to the engine's disk while it is nearly full. One system call.

    Args:
        path: the engine's own directory; only its file system is asked. Empty, or not of this machine: nothing is refused.

    Raises:
        EngineDiskFull: with what is free, what would be enough, and what to do.
    """
    room = room_on(path)
    if room is not None and (shortage := room.shortage()):
        raise EngineDiskFull(
            f"the container engine's disk ({path}) has {shortage}: no new containers and images until there is space; "
            f"warm containers go on. The operator must {ADVICE}"
        )
