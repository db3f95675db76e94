"""One daemon for each name of a node: another one would take its containers for what an earlier daemon has left."""

from __future__ import annotations

import errno
import hashlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from pool.errors import PlatformError


class NodeInUse(PlatformError):
    """Another daemon serves a node of this name on this engine."""

    code = "node-in-use"


@contextmanager
def alone_on_node(node: str, engine_url: str) -> Iterator[None]:
    """Hold the name of a node on an engine while the block runs.

    The lock is a Unix socket without a file: the kernel gives it back however the process ends, and the daemon needs no
    directory for it. It holds within one network namespace; the lock of the state directory is another one.

    Args:
        node: `node` of the configuration; containers are labelled with it.
        engine_url: of the engine that has them.

    Raises:
        NodeInUse: another daemon holds it.
    """
    name = hashlib.sha256(f"{node}\0{engine_url}".encode()).hexdigest()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as held:
        try:
            held.bind(f"\0invokerd-node-{name}")
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise NodeInUse(
                f"another daemon serves node {node!r} on the engine {engine_url}, and each would remove the other's containers: "
                "stop it, or give this one a name of its own (`node`)"
            ) from None
        yield
