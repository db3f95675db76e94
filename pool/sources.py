"""The host's directories that are to be mounted, looked at before the engine does: by a child each, with a deadline.

Whoever looks at a directory of a dead file server hangs until the server is back, and of some kinds of file system it cannot
even be killed. So the daemon's loop never looks itself; and the engine is not asked to, for its starts would hang with it, and
then its breaker would refuse everybody's.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pool import look
from pool.errors import MountUnavailable
from pool.model import Mount
from pool.propagation import MOUNTINFO, shared_sources

#: How long a directory may take to answer, s. An automounter may have to mount it first.
ANSWER_WITHIN_S = 5.0
#: A child that hangs for longer is killed, s: what is mounted there by now may be something else.
GIVE_UP_AFTER_S = 30.0
_READ_BYTES = 8192


def look_command(source: str) -> list[str]:
    """Return the command that looks at a directory: it prints where that is, or says on standard error why not."""
    return [sys.executable, "-I", "-S", str(look.__file__), source]


@dataclass(frozen=True, slots=True)
class _Look:
    """A child that looks.

    Attributes:
        pidfd: of the child.
        output: end of the pipe that it prints into.
        began: seconds of the loop's clock.
        ended: set to its exit code and what it printed.
    """

    pidfd: int
    output: int
    began: float
    ended: asyncio.Future[tuple[int, str]]

    def kill(self) -> None:
        """Have it killed, which the kernel may put off."""
        signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Let go of its descriptors."""
        os.close(self.pidfd)
        os.close(self.output)


class Sources:
    """Looks at directories. At most one child a directory: who comes while it hangs waits no longer than the first."""

    def __init__(
        self,
        *,
        answer_within_s: float = ANSWER_WITHIN_S,
        give_up_after_s: float = GIVE_UP_AFTER_S,
        command: Callable[[str], Sequence[str]] = look_command,
        mountinfo: Path = MOUNTINFO,
        own: Path | None = None,
    ) -> None:
        """Look at nothing yet.

        Args:
            answer_within_s: how long a directory may take to answer, s.
            give_up_after_s: how long a child may hang before it is killed, s.
            command: what looks at a directory.
            mountinfo: the mount points of the host.
            own: what is below it is the daemon's own, without which it cannot live, and is not looked at.
        """
        self._own = own
        self._answer_within_s = answer_within_s
        self._give_up_after_s = give_up_after_s
        self._command = command
        self._mountinfo = mountinfo
        #: All and only children that have not ended, by directory.
        self._looks: dict[str, _Look] = {}

    async def wait_shared(self, mounts: Sequence[Mount]) -> frozenset[str]:
        """Wait until the directory of each mount has answered; tell those that can be `rslave` (see `propagation`).

        Raises:
            MountUnavailable: one does not answer, or is not there.
        """
        if not mounts:
            return frozenset()
        resolved = {mount.source: Path(mount.source) for mount in mounts if self._is_own(mount)}
        looks = [(mount.source, self._begin(mount.source)) for mount in mounts if mount.source not in resolved]  # all at once
        resolved |= {source: await self._wait(source, look) for source, look in looks}
        return shared_sources(mounts, resolved, mountinfo=self._mountinfo)

    def close(self) -> None:
        """Kill what still looks, and wait for none of it."""
        for begun in self._looks.values():
            asyncio.get_running_loop().remove_reader(begun.pidfd)
            begun.kill()
            begun.close()
            begun.ended.set_result((1, "the daemon is stopping"))
        self._looks.clear()

    def _is_own(self, mount: Mount) -> bool:
        return self._own is not None and Path(mount.source).is_relative_to(self._own)

    def _begin(self, source: str) -> _Look:
        """Join the look that is under way, or begin one."""
        loop = asyncio.get_running_loop()
        known = self._looks.get(source)
        if known is not None:
            if loop.time() - known.began > self._give_up_after_s:
                known.kill()
            return known
        try:
            pid, output = _spawn(self._command(source))
        except OSError as error:
            raise MountUnavailable(f"the site mount {source} cannot be looked at: {error.strerror}") from error
        begun = self._looks[source] = _Look(os.pidfd_open(pid), output, loop.time(), loop.create_future())
        loop.add_reader(begun.pidfd, self._end, source, begun)
        return begun

    def _end(self, source: str, begun: _Look) -> None:
        """Take what a child that has ended has printed: never more than fits into its pipe."""
        asyncio.get_running_loop().remove_reader(begun.pidfd)
        del self._looks[source]
        text = os.read(begun.output, _READ_BYTES).decode(errors="replace").strip()
        result = os.waitid(os.P_PIDFD, begun.pidfd, os.WEXITED)
        begun.close()
        begun.ended.set_result((result.si_status if result else -1, text))

    async def _wait(self, source: str, begun: _Look) -> Path:
        """Wait for the answer; where the symbolic links lead."""
        left_s = begun.began + self._answer_within_s - asyncio.get_running_loop().time()
        await asyncio.wait({begun.ended}, timeout=max(0.0, left_s))
        if not begun.ended.done():
            hung_s = asyncio.get_running_loop().time() - begun.began
            raise MountUnavailable(f"the site mount {source} has not answered for {hung_s:.0f} s: its file server may be down")
        code, text = begun.ended.result()
        if code != 0:
            raise MountUnavailable(f"the site mount {source} cannot be used: {text.splitlines()[-1] if text else f'exit {code}'}")
        return Path(text)


def _spawn(command: Sequence[str]) -> tuple[int, int]:
    """Start a child that prints into a pipe; its pid, and the pipe's other end."""
    output, printed = os.pipe2(os.O_CLOEXEC)
    try:
        null = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
        both = [(os.POSIX_SPAWN_DUP2, printed, fd) for fd in (1, 2)]
        return os.posix_spawn(command[0], list(command), os.environ, file_actions=[null, *both]), output
    except OSError:
        os.close(output)
        raise
    finally:
        os.close(printed)
