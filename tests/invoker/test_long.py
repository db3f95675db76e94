"""The long way of one activation: what is on record before its container works, who is told when, and what goes on from where."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from invoker_site import ANNA, Site, action, site, until

from invoker.activation import Status
from invoker.long import LongWay
from invoker.model import Exec, Limits
from invoker.runtime import Outcome
from invoker.ticket import Ticket, Trace
from pool.errors import EngineError, ThawFailed
from pool.fake_server import Answer, Misbehaviour, echo
from pool.lease import Lease
from pool.model import ContainerId, ContainerState


def long_way(s: Site) -> LongWay:
    return s.invoker._long_way


async def ticket_of(s: Site, **changes: Any) -> Ticket:
    """An activation in flight that has its plan."""
    call = s.call(**changes)
    plan = await s.planner.make(ANNA, call.action)
    ticket = Ticket(s.invoker.new_id(), call, 1.0, False, Trace(received=call.received), plan)
    s.invoker._in_flight.enter(ticket)
    return ticket


async def test_what_was_promised_is_durably_begun_before_anything_is_sent_to_its_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    order: list[str] = []

    def answer(path: str, body: Any) -> Answer | Misbehaviour:
        order.append(path)
        return echo(path, body)

    async with site(tmp_path) as s:
        s.backend.action = answer
        begun = s.recorder.begun

        async def note(activation_id: Any) -> None:
            await begun(activation_id)
            order.append("begun")

        monkeypatch.setattr(s.recorder, "begun", note)
        await s.invoker.invoke(s.call(blocking=False))
        await s.invoker.wait_idle()
    assert order == ["begun", "/init", "/run"]


async def test_one_for_which_there_is_no_container_ends_in_a_task_with_a_record(tmp_path: Path):
    async with site(tmp_path) as s:
        ticket = await ticket_of(s)
        await long_way(s).fail(ticket, error := EngineError("it is ill"))
        assert (ticket.done.status, ticket.done.meter.outcome) == (Status.INTERNAL_ERROR, "engine-error")
        assert ticket.error is error


async def test_one_that_starts_over_finds_a_container_by_the_plan_that_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async with site(tmp_path) as s:
        ticket = await ticket_of(s)
        monkeypatch.setattr(s.planner, "find", lambda *_: pytest.fail("it has its plan"))
        await long_way(s).start_over(ticket)
        assert ticket.done.meter.outcome == "ok"


def lease_for(s: Site, ticket: Ticket) -> Lease:
    """The lease that a ticket got on the short way."""
    lease = s.pool.take(ticket.activation_id, ticket.plan.key)
    assert lease is not None
    lease.begin(ticket.plan.facts)
    return lease


async def test_one_that_has_its_container_is_served_in_that_and_gives_it_back(tmp_path: Path):
    async with site(tmp_path) as s:
        first = await s.run()
        ticket = await ticket_of(s)
        await long_way(s).take_over(ticket, lease_for(s, ticket))
        assert (ticket.done.container, ticket.done.meter.outcome) == (first.container, "ok")
        assert (await s.run()).container == first.container, "it was given back"


async def test_one_whose_container_will_not_thaw_is_leased_one_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async with site(tmp_path) as s:
        first = await s.run()
        ticket = await ticket_of(s)
        lease = lease_for(s, ticket)

        request, refused = Lease.request, []

        async def refuse_once(self: Lease, *args: Any, **options: Any) -> Any:
            if self is lease:
                refused.append(self.container_id)
                raise ThawFailed
            return await request(self, *args, **options)

        monkeypatch.setattr(Lease, "request", refuse_once)
        await long_way(s).take_over(ticket, lease)
        assert refused == [first.container]
        assert ticket.done.meter.outcome == "ok"


async def test_a_call_from_a_container_is_known_to_hold_it_only_while_it_is_on_its_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async with site(tmp_path) as s:
        nesting, held = long_way(s)._nesting, []
        enter, leave = nesting.enter, nesting.leave
        monkeypatch.setattr(nesting, "enter", lambda *call: (held.append("enters"), enter(*call)))
        monkeypatch.setattr(nesting, "leave", lambda name: (held.append("leaves"), leave(name)))
        s.backend.fail_next("create", EngineError("it is ill"))
        with pytest.raises(EngineError):
            await s.run(origin=ContainerId("somebody"))
        assert held == ["enters", "leaves"]
        await s.invoker.invoke(s.call(origin=ContainerId("somebody"), blocking=False))
        await s.invoker.wait_idle()
        assert held == ["enters", "leaves"], "nothing waits for that one"


async def test_where_the_daemon_ends_for_a_bug_no_more_tasks_begin_and_the_activation_is_not_taken_for_ended(tmp_path: Path):
    class Ending:
        def create_task(self, *_: Any, **__: Any) -> None:
            raise RuntimeError("the group is shutting down")

    async with site(tmp_path) as s:
        ticket, way = await ticket_of(s), long_way(s)
        group, way._group = way._group, Ending()
        with pytest.raises(RuntimeError, match="shutting down"):
            way.start_over(ticket)
        assert ticket.done is None
        way._group = group
        await way.start_over(ticket)


async def test_an_activation_whose_lines_come_late_is_answered_before_they_are_there_and_has_them_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async with site(tmp_path) as s:
        order: list[str] = []

        class Late:
            come_late = True
            patience_s = 1.0

            async def wait_complete(self, _deadline: float) -> None:
                order.append("answered" if ticket.done else "not answered")

            def end(self, _: Any, *, complete: bool) -> list[str]:
                assert complete
                return ["late line"]

        class LateLease:
            logs = Late()

        way = long_way(s)
        ticket = await ticket_of(s)

        async def served(*_: Any) -> Outcome:
            return Outcome(status=Status.SUCCESS, result=None)

        monkeypatch.setattr(way, "_serve", served)
        await way._endings.run(ticket, lambda ticket: way._in_a_container(ticket, ticket.plan, LateLease()))
        assert order == ["answered"]
        assert await s.recorder.records.get_logs("anna", ticket.activation_id) == ["late line"]


async def test_one_past_its_limit_ends_then_and_those_beside_it_when_they_have_their_answer(tmp_path: Path):
    beside, limits = asyncio.get_running_loop().create_future(), Limits(timeout=300, concurrency=3)
    together = Exec(kind="nodejs:20", code="c")

    def answer(path: str, body: Any) -> Answer | Misbehaviour:
        if path == "/init":
            return echo(path, body)
        return Misbehaviour.HANG if body["value"].get("hang") else Answer(until=beside)

    async with site(tmp_path, launch_patience_s=1000.0) as s, asyncio.TaskGroup() as group:
        s.backend.action = answer
        patient = action(exec=together, limits=msgspec.structs.replace(limits, timeout=20_000))
        other = group.create_task(s.run(patient))
        await until(lambda: [each.requests for each in s.backend.containers.values()] == [["/init", "/run"]])
        done = await s.run(action(exec=together, limits=limits), b'{"hang":true}')
        assert (done.meter.outcome, other.done()) == ("timeout", False)
        assert await s.recorder.records.get("anna", done.activation_id) is not None
        (container,) = s.pool.containers()
        assert container.state is ContainerState.DRAINING
        beside.set_result(None)
        assert (await other).meter.outcome == "ok"
        assert (await other).container == done.container
        await until(lambda: not s.pool.containers())
