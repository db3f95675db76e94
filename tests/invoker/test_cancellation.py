"""A call cancelled at every stage of its way: it ends once, as cancelled, and nothing of it is left."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from invoker_site import Site, action, site, until

from invoker.activation import Status
from invoker.invocation import Accepted202
from invoker.model import Exec
from pool.backend import Image
from pool.fake_server import Answer, echo
from pool.model import ActivationId, ContainerState, LogTransport

S = ContainerState


async def begin(s: Site, **options: Any) -> ActivationId:
    """Start a call whose end nobody waits for."""
    accepted = await s.invoker.invoke(s.call(blocking=False, **options))
    assert isinstance(accepted, Accepted202)
    return accepted.activation_id


async def check_cancelled(s: Site, activation_id: ActivationId) -> None:
    """It has one record, which says so; pool and engine agree; the next call is served."""
    await until(lambda: any(each.activation_id == activation_id for each in s.finished))
    (record,) = [each for each in s.finished if each.activation_id == activation_id]
    assert (record.meter.outcome, record.status) == ("cancelled", Status.APPLICATION_ERROR)
    assert s.invoker.cancel(activation_id) is None, "it can be cancelled twice"
    s.pool.machine.check_invariants()
    assert (await s.run()).status is Status.SUCCESS
    await until(lambda: not {S.STARTING, S.REMOVING, S.SUSPECT} & {each.state for each in s.pool.containers()})
    assert {each.container_id for each in s.pool.containers()} == set(s.backend.containers)
    assert s.invoker.total_in_flight == 0


@pytest.mark.parametrize("stage", ["resolve_image", "pull", "create", "create:done", "dial"])
async def test_while_the_engine_works_for_it(tmp_path: Path, stage: str):
    async with site(tmp_path) as s:
        options: dict[str, Any] = {}
        if stage == "pull":
            image = Image(image_id="sha256:1", logs=LogTransport.PIPE, server_keep_alive_s=86400.0)
            s.backend.registry["example/far:1"] = image
            options["an_action"] = action("far", exec=Exec(kind="blackbox", image="example/far:1"))
        hold = s.backend.hold(stage)
        name = await begin(s, **options)
        await hold.reached.wait()
        assert s.invoker.cancel(name) == ("running" if stage == "dial" else "queued")
        await until(lambda: bool(s.finished))
        hold.release()
        if stage == "pull":
            s.backend.images.clear()
            s.backend.registry.clear()
        await check_cancelled(s, name)


@pytest.mark.parametrize("path", ["/init", "/run"])
async def test_while_the_function_works_its_container_goes(tmp_path: Path, path: str):
    async with site(tmp_path) as s:
        reached = asyncio.Event()

        def slow(at: str, body: Any) -> Answer:
            if at == path:
                reached.set()
                return Answer(after_s=30.0)
            return echo(at, body)

        s.backend.action = slow
        name = await begin(s)
        await reached.wait()
        (container,) = s.backend.containers
        assert s.invoker.cancel(name) == "running"
        await until(lambda: container not in s.backend.containers)
        s.backend.action = echo
        await check_cancelled(s, name)


@pytest.mark.parametrize("start", ["cold", "warm"])
@pytest.mark.parametrize("transport", list(LogTransport))
async def test_what_the_function_had_written_by_then_is_in_its_record(tmp_path: Path, start: str, transport: LogTransport):
    async with site(tmp_path) as s:
        image = Image(image_id="sha256:1", logs=transport, server_keep_alive_s=86400.0)
        s.backend.images["example/own:1"] = image
        own = action("own", exec=Exec(kind="blackbox", image="example/own:1"))
        if start == "warm":
            await s.run(an_action=own)
        reached = asyncio.Event()

        def slow(at: str, body: Any) -> Answer:
            if at == "/init":
                return echo(at, body)
            (container,) = s.backend.containers.values()
            line = "out of cheese\n"
            framed = f"{body['activation_id']} 0 o {time.time_ns() // 1000} {line}"
            container.write_log((framed if transport is LogTransport.PIPE else line).encode())
            reached.set()
            return Answer(after_s=30.0)

        for container in s.backend.containers.values():
            container.action = slow
        s.backend.action = slow
        name = await begin(s, an_action=own)
        await reached.wait()
        await asyncio.sleep(0)
        assert s.invoker.cancel(name) == "running"
        await until(lambda: any(each.activation_id == name for each in s.finished))
        lines = await s.recorder.records.get_logs("anna", name)
        assert lines is not None
        assert [line.split(" ", 1)[1] for line in lines][:1] == ["stdout: out of cheese"]


async def test_while_it_waits_for_room_it_never_runs(tmp_path: Path):
    async with site(tmp_path, memory_mib=256) as s:
        runs: list[str] = []
        over = asyncio.Event()

        def count(at: str, body: Any) -> Answer:
            runs.append(at)
            return Answer(after_s=0.2) if at == "/run" and not over.is_set() else echo(at, body)

        s.backend.action = count
        first = await begin(s)
        await until(lambda: "/run" in runs)
        name = await begin(s)
        await until(lambda: s.pool.machine.is_waiting(name))
        assert s.invoker.cancel(name) == "queued"
        over.set()
        await until(lambda: any(each.activation_id == first for each in s.finished))
        assert runs.count("/run") == 1
        await check_cancelled(s, name)


async def test_while_its_container_was_just_being_frozen_the_container_goes_and_nothing_stands_still(tmp_path: Path):
    """The call takes a container in FREEZING, and is cancelled before the freeze was confirmed."""
    async with site(tmp_path, freeze_grace_s=0.0) as s:
        await s.run()
        (container,) = s.backend.containers.values()
        container.obeys_freeze = False  # it takes its time
        assert (await s.run()).status is Status.SUCCESS
        assert [each.state for each in s.pool.containers()] == [S.FREEZING]
        reached = asyncio.Event()

        def slow(at: str, body: Any) -> Answer:
            reached.set()
            return Answer(after_s=30.0)

        container.action = slow
        name = await begin(s)
        await reached.wait()
        assert s.invoker.cancel(name) == "running"
        await until(lambda: container.container_id not in s.backend.containers)
        await check_cancelled(s, name)


async def test_before_it_has_taken_its_first_step_it_is_recorded_all_the_same(tmp_path: Path):
    """A task that is cancelled before it has begun runs nothing, not even what would record its end."""
    async with site(tmp_path) as s:
        name = await begin(s)
        assert s.invoker.cancel(name) == "queued"
        await check_cancelled(s, name)
        assert s.backend.calls["create"] == 1


async def test_at_random_moments_nothing_is_left(tmp_path: Path):
    """A hundred calls, each cancelled after another number of rounds of the loop."""
    async with site(tmp_path, freeze_grace_s=0.001, memory_mib=1024) as s:
        s.backend.delay["create"] = 0.001
        names = []
        for rounds in range(100):
            name = await begin(s)
            names.append(name)
            for _ in range(rounds):
                await asyncio.sleep(0)
            s.invoker.cancel(name)
        await until(lambda: len(s.finished) == len(names))
        assert {each.meter.outcome for each in s.finished} <= {"ok", "cancelled"}
        assert "cancelled" in {each.meter.outcome for each in s.finished}
        s.pool.machine.check_invariants()
        await until(lambda: not {S.STARTING, S.REMOVING, S.SUSPECT} & {each.state for each in s.pool.containers()})
        assert {each.container_id for each in s.pool.containers()} == set(s.backend.containers)


@pytest.mark.parametrize("by_whom", ["its-user", "the-daemon-that-ends"])
async def test_while_its_image_comes_what_was_promised_is_cancelled_by_its_user_and_left_by_a_daemon_that_ends(
    tmp_path: Path, by_whom: str
):
    async with site(tmp_path) as s:
        s.backend.registry["example/far:1"] = Image(image_id="sha256:1", logs=LogTransport.PIPE, server_keep_alive_s=86400.0)
        hold = s.backend.hold("pull")
        name = await begin(s, an_action=action("far", exec=Exec(kind="blackbox", image="example/far:1")))
        await hold.reached.wait()
        if by_whom == "its-user":
            s.invoker.cancel(name)
        s.invoker.refuse()
        s.invoker.cancel_all()
        await s.invoker.wait_idle()
        # No record: the next daemon finds it in the journal, accepted and not begun.
        assert [each.meter.outcome for each in s.finished] == (["cancelled"] if by_whom == "its-user" else [])
        hold.release()
