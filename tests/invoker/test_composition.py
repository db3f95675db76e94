"""Sequences and compositions on the real invoker, pool and recorder; only the engine is a fake."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from invoker_site import Site, action, error_of, site

from invoker.activation import Accepted, Activation, Status
from invoker.invocation import Accepted202
from invoker.model import Action, Annotation, Exec, Limits, Parameter
from invoker.record.recorder import Recorder
from pool.fake_server import Answer, echo

CONDUCTOR = (Annotation(key="conductor", value=msgspec.Raw(b'{"type":"sequence"}')),)


def sequence(path: str, *components: str, **changes: Any) -> Action:
    parameters = (Parameter(key="_actions", value=msgspec.Raw(msgspec.json.encode(components))),)
    execution = Exec(kind="sequence", components=tuple(f"anna/{name}" for name in components))
    return action(path, exec=execution, parameters=parameters, **changes)


def add(s: Site, *actions: Action) -> None:
    s.actions |= {each.full_path: each for each in actions}


def behave(s: Site, **behaviours: Any) -> list[tuple[str, Any]]:
    """Let actions answer as functions of their payload say; returns what ran, in order: (name, payload) each."""
    ran: list[tuple[str, Any]] = []

    def answer(path: str, body: Any) -> Answer:
        if path != "/run":
            return echo(path, body)
        name = body["action_name"].rpartition("/")[2]
        ran.append((name, body["value"]))
        said = behaviours.get(name, lambda value: value)(body["value"])
        return said if isinstance(said, Answer) else Answer(body=msgspec.json.encode(said))

    s.backend.action = answer
    return ran


def result(activation: Activation) -> Any:
    return msgspec.json.decode(activation.result or b"null")


def record_of(s: Site, path: str) -> Activation:
    (found,) = [each for each in s.finished if each.path == f"anna/{path}"]
    return found


async def test_each_component_gets_the_result_of_the_one_before_over_its_own_parameters(tmp_path: Path):
    async with site(tmp_path) as s:
        bound = (Parameter(key="p", value=msgspec.Raw(b"1")),)
        add(s, action("a"), action("b", parameters=bound), action("c"))
        ran = behave(s, a=lambda v: {"from_a": v}, b=lambda v: [v], c=lambda v: {"last": v})
        done = await s.run(sequence("s", "a", "b", "c"))
        assert ran == [("a", {"x": 1}), ("b", {"from_a": {"x": 1}, "p": 1}), ("c", [{"from_a": {"x": 1}, "p": 1}])]
        assert result(done) == {"last": [{"from_a": {"x": 1}, "p": 1}]}
        assert (done.kind, done.status) == ("sequence", Status.SUCCESS)


async def test_the_record_names_its_parts_sums_their_durations_and_has_the_largest_memory(tmp_path: Path):
    async with site(tmp_path) as s:
        add(s, action("a", limits=Limits(memory=128)), action("b", limits=Limits(memory=512)))
        behave(s, a=lambda v: Answer(after_s=0.03, body=b"{}"))
        done = await s.run(sequence("s", "a", "b", "a", limits=Limits(timeout=12_000)))
        parts = [each for each in s.finished if each.path != "anna/s"]
        assert done.composition is not None
        assert done.composition.parts == tuple(each.activation_id for each in parts)
        assert done.duration_ms == sum(each.duration_ms for each in parts) >= 60
        assert (done.limits.memory, done.limits.timeout) == (512, 12_000)
        assert [each.cause for each in parts] == [done.activation_id] * 3
        assert done.cause is None
        assert await s.recorder.records.get("anna", done.activation_id) == done


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (Answer(body=b'{"error":"bad","more":1}'), Status.APPLICATION_ERROR),
        (Answer(status=500, body=b'{"error":"bad"}'), Status.DEVELOPER_ERROR),
    ],
)
async def test_an_error_ends_it_and_what_comes_after_never_runs(tmp_path: Path, answer: Answer, status: Status):
    async with site(tmp_path) as s:
        add(s, action("a"), action("b"))
        ran = behave(s, a=lambda _: answer)
        done = await s.run(sequence("s", "a", "b"))
        assert (done.status, result(done)) == (status, {"error": "bad"})
        assert [name for name, _ in ran] == ["a"]


async def test_a_sequence_inside_has_its_own_record_and_cause(tmp_path: Path):
    async with site(tmp_path) as s:
        add(s, action("a"), action("b"), sequence("inner", "b"))
        done = await s.run(sequence("s", "a", "inner"))
        inner = record_of(s, "inner")
        assert done.composition is not None
        assert inner.composition is not None
        assert done.composition.parts == (record_of(s, "a").activation_id, inner.activation_id)
        assert (inner.cause, record_of(s, "b").cause) == (done.activation_id, inner.activation_id)
        assert (done.composition.is_topmost, inner.composition.is_topmost) == (True, False)


async def test_too_many_actions_in_sequences_inside_one_another_end_at_the_limit(tmp_path: Path):
    async with site(tmp_path, freeze_grace_s=10.0) as s:
        add(s, action("a"), sequence("ten", *["a"] * 10))
        ran = behave(s)
        done = await s.run(sequence("s", *["ten"] * 6))
        assert error_of(done) == "Too many actions in the sequence."
        assert (done.status, done.meter.outcome, len(ran)) == (Status.APPLICATION_ERROR, "sequence-too-long", 50)


async def test_a_component_that_is_gone_is_found_out_before_anything_runs(tmp_path: Path):
    async with site(tmp_path) as s:
        add(s, action("a"))
        ran = behave(s)
        done = await s.run(sequence("s", "a", "gone"))
        assert (done.status, done.meter.outcome) == (Status.APPLICATION_ERROR, "component-missing")
        assert error_of(done) == "Sequence component does not exist."
        assert ran == []
        assert done.composition is not None
        assert done.composition.parts == ()


async def test_a_composition_runs_what_its_conductor_says(tmp_path: Path):
    def conduct(value: Any) -> Any:
        n = value.get("n", 0)
        return (
            {"action": "inc", "params": {"n": n}, "state": {"step": n}} if n < 3 else {"params": {"n": n, "step": value["step"]}}
        )

    async with site(tmp_path) as s:
        add(s, action("inc"))
        ran = behave(s, c=conduct, inc=lambda v: {"n": v["n"] + 1})
        done = await s.run(action("c", annotations=CONDUCTOR), b'{"n":1}')
        assert result(done) == {"n": 3, "step": 2}
        assert [name for name, _ in ran] == ["c", "inc", "c", "inc", "c"]
        assert done.kind == "sequence"
        assert done.composition is not None
        assert done.composition.is_conductor
        assert done.composition.parts == tuple(each.activation_id for each in s.finished[:-1])
        assert {each.cause for each in s.finished[:-1]} == {done.activation_id}
        assert [each.kind for each in s.finished[:-1]] == ["python:3"] * 5


async def test_names_that_lead_nowhere_are_told_to_the_conductor(tmp_path: Path):
    told: list[str] = []

    def conduct(value: Any) -> Any:
        if "error" in value:
            told.append(value["error"])
            return {"ended": True}
        return {"action": value["name"]}

    async with site(tmp_path) as s:
        behave(s, c=conduct)
        for name in ("missing", "a//b", "nowhere/a"):
            assert result(await s.run(action("c", annotations=CONDUCTOR), msgspec.json.encode({"name": name}))) == {"ended": True}
        assert "resolve action with name 'anna/missing'" in told[0]
        assert 'parse action name from json value "a//b"' in told[1]
        assert "resolve action with name 'anna/nowhere/a'" in told[2], "a package of the caller's"


async def test_a_sequence_and_a_composition_are_steps_of_a_composition(tmp_path: Path):
    def outer(value: Any) -> Any:
        return [{"action": "s"}, {"action": "inner"}, {"params": {"done": True}}][value.get("step", 0)] | (
            {"state": {"step": value.get("step", 0) + 1}} if value.get("step", 0) < 2 else {}
        )

    async with site(tmp_path) as s:
        inner = action("inner", annotations=CONDUCTOR)
        add(s, action("a"), sequence("s", "a", "a"), inner)
        behave(s, outer=outer, inner=lambda _: {"inside": True})
        done = await s.run(action("outer", annotations=CONDUCTOR))
        assert result(done) == {"done": True}
        assert done.composition is not None
        assert len(done.composition.parts) == 5  # outer, s, outer, inner, outer: what ran inside s and inner is theirs
        inside = [each for each in s.finished if each.path == "anna/inner" and each.composition is not None]
        assert [each.cause for each in inside] == [done.activation_id]


async def test_a_composition_in_a_sequence_that_ends_with_an_error_ends_the_sequence(tmp_path: Path):
    async with site(tmp_path) as s:
        add(s, action("c", annotations=CONDUCTOR), action("a"))
        ran = behave(s, c=lambda _: {"params": {"error": "said"}})
        done = await s.run(sequence("s", "c", "a"))
        assert (done.status, result(done)) == (Status.APPLICATION_ERROR, {"error": "said"})
        assert [name for name, _ in ran] == ["c"]


async def test_it_counts_once_among_what_is_in_flight(tmp_path: Path):
    async with site(tmp_path) as s:
        add(s, action("a"), sequence("inner", "a"))
        seen: list[int] = []
        behave(s, a=lambda v: (seen.append(s.invoker.in_flight("anna")), v)[1])
        await s.run(sequence("s", "inner", "a"))
        assert seen == [1, 1]
        assert s.invoker.in_flight("anna") == 0


async def test_the_bill_is_that_of_the_parts(tmp_path: Path):
    async with site(tmp_path) as s:
        add(s, action("a"), action("b"), sequence("inner", "b"))
        behave(s, a=lambda v: Answer(cpu_us=300, body=b"{}"), b=lambda v: Answer(cpu_us=40, body=b"{}"))
        await s.run(sequence("s", "a", "inner", "a"))
        usage = {row.action: row for row in await s.recorder.records.usage(since_ms=0, upto_ms=2**53)}
        parts = [each for each in s.finished if each.composition is None]
        assert sum(row.charged_activations for row in usage.values()) == len(parts) == 3
        assert sum(row.billed_us for row in usage.values()) == sum(each.meter.billed_us for each in parts)
        assert sum(row.charged_cpu_us for row in usage.values()) == sum(each.meter.cpu_us for each in parts)
        for name in ("anna/s", "anna/inner"):
            row = usage[name]
            assert (row.activations, row.charged_activations, row.billed_us, row.charged_memory_mib_us) == (1, 0, 0, 0)


async def test_cancelling_the_whole_kills_the_part_that_runs_and_begins_no_other(tmp_path: Path):
    async with site(tmp_path) as s:
        add(s, action("a"), action("slow"), sequence("inner", "slow", "a"))
        running = asyncio.Event()
        ran = behave(s, slow=lambda _: (running.set(), Answer(after_s=30.0))[1])
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(s.run(sequence("s", "inner", "a")))
            await running.wait()
            (whole,) = [each for each in s.invoker._in_flight if each.call.within is None]
            assert s.invoker.cancel(whole.activation_id, namespace="bob") is None
            assert s.invoker.cancel(whole.activation_id, namespace="anna") == "running"
        done = waiting.result()
        assert (done.status, done.meter.outcome) == (Status.APPLICATION_ERROR, "cancelled")
        assert [name for name, _ in ran] == ["slow"]
        assert {each.path: each.meter.outcome for each in s.finished} == {
            "anna/slow": "cancelled",
            "anna/inner": "cancelled",
            "anna/s": "cancelled",
        }


async def test_what_was_promised_and_had_begun_is_known_to_the_next_daemon_as_begun(tmp_path: Path):
    async with site(tmp_path) as s:
        add(s, action("a"))
        behave(s)
        seen: list[tuple[bool, bool]] = []
        for blocking in (True, False):
            accepted = await s.invoker.invoke(s.call(sequence("s", "a"), blocking=blocking))
            await s.invoker.wait_idle()
            seen.append((isinstance(accepted, Accepted202), accepted.activation_id in s.recorder._open))
        assert seen == [(False, False), (True, False)]


async def test_after_a_crash_neither_a_blocking_sequence_nor_one_inside_is_run_again(tmp_path: Path):
    """It has begun before its first part does: the next recorder finds the whole among what may have run."""
    async with site(tmp_path) as s:
        add(s, action("a"), sequence("inner", "a"))
        begun: list[Accepted] = []
        note = s.recorder.note_begun
        s.recorder.note_begun = lambda accepted: (begun.append(accepted), note(accepted))[1]  # type: ignore[method-assign]
        ran = behave(s, a=lambda v: (ran.append(("begun", len(begun))), v)[1])
        await s.run(sequence("s", "inner"))
        assert ran[:2] == [("a", {"x": 1}), ("begun", 2)]
    (tmp_path / "next").mkdir()
    recorder = await Recorder.open(tmp_path / "next", node="n")
    try:
        for accepted in begun:
            recorder.note_begun(accepted)
    finally:
        await recorder.close()
    again = await Recorder.open(tmp_path / "next", node="n")
    try:
        assert again.recovery.unbegun == []
        assert {each.activation_id for each in again.recovery.begun} == {each.activation_id for each in begun}
    finally:
        await again.close()


async def test_without_room_in_the_journal_for_another_part_it_ends_as_our_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async with site(tmp_path) as s:
        add(s, action("a"))
        ran = behave(s, a=lambda v: (monkeypatch.setattr(s.recorder, "room", lambda records=1: False), v)[1])
        done = await s.run(sequence("s", "a", "a"))
        assert (done.status, done.meter.outcome) == (Status.INTERNAL_ERROR, "journal-full")
        assert len(ran) == 1


async def test_a_cycle_without_any_action_in_it_ends(tmp_path: Path):
    async with site(tmp_path) as s:
        add(s, sequence("one", "other"), sequence("other", "one"))
        done = await s.run(s.actions["anna/one"])
        assert (done.status, done.meter.outcome) == (Status.APPLICATION_ERROR, "composition-too-long")
        assert "nest more than 50 deep" in error_of(done)
        assert len(s.finished) == 52
