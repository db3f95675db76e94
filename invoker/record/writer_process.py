"""The process in which the writer runs: `python -m invoker.record.writer_process FD OPTIONS`, started by `writer_client.py`.

SQLite's work for a call is a third of the daemon's own. In a thread it would take its turns with the event loop, at one lock;
here it has a core of its own where there is one. It needs no more than what is on the disk: it follows the journal.

It ends when the daemon says so, or is gone: what is committed by then is a whole transaction, and the journal has the rest.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import msgspec

from invoker.record.entries import AcceptedEntry, decode_record
from invoker.record.tail import JournalTail
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
    decode_to_writer,
    pack,
)
from invoker.record.writer import Restored, Writer, Written
from invoker.systemd import configure_logging
from pool.errors import InvokerError


class Host(asyncio.Protocol):
    """Feeds a writer with what the daemon says may be read, and tells the daemon what became of it."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._state_dir = Path(options.state_dir)
        self._transport: asyncio.Transport
        self._unpacker = Unpacker()
        self._tail: JournalTail | None = None
        #: Records handed to the writer; and, of those that were told aside, how many were handed over and committed.
        self._position = 0
        self._asides_committed = 0
        self._told_to_end = asyncio.Event()
        self._writer = Writer(
            self._state_dir,
            node=options.node,
            retention=options.retention,
            on_committed=self._on_committed,
            release=self._on_released,
            wall_ms=lambda: time.time_ns() // 1_000_000,
            linger_s=0.0,  # the daemon gathers before it tells
            on_failed=self._on_failed,
            on_refused=lambda reason: self._send(Refused(reason)),
        )

    async def run(self) -> None:
        """Replay the journal, tell what was found, follow from there, and end when told to."""
        try:
            restored = await self._writer.start()
            self._tail = JournalTail(self._state_dir / "journal", restored.position)
            self._position = restored.position
            self._send(_started(restored))
            await self._told_to_end.wait()
            await self._writer.close()
        except Exception as error:  # noqa: BLE001 - whatever it is, the daemon says it
            self._on_failed(error)
        else:
            self._send(Ended())
        self._transport.close()

    # ---- from the daemon

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Do as the daemon says."""
        for body in self._unpacker.feed(data):
            message = decode_to_writer(body)
            if isinstance(message, Upto):
                self._read(message.position)
            elif isinstance(message, Aside):
                self._writer.put(Written((message.entry,), self._position, len(body)))
            elif isinstance(message, Renew):
                self._writer.renew(message.inode)
            elif isinstance(message, End):
                self._told_to_end.set()

    def connection_lost(self, _: Exception | None) -> None:
        """The daemon is gone, or has heard all.

        No tidying: a transaction that is under way is as good as none, and a thread that waits for a disk must not hold us.
        """
        os._exit(0)

    def _read(self, upto: int) -> None:
        assert self._tail is not None, "nothing is told before the start is"
        for sequence, record in self._tail.read(upto):
            self._position = sequence
            self._writer.put(Written(decode_record(record), sequence, len(record), sequence))

    # ---- from the writer

    def _on_committed(self, group: Sequence[Written]) -> None:
        self._asides_committed += sum(1 for written in group if not written.sequence)
        self._send(Committed(group[-1].position, self._asides_committed))

    def _on_released(self, position: int) -> None:
        self._loop.call_soon_threadsafe(self._send, Released(position))

    def _on_failed(self, error: Exception) -> None:
        code = error.code if isinstance(error, InvokerError) else type(error).__name__
        self._send(Failed(code, str(error)))

    def _send(self, message: FromWriter) -> None:
        if not self._transport.is_closing():
            self._transport.write(pack(message))


def _started(restored: Restored) -> Started:
    unbegun, begun = ([AcceptedEntry.of(each) for each in promises] for promises in (restored.unbegun, restored.begun))
    return Started(restored.position, unbegun, begun, restored.keys, restored.ticks)


async def _follow(fd: int, options: Options) -> None:
    loop = asyncio.get_running_loop()
    _, host = await loop.create_connection(lambda: Host(options), sock=socket.socket(fileno=fd))
    await host.run()
    await loop.create_future()  # the end of the connection is the end of the process


def main() -> None:
    """Follow the daemon until it is gone."""
    fd, options = int(sys.argv[1]), msgspec.json.decode(sys.argv[2], type=Options)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # they are the daemon's; what is to be done here at the end it says
    configure_logging(options.log_level)
    # The writer of an earlier daemon ends with it, but not in the same moment.
    lock = os.open(Path(options.state_dir) / "writer.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    asyncio.run(_follow(fd, options))


if __name__ == "__main__":
    main()
