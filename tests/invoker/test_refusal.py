"""A call that may not even wait for a container: refused without a trace, and nothing else ends."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
from invoker_site import ANNA, action, site

from invoker.invocation import Accepted202
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
