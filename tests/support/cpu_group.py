"""In which CPU cgroup a process is, and its weight."""

from pathlib import Path

from pool.cgroup import controller_paths
from pool.courtesy import idle_file, weight_file


def cpu_group_of(pid: int) -> Path:
    """Return the directory of a process' cgroup in the hierarchy of the CPU controller."""
    paths = controller_paths(Path(f"/proc/{pid}/cgroup").read_text())
    return idle_file(paths.get("cpu", paths.get("", ""))).parent


def cpu_weight(group: Path) -> int:
    """Read the weight of a cgroup, in units of its version."""
    return int(weight_file(group / "cpu.idle").read_text())
