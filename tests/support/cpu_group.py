"""In which CPU cgroup a process is."""

from pathlib import Path

from pool.cgroup import controller_paths
from pool.courtesy import idle_file


def cpu_group_of(pid: int) -> Path:
    """Return the directory of a process' cgroup in the hierarchy of the CPU controller."""
    paths = controller_paths(Path(f"/proc/{pid}/cgroup").read_text())
    return idle_file(paths.get("cpu", paths.get("", ""))).parent
