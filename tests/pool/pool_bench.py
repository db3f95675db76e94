"""A pool on the fake backend, for the tests of the pool and of its operations."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pool.fake import FakeBackend
from pool.hooks import PoolHooks
from pool.lease import Lease
from pool.model import ActivationId, ContainerSpec, ContainerState, ReuseKey, StartKind
from pool.pool import Pool
from pool.settings import PoolSettings
from pool.table import ContainerTable

S = ContainerState
SPEC = ContainerSpec(
    namespace="anna", uid=1001, gid=1001, image="sha256:00", kind="python:3", memory_mib=256, server_keep_alive_s=86400.0
)
KEY = ReuseKey(spec=SPEC, action="anna/hello", revision="r1")


def key(name: str) -> ReuseKey:
    return ReuseKey(spec=SPEC, action=f"anna/{name}", revision="r1")


class Bench:
    """A pool on a fake backend, and a watch on its transitions."""

    def __init__(self, backend: FakeBackend, group: asyncio.TaskGroup, table: ContainerTable, settings: PoolSettings) -> None:
        self.backend = backend
        self.table = table
        self.tails: list[tuple[str, int]] = []
        self._changed = asyncio.Event()
        hooks = PoolHooks(
            transition=lambda *_: self._changed.set(), tail=lambda activation, _c, us: self.tails.append((activation, us))
        )
        self.pool = Pool(backend, settings, node="test", group=group, table=table, hooks=hooks)
        self._names = itertools.count(1)

    def states(self) -> list[ContainerState]:
        return [container.state for container in self.pool.containers()]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a transition after which the condition holds."""
        async with asyncio.timeout(30):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    @asynccontextmanager
    async def lease(self, a_key: ReuseKey = KEY, *, wait_s: float = 5.0) -> AsyncIterator[Lease]:
        name = ActivationId(f"{next(self._names):032x}")
        deadline = asyncio.get_running_loop().time() + wait_s
        async with self.pool.lease(name, a_key, facts=b"{}", deadline=deadline) as lease:
            yield lease

    async def call(self, a_key: ReuseKey = KEY, *, timeout_s: float = 5.0) -> StartKind:
        """One whole activation."""
        async with self.lease(a_key) as lease:
            deadline = asyncio.get_running_loop().time() + timeout_s
            if lease.needs_init:
                await lease.request(b"/init", b'{"value":{}}', deadline=deadline, limit=1000)
                lease.initialised()
            response = await lease.request(b"/run", b'{"value":{"x":1}}', deadline=deadline, limit=1000)
            assert response.body == b'{"x":1}'
            lease.clean = True
            return lease.start_kind


@asynccontextmanager
async def bench(tmp_path: Path, *, backend: FakeBackend | None = None, **changes: Any) -> AsyncIterator[Bench]:
    """Run a pool; at its end every container must be accounted for."""
    fake = backend or FakeBackend()
    table = ContainerTable.open(tmp_path / "containers.table", "boot")
    settings = PoolSettings(**{"memory_mib": 2048, **changes})
    try:
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            the_bench = Bench(fake, group, table, settings)
            yield the_bench
            the_bench.pool.machine.check_invariants()
            the_bench.pool.stop_starting()
            await the_bench.until(lambda: not {S.STARTING, S.REMOVING, S.SUSPECT} & set(the_bench.states()))
            known = {container.container_id for container in the_bench.pool.containers()}
            assert known == set(fake.containers), "the pool and the engine disagree"
            assert {entry.container_id for entry in table.entries()} == known
            assert all(not entry.activations for entry in table.entries())
            await the_bench.pool.close()
    finally:
        fake.bury_all()
        await fake.close()
        table.close()


def refuse(_self: object) -> None:
    """Stand in for a write that the kernel refuses."""
    raise PermissionError(1, "Operation not permitted")
