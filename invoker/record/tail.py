"""The tail: reads the journal's files behind the process that writes them, record by record, in order."""

from __future__ import annotations

import contextlib
import logging
import mmap
from collections.abc import Iterator
from pathlib import Path

from invoker.record.segment import START_BYTES, read_frame, read_start

log = logging.getLogger(__name__)


class JournalTail:
    """Follows a journal that another process appends to. Sees what that one wrote: both look at the kernel's pages."""

    def __init__(self, directory: Path, position: int) -> None:
        """Begin behind the record `position`; nothing is opened yet."""
        self._directory = directory
        #: The record that is read next.
        self._next = position + 1
        self._data: mmap.mmap | None = None
        self._offset = 0

    def read(self, upto: int) -> Iterator[tuple[int, bytes]]:
        """Yield (sequence, record) of the whole records up to `upto`, which were all appended before the call.

        A record whose body could not be written is stepped over: nobody was told that it had been.
        """
        while self._next <= upto:
            frame = None if self._data is None else read_frame(self._data, self._offset, self._next)
            if frame is None:
                self._open_next()
                continue
            self._offset, self._next = frame.end, self._next + 1
            if frame.body is None:
                log.warning("record %d of the journal is not whole: the disk did not take it", frame.sequence)
            else:
                yield frame.sequence, frame.body

    def close(self) -> None:
        """Let go of the present file."""
        if self._data is not None:
            self._data.close()
            self._data = None

    def _open_next(self) -> None:
        """Go on in the segment that begins with the next record, or soonest after it: numbers may be left out at a restart.

        Raises:
            LookupError: no file has it, although it was said to be there.
        """
        self.close()
        for first, path in sorted(self._beginnings()):
            with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                # One that was given up before anything was written to it, for a record that did not fit, begins alike.
                if read_frame(data, START_BYTES, first) is not None:
                    self._data, self._offset, self._next = data, START_BYTES, first
                    return
                data.close()
        raise LookupError(f"no segment in {self._directory} holds record {self._next}")

    def _beginnings(self) -> Iterator[tuple[int, Path]]:
        """Yield with which record each file begins that may be the next."""
        for path in self._directory.glob("*.seg"):
            with contextlib.suppress(FileNotFoundError), path.open("rb") as file:  # removed meanwhile: not the next one
                first = read_start(file.fileno())
                if first >= self._next:
                    yield first, path
