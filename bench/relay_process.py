"""Starts the relay as a process of its own and hands it its connections."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_ROOT = Path(__file__).parents[1]


@contextmanager
def running(backends: Sequence[socket.socket], freezers: Sequence[int] = (), cgroup: str = "v1") -> Iterator[int]:
    """Run the relay before connected sockets, and yield the port on which it listens.

    Args:
        backends: one connection to each container; the caller keeps and closes its own copy.
        freezers: descriptors of their freezer files, in the same order; none leaves them running.
        cgroup: `v1` or `v2`.
    """
    listening = socket.create_server(("127.0.0.1", 0), backlog=256)
    descriptors = [listening.fileno(), *(backend.fileno() for backend in backends), *freezers]
    words = [f"--listening={listening.fileno()}", f"--cgroup={cgroup}"]
    words += [f"--backend={backend.fileno()}" for backend in backends]
    words += [f"--freeze={freezer}" for freezer in freezers]
    process = subprocess.Popen([sys.executable, "-m", "bench.relay", *words], pass_fds=descriptors, cwd=_ROOT)
    try:
        yield listening.getsockname()[1]
    finally:
        process.terminate()
        process.wait()
        listening.close()
