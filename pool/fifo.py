"""The log FIFO of a container: made, owned and read by the daemon, written by the container's process."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from pathlib import Path

from pool.model import ContainerId

#: Name of the FIFO in the container's own directory.
FIFO_NAME = "log"
#: As much as an unprivileged pipe may hold by default: a burst of some 10,000 lines waits here for the loop.
PIPE_BYTES = 1024 * 1024


def create_fifo(run_dir: Path, container_id: ContainerId, uid: int, gid: int) -> Path:
    """Create `run_dir/<container id>/log`, readable and writable by the container's user alone.

    The directory is what the container sees, read-only: its user may open the FIFO, but neither replace it nor
    put anything beside it. Returns the directory.

    Raises:
        OSError: it exists, or the disk is full, or we may not give it away.
    """
    directory = run_dir / container_id
    directory.mkdir(parents=True)
    directory.chmod(0o711)  # whatever the umask says: the container's user must come through
    fifo = directory / FIFO_NAME
    os.mkfifo(fifo, 0o600)
    os.chown(fifo, uid, gid)
    return directory


def open_fifo(run_dir: Path, container_id: ContainerId) -> int:
    """Open the read end, non-blocking. A read returns nothing while no writer has it open.

    Raises:
        OSError: there is no FIFO. A symbolic link is refused.
    """
    fd = os.open(run_dir / container_id / FIFO_NAME, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    with contextlib.suppress(OSError):  # the site's limit on pipe pages: a smaller pipe serves too
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return fd


def is_seen_by(pid: int, path: str, fd: int) -> bool:
    """Tell whether the FIFO at `path`, as process `pid` sees it, is the one behind `fd`.

    It is another one when the state directory was put back from a copy: the container goes on writing into the old one,
    which has no name any more and no reader. Where the kernel does not let us look, it is taken for the same.
    """
    try:
        theirs = Path(f"/proc/{pid}/root{path}").lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return os.path.samestat(theirs, os.fstat(fd))


def remove_fifo(run_dir: Path, container_id: ContainerId) -> None:
    """Remove the container's directory. Gone already is success."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(run_dir / container_id)
