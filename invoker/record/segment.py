"""Segments of the journal: files of one size, allocated before they are needed, holding framed records.

A frame is `length, sequence, crc of these | body | crc of the body`. The head has a check of its own, so that a reader
steps over a body that never arrived and still finds what was written behind it. The sequence counts records of the
whole journal and never repeats: what a recycled file still holds from its earlier life is told by its sequence.
A segment begins with the sequence of its first record; the name of its file means nothing.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from pool.errors import PlatformError

#: Gives a descriptor that many bytes on the disk, or raises OSError: `os.posix_fallocate`.
Allocate = Callable[[int, int, int], None]

_MAGIC = b"invkjrn1"
_START = struct.Struct("<8sQ")
_HEAD = struct.Struct("<IQ")
_CRC = struct.Struct("<I")
#: Bytes before the first frame.
START_BYTES = _START.size + _CRC.size
#: Bytes of a frame around its body.
FRAME_BYTES = _HEAD.size + 2 * _CRC.size
#: A page: the kernel takes a write of no more as one.
INLINE_BYTES = 4096
_ZEROS = bytes(1024 * 1024)


class JournalTooNew(PlatformError):
    """The journal was written by a newer invokerd: install that version again."""

    code = "journal-too-new"


def frame_head(sequence: int, length: int) -> bytes:
    """Make what stands before a body of `length` bytes."""
    head = _HEAD.pack(length, sequence)
    return head + _CRC.pack(zlib.crc32(head))


def frame_tail(body: bytes) -> bytes:
    """Make what stands behind a body."""
    return _CRC.pack(zlib.crc32(body))


class Frame(NamedTuple):
    """One frame of a segment.

    Attributes:
        sequence: of the record.
        body: None when it never arrived whole.
        end: offset behind the frame.
    """

    sequence: int
    body: bytes | None
    end: int


def read_frame(data: mmap.mmap, offset: int, sequence: int) -> Frame | None:
    """Read the frame of the record `sequence`; None where it does not begin at this offset."""
    begin = offset + _HEAD.size + _CRC.size
    if begin + _CRC.size > len(data):
        return None
    head = data[offset : offset + _HEAD.size]
    length, found = _HEAD.unpack(head)
    if found != sequence or _CRC.unpack_from(data, offset + _HEAD.size)[0] != zlib.crc32(head) or begin + length > len(data):
        return None
    end = begin + length + _CRC.size
    body = data[begin : begin + length]
    whole = end <= len(data) and _CRC.unpack_from(data, begin + length)[0] == zlib.crc32(body)
    return Frame(sequence, body if whole else None, end)


class Segment:
    """One open segment.

    `end` and `last` are the loop's; `synced` belongs to the journal's thread.
    """

    __slots__ = ("_map", "end", "fd", "first", "last", "path", "size", "synced")

    def __init__(self, path: Path, fd: int, size: int) -> None:
        self.path = path
        self.fd = fd
        self.size = size
        #: The file, while it is written.
        self._map: mmap.mmap | None = None
        #: Sequence of its first record; 0 in a spare.
        self.first = 0
        #: Sequence of its last record, whole or not; `first - 1` before there is one.
        self.last = 0
        #: Where the next frame goes.
        self.end = START_BYTES
        #: Up to which offset the disk has it.
        self.synced = 0

    @classmethod
    def create(cls, path: Path, size: int, allocate: Allocate, *, zeroed: bool) -> Segment:
        """Make a file of `size` bytes that are really there.

        Args:
            path: of the file; must not exist.
            size: bytes.
            allocate: takes them from the disk.
            zeroed: write the zeros too: syncing a record is then a write of data alone, without the file system's own journal.

        Raises:
            OSError: the disk has not that much; nothing is left of the file.
        """
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            allocate(fd, 0, size)
            if zeroed:
                for offset in range(0, size, len(_ZEROS)):
                    os.pwrite(fd, _ZEROS[: min(len(_ZEROS), size - offset)], offset)
                os.fdatasync(fd)
        except OSError:
            os.close(fd)
            path.unlink()
            raise
        return cls(path, fd, size)

    @classmethod
    def open(cls, path: Path) -> Segment:
        """Open a file that an earlier daemon left, and find what it holds.

        Raises:
            JournalTooNew: it has a format we do not know.
        """
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        segment = cls(path, fd, os.fstat(fd).st_size)
        try:
            segment.first = read_start(fd)
            segment.last = segment.first - 1
            for frame in segment.frames():
                segment.last, segment.end = frame.sequence, frame.end
        except BaseException:
            os.close(fd)
            raise
        return segment

    def begin(self, first: int) -> None:
        """Make a spare the segment whose first record is `first`. One small write."""
        start = _START.pack(_MAGIC, first)
        os.pwrite(self.fd, start + _CRC.pack(zlib.crc32(start)), 0)
        self.first, self.last, self.end, self.synced = first, first - 1, START_BYTES, 0
        self._map = mmap.mmap(self.fd, self.size)

    def write(self, data: bytes) -> None:
        """Write at its end, where there is room, through the mapping: no system call, and what is there survives `kill -9`.

        The file has its blocks since it was made, so that no page of it can be missing on the disk.
        """
        assert self._map is not None, "it has not begun"
        self._map[self.end : self.end + len(data)] = data

    def finish(self) -> None:
        """Nothing more is written to it."""
        if self._map is not None:
            self._map.close()
            self._map = None

    def frames(self) -> Iterator[Frame]:
        """Yield its frames in order, up to the first that was never written or belongs to the file's earlier life."""
        size = os.fstat(self.fd).st_size
        if not self.first or size <= START_BYTES:
            return
        with mmap.mmap(self.fd, size, access=mmap.ACCESS_READ) as data:
            offset, expected = START_BYTES, self.first
            while (frame := read_frame(data, offset, expected)) is not None:
                yield frame
                offset, expected = frame.end, expected + 1

    def close(self) -> None:
        """Close the descriptor."""
        self.finish()
        os.close(self.fd)

    def remove(self) -> None:
        """Close and delete it."""
        self.close()
        self.path.unlink(missing_ok=True)


def read_start(fd: int) -> int:
    """Read the sequence of the first record; 0 in a file that never began."""
    start = os.pread(fd, START_BYTES, 0)
    if len(start) < START_BYTES or _CRC.unpack_from(start, _START.size)[0] != zlib.crc32(start[: _START.size]):
        return 0
    magic, first = _START.unpack_from(start)
    if magic != _MAGIC:
        raise JournalTooNew
    return int(first)
