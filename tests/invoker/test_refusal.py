"""A call that may not even wait for a container: refused without a trace, and nothing else ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from invoker_site import ANNA, Site, action, site

from invoker.invocation import Accepted202, Call
from invoker.model import Action, Annotation, Exec
from pool.errors import PoolOverloaded, TooManyWaiting
from pool.model import ActivationId, ContainerId
from pool.settings import PoolSettings

BOUNDS = [("max_waiting", PoolOverloaded), ("max_waiting_per_user", TooManyWaiting)]


@pytest.mark.parametrize(("bound", "error"), BOUNDS)
async def test_call_that_may_not_even_wait_is_refused_and_leaves_no_record(
    tmp_path: Path, bound: str, error: type[PoolOverloaded]
):
    """The first time its plan is not known yet, the second time it is: the answer is the same."""
    async with site(tmp_path, **{bound: 0}) as s:
        for _ in range(2):
            with pytest.raises(error, match="come back in 1 s") as caught:
                await s.run()
            assert caught.value.activation_id is None
        assert s.finished == []
        assert s.throttled == ([("anna", error.code)] * 2 if error is TooManyWaiting else []), "the API counts a full node's"
        assert s.invoker.total_in_flight == 0
        assert s.invoker.in_flight("anna") == 0


@pytest.mark.parametrize(("bound", "error"), BOUNDS)
async def test_call_that_would_be_promised_is_refused_before_it_is(tmp_path: Path, bound: str, error: type[PoolOverloaded]):
    async with site(tmp_path, **{bound: 0}) as s:
        await s.planner.make(ANNA, action())
        with pytest.raises(error):
            await s.invoker.invoke(s.call(blocking=False))
        with pytest.raises(error):
            await s.invoker.invoke(s.call(idempotency_key="k"))
        with pytest.raises(error):
            s.invoker.check_queue(s.call(blocking=False))
        assert s.finished == []


async def test_what_was_promised_is_run_however_many_wait(tmp_path: Path):
    """Its plan was not known when it was promised, so nobody could tell how full its queue was."""
    async with site(tmp_path, max_waiting=0) as s:
        accepted = await s.invoker.invoke(s.call(blocking=False))
        await s.invoker.wait_idle()
        assert [(each.activation_id, each.meter.outcome) for each in s.finished] == [(accepted.activation_id, "ok")]


async def test_a_full_queue_does_not_touch_calls_that_find_their_container_ready(tmp_path: Path):
    async with site(tmp_path) as s:
        await s.run()
        s.pool.change_settings(PoolSettings(memory_mib=2048, max_waiting=0))
        assert (await s.run()).meter.outcome == "ok"
        s.invoker.check_queue(s.call())


async def test_a_container_is_never_refused_what_it_waits_for(tmp_path: Path):
    """An activation that waits for another's answer holds its memory: to refuse the other would free nothing."""
    async with site(tmp_path, max_waiting=0) as s:
        await s.planner.make(ANNA, action())
        done = await s.run(origin=ContainerId("somebody"))
        assert done.meter.outcome == "ok"


@pytest.mark.parametrize("ready", [True, False])
async def test_of_a_flood_of_calls_that_nobody_waits_for_as_many_are_promised_as_may_wait_and_those_are_run(
    tmp_path: Path, ready: bool
):
    """All come at once, while the disk still takes the first promise: their places are taken all the same."""
    async with site(tmp_path, max_waiting_per_user=16, max_containers_per_action=1) as s:
        await s.run()
        key, deadline = s.planner.find(ANNA, action()).key, asyncio.get_running_loop().time() + 20
        held = s.pool.lease(ActivationId("f" * 32), key, facts=b"{}", deadline=deadline)
        async with contextlib.nullcontext() if ready else held:
            calls = [s.invoker.invoke(s.call(blocking=False)) for _ in range(200)]
            answers = await asyncio.gather(*calls, return_exceptions=True)
        accepted = [answer.activation_id for answer in answers if isinstance(answer, Accepted202)]
        assert len(accepted) == 16
        assert all(isinstance(answer, Accepted202 | TooManyWaiting) for answer in answers), answers
        await s.invoker.wait_idle()
        assert {each.activation_id: each.meter.outcome for each in s.finished[1:]} == dict.fromkeys(accepted, "ok")


# --- sequences and compositions: a new one is refused as its first part would be, one that has begun goes on


def sequence(path: str, *components: str) -> Action:
    return action(path, exec=Exec(kind="sequence", components=tuple(f"anna/{name}" for name in components)))


CONDUCTOR = action("first", annotations=(Annotation(key="conductor", value=msgspec.Raw(b"true")),))
#: A sequence, one that begins with it, and a composition: what each runs first is `first`.
COMPOSED = [sequence("s", "first", "then"), sequence("outer", "s", "then"), CONDUCTOR]


@asynccontextmanager
async def site_of_sequences(tmp_path: Path, composed: Action, **settings: Any) -> AsyncIterator[Site]:
    async with site(tmp_path, **settings) as s:
        parts = [CONDUCTOR if composed is CONDUCTOR else action("first"), action("then"), COMPOSED[0]]
        s.actions |= {each.full_path: each for each in parts}
        await s.planner.make(ANNA, parts[0])
        yield s


@pytest.mark.parametrize("composed", COMPOSED, ids=lambda each: each.path)
@pytest.mark.parametrize(("bound", "error"), BOUNDS)
async def test_a_new_sequence_is_refused_when_the_queue_is_full_and_leaves_no_record(
    tmp_path: Path, bound: str, error: type[PoolOverloaded], composed: Action
):
    async with site_of_sequences(tmp_path, composed, **{bound: 0}) as s:
        for changes in ({}, {"blocking": False}, {"idempotency_key": "k"}):
            with pytest.raises(error, match="come back in 1 s") as caught:
                await s.run(composed, **changes)
            assert caught.value.retry_after_s == 1
        with pytest.raises(error):
            s.invoker.check_queue(s.call(composed, blocking=False))
        assert (s.finished, s.invoker.total_in_flight) == ([], 0)


async def test_a_sequence_that_has_begun_goes_on_through_a_full_queue(tmp_path: Path):
    async with site_of_sequences(tmp_path, COMPOSED[0]) as s:
        await s.run(s.actions["anna/first"])
        s.pool.change_settings(PoolSettings(memory_mib=2048, max_waiting=0))  # its second part has no container yet
        assert (await s.run(COMPOSED[0])).meter.outcome == "ok"


@pytest.mark.parametrize("composed", COMPOSED, ids=lambda each: each.path)
@pytest.mark.parametrize("blocking", [True, False])
async def test_of_a_flood_of_sequences_as_many_begin_as_may_wait_and_those_end(tmp_path: Path, composed: Action, blocking: bool):
    async with site_of_sequences(tmp_path, composed, max_waiting_per_user=16, max_containers_per_action=1) as s:
        key, deadline = s.planner.find(ANNA, s.actions["anna/first"]).key, asyncio.get_running_loop().time() + 20
        async with s.pool.lease(ActivationId("f" * 32), key, facts=b"{}", deadline=deadline):
            async with asyncio.TaskGroup() as group:
                calls = [group.create_task(refused(s, s.call(composed, blocking=blocking, wait_s=0.01))) for _ in range(100)]
            assert sum(not call.result() for call in calls) == 16
            assert await refused(s, s.call(composed)), "those that have begun wait for their first part"
        await s.invoker.wait_idle()
        wholes = [each for each in s.finished if each.composition is not None and each.composition.is_topmost]
        assert [each.meter.outcome for each in wholes] == ["ok"] * 16


async def refused(s: Site, call: Call) -> bool:
    try:
        await s.invoker.invoke(call)
    except TooManyWaiting:
        return True
    return False
