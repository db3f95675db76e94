"""What was lost with a daemon: one record each, and the whole of a sequence after what was lost inside it."""

import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from invoker_site import ANNA, Site, action, site

from invoker.activation import Accepted, Activation, Composition, Meter, Status
from invoker.lost import Lost, parts_first
from invoker.model import Limits
from invoker.plan import facts_of
from invoker.record.recorder import Recorder
from pool.model import ActivationId

#: Wall clock, ms: what is older than the retention does not stay in the store.
NOW = int(time.time() * 1000)


def lost(name: str, **changes: Any) -> Lost:
    values = {"activation_id": ActivationId(name), "facts": facts_of(ANNA, action()), "start_ms": 1234}
    return Lost(**(values | changes))


def ended(name: str, cause: str, start_ms: int, **changes: Any) -> Activation:
    values: dict[str, Any] = {"path": "anna/a", "version": "0.0.1", "kind": "python:3", "limits": Limits(memory=512)}
    known = {"node": "n", "namespace": "anna", "subject": "anna", "status": Status.SUCCESS, "cause": cause}
    return Activation(activation_id=ActivationId(name), start_ms=start_ms, end_ms=start_ms + 20, **(values | known | changes))


def test_it_is_the_platforms_fault_and_costs_nothing():
    record = lost("a").record((), node="n")
    assert (record.status, record.meter.outcome, record.meter.billed_us) == (Status.INTERNAL_ERROR, "lost", 0)
    assert (record.path, record.start_ms, record.end_ms) == ("anna/hello", 1234, 1234)
    assert (record.cause, record.composition) == (None, None)


def test_a_whole_names_its_parts_in_order_and_their_sums_and_costs_nothing():
    parts = [ended("p1", "s", 2000), ended("p2", "s", 3000, limits=Limits(memory=128))]
    sequence = msgspec.structs.replace(facts_of(ANNA, action("s")), kind="sequence", memory=256)
    record = lost("s", facts=sequence, composed=True).record(parts, node="n")
    assert record.composition == Composition(parts=(ActivationId("p1"), ActivationId("p2")), duration_ms=40)
    assert (record.kind, record.limits.memory, record.end_ms, record.duration_ms) == ("sequence", 512, 3020, 40)
    assert record.meter == Meter(outcome="lost"), "the parts are billed"


def test_a_conductor_that_is_lost_as_a_whole_is_a_composition():
    record = lost("c", composed=True, cause="s").record((), node="n")
    assert record.composition == Composition(is_conductor=True, is_topmost=False)
    assert (record.kind, record.limits.memory) == ("sequence", 0)


def test_every_whole_comes_after_what_was_lost_inside_it():
    given = [lost("outer"), lost("inner", cause="outer"), lost("part", cause="inner"), lost("other", cause="gone")]
    order = [each.activation_id for each in parts_first(given)]
    assert sorted(order) == ["inner", "other", "outer", "part"]
    assert order.index(ActivationId("part")) < order.index(ActivationId("inner")) < order.index(ActivationId("outer"))


def promise(name: str, path: str, **changes: Any) -> Accepted:
    values: dict[str, Any] = {"namespace": "anna", "subject": "anna", "payload": msgspec.Raw(b'{"secret":1}'), "transaction": "t"}
    return Accepted(activation_id=ActivationId(name), path=path, accepted_ms=NOW, **(values | changes))


async def crash(tmp_path: Path, *ended_parts: Activation, stored: bool = True) -> None:
    """Leave what a daemon leaves that was killed in the second part of a sequence."""
    recorder = await Recorder.open(tmp_path, node="n")
    try:
        recorder.note_begun(promise("s", "anna/s", composed=True))
        for each in ended_parts:
            recorder.part_begins(promise(each.activation_id, each.path, cause="s"))
            if stored:
                recorder.finish(each, logs=[])
            else:
                recorder.finish_unstored(each)
        recorder.part_begins(promise("p2", "anna/b", cause="s", binding="anna/bound"))
    finally:
        await recorder.close()


async def recover(s: Site, **changes: Any) -> None:
    await s.invoker.record_lost(
        lost(each.activation_id, start_ms=each.accepted_ms, **changes).with_promise(each) for each in s.recorder.recovery.begun
    )


async def test_the_next_daemon_finds_the_cause_of_a_part_and_the_parts_of_the_whole(tmp_path: Path):
    await crash(tmp_path, ended("p1", "s", NOW - 1000))
    async with site(tmp_path) as s:
        assert {each.activation_id for each in s.recorder.recovery.begun} == {"s", "p2"}
        await recover(s)
        part, whole = s.finished
        assert (part.activation_id, part.cause, part.binding, part.composition) == ("p2", "s", "anna/bound", None)
        assert whole.composition is not None
        assert whole.composition.parts == ("p1", "p2"), (
            "in the order they ran, by the wall clock, also where it was set back meanwhile"
        )
        usage = {row.action: row for row in await s.recorder.records.usage(since_ms=0, upto_ms=2**53)}
        assert sum(row.charged_activations for row in usage.values()) == 1, "what ended, and neither what was lost nor the whole"
        s.finished.append(await s.recorder.records.get("anna", ActivationId("p1")))  # the site counts all records
    again = await Recorder.open(tmp_path, node="n")
    assert again.recovery == ([], [])
    await again.close()


@pytest.mark.parametrize("stored", [True, False])
async def test_a_part_that_ended_is_not_pending_any_more_whether_or_not_its_record_is_kept(tmp_path: Path, stored: bool):
    await crash(tmp_path, ended("p1", "s", NOW), stored=stored)
    recorder = await Recorder.open(tmp_path, node="n")
    assert {each.activation_id for each in recorder.recovery.begun} == {"s", "p2"}
    assert [bytes(each.payload) for each in recorder.recovery.begun if each.cause] == [b"null"], "never run again"
    await recorder.close()


async def test_where_no_records_are_kept_what_was_lost_is_in_the_ledger_alone(tmp_path: Path):
    await crash(tmp_path)
    async with site(tmp_path) as s:
        await recover(s, stored=False)
        assert len(s.finished) == 2
        s.finished.clear()  # the site counts the records: there are none
        assert await s.recorder.records.count("anna") == 0
        (row,) = await s.recorder.records.usage(since_ms=0, upto_ms=2**53)
        assert (row.outcomes, row.billed_us) == ({"lost": 2}, 0)
