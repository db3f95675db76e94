"""Log lines of one container, from its pipe or its attached stream, sorted to the activations that wrote them.

A result never waits for its lines: our runtimes write all frames of an activation before they answer, so that one
read of the pipe has them. Where there are very many, they are read in turns, and a foreign image's stream until its sentinels
came, both after the result has gone.
"""

from __future__ import annotations

import asyncio
import fcntl
import functools
import os
import struct
import termios
import time
from collections.abc import AsyncIterator, Callable

import msgspec

from pool.fifo import PIPE_BYTES
from pool.frames import Frame, FrameParser
from pool.model import ActivationId

SENTINEL = b"XXX_THE_END_OF_A_WHISK_ACTIVATION_XXX"
#: Read at a time: a function that writes without end holds the loop for some milliseconds, then others have their turns.
READ_BYTES = 64 * 1024
#: What was read last, of whichever pipe: as in `connection.py`.
_BUFFER = bytearray(READ_BYTES)
#: Frames after which a turn ends, at some 4 us each: a pipe full of the shortest would hold the loop for some 70 ms.
TURN_FRAMES = 500
#: A foreign image that writes nothing for this long after its answer, and no sentinel, has said all it had to say.
QUIET_S = 0.1
#: What a line counts against the limit at least, bytes: an empty one takes memory too, as each bears its time.
LEAST_LINE_BYTES = 16


class LogCollection(msgspec.Struct):
    """The lines of one activation so far.

    Attributes:
        limit_bytes: text beyond it is dropped, and a last line says so; a line counts as `LEAST_LINE_BYTES` at least.
        lines: as the API shows them.
        dropped: lines that the runtime could not write because the pipe was full.
        mixed: others were in the container meanwhile, and whose a line is cannot be told.
    """

    limit_bytes: int
    lines: list[str] = []
    taken: int = 0
    truncated: bool = False
    dropped: int = 0
    mixed: bool = False
    #: Stream -> when a line began that goes on in the next frame, microseconds, and its text, as far as the limit allows.
    partial: dict[str, tuple[int, bytearray]] = {}
    #: Stream -> what its line was, when it was said last, that has not come to its end; and when, microseconds.
    unfinished: dict[str, tuple[int, bytes]] = {}

    @property
    def is_full(self) -> bool:
        """Whether it takes no more lines."""
        return self.truncated or self.limit_bytes <= 0

    def begin_line(self, stream: str, time_us: int, text: bytes) -> None:
        """Take a piece of a line that goes on."""
        begun = self.partial.setdefault(stream, (time_us, bytearray()))[1]
        extend_within(begun, text, self.limit_bytes)

    def add(self, stream: str, time_us: int, text: bytes | bytearray) -> None:
        """Take one line, or drop it when the limit is reached. Limit 0 collects nothing, and says nothing."""
        if self.is_full:
            return
        room = self.limit_bytes - self.taken
        if max(len(text), LEAST_LINE_BYTES) > room:
            text = text[:room]
            self.truncated = True
        self.taken += max(len(text), LEAST_LINE_BYTES)
        if text or not self.truncated:
            self.lines.append(format_line(time_us, stream, text.decode("utf-8", "replace")))
        if self.truncated:
            said = f"Logs were truncated because the total bytes size exceeds the limit of {self.limit_bytes} bytes."
            self.lines.append(format_line(time_us, "stderr", said))

    def finish(self, *, complete: bool = True) -> list[str]:
        """Close it: partial lines count as lines, unfinished ones unless it is `complete`; what is lost is said to be lost."""
        for stream, (time_us, unfinished) in self.unfinished.items():
            if not complete:
                self.begin_line(stream, time_us, unfinished)
        for stream, (time_us, text) in self.partial.items():
            self.add(stream, time_us, text)
        self.partial.clear()
        if self.mixed and self.lines:
            said = "Other activations ran in this container at the same time: lines of theirs may be among these."
            self.lines.append(format_line(time.time_ns() // 1000, "stderr", said))
        if self.dropped:
            said = f"There was an issue while collecting your logs: {self.dropped} lines were lost, the log pipe was full."
            self.lines.append(format_line(time.time_ns() // 1000, "stderr", said))
        return self.lines


def extend_within(line: bytearray, text: bytes, limit_bytes: int) -> None:
    """Append to a line what it may still take: a byte beyond the limit is kept, and says that there was more."""
    line += text[: max(0, limit_bytes + 1 - len(line))]


def format_line(time_us: int, stream: str, text: str) -> str:
    """Format one line as the API shows it: RFC 3339 time in UTC, to width 30, the stream, the text."""
    seconds, micros = divmod(time_us, 1_000_000)
    return f"{_format_second(seconds)}.{micros:06d}000Z {stream}: {text}"


@functools.lru_cache(maxsize=64)
def _format_second(seconds: int) -> str:
    """Format a whole second: lines come by the thousand in each."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


class LogReader:
    """Reads one container's lines. Collections of activations that are gone take no lines; such lines are counted."""

    #: Whether lines may still be on their way when the action has answered; then `wait_complete` waits for them.
    come_late = False
    #: For how long after the answer lines may take, s.
    patience_s = 2.0

    def __init__(self, *, on_late: Callable[[int], None] | None = None, on_dropped: Callable[[int], None] | None = None) -> None:
        self._open: dict[ActivationId, LogCollection] = {}
        self._on_late = on_late
        self._on_dropped = on_dropped

    def begin(self, activation: ActivationId, *, limit_bytes: int) -> LogCollection:
        """Open the collection of an activation."""
        collection = self._open[activation] = LogCollection(limit_bytes)
        return collection

    def end(self, activation: ActivationId, *, complete: bool = True) -> list[str]:
        """Close it and return its lines; unless it is `complete`, a last one says that others may be missing."""
        collection = self._open.pop(activation, None)
        if collection is None:
            return []
        lines = collection.finish(complete=complete)
        if not complete and collection.limit_bytes > 0:
            lines.append(format_line(time.time_ns() // 1000, "stderr", "The action gave no answer. Log data might be missing."))
        return lines

    def note_dropped(self, activation: ActivationId, lines: int) -> None:
        """The runtime says that it could not write so many lines."""
        collection = self._open.get(activation)
        if collection is not None:
            collection.dropped += lines
            if self._on_dropped:
                self._on_dropped(lines)

    def drain(self) -> bool:
        """Read what is there, without holding up others; False where `wait_complete` has to read the rest."""
        return True

    async def wait_complete(self, deadline: float) -> None:
        """Wait until all lines of the activations that have answered are here.

        Args:
            deadline: seconds of the loop's clock.
        """

    def close(self) -> None:
        """Stop reading."""

    def _late(self, lines: int) -> None:
        if self._on_late:
            self._on_late(lines)


class ReadingTurns:
    """When containers that write faster than they are read have their turns: all together take a share of the loop's time."""

    #: Of the time, at most. What the pipes then cannot take their writers drop, and count.
    SHARE = 0.25

    def __init__(self) -> None:
        #: Until when all of it is used, seconds of the loop's clock.
        self._used_until = 0.0

    def next_at(self, took_s: float, now: float) -> float:
        """Tell when the next turn may begin after one that took so long, seconds of the loop's clock."""
        self._used_until = max(self._used_until, now - took_s) + took_s / self.SHARE
        return self._used_until


class PipeLogReader(LogReader):
    """Reads framed lines from a FIFO's read end, which it does not close."""

    #: By then the turns of some 35 pipes that were full at the same time are over.
    patience_s = 8.0

    def __init__(
        self,
        fd: int,
        loop: asyncio.AbstractEventLoop,
        *,
        turns: ReadingTurns | None = None,
        on_late: Callable[[int], None] | None = None,
        on_dropped: Callable[[int], None] | None = None,
    ) -> None:
        super().__init__(on_late=on_late, on_dropped=on_dropped)
        self._fd = fd
        self._loop = loop
        self._turns = turns or ReadingTurns()
        self._parser = FrameParser()
        self._watching = True
        #: Bytes read so far.
        self._taken = 0
        #: Begins to watch again, after a turn of which there was more.
        self._next_turn: asyncio.TimerHandle | None = None
        loop.add_reader(fd, self._on_readable)

    def drain(self) -> bool:
        """Read what is in the pipe, a turn's worth: all frames of an activation that has answered are there, or were read."""
        return self._take_turn()

    async def wait_complete(self, deadline: float) -> None:
        """Read what is in the pipe now, in turns; past the deadline (seconds of the loop's clock) what is left of it at once.

        Not more than that: its user may go on to write, and faster than we read.
        """
        until = self._taken + self._waiting_bytes()
        while self._taken < until and self._watching:
            began = self._loop.time()
            if began >= deadline:
                self._read_rest()
                return
            if self._take_turn():
                return
            now = self._loop.time()
            await asyncio.sleep(self._turns.next_at(now - began, now) - now)

    def close(self) -> None:
        """Read the rest and stop watching."""
        if self._watching:
            self._read_rest()
            self._stop()

    def _on_readable(self) -> None:
        began = self._loop.time()
        if self._take_turn():
            return
        self._loop.remove_reader(self._fd)  # there is more: first the others
        now = self._loop.time()
        self._next_turn = self._loop.call_at(self._turns.next_at(now - began, now), self._watch)

    def _take_turn(self) -> bool:
        """Read until the pipe is empty (True), or for as long as others may wait."""
        work, until = 0, self._taken + PIPE_BYTES
        while work < TURN_FRAMES and self._taken < until:
            before = self._taken
            work += self._read()
            if self._taken - before < READ_BYTES:
                return True
        return False

    def _read_rest(self) -> None:
        """Read what a pipe holds, at once."""
        until = self._taken + PIPE_BYTES
        while self._taken < until:
            before = self._taken
            self._read()
            if self._taken - before < READ_BYTES:
                return

    def _waiting_bytes(self) -> int:
        """Ask the kernel how much is in the pipe."""
        count: tuple[int] = struct.unpack("i", fcntl.ioctl(self._fd, termios.FIONREAD, bytes(4)))
        return count[0]

    def _watch(self) -> None:
        self._next_turn = None
        self._loop.add_reader(self._fd, self._on_readable)

    def _read(self) -> int:
        """Take one piece, of `READ_BYTES` unless that was all there is; return how much work it was, in frames."""
        try:
            size = os.readv(self._fd, [_BUFFER])
        except BlockingIOError:
            return 0
        except OSError:
            size = 0
        if not size:  # every writer is gone, and with them the container
            self._stop()
            return 0
        self._taken += size
        data = bytes(memoryview(_BUFFER)[:size])
        if not self._open:  # whoever wrote it is over
            self._late(data.count(b"\n"))
            self._parser.skip(data)
            return 0
        if all(collection.is_full for collection in self._open.values()):
            self._parser.skip(data)  # a flood costs next to nothing
            return 0
        rejected = self._parser.rejected
        frames = self._parser.feed(data)
        for frame in frames:
            self._take(frame)
        return len(frames) + (self._parser.rejected - rejected) // 16

    def _take(self, frame: Frame) -> None:
        collection = self._open.get(frame.activation)
        if collection is None:
            self._late(1)
            return
        stream = "stdout" if frame.stream in "oOh" else "stderr"
        if frame.stream in "hH":
            collection.unfinished[stream] = (frame.time_us, frame.text)
            return
        collection.unfinished.pop(stream, None)
        if frame.stream in "OE" or stream in collection.partial:
            collection.begin_line(stream, frame.time_us, frame.text)
        if frame.stream in "oe":
            time_us, text = collection.partial.pop(stream, (frame.time_us, frame.text))
            collection.add(stream, time_us, text)

    def _stop(self) -> None:
        if self._watching:
            self._watching = False
            if self._next_turn is not None:
                self._next_turn.cancel()
            self._loop.remove_reader(self._fd)


class AttachedLogReader(LogReader):
    """Reads a foreign image's attached stream; sentinels, where it prints them, end an activation.

    Where several activations run in it at the same time, nobody can tell whose a line is: each of them gets all, and a last line
    that says so; sentinels tell nothing then.
    """

    come_late = True

    def __init__(self, loop: asyncio.AbstractEventLoop, *, on_late: Callable[[int], None] | None = None) -> None:
        super().__init__(on_late=on_late)
        self._loop = loop
        #: Of each stream, the line that has begun, as far as anybody will be shown of it.
        self._begun = {"stdout": bytearray(), "stderr": bytearray()}
        self._sentinels = 0
        self._heard_at = loop.time()
        self._changed = asyncio.Event()
        self._ended = False

    def begin(self, activation: ActivationId, *, limit_bytes: int) -> LogCollection:
        """Open the collection; the sentinels of an earlier activation count no more."""
        self._sentinels = 0
        collection = super().begin(activation, limit_bytes=limit_bytes)
        if len(self._open) > 1:
            for each in self._open.values():
                each.mixed = True
        return collection

    def drain(self) -> bool:
        """Take the lines that have begun, too: nothing more is waited for."""
        self._flush()
        return True

    async def read(self, stream: AsyncIterator[tuple[str, bytes]]) -> None:
        """Read to the end of the stream. A broken stream raises what the backend raises."""
        try:
            async for name, data in stream:
                self._feed(name, data)
        finally:
            self._ended = True
            self._changed.set()

    async def wait_complete(self, deadline: float) -> None:
        """Wait for both sentinels, for silence, or for the deadline; beside others for as long as silence takes, noise or not."""
        began = self._loop.time()
        while not self._ended:
            is_mixed = any(each.mixed for each in self._open.values())
            if self._sentinels >= 2 and not is_mixed:
                break
            quiet_until = (began if is_mixed else max(began, self._heard_at)) + QUIET_S
            until = min(quiet_until, deadline)
            if self._loop.time() >= until:
                break
            self._changed.clear()
            try:
                async with asyncio.timeout_at(until):
                    await self._changed.wait()
            except TimeoutError:
                continue
        self._flush()

    def _feed(self, stream: str, data: bytes) -> None:
        self._heard_at = self._loop.time()
        *ends, begins = data.split(b"\n")
        for end in ends:
            line = self._take_begun(stream, end)
            if line == SENTINEL:
                self._sentinels += 1
            else:
                self._line(stream, line)
        self._go_on(stream, begins)
        self._changed.set()

    def _go_on(self, stream: str, text: bytes) -> None:
        """Keep a piece of a line without its end."""
        most = max((collection.limit_bytes for collection in self._open.values()), default=0)
        extend_within(self._begun[stream], text, max(most, len(SENTINEL)))

    def _take_begun(self, stream: str, end: bytes) -> bytes:
        """Return the line that ends so, and begin the next one."""
        self._go_on(stream, end)
        line = bytes(self._begun[stream])
        self._begun[stream].clear()
        return line

    def _flush(self) -> None:
        for stream, begun in self._begun.items():
            if begun:
                self._line(stream, self._take_begun(stream, b""))

    def _line(self, stream: str, text: bytes) -> None:
        if not self._open:
            self._late(1)
        for collection in self._open.values():
            collection.add(stream, time.time_ns() // 1000, text)
