"""How activations end: with which record, which error for the caller, and which of them with none. The record comes first."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from invoker_site import ANNA, AnyCode, a_call

from invoker.activation import Activation, Status
from invoker.ending import Endings, end_lines, read_counters, take_lines
from invoker.errors import JournalFull
from invoker.in_flight import InFlight
from invoker.plan import LimitsLowered
from invoker.record.recorder import Recorder, RecordTooLarge
from invoker.runtime import Outcome
from invoker.ticket import Ticket, Trace
from pool.errors import (
    EngineError,
    ImageNotFound,
    InvokerError,
    MemoryNeverAvailable,
    PoolClosed,
    PoolOverloaded,
    TooManyWaiting,
)
from pool.model import ActivationId

GOOD = Outcome(status=Status.SUCCESS, reason="ok", result=msgspec.Raw(b'{"done":true}'), size=13)
Work = Callable[[Ticket], Awaitable[None]]


class Site:
    """Endings on a real journal, and what was told to whom."""

    def __init__(self, recorder: Recorder, tmp_path: Path) -> None:
        self.recorder = recorder
        self.in_flight = InFlight(AnyCode(tmp_path / "code"))
        self.finished: list[Activation] = []
        self.throttled: list[tuple[str, str]] = []
        self.endings = Endings(
            recorder=recorder,
            in_flight=self.in_flight,
            node="n",
            on_finished=self.finished.append,
            on_throttled=lambda namespace, reason: self.throttled.append((namespace, reason)),
        )

    def ticket(self, *, durable: bool = False, name: str = "1") -> Ticket:
        """One activation in flight."""
        call = a_call()
        ticket = Ticket(ActivationId(name * 32), call, time.time(), durable, Trace(received=call.received))
        self.in_flight.enter(ticket)
        return ticket

    async def ended(self, ticket: Ticket, work: Work) -> tuple[Status, str] | None:
        """Run the work to its end in a task of its own; tell what its record says."""
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            ticket.task = group.create_task(self.endings.run(ticket, work))
        assert len(self.in_flight) == 0
        record = await self.recorder.records.get(ANNA.name, ticket.activation_id)
        assert self.finished == ([] if record is None else [ticket.done])
        return None if record is None else (record.status, record.meter.outcome)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    recorder = await Recorder.open(tmp_path, node="n")
    yield Site(recorder, tmp_path)
    await recorder.close()


def failing(error: BaseException) -> Work:
    async def work(_: Ticket) -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (MemoryNeverAvailable(), Status.APPLICATION_ERROR),
        (LimitsLowered("lower than it was"), Status.APPLICATION_ERROR),
        (ImageNotFound(), Status.DEVELOPER_ERROR),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_what_the_caller_or_the_action_did_wrong_is_a_record_and_no_error(site: Site, error: InvokerError, status: Status):
    ticket = site.ticket()
    assert await site.ended(ticket, failing(error)) == (status, error.code)
    assert ticket.error is None
    assert msgspec.json.decode(ticket.done.result) == {"error": str(error)}


async def test_what_the_platform_did_wrong_is_a_record_and_an_error_that_bears_its_id(site: Site):
    ticket, error = site.ticket(), EngineError("it is ill")
    assert await site.ended(ticket, failing(error)) == (Status.INTERNAL_ERROR, "engine-error")
    assert ticket.error is error
    assert error.activation_id == ticket.activation_id


@pytest.mark.parametrize(
    ("error", "throttled"), [(PoolOverloaded(), []), (TooManyWaiting(), [("anna", "user-queue-full")])], ids=["node", "user"]
)
async def test_what_found_no_place_was_never_there_and_only_the_users_own_crowd_is_counted_here(
    site: Site, error: PoolOverloaded, throttled: list[tuple[str, str]]
):
    ticket = site.ticket()
    assert await site.ended(ticket, failing(error)) is None
    assert (ticket.error, error.activation_id, site.throttled) == (error, None, throttled)


async def test_what_was_promised_and_found_no_place_has_a_record(site: Site):
    ticket = site.ticket(durable=True)
    assert await site.ended(ticket, failing(TooManyWaiting())) == (Status.INTERNAL_ERROR, "user-queue-full")
    assert site.throttled == []


@pytest.mark.parametrize(
    ("durable", "granted", "recorded"),
    [(True, False, False), (True, True, True), (False, False, True)],
    ids=["promised and not begun", "promised and begun", "not promised"],
)
async def test_when_the_daemon_ends_what_was_promised_and_not_begun_is_left_to_the_next_one(
    site: Site, durable: bool, granted: bool, recorded: bool
):
    ticket = site.ticket(durable=durable)
    if granted:
        ticket.trace.planned = ticket.trace.pulled = ticket.trace.granted = time.monotonic()
    found = await site.ended(ticket, failing(PoolClosed()))
    assert found == ((Status.INTERNAL_ERROR, "stopping") if recorded else None)
    assert isinstance(ticket.error, PoolClosed)


@pytest.mark.parametrize(("left", "record"), [(False, (Status.APPLICATION_ERROR, "cancelled")), (True, None)])
async def test_a_cancelled_one_has_a_record_unless_it_is_left_to_the_next_daemon(
    site: Site, left: bool, record: tuple[Status, str] | None
):
    ticket = site.ticket(durable=left)

    async def cancelled(ticket: Ticket) -> None:
        ticket.cancelled, ticket.left = True, left
        assert ticket.task is not None
        ticket.task.cancel()
        await asyncio.Event().wait()

    assert await site.ended(ticket, cancelled) == record
    assert isinstance(ticket.error, PoolClosed) is left
    assert ticket.task.cancelling() == 0, "what it still has to do is not to be cancelled in turn"


async def test_a_cancellation_that_nobody_asked_for_goes_on_and_a_bug_too_and_neither_stays_in_flight(site: Site):
    ticket = site.ticket()
    ticket.task = asyncio.current_task()
    with pytest.raises(asyncio.CancelledError):
        await site.endings.run(ticket, failing(asyncio.CancelledError()))
    with pytest.raises(ZeroDivisionError):
        await site.endings.run(site.ticket(name="2"), failing(ZeroDivisionError()))
    assert len(site.in_flight) == 0
    assert site.finished == []


async def test_what_fails_after_its_end_has_one_record_still(site: Site):
    async def work(ticket: Ticket) -> None:
        await site.endings.end(ticket, GOOD, logs=[])
        raise EngineError("too late to matter")

    ticket = site.ticket()
    assert await site.ended(ticket, work) == (Status.SUCCESS, "ok")
    assert ticket.error is None


async def test_the_record_is_written_before_anybody_is_told(site: Site, monkeypatch: pytest.MonkeyPatch):
    ticket, order = site.ticket(), []
    finish = site.recorder.finish

    def finish_and_note(*args: Any, **options: Any) -> None:
        finish(*args, **options)
        order.append("recorded")

    monkeypatch.setattr(site.recorder, "finish", finish_and_note)
    ticket.on_end = lambda _: order.append("told")
    await site.ended(ticket, lambda ticket: site.endings.end(ticket, GOOD, logs=[]))
    assert order == ["recorded", "told"]


async def test_an_end_that_the_journal_does_not_take_is_told_to_nobody_as_an_end(site: Site, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise JournalFull

    monkeypatch.setattr(site.recorder, "finish", refuse)
    ticket = site.ticket()
    with pytest.raises(JournalFull):
        await site.endings.end(ticket, GOOD, logs=[])
    assert ticket.done is None
    assert site.finished == []


async def test_a_record_too_large_for_a_page_is_written_by_a_way_of_its_own(site: Site, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise RecordTooLarge

    monkeypatch.setattr(site.recorder, "finish", refuse)
    ticket = site.ticket()
    assert await site.ended(ticket, lambda ticket: site.endings.end(ticket, GOOD, logs=["a line"])) == (Status.SUCCESS, "ok")
    assert await site.recorder.records.get_logs(ANNA.name, ticket.activation_id) == ["a line"]


# ---- the steps of one that had a container


def lease_of(**changes: Any) -> Any:
    """What the steps look at of a lease, and what they did to its log."""
    log = SimpleNamespace(drained=0, complete=None, empty=True)

    def drain() -> bool:
        log.drained += 1
        return log.empty

    def end(_: ActivationId, *, complete: bool) -> list[str]:
        log.complete = complete
        return ["a line"]

    values = {"sent_at": 5.0, "log_frames": 1, "read_usage": lambda: "usage", "log": log}
    return SimpleNamespace(**(values | changes), logs=SimpleNamespace(come_late=False, drain=drain, end=end))


def test_counters_are_noted_with_the_end_of_the_work_and_missing_ones_leave_it_its_times(tmp_path: Path):
    def gone() -> Any:
        raise FileNotFoundError("its cgroup is gone")

    for read_usage, usage in ((lambda: "usage", "usage"), (gone, None)):
        ticket: Any = SimpleNamespace(activation_id="1", trace=Trace(received=0.0))
        before = time.monotonic()
        read_counters(ticket, lease_of(read_usage=read_usage))
        assert before <= ticket.trace.ended <= time.monotonic()
        assert (ticket.trace.sent, ticket.trace.usage) == (5.0, usage)


@pytest.mark.parametrize(("frames", "drained", "complete"), [(0, 0, True), (2, 1, True), (None, 1, False)])
def test_lines_are_looked_for_where_there_may_be_some_and_are_incomplete_where_nobody_said_how_many(
    frames: int | None, drained: int, complete: bool
):
    lease = lease_of(log_frames=frames)
    assert take_lines(SimpleNamespace(activation_id="1"), lease) == ["a line"]
    assert (lease.log.drained, lease.log.complete) == (drained, complete)


def test_where_lines_are_left_to_be_read_the_log_stays_open():
    lease = lease_of(log_frames=2)
    lease.log.empty = False
    assert take_lines(SimpleNamespace(activation_id="1"), lease) is None
    assert lease.log.complete is None
    lease.logs.come_late = True
    assert take_lines(SimpleNamespace(activation_id="1"), lease) is None
    assert lease.log.drained == 1
    assert end_lines(SimpleNamespace(activation_id="1"), lease) == ["a line"]
    assert lease.log.complete, "a foreign image never says how many lines there are"
