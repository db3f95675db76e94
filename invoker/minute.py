"""What namespaces have used of the present minute, over a restart: a small file, written in groups.

Without it a restart would give each namespace its minute once more. After `kill -9` the file is behind by `SAVE_S` at most.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from invoker.http.admission import Admission, Counts

log = logging.getLogger(__name__)

#: Between two looks at whether there is something to write, s.
SAVE_S = 1.0


class MinuteFile:
    """The file and the counters it belongs to.

    Args:
        path: of the file; it need not be there.
        admission: has the counters.
        wall_clock: seconds since the epoch.
    """

    def __init__(self, path: Path, admission: Admission, wall_clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._admission = admission
        self._wall_clock = wall_clock
        self._saved = 0
        #: Whether the last try failed: said once, not at each try.
        self._failing = False

    def load(self) -> None:
        """Go on where the last daemon stopped. A file that cannot be read counts nothing, and is said to."""
        try:
            self._admission.restore(msgspec.json.decode(self._path.read_bytes(), type=Counts))
        except FileNotFoundError:
            return
        except (OSError, msgspec.MsgspecError) as error:
            log.warning("%s cannot be read, so this minute counts anew: %s", self._path, error)

    def save(self) -> None:
        """Write what has changed since the last time: one small write. On a full disk it is tried again the next time."""
        counted = self._admission.counted
        if counted == self._saved:
            return
        unfinished = self._path.with_suffix(".new")
        try:
            unfinished.write_bytes(msgspec.json.encode(self._admission.counts(self._wall_clock())))
            unfinished.replace(self._path)
        except OSError as error:
            if not self._failing:
                log.warning("%s cannot be written; after a restart this minute counts anew: %s", self._path, error)
            self._failing = True
        else:
            self._saved = counted
            self._failing = False

    @asynccontextmanager
    async def kept(self, group: asyncio.TaskGroup) -> AsyncIterator[None]:
        """Load, save now and then while the block runs, and once more at its end."""
        self.load()
        task = group.create_task(self._save_loop(), name="save the minute's counts")
        try:
            yield
        finally:
            task.cancel()
            self.save()

    async def _save_loop(self) -> None:
        while True:
            await asyncio.sleep(SAVE_S)
            self.save()
