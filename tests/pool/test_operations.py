"""What is done with containers, on the fake backend: freezing, probing, measuring and removing, and what goes wrong with it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pool.backend import FoundContainer
from pool.errors import EngineDiskFull, EngineError, EngineUnavailable
from pool.fake_server import Answer, Misbehaviour, echo
from pool.live import Live
from pool.model import ActivationId, ContainerId, ReuseKey, StartKind
from tests.pool.pool_bench import KEY, SPEC, S, bench, refuse


async def test_removal_is_tried_until_the_engine_obeys_and_memory_counts_so_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pool.operations.REMOVE_RETRY_S", (0.01, 0.02))
    async with bench(tmp_path) as b:
        await b.call()
        b.backend.fail_next("remove", EngineError("device busy"), times=2)
        b.pool.retire("anna/hello", revision=None)
        assert b.pool.statistics().memory_used_mib == 256
        await b.until(lambda: b.states() == [])
        assert b.backend.calls["remove"] == 3
        assert b.pool.statistics().memory_used_mib == 0


async def test_a_container_that_the_engine_was_not_asked_for_is_not_removed_from_it(tmp_path: Path):
    full = EngineDiskFull()
    full.nothing_made = True
    async with bench(tmp_path) as b:
        for calls, error in ((0, full), (1, EngineDiskFull())):
            b.backend.fail_next("create", error)
            with pytest.raises(EngineDiskFull):
                await b.call()
            await b.until(lambda: b.states() == [])
            assert b.backend.calls["remove"] == calls
            assert b.pool.statistics().memory_used_mib == 0
        await b.call()


async def test_a_removal_that_the_breaker_refuses_comes_back_when_the_breaker_says_and_no_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("pool.operations.REMOVE_RETRY_S", (3600.0, 3600.0))  # of a removal that was attempted and failed
    refused = EngineUnavailable("not asked for a while")
    refused.retry_after_s = 0.01
    async with bench(tmp_path) as b:
        await b.call()
        b.backend.fail_next("remove", refused, times=3)
        b.pool.retire("anna/hello", revision=None)
        await b.until(lambda: b.states() == [])
        assert b.backend.calls["remove"] == 4


@pytest.mark.parametrize("grace_s", [60.0, 0.0], ids=["warm", "frozen"])
async def test_dead_idle_container_is_noticed_without_the_engine(tmp_path: Path, grace_s: float):
    async with bench(tmp_path, freeze_grace_s=grace_s) as b:
        await b.call()
        await b.until(lambda: b.states() == [S.FROZEN if grace_s == 0.0 else S.WARM])
        (container,) = b.pool.containers()
        listed = b.backend.calls["list_containers"]
        b.backend.kill(container.container_id)
        await b.until(lambda: b.states() == [])
        assert b.backend.calls["list_containers"] == listed


async def test_container_that_cannot_be_frozen_serves_warm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pool.operations.FREEZE_DEADLINE_S", 0.02)
    async with bench(tmp_path, freeze_grace_s=0.01) as b:
        await b.call()
        (container,) = b.backend.containers.values()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(container), "freeze", refuse)
            await b.until(lambda: S.SUSPECT in b.states())
        await b.until(lambda: b.states() == [S.WARM])
        assert await b.call() is StartKind.WARM


@pytest.mark.parametrize(("silences", "left"), [(1, 1), (2, 0)])
async def test_suspect_container_is_asked_twice_before_it_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silences: int, left: int
):
    monkeypatch.setattr("pool.operations.FREEZE_DEADLINE_S", 0.02)
    asked: list[float] = []
    exercise = Live.exercise

    async def ask(self: Live, backend: Any, loop: asyncio.AbstractEventLoop, *, deadline: float) -> None:
        asked.append(deadline)
        await exercise(self, backend, loop, deadline=loop.time() if len(asked) <= silences else deadline)

    def answer(path: str, body: Any) -> Answer | Misbehaviour:
        return Misbehaviour.HANG if path == "/" and len(asked) <= silences else echo(path, body)

    async with bench(tmp_path, freeze_grace_s=0.01) as b:
        await b.call()
        (container,) = b.backend.containers.values()
        container.action = answer
        monkeypatch.setattr(Live, "exercise", ask)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(container), "freeze", refuse)
            await b.until(lambda: S.SUSPECT in b.states())
        await b.until(lambda: not {S.SUSPECT, S.REMOVING} & set(b.states()))
        assert (len(asked), len(b.states())) == (2, left)


async def test_container_that_stands_still_half_way_is_woken_and_serves_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pool.operations.FREEZE_DEADLINE_S", 0.02)
    monkeypatch.setattr("pool.operations.PROBE_DEADLINE_S", 0.5)
    async with bench(tmp_path, freeze_grace_s=0.0) as b:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pool.fake.FakeHandle.is_frozen", lambda _: False)  # version 1: it does not run, and is not FROZEN
            await b.call()
            (container,) = b.backend.containers
            await b.until(lambda: S.SUSPECT in b.states())
            await b.until(lambda: b.states() in ([S.WARM], []))
        assert list(b.backend.containers) == [container]
        assert await b.call() is StartKind.WARM


async def test_container_that_stands_still_at_the_second_wish_only_is_frozen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pool.operations.FREEZE_DEADLINE_S", 60.0)
    async with bench(tmp_path, freeze_grace_s=0.0) as b:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pool.fake.FakeContainer.freeze", lambda _: patch.undo())
            await b.call()
            await b.until(lambda: b.states() == [S.FROZEN])


async def test_frozen_container_gives_back_what_it_does_not_hold_when_another_wants_memory(tmp_path: Path):
    other = ReuseKey(spec=msgspec.structs.replace(SPEC, memory_mib=250), action="anna/other", revision="1")
    async with bench(tmp_path, memory_mib=300, freeze_grace_s=0.0) as b:
        await b.call()
        await b.until(lambda: b.states() == [S.FROZEN])
        (kept,) = b.pool.containers()
        async with b.pool.lease(
            ActivationId("f" * 32), other, facts=b"{}", deadline=asyncio.get_running_loop().time() + 10
        ) as lease:
            assert lease.container_id != kept.container_id
            assert kept.state is S.FROZEN
            assert kept.held_mib == 6 + b.pool.machine.settings.frozen_margin_mib, "its page cache was given back"
        assert await b.call() is StartKind.FROZEN
        assert kept.held_mib == SPEC.memory_mib


async def test_a_frozen_container_of_an_earlier_daemon_reserves_what_it_holds_until_it_is_called(tmp_path: Path):
    async with bench(tmp_path) as b:
        name = ContainerId("invokerd-test-old")
        before = await b.backend.create(name, SPEC)
        before.freeze()
        found = FoundContainer(container_id=name, engine_id="e", running=True, labels={}, created=time.time() - 100.0)
        b.pool.found(found, await b.backend.adopt(found), SPEC, KEY)
        await b.until(lambda: b.states() == [S.FROZEN])
        (kept,) = b.pool.containers()
        assert kept.older_s == pytest.approx(100.0, abs=30.0)
        held = before.memory().held
        assert kept.held_mib == -(-held // 2**20) + b.pool.machine.settings.frozen_margin_mib < SPEC.memory_mib
        async with b.lease() as lease:
            assert (lease.container_id, lease.start_kind) == (name, StartKind.FROZEN)
            assert kept.held_mib == SPEC.memory_mib
