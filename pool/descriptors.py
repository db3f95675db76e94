"""Opening everything that the kernel shows of one running container, and nothing of any other."""

from __future__ import annotations

import os
from pathlib import Path

from pool import cgroup, fifo, netns
from pool.backend import Descriptors
from pool.model import ContainerId


def open_descriptors(pid: int, engine_id: str, container_id: ContainerId, run_dir: Path | None) -> Descriptors:
    """Open everything of a running container: seven descriptors at most.

    The pid came from the engine a moment ago and may be another process' by now. So the pidfd comes first, then the
    proof that it is the container's (its cgroup bears the engine's id), then the files, then that it still runs.

    Args:
        pid: of its main process.
        engine_id: the engine's id of the container.
        container_id: ours.
        run_dir: where its log FIFO is; None with an attached stream.

    Raises:
        ProcessLookupError: the process has ended.
        OSError: some file cannot be opened.
    """
    opened: list[int] = []
    files: cgroup.CgroupFiles | None = None
    complete = False
    try:
        pidfd = os.pidfd_open(pid)
        opened.append(pidfd)
        if engine_id not in _cgroups_of(pid):
            raise ProcessLookupError(f"process {pid} is not of container {engine_id}")
        try:
            files = cgroup.open_files(cgroup.find_directories(pid))
            if files.oom_file and engine_id not in files.oom_file:  # another container's could have this path one day
                raise cgroup.CgroupNotFoundError(f"{files.oom_file} is not of container {engine_id}")
        except OSError as error:
            # One that ends leaves its cgroup a moment before its pidfd says so.
            if netns.has_ended(pidfd) or engine_id not in _cgroups_of(pid):
                raise ProcessLookupError(f"process {pid} has ended") from error
            raise
        log_fd = -1
        if run_dir is not None:
            log_fd = fifo.open_fifo(run_dir, container_id)
            opened.append(log_fd)
        if netns.has_ended(pidfd):
            raise ProcessLookupError(f"process {pid} has ended")
        complete = True
        return Descriptors(
            pid=pid,
            pidfd=pidfd,
            freeze=files.freeze,
            frozen=files.frozen,
            cpu=files.cpu,
            throttled=files.throttled,
            memory_peak=files.memory_peak,
            memory_stat=files.memory_stat,
            log=log_fd,
            cgroup_version=files.cgroup_version,
            oom_file=files.oom_file,
        )
    finally:
        if not complete:
            cgroup.close_all(opened)
            if files is not None:
                files.close()


def _cgroups_of(pid: int) -> str:
    """Read in which cgroups a process is; in none once it is gone."""
    try:
        return Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return ""
