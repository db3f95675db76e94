"""Ports for daemons that are stopped and started again: each is one process's alone until that ends, whoever listens on it.

A port that the kernel gives (bind to 0) will not do: it is of the range that outgoing connections are given theirs from, so it
may be taken by anybody's connection between two starts, and two processes may be given the same one after another.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

#: Below the range of outgoing connections (Linux: from 32768), above what services use by custom.
FIRST, LAST = 15_000, 29_999
#: One empty file a port; who holds its lock has the port. Of one user: another's files could not be opened.
_DIRECTORY = Path(tempfile.gettempdir()) / f"invokerd-ports-{os.getuid()}"
#: Descriptors of the files whose locks this process holds, for as long as it lives.
_held: list[int] = []


def reserve_port() -> int:
    """Return a TCP port of the loopback address on which nobody listens; no other process is given it while this one lives."""
    _DIRECTORY.mkdir(mode=0o700, exist_ok=True)
    for port in random.sample(range(FIRST, LAST + 1), 1000):
        if _lock(port):
            try:
                with socket.create_server(("127.0.0.1", port)):
                    return port
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
    raise OSError(errno.EADDRINUSE, f"no port from {FIRST} to {LAST} is free on 127.0.0.1")


def _lock(port: int) -> bool:
    descriptor = os.open(_DIRECTORY / str(port), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    _held.append(descriptor)
    return True
