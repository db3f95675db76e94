"""One daemon for each name of a node, whose containers another would take for leftovers, and for each cgroup of containers."""

from __future__ import annotations

import errno
import hashlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from pool.errors import PlatformError


class NodeInUse(PlatformError):
    """Another daemon serves a node of this name on this engine, or has its containers in the same cgroup."""

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
    sentence = (
        f"another daemon serves node {node!r} on the engine {engine_url}, and each would remove the other's containers: "
        "stop it, or give this one a name of its own (`node`)"
    )
    with _alone(f"invokerd-node-{name}", sentence):
        yield


@contextmanager
def alone_in_cgroup(name: str) -> Iterator[None]:
    """Hold the cgroup of all containers while the block runs; as `alone_on_node`.

    Args:
        name: of the cgroup, which bears the limit of one pool.

    Raises:
        NodeInUse: another daemon holds it.
    """
    sentence = (
        f"another daemon of this machine has its containers in the cgroup {name!r}, and the limit of one pool would be "
        "the other's: give this one a cgroup of its own (`pool.cgroup_parent`, or by its name: `node`)"
    )
    with _alone(f"invokerd-cgroup-{name}", sentence):
        yield


@contextmanager
def _alone(lock: str, sentence: str) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as held:
        try:
            held.bind(f"\0{lock}")
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise NodeInUse(sentence) from None
        yield
