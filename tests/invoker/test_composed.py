"""The way of a sequence: on record before a part begins, its parts one after the other, its own record, and what it holds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from invoker_site import AnyCode, a_call, action

from invoker.activation import Activation, Status
from invoker.composed import ComposedWay
from invoker.composition import Course
from invoker.errors import JournalFull
from invoker.ids import ActivationIds
from invoker.in_flight import InFlight
from invoker.model import Exec
from invoker.resolve import ResolvedAction
from invoker.runtime import Outcome
from invoker.ticket import Ticket, Trace, finished_activation
from pool.errors import PlatformError
from pool.model import ActivationId


class Site:
    """A way whose parts end as soon as they were begun, and the order in which things happened."""

    def __init__(self, tmp_path: Path) -> None:
        self.in_flight = InFlight(AnyCode(tmp_path / "code"))
        self.seen: list[str] = []
        self.parts: list[Ticket] = []
        self.finished: list[Activation] = []
        self.failure: PlatformError | None = None
        self.rooms = [True, True]
        self.on_part: Callable[[Ticket], None] = lambda _: None
        self.way = ComposedWay(
            resolve=lambda _identity, path: ResolvedAction(action(path.removeprefix("anna/"))),
            recorder=self,
            in_flight=self.in_flight,
            ids=ActivationIds(),
            endings=self,
            node="n",
            begin=self.begin,
        )
        call = a_call(action("all", exec=Exec(kind="sequence", components=("anna/one", "anna/two"))))
        self.ticket = Ticket(ActivationId("a" * 32), call, time.time(), False, Trace(received=call.received))
        self.course = Course(self.ticket.activation_id, call)
        self.course.coming.callback(self.seen.append, "place given back")
        self.in_flight.enter(self.ticket)

    async def conduct(self) -> None:
        async with asyncio.timeout(30):
            await self.way.conduct(self.ticket, self.course)

    def begin(self, part: Ticket) -> None:
        """Have a part end in the loop's next turn; it says where it has come through."""
        self.seen.append(f"{part.call.action.path} begins")
        self.parts.append(part)
        self.on_part(part)
        asyncio.get_running_loop().call_soon(self.end_part, part)

    def end_part(self, part: Ticket) -> None:
        self.seen.append(f"{part.call.action.path} ends")
        self.in_flight.leave(part)
        result = msgspec.Raw(b'{"from":"%s"}' % part.call.action.path.encode())
        part.resolve(finished_activation(part, Outcome(status=Status.SUCCESS, result=result), node="n"))

    # ---- of the recorder

    def room(self, _records: int) -> bool:
        return self.rooms.pop(0)

    async def begun(self, _: ActivationId) -> None:
        self._note("begun is durable")

    def note_begun(self, _: Any) -> None:
        self._note("begun is noted")

    def _note(self, what: str) -> None:
        if self.failure is not None:
            raise self.failure
        self.seen.append(what)

    # ---- of the endings

    async def finish(self, ticket: Ticket, activation: Activation, *, logs: list[str]) -> None:
        assert (ticket, logs) == (self.ticket, [])
        self.seen.append("recorded")
        self.finished.append(activation)

    async def fail(self, ticket: Ticket, status: Status, sentence: str, reason: str, error: PlatformError) -> None:
        assert (ticket, status, sentence, error) == (self.ticket, Status.INTERNAL_ERROR, str(error), self.failure)
        self.seen.append(f"failed: {reason}")


@pytest.fixture
async def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.mark.parametrize(("durable", "note"), [(False, "begun is noted"), (True, "begun is durable")])
async def test_it_is_on_record_as_begun_then_its_parts_run_one_after_the_other_then_its_own_record(
    site: Site, durable: bool, note: str
):
    site.ticket.durable = durable
    await site.conduct()
    told = [each for each in site.seen if each != "place given back"]
    assert told == [note, "one begins", "one ends", "two begins", "two ends", "recorded"]
    (whole,) = site.finished
    assert whole.composition.parts == tuple(part.activation_id for part in site.parts)
    assert bytes(whole.result) == b'{"from":"two"}'
    assert [bytes(part.call.payload) for part in site.parts] == [b'{"x":1}', b'{"from":"one"}']
    assert [part.call.within.cause for part in site.parts] == [site.ticket.activation_id] * 2
    assert len(site.in_flight) == 0


async def test_its_place_is_given_back_once_its_first_part_has_begun_and_not_before(site: Site):
    await site.conduct()
    assert site.seen.index("one begins") < site.seen.index("place given back") < site.seen.index("two begins")
    assert site.seen.count("place given back") == 1


async def test_while_a_part_runs_who_cancels_the_whole_finds_it_and_it_is_in_flight(site: Site):
    running = []
    site.on_part = lambda part: running.append((site.course.running, site.in_flight.find(part.activation_id)))
    await site.conduct()
    assert running == [(part.activation_id, part) for part in site.parts]
    assert site.course.running is None


async def test_what_cannot_be_noted_as_begun_does_not_begin_and_the_error_bears_its_id(site: Site):
    site.failure = JournalFull()
    await site.conduct()
    assert site.seen == ["failed: journal-full", "place given back"]
    assert site.failure.activation_id == site.ticket.activation_id
    assert len(site.in_flight) == 0


async def test_a_part_for_whose_record_the_journal_has_no_room_does_not_begin_and_the_whole_ends_on_record(site: Site):
    site.rooms = [True, False]
    await site.conduct()
    assert "two begins" not in site.seen
    (whole,) = site.finished
    assert (whole.status, whole.meter.outcome) == (Status.INTERNAL_ERROR, "journal-full")
    assert whole.composition.parts == (site.parts[0].activation_id,)


async def test_a_bug_goes_on_and_leaves_neither_its_place_nor_itself(site: Site):
    def fail(_: Ticket) -> None:
        raise ZeroDivisionError

    site.way._begin = fail
    with pytest.raises(ZeroDivisionError):
        await site.conduct()
    assert site.seen == ["begun is noted", "place given back"]
    assert site.in_flight.find(site.ticket.activation_id) is None
