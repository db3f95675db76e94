"""What systemd and the daemon tell each other: readiness, the watchdog, inherited sockets, and the log's levels.

Protocols: sd_notify(3), sd_listen_fds(3), sd-daemon(3). No library: each is a datagram or a few environment
variables, and none of this may block the loop or fail the daemon.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import time
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Self

_LOG = logging.getLogger(__name__)
#: First inherited descriptor, by the protocol.
_LISTEN_FDS_START = 3
#: While the daemon starts, the manager is told that it will hear again within this time, s. It hears a third of that later.
START_STEP_S = 30.0
#: syslog priorities of Python's levels, for `<N>` at the start of a line.
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class Notifier:
    """Tells the service manager how the daemon fares. Without a manager every call does nothing.

    No call waits or raises: a manager that does not read must not stop the daemon.
    """

    def __init__(self, address: str | None, watchdog_interval_s: float | None = None) -> None:
        #: Half of the time within which the manager wants to hear `watchdog()`; None when it does not.
        self.watchdog_interval_s = watchdog_interval_s
        self._socket: socket.socket | None = None
        #: The next call of `starting`.
        self._start_step: asyncio.TimerHandle | None = None
        if address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
            # A leading @ stands for the NUL byte of Linux's abstract namespace.
            self._address = "\0" + address[1:] if address.startswith("@") else address

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str] | None = None) -> Self:
        """Read the manager's variables, and remove them so that no child speaks in the daemon's name."""
        environ = os.environ if environ is None else environ
        address = environ.pop("NOTIFY_SOCKET", None)
        interval_us, for_pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        watched = interval_us.isdigit() and int(interval_us) > 0 and for_pid in ("", str(os.getpid()))
        return cls(address, int(interval_us) / 2e6 if watched else None)

    def starting(self) -> None:
        """Ask for time, and again until `ready` or `close`: what an earlier daemon left may take longer than `TimeoutStartSec`.

        It ends with the loop: a start that holds the loop is one that the manager should end.
        """
        self.extend_timeout(START_STEP_S)
        if self._socket is not None:
            self._start_step = asyncio.get_running_loop().call_later(START_STEP_S / 3, self.starting)

    def ready(self, status: str = "") -> None:
        """Say that the daemon serves: after start, and after each reload."""
        self._has_started()
        self._send("READY=1", _status(status))

    def stopping(self, status: str = "") -> None:
        """Say that the daemon has begun to stop."""
        self._send("STOPPING=1", _status(status))

    def reloading(self) -> None:
        """Say that the daemon reads its configuration anew; `ready()` ends it. Both fields travel in one datagram."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def status(self, text: str) -> None:
        """Set the line that `systemctl status` shows."""
        self._send(_status(text))

    def watchdog(self) -> None:
        """Say that the daemon is well. Call it only after having looked: a watchdog that is always fed guards nothing."""
        self._send("WATCHDOG=1")

    def extend_timeout(self, seconds: float) -> None:
        """Ask for `seconds` more, counted from now, for the start or the stop under way."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")

    def close(self) -> None:
        """Close the socket. Safe to repeat; later calls do nothing."""
        self._has_started()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _has_started(self) -> None:
        if self._start_step is not None:
            self._start_step.cancel()
            self._start_step = None

    def _send(self, *fields: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto("\n".join(each for each in fields if each).encode(), self._address)
        except OSError as error:
            _LOG.debug("the service manager does not listen: %s", error)


def _status(text: str) -> str:
    """Make the field; one line, since a newline would begin the next field."""
    return f"STATUS={' '.join(text.split())}" if text else ""


@dataclass(frozen=True, slots=True)
class InheritedSocket:
    """A listening socket that systemd opened: `FileDescriptorName=` of its unit, and the socket."""

    name: str
    socket: socket.socket


def inherited_sockets(environ: MutableMapping[str, str] | None = None, first: int = _LISTEN_FDS_START) -> list[InheritedSocket]:
    """Take over the sockets passed by systemd; none when there are none, or when they are another process's.

    The variables are removed and the descriptors marked close-on-exec, so that they are taken once and not inherited.

    Args:
        environ: environment variables; None is the process's own.
        first: number of the first descriptor; 3 by the protocol.

    Raises:
        OSError: a descriptor is promised and not there, or is no socket.
    """
    environ = os.environ if environ is None else environ
    pid, count, names = (environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    named = names.split(":") if names else []
    inherited = []
    for index in range(int(count)):
        os.set_inheritable(first + index, False)
        sock = socket.socket(fileno=first + index)
        sock.setblocking(False)
        inherited.append(InheritedSocket(named[index] if index < len(named) else "unknown", sock))
    return inherited


class JournalFormatter(logging.Formatter):
    """Lines for the journal: `<priority>` first, no time of our own, each line of a traceback with its priority."""

    def __init__(self) -> None:
        super().__init__("%(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Format a record as one or more lines of one priority."""
        prefix = f"<{_PRIORITIES.get(record.levelno, 6)}>"
        return "\n".join(prefix + line for line in super().format(record).splitlines())


def configure_logging(level: str, environ: Mapping[str, str] | None = None) -> None:
    """Send the log to stderr: with journal priorities under systemd, with the time elsewhere.

    Args:
        level: `debug`, `info`, `warning` or `error`.
        environ: environment variables; None is the process's own.
    """
    handler = logging.StreamHandler(sys.stderr)
    if "JOURNAL_STREAM" in (os.environ if environ is None else environ):
        handler.setFormatter(JournalFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
