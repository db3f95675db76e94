"""A call on the short way: its record is that of the long way, what is not plain goes on there, and nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from invoker_site import ANNA, Site, action, error_of, site, until

from invoker.activation import Activation, Status
from invoker.invocation import Call
from invoker.model import Action, Annotation, Identity, LimitOverrides, Limits, Parameter
from invoker.ticket import Ticket
from invoker.vault import Vault
from pool.errors import PoolClosed, TooManyWaiting, WaitedTooLong
from pool.fake_server import Answer, Misbehaviour, echo
from pool.logs import PipeLogReader
from pool.model import ContainerState, StartKind

QUICK = Limits(timeout=1000)
#: What differs between two runs of the same thing.
VARIES = ("activation_id", "start_ms", "end_ms", "wait_ms", "transaction", "meter")


class Short:
    """A call that was begun on the short way."""

    def __init__(self, s: Site) -> None:
        self.site = s
        self.told: list[Ticket] = []
        self.ended = asyncio.Event()
        #: Of the containers, when the end was told.
        self.states: list[ContainerState] = []
        self.finished_before = -1

    def __call__(self, ticket: Ticket) -> None:
        self.told.append(ticket)
        self.states = [each.state for each in self.site.pool.containers()]
        self.finished_before = len(self.site.finished)
        self.ended.set()

    async def end(self) -> Activation:
        await self.ended.wait()
        await self.site.invoker.wait_idle()
        (ticket,) = self.told
        assert ticket.done is not None
        return ticket.done


def begin(s: Site, an_action: Action | None = None, **changes: Any) -> Short | None:
    """Begin a call on the short way; None where it cannot go it."""
    call: Call = s.call(an_action or action(limits=QUICK), **changes)
    found = s.invoker.find_short(call.identity, call.action, call.payload, call.wait_s)
    if found is None:
        return None
    short = Short(s)
    s.invoker.start_short(call, found, short)
    assert not short.told
    return short


async def run(s: Site, an_action: Action | None = None, **changes: Any) -> Activation:
    short = begin(s, an_action, **changes)
    assert short is not None
    return await short.end()


@contextlib.contextmanager
def small_turns(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Log lines are read 256 bytes a turn."""
    with monkeypatch.context() as patched:
        patched.setattr("pool.logs.READ_BYTES", 256)
        patched.setattr("pool.logs._BUFFER", bytearray(256))
        patched.setattr("pool.logs.TURN_FRAMES", 1)
        yield


async def texts(s: Site, activation: Activation) -> list[str]:
    """What the log of an activation says, line by line."""
    lines = await s.recorder.records.get_logs("anna", activation.activation_id)
    return [line.partition(": ")[2] for line in lines or ()]


def behave(s: Site, answer: Callable[[str, Any], Answer | Misbehaviour]) -> None:
    """From now on all containers answer so."""
    s.backend.action = answer
    for container in s.backend.containers.values():
        container.action = answer


async def test_its_record_is_that_of_the_long_way(tmp_path: Path):
    async with site(tmp_path, freeze_grace_s=10.0) as s:
        quick = action("p/hello", limits=QUICK, parameters=(Parameter(key="y", value=msgspec.Raw(b"2")),))
        long = [await s.run(quick, binding="anna/b") for _ in range(2)][1]
        short = await run(s, quick, binding="anna/b")
        assert bytes(short.result or b"") == b'{"y":2,"x":1}'
        same = {name: getattr(short, name) for name in short.__struct_fields__ if name not in VARIES}
        assert same == {name: getattr(long, name) for name in same}
        alike = msgspec.structs.replace(short.meter, phases=long.meter.phases, billed_us=long.meter.billed_us)
        assert alike == long.meter
        phases = short.meter.phases
        assert (phases.authenticate, phases.authorise, phases.init, phases.create, phases.pull) == (3, 2, 0, 0, 0)
        assert phases.run == short.meter.billed_us > 0
        assert await s.recorder.records.get("anna", short.activation_id) == short
        assert short in s.finished


async def test_it_is_told_once_when_it_is_on_record_and_before_the_container_is_given_back(tmp_path: Path):
    async with site(tmp_path, freeze_grace_s=10.0) as s:
        await s.run(action(limits=QUICK))
        short = begin(s)
        assert short is not None
        assert s.invoker.total_in_flight == s.invoker.in_flight("anna") == 1
        done = await short.end()
        assert (short.states, short.finished_before) == ([ContainerState.BUSY], 1)
        assert [each.state for each in s.pool.containers()] == [ContainerState.WARM]
        assert s.invoker.total_in_flight == s.invoker.in_flight("anna") == 0
        assert s.finished[1:] == [done]


async def test_a_frozen_container_is_thawed(tmp_path: Path):
    async with site(tmp_path, freeze_grace_s=0.0) as s:
        await s.run(action(limits=QUICK))
        await until(lambda: [each.state for each in s.pool.containers()] == [ContainerState.FROZEN])
        assert (await run(s)).meter.start_kind is StartKind.FROZEN


async def test_one_that_will_not_thaw_has_run_nothing_and_is_replaced(tmp_path: Path):
    async with site(tmp_path, freeze_grace_s=0.0) as s:
        await s.run(action(limits=QUICK))
        await until(lambda: [each.state for each in s.pool.containers()] == [ContainerState.FROZEN])
        ((name, live),) = s.pool._operations.lives.items()
        live.handle.thaw = refuse  # type: ignore[method-assign]
        done = await run(s)
        assert (done.status, done.meter.start_kind) == (Status.SUCCESS, StartKind.COLD)
        assert done.container != name
        await until(lambda: name not in s.backend.containers)
        assert s.finished[1:] == [done]


def refuse() -> None:
    raise OSError("no")


async def test_without_a_connection_it_is_dialled_by_the_long_way(tmp_path: Path):
    async with site(tmp_path, freeze_grace_s=10.0) as s:
        await s.run(action(limits=QUICK))
        (live,) = s.pool._operations.lives.values()
        live.close_connections()
        done = await run(s)
        assert (done.status, done.meter.start_kind, done.container) == (Status.SUCCESS, StartKind.WARM, live.container_id)


async def test_the_log_lines_are_there_with_it(tmp_path: Path):
    async with site(tmp_path, freeze_grace_s=10.0) as s:
        await s.run(action(limits=QUICK))
        behave(s, lambda _path, _body: Answer(logs=(("stdout", "hi"),)))
        done = await run(s)
        lines = await s.recorder.records.get_logs("anna", done.activation_id)
        assert [line.partition("Z ")[2] for line in lines or []] == ["stdout: hi"]


async def test_an_error_of_the_application_is_a_plain_end(tmp_path: Path):
    async with site(tmp_path, freeze_grace_s=10.0) as s:
        await s.run(action(limits=QUICK))
        behave(s, lambda _path, _body: Answer(body=b'{"error":"mine"}'))
        done = await run(s)
        assert (done.status, error_of(done)) == (Status.APPLICATION_ERROR, "mine")
        assert [each.state for each in s.pool.containers()] == [ContainerState.WARM]


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (Answer(status=502, body=b'{"error":"broken"}'), "failed"),
        (Answer(body=b"[1"), "bad-response"),
        (Answer(after_s=30.0), "timeout"),
        (Misbehaviour.CLOSE, "crashed"),
        (Misbehaviour.GARBAGE, "bad-response"),
    ],
)
async def test_what_ends_otherwise_goes_on_by_the_long_way(tmp_path: Path, answer: Answer | Misbehaviour, outcome: str):
    async with site(tmp_path, freeze_grace_s=10.0) as s:
        await s.run(action(limits=QUICK))
        behave(s, lambda path, body: answer if path == "/run" else echo(path, body))
        done = await run(s)
        assert done.meter.outcome == outcome
        assert done.timed_out is (outcome == "timeout")
        assert done.status is Status.DEVELOPER_ERROR
        await until(lambda: not s.pool.containers())
        assert s.finished[1:] == [done]


async def test_a_record_too_large_for_a_page_is_written_all_the_same(tmp_path: Path):
    async with site(tmp_path, freeze_grace_s=10.0) as s:
        s.config = replace(s.config, limits=replace(s.config.limits, result_bytes=20_000))
        await s.run(action(limits=QUICK))
        behave(s, lambda _path, _body: Answer(body=b'{"x":"' + b"y" * 10_000 + b'"}', logs=(("stdout", "hi"),)))
        done = await run(s)
        assert len(done.result or b"") == 10_008
        assert await s.recorder.records.get("anna", done.activation_id) == done
        behave(s, lambda _path, _body: Answer(body=b'{"x":"' + b"y" * 10_000 + b'"}'))
        done = await run(s)
        assert await s.recorder.records.get("anna", done.activation_id) == done
        assert [each.state for each in s.pool.containers()] == [ContainerState.WARM]


async def test_a_namespace_that_keeps_no_records_has_none(tmp_path: Path):
    nobody = msgspec.structs.replace(ANNA, limits=LimitOverrides(store_activations=False))
    async with site(tmp_path, freeze_grace_s=10.0) as s:
        await s.run(action(limits=QUICK))
        short = begin(s, identity=Identity(namespace=nobody, api_key="u:k"))
        assert short is not None
        done = await short.end()
        assert await s.recorder.records.get("anna", done.activation_id) is None
        s.finished.remove(done)  # the site counts records


async def test_more_lines_than_a_turn_reads_come_after_its_answer_and_before_its_container_is_anybody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    lines = tuple(("stdout", f"line {number}") for number in range(200))
    told: list[tuple[int, bool]] = []
    wait_complete = PipeLogReader.wait_complete

    async def note(self: PipeLogReader, deadline: float) -> None:
        told.append((len(short.told), all(container.leases for container in s.pool.containers())))
        assert s.invoker.in_flight("anna") == 0, "the caller may make the next call"
        assert len(s.invoker._in_flight) == 1, "and the daemon does not end before it"
        await wait_complete(self, deadline)

    async with site(tmp_path, freeze_grace_s=10.0) as s:
        await s.run(action(limits=QUICK))
        behave(s, lambda _path, _body: Answer(body=b'{"all":"said"}', logs=lines))
        monkeypatch.setattr(PipeLogReader, "wait_complete", note)
        with small_turns(monkeypatch):
            short = begin(s)
            assert short is not None
            done = await short.end()
        assert told == [(1, True)]
        assert done.result is not None
        assert bytes(done.result) == b'{"all":"said"}'
        assert await texts(s, done) == [text for _, text in lines]
        await until(lambda: not any(container.leases for container in s.pool.containers()))


async def test_cancelled_it_has_all_lines_that_it_had_written_and_pays_not_for_their_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async with site(tmp_path, freeze_grace_s=10.0) as s:
        await s.run(action(limits=QUICK))
        behave(s, lambda _path, _body: Answer(after_s=30.0))
        with small_turns(monkeypatch):
            short = begin(s)
            assert short is not None
            (ticket,) = s.invoker._in_flight
            (container,) = s.backend.containers.values()
            for seq in range(200):
                container.write_log(f"{ticket.activation_id} {seq} o 1 line {seq}\n".encode())
            ended: list[bool] = []
            wait_complete = PipeLogReader.wait_complete

            async def note(self: PipeLogReader, deadline: float) -> None:
                ended.append(ticket.trace.ended > 0)
                await wait_complete(self, deadline)

            monkeypatch.setattr(PipeLogReader, "wait_complete", note)
            s.invoker.cancel(ticket.activation_id)
            done = await short.end()
        assert ended == [True], "what is billed ends before"
        *said, last = await texts(s, done)
        assert said == [f"line {seq}" for seq in range(200)]
        assert "Log data might be missing" in last


async def test_cancelled_it_is_killed_and_recorded_and_its_caller_is_told(tmp_path: Path):
    async with site(tmp_path, freeze_grace_s=10.0) as s:
        await s.run(action(limits=QUICK))
        behave(s, lambda _path, _body: Answer(after_s=30.0))
        short = begin(s)
        assert short is not None
        (ticket,) = s.invoker._in_flight
        assert s.invoker.cancel(ticket.activation_id, namespace="mallory") is None
        assert s.invoker.cancel(ticket.activation_id) == "running"
        assert s.invoker.cancel(ticket.activation_id) == "running", "until it is on record it can be asked again"
        await s.invoker.wait_recorded(ticket.activation_id)
        done = await short.end()
        assert (done.meter.outcome, done.status) == ("cancelled", Status.APPLICATION_ERROR)
        assert done.meter.billed_us > 0
        await until(lambda: not s.pool.containers())


async def test_the_hurried_end_of_the_daemon_ends_it(tmp_path: Path):
    async with site(tmp_path, freeze_grace_s=10.0) as s:
        await s.run(action(limits=QUICK))
        behave(s, lambda _path, _body: Answer(after_s=30.0))
        short = begin(s)
        assert short is not None
        s.invoker.refuse()
        s.invoker.cancel_all()
        assert (await short.end()).meter.outcome == "cancelled"


@pytest.mark.parametrize(
    "unfit",
    [
        lambda s: begin(s, action("other", limits=QUICK)),
        lambda s: begin(s, wait_s=0.5),
        lambda s: begin(s, action(limits=QUICK, parameters=OTHER_VAULT.seal("anna", SECRET))),
        lambda s: begin(s, action(limits=QUICK, parameters=FINAL, annotations=ANNOTATED)),
        lambda s: (s.invoker.refuse(), begin(s))[1],
    ],
    ids=[
        "nothing is known of it",
        "may outlast the wait",
        "sealed with another key",
        "names a final parameter",
        "the daemon stops",
    ],
)
async def test_what_cannot_go_it_is_told_and_leaves_nothing(tmp_path: Path, unfit: Callable[[Site], Short | None]):
    async with site(tmp_path, freeze_grace_s=10.0) as s:
        await s.run(action(limits=QUICK))
        assert unfit(s) is None
        assert s.invoker.total_in_flight == 0
        assert [each.state for each in s.pool.containers()] == [ContainerState.WARM]


OTHER_VAULT = Vault(b"another key of 32 bytes in total")
SECRET = (Parameter(key="y", value=msgspec.Raw(b"2"), encryption="aes-256"),)
FINAL = (Parameter(key="x", value=msgspec.Raw(b"2")),)
ANNOTATED = (Annotation(key="final", value=msgspec.Raw(b"true")),)


# ---- that wait for a container


async def test_what_finds_no_container_lines_up_and_is_sent_when_one_comes_free(tmp_path: Path):
    async with site(tmp_path, freeze_grace_s=10.0, max_containers_per_action=1) as s:
        await s.run(action(limits=QUICK))
        calls = [begin(s) for _ in range(5)]
        assert s.invoker.total_in_flight == 5
        done = [await call.end() for call in calls if call is not None]
        assert [each.status for each in done] == [Status.SUCCESS] * 5
        assert {each.meter.start_kind for each in done} == {StartKind.WARM}
        assert s.finished[1:] == done, "first come, first served"
        assert done[4].meter.phases.queue > done[0].meter.phases.queue


async def test_the_first_of_an_action_has_its_container_made(tmp_path: Path):
    async with site(tmp_path, freeze_grace_s=10.0) as s:
        await s.run(action(limits=QUICK))
        other = action("other", limits=QUICK)
        assert begin(s, other) is None, "nothing is known of it yet: the long way plans it"
        await s.planner.make(ANNA, other)
        done = await run(s, other)
        assert (done.status, done.meter.start_kind) == (Status.SUCCESS, StartKind.COLD)
        assert done.init_ms is not None


async def test_who_waits_too_long_for_a_container_is_told_and_has_a_record(tmp_path: Path):
    async with site(tmp_path, freeze_grace_s=10.0, max_containers_per_action=1) as s:
        await s.run(action(limits=QUICK))
        s.config = replace(s.config, pool=replace(s.config.pool, max_wait_s=0.05))
        busy, waiting = await one_busy_one_waiting(s)
        await waiting.ended.wait()
        (ticket,) = waiting.told
        assert isinstance(ticket.error, WaitedTooLong)
        assert ticket.error.activation_id == ticket.activation_id
        await busy.end()
        assert {each.meter.outcome for each in s.finished[1:]} == {"waited-too-long", "timeout"}


async def test_a_caller_whose_time_is_up_gets_the_id_and_the_call_goes_on(tmp_path: Path):
    async with site(tmp_path, freeze_grace_s=10.0, max_containers_per_action=1) as s:
        await s.run(action(limits=QUICK))
        busy, waiting = await one_busy_one_waiting(s, wait_s=1.0)
        await waiting.ended.wait()
        (ticket,) = waiting.told
        if ticket.done is None:  # a slow machine may have ended the busy one before
            assert ticket.error is None
        await s.invoker.wait_idle()
        assert len(waiting.told) == 1
        assert len(s.finished) == 3
        await busy.end()


async def test_cancelled_in_the_queue_it_never_runs(tmp_path: Path):
    async with site(tmp_path, freeze_grace_s=10.0, max_containers_per_action=1) as s:
        await s.run(action(limits=QUICK))
        busy, waiting = await one_busy_one_waiting(s)
        ticket = list(s.invoker._in_flight)[1]
        assert s.invoker.cancel(ticket.activation_id) == "queued"
        await waiting.ended.wait()
        assert ticket.done is not None
        assert (ticket.done.meter.outcome, ticket.done.meter.billed_us) == ("cancelled", 0)
        await busy.end()


async def test_what_may_not_even_wait_is_refused_at_once_counted_and_leaves_nothing(tmp_path: Path):
    async with site(tmp_path, freeze_grace_s=10.0, max_containers_per_action=1, max_waiting_per_user=1) as s:
        await s.run(action(limits=QUICK))
        busy, _ = await one_busy_one_waiting(s)
        with pytest.raises(TooManyWaiting):
            begin(s)
        assert s.throttled == [("anna", "user-queue-full")]
        assert s.invoker.total_in_flight == 2
        await busy.end()
    assert len(s.finished) == 3


async def test_a_drain_refuses_what_waits(tmp_path: Path):
    async with site(tmp_path, freeze_grace_s=10.0, max_containers_per_action=1) as s:
        await s.run(action(limits=QUICK))
        busy, waiting = await one_busy_one_waiting(s)
        s.invoker.refuse()
        await waiting.ended.wait()
        assert isinstance(waiting.told[0].error, PoolClosed)
        assert (await busy.end()).meter.outcome == "timeout"


async def one_busy_one_waiting(s: Site, **changes: Any) -> tuple[Short, Short]:
    """One that runs into its time limit of 1 s, and one behind it."""
    behave(s, lambda path, body: Answer(after_s=30.0) if path == "/run" else echo(path, body))
    busy, waiting = begin(s), begin(s, **changes)
    assert busy is not None
    assert waiting is not None
    return busy, waiting
