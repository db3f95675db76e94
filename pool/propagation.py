"""Which host directories may be mounted so that what the host mounts below them later (autofs, CVMFS) appears inside, too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from pool.model import Mount

MOUNTINFO = Path("/proc/self/mountinfo")


def shared_sources(mounts: Iterable[Mount], resolved: Mapping[str, Path], *, mountinfo: Path = MOUNTINFO) -> frozenset[str]:
    """Tell the read-only mounts that can be `rslave`: the engine refuses that where the host's mount is private.

    Looks at none of them: of a dead file server that would not end.

    Args:
        mounts: of one container.
        resolved: by source, where its symbolic links lead.
        mountinfo: the mount points of the host; not read where there is nothing to ask.

    Source: proc_pid_mountinfo(5); the optional fields begin at the seventh and end at ` - `.
    """
    wanted = [mount.source for mount in mounts if mount.read_only]
    if not wanted:
        return frozenset()
    points: dict[str, bool] = {}
    for line in mountinfo.read_text().splitlines():
        columns = line.partition(" - ")[0].split(" ")
        points[columns[4]] = any(option.startswith(("shared:", "master:")) for option in columns[6:])
    return frozenset(source for source in wanted if _is_shared(resolved[source], points))


def _is_shared(path: Path, points: Mapping[str, bool]) -> bool:
    """Whether the mount that holds a path is shared: that of its nearest ancestor which is a mount point."""
    for ancestor in (path, *path.parents):
        if str(ancestor) in points:
            return points[str(ancestor)]
    return False
