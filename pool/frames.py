"""Log frames: the lines which our runtimes write to the log pipe, and the engine's framing of an attached stream.

One frame is one write of at most 4096 bytes, so frames of threads and children never mix:
`<activation id> <seq> <stream> <microseconds since the epoch> <text>` and a newline. User code can open the pipe too
and write what it likes there: whatever is no frame is counted and dropped. Whether an activation id is one
that this container may speak for is the reader's business.
"""

from __future__ import annotations

import re
import struct

import msgspec

from pool.model import ActivationId

#: Longest frame with its newline: what the kernel writes to a pipe in one piece.
FRAME_BYTES = 4096
#: Shorter ones are no frames; a user who writes bare newlines to the pipe is to cost no search each.
_LEAST_BYTES = len("0" * 32 + " 0 o 0 ")

_ATTACHED_HEADER = struct.Struct(">BxxxL")
_FRAME = re.compile(rb"([0-9a-f]{32}) ([0-9]{1,10}) ([oOheEH]) ([0-9]{1,17}) (.*)", re.DOTALL)


class Frame(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One piece of an activation's log.

    Attributes:
        seq: counts the frames of this activation from 0.
        stream: `o` stdout, `e` stderr; `O`, `E` when the line goes on in the next frame of that stream; `h`, `H` when this is
            what the line is so far, which counts only if no answer and nothing else of that stream comes after it.
        time_us: microseconds since the epoch, by the container's clock.
        text: as it was written, without newline.
    """

    activation: ActivationId
    seq: int
    stream: str
    time_us: int
    text: bytes


class FrameParser:
    """Cuts one container's byte stream into frames, however the reads fall.

    Attributes:
        rejected: how many lines were no frames, so far.
    """

    def __init__(self) -> None:
        self.rejected = 0
        self._rest = b""
        self._skipping = False  # inside a line that is already too long to be a frame

    def feed(self, data: bytes) -> list[Frame]:
        """Take what one read returned; return the frames that are now complete, in order."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        if self._skipping and lines:
            self._skipping = False
            del lines[0]
        candidates = [line for line in lines if len(line) >= _LEAST_BYTES]
        self.rejected += len(lines) - len(candidates)
        frames = [frame for line in candidates if (frame := self._parse(line)) is not None]
        if len(self._rest) >= FRAME_BYTES or self._skipping:
            self.rejected += not self._skipping
            self._skipping = True
            self._rest = b""
        return frames

    def skip(self, data: bytes) -> None:
        """Pass over what one read returned, of which nobody wants a frame; the next one may begin in it."""
        end = data.rfind(b"\n")
        if end >= 0:
            self._rest, self._skipping = b"", False
        self.feed(data[end + 1 :])

    def _parse(self, line: bytes) -> Frame | None:
        match = _FRAME.fullmatch(line) if len(line) < FRAME_BYTES else None
        if match is None:
            self.rejected += 1
            return None
        activation, seq, stream, time_us, text = match.groups()
        return Frame(
            activation=ActivationId(activation.decode()),
            seq=int(seq),
            stream=stream.decode(),
            time_us=int(time_us),
            text=text,
        )


class AttachedParser:
    """Cuts the engine's attached stream into pieces: 8 bytes of header (stream, 3 zeros, big-endian length), payload.

    A payload is handed on as it comes in, so that a long one needs no memory here.
    """

    def __init__(self) -> None:
        self._header = b""
        self._stream = ""
        self._missing = 0  # bytes of the present payload that have not come yet

    def feed(self, data: bytes) -> list[tuple[str, bytes]]:
        """Take what one read returned; return (`stdout` or `stderr`, bytes) in order."""
        pieces: list[tuple[str, bytes]] = []
        position = 0
        while position < len(data):
            if not self._missing:
                needed = _ATTACHED_HEADER.size - len(self._header)
                self._header += data[position : position + needed]
                position += needed
                if len(self._header) == _ATTACHED_HEADER.size:
                    number, self._missing = _ATTACHED_HEADER.unpack(self._header)
                    self._stream = "stderr" if number == 2 else "stdout"
                    self._header = b""
            else:
                piece = data[position : position + self._missing]
                position += len(piece)
                self._missing -= len(piece)
                pieces.append((self._stream, piece))
        return pieces
