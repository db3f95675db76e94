"""How full the container engine's disk may get before new containers and images are refused."""

from __future__ import annotations

import os
from typing import NamedTuple

from pool.errors import EngineDiskFull

#: Less free than both of these is too little: a large disk need not keep a twentieth free, a small one not ten GiB.
LEAST_FREE_SHARE = 0.05
LEAST_FREE_BYTES = 10 * 1024**3


class Room(NamedTuple):
    """Room on a disk, bytes.

    Attributes:
        free: for an unprivileged writer.
        enough: below which new containers are refused.
    """

    free: int
    enough: int


def room_on(path: str) -> Room | None:
    """Look at the file system of the engine's own directory; None where it is empty or not of this machine."""
    try:
        disk = os.statvfs(path)
    except OSError:
        return None
    free, size = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    return Room(free, min(int(LEAST_FREE_SHARE * size), LEAST_FREE_BYTES))


def refuse_on_full_disk(path: str) -> None:
    """Refuse what writes to the engine's disk while it is nearly full. One system call.

    Args:
        path: the engine's own directory; only its file system is asked. Empty, or not of this machine: nothing is refused.

    Raises:
        EngineDiskFull: with what is free, and what would be enough.
    """
    room = room_on(path)
    if room is not None and room.free < room.enough:
        raise EngineDiskFull(
            f"the container engine's disk ({path}) has {room.free >> 20} MiB free, less than {room.enough >> 20} MiB: "
            "no new containers and images until there is space; warm containers go on"
        )
