"""The door of a container: a listening socket in its own network namespace, through which it reaches the API and nothing else.

A container has no network. What it connects to on its own loopback at `API_ADDRESS` is accepted here and handed to whoever
serves the API, with the name of the container. While nothing comes a door costs one descriptor and no more.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

from pool.model import ContainerId

log = logging.getLogger(__name__)

#: Where a container finds the API: on its own loopback, on OpenWhisk's usual port.
API_ADDRESS = ("127.0.0.1", 3233)
#: Connections that the kernel holds for a container until they are accepted.
BACKLOG = 16
#: Descriptors that one container may cost through its door, the door itself included.
DESCRIPTORS = 8
#: After how long a container that has all its connections open is looked at again, s.
FULL_RETRY_S = 0.05

#: Serves an accepted connection; owns the socket from then on. May not raise.
Serve = Callable[[socket.socket, ContainerId], None]


class Door:
    """One container's door. `close` it with the container."""

    __slots__ = ("_accepted", "_container_id", "_listener", "_loop", "_retry", "_serve")

    def __init__(self, listener: socket.socket, container_id: ContainerId, serve: Serve, loop: asyncio.AbstractEventLoop) -> None:
        """Open it.

        Args:
            listener: non-blocking; closed by `close`.
            container_id: whose it is.
            serve: gets each accepted connection.
            loop: watches.
        """
        self._listener = listener
        self._container_id = container_id
        self._serve = serve
        self._loop = loop
        #: Connections that may still be open. One that is closed says so by its descriptor.
        self._accepted: list[socket.socket] = []
        self._retry: asyncio.TimerHandle | None = None
        loop.add_reader(listener.fileno(), self._on_knock)

    def close(self) -> None:
        """Close it. Connections end with the container's processes. Safe to repeat."""
        if self._listener.fileno() < 0:
            return
        if self._retry is not None:
            self._retry.cancel()
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()

    def _on_knock(self) -> None:
        """Accept what waits, as far as the container may have more connections open."""
        self._accepted = [each for each in self._accepted if each.fileno() >= 0]
        if len(self._accepted) >= DESCRIPTORS - 1:
            self._loop.remove_reader(self._listener.fileno())
            self._retry = self._loop.call_later(FULL_RETRY_S, self._open_again)
            return
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:  # no descriptors left: it stays in the backlog
            log.warning("%s cannot be let through its door: %s", self._container_id, error)
            self._loop.remove_reader(self._listener.fileno())
            self._retry = self._loop.call_later(FULL_RETRY_S, self._open_again)
            return
        connection.setblocking(False)
        self._accepted.append(connection)
        self._serve(connection, self._container_id)

    def _open_again(self) -> None:
        self._retry = None
        self._loop.add_reader(self._listener.fileno(), self._on_knock)
