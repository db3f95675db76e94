"""Sockets inside a container's network namespace: one thread goes in, creates a socket, comes home.

A thread, because `setns` moves a thread and not a process; one of its own, because the default executor's threads
must never be found in a foreign namespace. The socket belongs for ever to the namespace in which it was created, so
the event loop connects and uses it like any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import queue
import select
import socket
import threading
from collections.abc import Callable

#: Where every action container listens: on its own loopback.
ACTION_ADDRESS = ("127.0.0.1", 8080)
#: The kernel completes a loopback handshake at once. Only a full backlog makes it wait, and try again after 1 s.
CONNECT_DEADLINE_S = 1.25

_CLONE_NEWNET = 0x40000000


def _setns(fd: int, kind: int) -> None:
    """`setns(2)`; Python has it from 3.12. By the pidfd of a process it enters that process' namespace, from Linux 5.8.

    Raises:
        ProcessLookupError: the process has ended.
        OSError: as the kernel says.
    """
    if _libc.setns(fd, kind) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "setns")


_libc = ctypes.CDLL(None, use_errno=True)


def has_ended(pidfd: int) -> bool:
    """Ask the kernel whether the process behind a pidfd has ended."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


#: Makes a socket in the namespace that the thread is in.
_Make = Callable[[], socket.socket]


class Dialer:
    """Dials into network namespaces, and listens in them. Start it on the loop that awaits `dial`; `close` it there."""

    def __init__(
        self,
        *,
        address: tuple[str, int] = ACTION_ADDRESS,
        deadline_s: float = CONNECT_DEADLINE_S,
        setns: Callable[[int, int], None] = _setns,
    ) -> None:
        self._address = address
        self._deadline_s = deadline_s
        self._setns = setns
        self._loop = asyncio.get_running_loop()
        self._wishes: queue.SimpleQueue[tuple[int, _Make, asyncio.Future[socket.socket]] | None] = queue.SimpleQueue()
        self._closed = False
        #: The namespace of this process, to which each thread returns.
        self._home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        #: How many threads had to be replaced because they could not return home.
        self.lost_threads = 0
        self._start_thread()

    async def dial(self, pidfd: int) -> socket.socket:
        """Connect a non-blocking TCP socket in the network namespace of a process.

        Raises:
            ConnectionRefusedError: nothing listens there.
            ProcessLookupError: the process has ended.
            TimeoutError: its backlog is full.
            OSError: the namespace cannot be entered, or the dialer is closed.
        """
        sock = await self._wish(pidfd, self._begin_dial)
        connected = False
        try:
            async with asyncio.timeout(self._deadline_s):
                await self._loop.sock_connect(sock, self._address)
            connected = True
            return sock
        finally:
            if not connected:
                sock.close()

    async def listen(self, pidfd: int, address: tuple[str, int], *, backlog: int) -> socket.socket:
        """Listen in the network namespace of a process; returns a non-blocking socket.

        Raises:
            ProcessLookupError: the process has ended.
            OSError: the address is taken there, the namespace cannot be entered, or the dialer is closed.
        """

        def listen() -> socket.socket:
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(address)
                sock.listen(backlog)
            except OSError:
                sock.close()
                raise
            return sock

        return await self._wish(pidfd, listen)

    async def _wish(self, pidfd: int, make: _Make) -> socket.socket:
        if self._closed:
            raise OSError("the dialer is closed")
        wish: asyncio.Future[socket.socket] = self._loop.create_future()
        # A duplicate: the caller may be cancelled and close its own before the thread has used it, and the number
        # could by then mean another container.
        self._wishes.put((os.dup(pidfd), make, wish))
        taken = False
        try:
            sock = await wish
            taken = True
            return sock
        finally:
            # The caller was cancelled when the socket was there already, and before it had it.
            if not taken and wish.done() and not wish.cancelled() and wish.exception() is None:
                wish.result().close()

    def close(self) -> None:
        """Stop the thread and wait for it; dials under way fail."""
        if not self._closed:
            self._closed = True
            self._wishes.put(None)
            self._thread.join()
            os.close(self._home)
            with contextlib.suppress(queue.Empty):
                while (left := self._wishes.get_nowait()) is not None:
                    os.close(left[0])
                    left[2].cancel()

    def _start_thread(self) -> None:
        self._thread = threading.Thread(target=self._work, name="netns dialer", daemon=True)
        self._thread.start()

    def _replace_thread(self) -> None:
        """Start the successor of a lost thread: from the loop's thread, since a new thread inherits the namespace."""
        self._thread.join()
        self.lost_threads += 1
        if not self._closed:
            self._start_thread()

    def _work(self) -> None:
        while (wish := self._wishes.get()) is not None:
            if not self._serve(*wish):
                self._loop.call_soon_threadsafe(self._replace_thread)
                return

    def _serve(self, pidfd: int, make: _Make, wish: asyncio.Future[socket.socket]) -> bool:
        """Create one socket, come home, hand it over. Return whether this thread is at home again."""
        sock: socket.socket | None = None
        failure: OSError | None = None
        at_home = True
        try:
            self._setns(pidfd, _CLONE_NEWNET)
            sock = make()
        except OSError as error:
            failure = error
        finally:
            os.close(pidfd)
        try:
            self._setns(self._home, _CLONE_NEWNET)
        except OSError:
            at_home = False
        self._loop.call_soon_threadsafe(_settle, wish, sock, failure)
        return at_home

    def _begin_dial(self) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        # Begin the handshake here: on loopback it is over before the loop hears of it.
        sock.connect_ex(self._address)
        return sock


def _settle(wish: asyncio.Future[socket.socket], sock: socket.socket | None, failure: OSError | None) -> None:
    """Runs on the loop: nobody may wait any more."""
    if wish.done():
        if sock is not None:
            sock.close()
    elif sock is not None:
        wish.set_result(sock)
    else:
        wish.set_exception(failure or OSError("no socket"))
