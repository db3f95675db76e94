"""Segments: what a file holds is told by checks and sequences, never by its length or its name."""

import os

import pytest

from invoker.record.segment import FRAME_BYTES, START_BYTES, JournalTooNew, Segment, frame_head, frame_tail


def write(segment: Segment, sequence: int, body: bytes) -> None:
    data = frame_head(sequence, len(body)) + body + frame_tail(body)
    os.pwrite(segment.fd, data, segment.end)
    segment.end += len(data)


@pytest.fixture
def segment(tmp_path):
    made = Segment.create(tmp_path / "1.seg", 4096, os.posix_fallocate, zeroed=True)
    yield made
    made.close()


def test_a_new_segment_holds_nothing_until_it_begins(segment):
    assert list(segment.frames()) == []
    segment.begin(7)
    assert list(segment.frames()) == []
    assert segment.last == 6


def test_frames_come_back_in_order_and_a_reopened_segment_knows_its_end(segment):
    segment.begin(7)
    write(segment, 7, b"one")
    write(segment, 8, b"")
    reopened = Segment.open(segment.path)
    assert [(frame.sequence, frame.body) for frame in reopened.frames()] == [(7, b"one"), (8, b"")]
    assert (reopened.first, reopened.last, reopened.end) == (7, 8, START_BYTES + 2 * FRAME_BYTES + 3)
    reopened.close()


def test_what_a_recycled_file_held_before_is_not_read_again(segment):
    segment.begin(1)
    for sequence in range(1, 6):
        write(segment, sequence, b"old")
    segment.begin(100)
    write(segment, 100, b"new")
    assert [frame.body for frame in segment.frames()] == [b"new"]


def test_a_body_that_never_arrived_is_stepped_over(segment):
    segment.begin(1)
    os.pwrite(segment.fd, frame_head(1, 100), segment.end)
    segment.end += FRAME_BYTES + 100
    write(segment, 2, b"behind")
    assert [(frame.sequence, frame.body) for frame in segment.frames()] == [(1, None), (2, b"behind")]


def test_a_damaged_head_ends_the_segment(segment):
    segment.begin(1)
    write(segment, 1, b"one")
    at = segment.end
    write(segment, 2, b"two")
    os.pwrite(segment.fd, b"\xff", at)
    assert [frame.sequence for frame in segment.frames()] == [1]


def test_a_segment_of_a_newer_format_is_refused(segment):
    import struct
    import zlib

    start = struct.pack("<8sQ", b"invkjrn9", 1)
    os.pwrite(segment.fd, start + struct.pack("<I", zlib.crc32(start)), 0)
    with pytest.raises(JournalTooNew):
        Segment.open(segment.path)


def test_a_disk_without_room_leaves_no_file_behind(tmp_path):
    def full(fd: int, offset: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        Segment.create(tmp_path / "2.seg", 4096, full, zeroed=True)
    assert list(tmp_path.iterdir()) == []
