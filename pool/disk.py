"""How full the container engine's disk may get before new containers and images are refused."""

from __future__ import annotations

import os

from pool.errors import EngineDiskFull

#: Less free than both of these is too little: a large disk need not keep a twentieth free, a small one not ten GiB.
LEAST_FREE_SHARE = 0.05
LEAST_FREE_BYTES = 10 * 1024**3


def refuse_on_full_disk(path: str) -> None:
    """Refuse what writes to the engine's disk while it is nearly full. One system call.

    Args:
        path: the engine's own directory; only its file system is asked. Empty, or not of this machine: nothing is refused.

    Raises:
        EngineDiskFull: with what is free, and what would be enough.
    """
    try:
        disk = os.statvfs(path)
    except OSError:
        return
    free, size = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    enough = min(int(LEAST_FREE_SHARE * size), LEAST_FREE_BYTES)
    if free < enough:
        raise EngineDiskFull(
            f"the container engine's disk ({path}) has {free >> 20} MiB free, less than {enough >> 20} MiB: "
            "no new containers and images until there is space; warm containers go on"
        )
