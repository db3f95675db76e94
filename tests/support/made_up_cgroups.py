"""A made-up cgroup hierarchy, and a procfs that tells where it is mounted."""

from __future__ import annotations

from pathlib import Path


def hierarchy(tmp_path: Path, version: int, controller: str = "memory") -> tuple[Path, Path]:
    """Make a procfs whose mountinfo shows one hierarchy, under version 1 of this controller; return both."""
    proc, point = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    point.mkdir()
    kind, options = ("cgroup", f"rw,{controller}") if version == 1 else ("cgroup2", "rw")
    (proc / "self" / "mountinfo").write_text(f"35 31 0:32 / {point} rw - {kind} cgroup {options}\n")
    if version == 2:
        (point / "cgroup.controllers").write_text("cpu memory pids\n")
        (point / "cgroup.subtree_control").write_text("")
    return proc, point


def fill_group(directory: Path, version: int, *, usage: int = 0, cache: int = 0, limit: int | None = None) -> None:
    """Write what the kernel would show of a cgroup: bytes used, those of them that are page cache, and the limit."""
    directory.mkdir(parents=True, exist_ok=True)
    if version == 2:
        files = {
            "memory.max": "max" if limit is None else limit,
            "memory.swap.max": "max",
            "memory.current": usage,
            "memory.stat": f"anon 0\nfile {cache}\nshmem 0\nslab_reclaimable 0",
        }
    else:
        files = {
            "memory.limit_in_bytes": 9223372036854771712 if limit is None else limit,
            "memory.memsw.limit_in_bytes": 9223372036854771712 if limit is None else limit,
            "memory.usage_in_bytes": usage,
            "memory.stat": f"cache 0\ntotal_cache {cache}\ntotal_shmem 0",
            "memory.use_hierarchy": 0,
        }
    for name, value in files.items():
        (directory / name).write_text(f"{value}\n")
