"""The writer's process as the daemon sees it: started, told what may be read, asked to end. Looks like a `Writer`."""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import msgspec

from invoker.activation import Accepted
from invoker.record.activations import Retention
from invoker.record.corruption import StoreBroken, StoreCorrupt
from invoker.record.entries import AcceptedEntry, LogsEntry
from invoker.record.segment import JournalTooNew
from invoker.record.store import StoreTooNew
from invoker.record.talk import (
    Aside,
    Committed,
    End,
    Ended,
    Failed,
    FromWriter,
    Options,
    Refused,
    Released,
    Renew,
    Started,
    Unpacker,
    Upto,
    decode_from_writer,
    pack,
)
from invoker.record.writer import Restored, Written
from invoker.record.yielding import Progress, Yielding
from pool.errors import PlatformError

log = logging.getLogger(__name__)

#: Failures that the process tells by their code.
_KNOWN: dict[str, type[PlatformError]] = {error.code: error for error in (StoreTooNew, StoreBroken, StoreCorrupt, JournalTooNew)}
#: Committed records that are taken off in one turn of the loop.
_TAKEN_AT_ONCE = 8
#: For the process to be gone after it has said that it ends.
_EXIT_S = 10.0


class WriterEnded(PlatformError):
    """The writer of the ledger has ended; the journal keeps everything. Restart the daemon."""

    code = "writer-ended"


class WriterProcess(asyncio.Protocol):
    """See `Follower`. One event loop uses it."""

    def __init__(
        self,
        state_dir: Path,
        *,
        node: str,
        retention: Retention,
        on_committed: Callable[[Sequence[Written]], None],
        release: Callable[[int], None],
        linger_s: float,
    ) -> None:
        """Prepare; `start` begins. The arguments are those of `Writer`."""
        self._options = Options(
            state_dir=str(state_dir),
            node=node,
            retention=retention,
            log_level=logging.getLevelName(logging.getLogger().getEffectiveLevel()).lower(),
        )
        self._on_committed = on_committed
        self._release = release
        self._linger_s = linger_s
        self._loop = asyncio.get_running_loop()
        self._process: subprocess.Popen[bytes] | None = None
        self._transport: asyncio.Transport
        self._unpacker = Unpacker()
        self._restored: asyncio.Future[Restored] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        #: Handed over and not committed, in the order of their arrival.
        self._waiting: deque[Written] = deque()
        #: Up to which record it may read, and up to which it was told so.
        self._position = self._told = 0
        #: Up to which it has committed.
        self._committed = 0
        self._progress = Progress()
        self._yielding: Yielding | None = None
        self._timer: asyncio.TimerHandle | None = None
        #: How many records told aside were committed by its word, and how many of these were taken off `_waiting`.
        self._asides_told = self._asides_taken = 0
        #: More of what is committed is to be taken off.
        self._taking = False
        #: Why it is gone though nobody asked it to, and nothing more will be committed; empty while all is well.
        self.failure = ""
        #: See `Follower`.
        self.refusal = ""

    # ---- as `Follower`

    async def start(self) -> Restored:
        """Start the process, and return what the databases hold once it has replayed the journal.

        Raises:
            StoreTooNew, StoreBroken, JournalTooNew: nothing was changed beyond what could be replayed.
            WriterEnded: it could not be started, or failed otherwise.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            command = (sys.executable, "-m", "invoker.record.writer_process", str(theirs.fileno()))
            options = msgspec.json.encode(self._options).decode()
            self._process = subprocess.Popen(  # noqa: ASYNC220 - at the start, before anything is served
                (*command, options), pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
            )
        await self._loop.create_connection(lambda: self, sock=ours)
        restored = await self._restored
        self._yielding = Yielding(self._process.pid)
        return restored

    def put(self, written: Written) -> None:
        """As `Follower`. What stands in the journal is only told of, together with what comes soon after it."""
        self._waiting.append(written)
        self._position = max(self._position, written.position)
        if not written.sequence:
            for entry in written.entries:
                assert isinstance(entry, LogsEntry), "only log lines pass the journal by"
                self._send(Aside(entry))
        if self._timer is None:
            self._timer = self._loop.call_later(self._linger_s, self._tell)

    def hurry(self) -> None:
        """As `Follower`. Somebody waits: it does not give way until the next look."""
        if self._timer is not None:
            self._timer.cancel()
            self._tell()
        if self._yielding is not None:
            self._yielding.give_way(False)

    def renew(self, inode: int) -> None:
        """As `Follower`."""
        self._send(Renew(inode))

    async def close(self) -> None:
        """As `Follower`."""
        if self._process is None:
            return
        self.hurry()
        self._send(End())
        try:
            if self._restored.done() and self._restored.exception() is None:
                await self._ended
        finally:
            self._transport.close()
            await self._reap()

    # ---- the transport's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way to it."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Hear what it says."""
        for body in self._unpacker.feed(data):
            self._hear(decode_from_writer(body))

    def connection_lost(self, _: Exception | None) -> None:
        """It is gone. When nobody asked it to go, that is a failure."""
        if not self._ended.done():
            self._fail(WriterEnded())

    # ----

    def _hear(self, message: FromWriter) -> None:
        match message:
            case Started():
                self._position = self._told = self._committed = message.position
                unbegun, begun = ([_promise(each) for each in them] for them in (message.unbegun, message.begun))
                keys, ticks = list(message.keys), list(message.ticks)
                self._restored.set_result(Restored(message.position, unbegun, begun, keys, ticks))
            case Committed():
                self._take_committed(message)
            case Refused():
                self.refusal = message.reason
            case Released():
                self._release(message.position)
            case Failed():
                known = _KNOWN.get(message.code)
                self._fail(known(message.message) if known else WriterEnded(f"{message.code}: {message.message}"))
            case Ended():
                self._ended.set_result(None)

    def _take_committed(self, told: Committed) -> None:
        self._committed = max(self._committed, told.position)
        self._asides_told = told.asides
        if not self._taking:
            self._take_some()

    def _take_some(self) -> None:
        """Take off what is committed, a few at a time: calls that end meanwhile would wait for a whole group, 0.3 ms and more."""
        group: list[Written] = []
        waiting = self._waiting
        self._taking = False
        while waiting:
            sequence = waiting[0].sequence
            if sequence > self._committed or (not sequence and self._asides_taken == self._asides_told):
                break
            if len(group) == _TAKEN_AT_ONCE:
                self._taking = True
                self._loop.call_soon(self._take_some)
                break
            self._asides_taken += not sequence
            group.append(waiting.popleft())
        self._on_committed(group)

    def _fail(self, error: Exception) -> None:
        if not self._restored.done():
            self._restored.set_exception(error)
            self._ended.set_result(None)
        elif not self._ended.done():
            self.failure = str(error) or type(error).__name__
            log.critical("the writer of the ledger has failed; the journal keeps everything: %s", error)
            self._ended.set_exception(error)
            self._ended.exception()  # nobody need ask for it: it is told here

    def _tell(self) -> None:
        self._timer = None
        behind = self._progress.is_behind(self._committed, self._position, self._loop.time())
        if behind is not None and self._yielding is not None:
            self._yielding.give_way(not behind)
        if self._position > self._told:
            self._told = self._position
            self._send(Upto(self._position))

    def _send(self, message: Upto | Aside | Renew | End) -> None:
        if not self._transport.is_closing():
            self._transport.write(pack(message))

    async def _reap(self) -> None:
        """Wait until the process is gone: the next daemon's would wait for it."""
        assert self._process is not None
        try:
            await asyncio.to_thread(self._process.wait, _EXIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._yielding is not None:
            self._yielding.close()


def _promise(entry: AcceptedEntry) -> Accepted:
    return msgspec.structs.replace(entry.accepted, payload=msgspec.Raw(entry.payload.encode()))
