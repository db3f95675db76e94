"""Corrections of bills: a row beside the one that was wrong, which stays as it is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from invoker.control.messages import CorrectionReply, MakeCorrection
from invoker.errors import EntityExists, EntityNotFound, InvalidRequest
from invoker.record.entries import Correction
from invoker.record.ledger import months
from invoker.record.store import load_queries, reading


async def correct(ledger: Path, write: Callable[[Correction], Awaitable[None]], wanted: MakeCorrection) -> CorrectionReply:
    """Write a correction into the month, and for the namespace, of what it corrects.

    Args:
        ledger: directory of the months.
        write: makes a row durable; `Recorder.correction`.
        wanted: what an operator asks for.

    Raises:
        InvalidRequest: it changes nothing, or says no reason.
        EntityNotFound: the ledger does not know what is to be corrected, or not yet.
        EntityExists: there is another correction with this key.
    """
    if not wanted.reason.strip():
        raise InvalidRequest("a correction needs a reason: whoever reads the bill will ask for it")
    if wanted.cpu_us == 0 and wanted.memory_mib_us == 0:
        raise InvalidRequest("this changes nothing: give a difference of CPU time or of memory times time")
    if max(abs(wanted.cpu_us), abs(wanted.memory_mib_us)) >= 2**53 or not 0 < wanted.key < 2**31:
        raise InvalidRequest("a number is too large, or the key is not positive")
    statements, parameters = load_queries("ledger"), {"subject": wanted.subject, "key": wanted.key}
    for path in reversed(months(ledger)):
        async with reading(path) as reader:
            found = await reader.fetch(statements["to_correct"], parameters)
            before = await reader.fetch(statements["corrected"], parameters)
        if not found:
            continue
        ((namespace, action, at_ms),) = found
        reply = CorrectionReply(subject=wanted.subject, namespace=namespace, action=action, at_ms=at_ms)
        if before == [(wanted.cpu_us, wanted.memory_mib_us, wanted.reason)]:
            return reply
        if before:
            raise EntityExists(
                f"{wanted.subject} has a correction {wanted.key} already, which says something else: give another --key"
            )
        await write(
            Correction(
                subject=wanted.subject, namespace=namespace, path=action, key=wanted.key, reason=wanted.reason,
                author=wanted.author, at_ms=at_ms, cpu_us=wanted.cpu_us, memory_mib_us=wanted.memory_mib_us,
            )
        )  # fmt: skip
        return reply
    raise EntityNotFound(f"the ledger has no row of {wanted.subject!r}: is it the id of an activation that has ended?")
