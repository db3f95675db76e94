"""Starts the relay as a process of its own and hands it its connections."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

_ROOT = Path(__file__).parents[1]


class Running(NamedTuple):
    """The port on which a relay listens, and its process."""

    port: int
    pid: int


@contextmanager
def running(backends: Sequence[socket.socket], freezers: Sequence[int] = (), cgroup: str = "v1") -> Iterator[Running]:
    """Run the relay before connected sockets.

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
        yield Running(listening.getsockname()[1], process.pid)
    finally:
        process.terminate()
        process.wait()
        listening.close()
