"""What a look at the engine mends, and what it does not believe."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from invoker import reconcile
from invoker.reconcile import Reconciler
from pool.errors import EngineUnavailable
from pool.fake import FakeBackend
from pool.machine import PoolSettings
from pool.model import ActivationId, ContainerId, ContainerSpec, ContainerState, ReuseKey
from pool.pool import Pool
from pool.table import ContainerTable

SPEC = ContainerSpec(namespace="anna", uid=1001, gid=1001, image="sha256:00", kind="python:3", memory_mib=256)
KEY = ReuseKey(spec=SPEC, action="anna/hello", revision="r1")


class Node:
    """A pool on a fake engine, and who looks after them."""

    def __init__(self, group: asyncio.TaskGroup, table: ContainerTable) -> None:
        self.backend = FakeBackend()
        self.pool = Pool(self.backend, PoolSettings(memory_mib=2048, freeze_grace_s=0.0), node="n", group=group, table=table)
        self.sick: list[str] = []
        self.reconciler = Reconciler(pool=self.pool, backend=self.backend, sick=lambda: self.sick)

    async def frozen_container(self) -> ContainerId:
        deadline = asyncio.get_running_loop().time() + 5
        async with self.pool.lease(ActivationId("a" * 32), KEY, facts=b"{}", deadline=deadline) as lease:
            await lease.request(b"/init", b"{}", deadline=deadline, limit=100)
            lease.initialised()
            lease.clean = True
        await self.until(lambda: self.states() == [ContainerState.FROZEN])
        return self.pool.containers()[0].container_id

    def states(self) -> list[ContainerState]:
        return [container.state for container in self.pool.containers()]

    async def until(self, condition) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0)


@asynccontextmanager
async def running(tmp_path: Path) -> AsyncIterator[Node]:
    table = ContainerTable.open(tmp_path / "table", "boot")
    try:
        async with asyncio.TaskGroup() as group:
            node = Node(group, table)
            yield node
            await node.pool.close()
            node.backend.bury_all()
            await node.backend.close()
    finally:
        table.close()


async def test_what_is_nobodys_is_removed_and_what_is_ours_stays(tmp_path):
    async with running(tmp_path) as node:
        ours = await node.frozen_container()
        (await node.backend.create(ContainerId("orphan"), SPEC)).close()
        await node.reconciler.reconcile()
        assert set(node.backend.containers) == {ours}
        assert node.states() == [ContainerState.FROZEN]


async def test_what_was_thawed_from_outside_is_frozen_again(tmp_path):
    async with running(tmp_path) as node:
        name = await node.frozen_container()
        node.backend.containers[name].thaw()
        await node.reconciler.reconcile()
        assert node.backend.containers[name].frozen


async def test_an_engine_that_denies_a_container_whose_process_runs_is_not_believed(tmp_path):
    async with running(tmp_path) as node:
        name = await node.frozen_container()
        hidden = node.backend.containers.pop(name)
        await node.reconciler.reconcile()
        assert node.states() == [ContainerState.FROZEN]
        node.backend.containers[name] = hidden


async def test_an_engine_that_does_not_answer_is_no_reason_to_touch_anything(tmp_path):
    async with running(tmp_path) as node:
        await node.frozen_container()
        node.backend.fail_next("list_containers", EngineUnavailable("gone fishing"))
        await node.reconciler.reconcile()
        assert not node.reconciler.engine_up
        assert "gone fishing" in node.reconciler.check().detail
        assert node.states() == [ContainerState.FROZEN]
        await node.reconciler.reconcile()
        assert node.reconciler.engine_up
        assert node.reconciler.check().ok


async def test_an_engine_that_answers_and_does_not_create_is_not_well(tmp_path):
    async with running(tmp_path) as node:
        await node.reconciler.reconcile()
        node.sick = ["create"]
        assert node.reconciler.engine_up
        assert not node.reconciler.check().ok
        assert "create" in node.reconciler.check().detail


async def test_many_hints_make_one_look_and_a_sick_engine_is_looked_at_more_often(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reconcile, "RECONCILE_PAUSE_S", 0.0)
    monkeypatch.setattr(reconcile, "RECONCILE_SICK_S", 0.0)
    async with running(tmp_path) as node, asyncio.TaskGroup() as group:
        loop = group.create_task(node.reconciler.loop())
        for _ in range(100):
            node.reconciler.nudge()
        await node.until(lambda: node.backend.calls["list_containers"] > 0)
        for _ in range(10):
            await asyncio.sleep(0)
        assert node.backend.calls["list_containers"] == 1
        node.backend.fail_next("list_containers", EngineUnavailable(), times=5)
        node.reconciler.nudge()
        # Without another hint: the next look comes by itself until one is answered.
        await node.until(lambda: node.backend.calls["list_containers"] == 7 and node.reconciler.engine_up)
        loop.cancel()
