"""The kit to build an action image of one's own: what `wsk sdk install docker` fetches as `/blackbox.tar.gz`."""

from __future__ import annotations

import functools
import gzip
import io
import tarfile
from pathlib import Path

#: Its name is what wsk tells its user to look into.
KIT = Path(__file__).with_name("dockerSkeleton")
_EXECUTABLE = frozenset({"exec", "build.sh"})


@functools.cache
def kit_archive() -> bytes:
    """Pack the kit as a gzipped tar, the same bytes each time: all below `dockerSkeleton/`."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as packed, tarfile.open(fileobj=packed, mode="w") as archive:
        for path in sorted(KIT.iterdir()):
            if path.is_file():
                entry = tarfile.TarInfo(f"{KIT.name}/{path.name}")
                content = path.read_bytes()
                entry.size, entry.mode = len(content), 0o755 if path.name in _EXECUTABLE else 0o644
                archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
