"""The journal, as tests use it."""

from __future__ import annotations

import asyncio

from invoker.record.journal import Journal


async def append_large(journal: Journal, record: bytes) -> int:
    """Append a record of any size, and wait until its body is written; raise the disk's error."""
    written: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def done(error: OSError | None) -> None:
        if written.done():  # cancelled
            return
        if error is None:
            written.set_result(None)
        else:
            written.set_exception(error)

    sequence = journal.start_large(record, done)
    await written
    return sequence
