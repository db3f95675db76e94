"""The shell on the fake backend: what callers get, and what is left however they are interrupted."""

from __future__ import annotations

import asyncio
import gc
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop

from pool.backend import FoundContainer
from pool.errors import ConnectionLost, EngineError, EngineUnavailable, PoolClosed, ThawFailed, WaitedTooLong
from pool.fake import FakeBackend
from pool.fake_server import Answer, Misbehaviour, echo
from pool.hooks import PoolHooks
from pool.lease import Lease
from pool.live import Live
from pool.model import ActivationId, ContainerId, ContainerSpec, ContainerState, ReuseKey, StartKind
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


async def test_first_call_is_cold_the_next_is_warm_and_after_the_grace_frozen(tmp_path: Path):
    async with bench(tmp_path, freeze_grace_s=0.02) as b:
        assert await b.call() is StartKind.COLD
        assert await b.call() is StartKind.WARM
        await b.until(lambda: b.states() == [S.FROZEN])
        assert await b.call() is StartKind.FROZEN
        assert b.backend.calls["create"] == 1


async def test_a_thousand_frozen_calls_make_no_engine_call(tmp_path: Path):
    async with bench(tmp_path, freeze_grace_s=0.0) as b:
        await b.call()
        before = dict(b.backend.calls)
        for _ in range(1000):
            await b.call()
        assert dict(b.backend.calls) == before


async def test_stem_cell_serves_the_first_call_of_a_new_action_and_is_replaced(tmp_path: Path):
    async with bench(tmp_path) as b:
        b.pool.want_stems(SPEC, 1)
        await b.until(lambda: b.states() == [S.STEM_FROZEN])
        assert await b.call() is StartKind.STEM
        await b.until(lambda: S.STEM_FROZEN in b.states())


async def test_container_is_not_reused_after_an_unclean_end(tmp_path: Path):
    async with bench(tmp_path) as b:
        b.backend.action = lambda path, body: Misbehaviour.CLOSE if path == "/run" else echo(path, body)
        with pytest.raises(ConnectionLost):
            await b.call()
        await b.until(lambda: b.states() == [])
        b.backend.action = echo
        assert await b.call() is StartKind.COLD


async def test_expired_request_breaks_the_connection_and_the_container_goes(tmp_path: Path):
    async with bench(tmp_path) as b:
        b.backend.action = lambda path, body: Misbehaviour.HANG if path == "/run" else echo(path, body)
        with pytest.raises(TimeoutError):
            await b.call(timeout_s=0.05)
        await b.until(lambda: b.states() == [])


@pytest.mark.parametrize("stage", ["create", "create:done", "dial"])
async def test_cancellation_while_the_container_comes_up_loses_nothing(tmp_path: Path, stage: str):
    async with bench(tmp_path) as b:
        hold = b.backend.hold(stage)
        async with asyncio.TaskGroup() as callers:
            caller = callers.create_task(b.call())
            await hold.reached.wait()
            caller.cancel()
            await asyncio.wait({caller})
            hold.release()
        assert caller.cancelled()
        b.pool.machine.check_invariants()
        assert await b.call() in {StartKind.STEM, StartKind.COLD}


async def test_cancellation_in_mid_request_destroys_the_container(tmp_path: Path):
    async with bench(tmp_path) as b:
        running = asyncio.Event()

        def slow(path: str, body: Any) -> Answer:
            if path == "/run":
                running.set()
                return Answer(after_s=30.0)
            return echo(path, body)

        b.backend.action = slow
        async with asyncio.TaskGroup() as callers:
            caller = callers.create_task(b.call(timeout_s=60))
            await running.wait()
            caller.cancel()
        await b.until(lambda: b.states() == [])


async def test_lease_that_sent_nothing_gives_the_container_back(tmp_path: Path):
    async with bench(tmp_path) as b:
        await b.call()
        async with b.lease() as lease:
            assert not lease.needs_init
        assert await b.call() in {StartKind.WARM, StartKind.FROZEN}
        assert b.backend.calls["create"] == 1


async def test_granted_but_untouched_new_container_becomes_a_stem_cell_also_for_the_next_daemon(tmp_path: Path):
    async with bench(tmp_path) as b:
        async with b.lease():
            pass
        await b.until(lambda: b.states() == [S.STEM_FROZEN])
        assert [entry.key_digest for entry in b.table.entries()] == [None]


async def test_a_frozen_stem_cell_whose_taker_sent_nothing_is_one_again_at_once(tmp_path: Path):
    """It is exercised anew, and for that it must be thawed."""
    async with bench(tmp_path) as b:
        for _ in range(3):
            async with b.lease() as lease:
                assert lease.needs_init
            await b.until(lambda: b.states() == [S.STEM_FROZEN])
        assert b.backend.calls["create"] == 1


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


async def test_waiting_ends_at_the_deadline(tmp_path: Path):
    async with bench(tmp_path, memory_mib=256) as b:
        async with b.lease() as held:
            with pytest.raises(WaitedTooLong):
                async with b.lease(key("other"), wait_s=0.02):
                    pass
            del held
        b.pool.machine.check_invariants()


async def test_engine_failure_reaches_the_caller_and_leaves_no_reservation(tmp_path: Path):
    async with bench(tmp_path) as b:
        b.backend.fail_next("create", EngineError("no space left on device"))
        with pytest.raises(EngineError, match="no space"):
            await b.call()
        assert b.pool.statistics().memory_used_mib == 0


async def test_hanging_engine_leaves_warm_calls_untouched(tmp_path: Path):
    async with bench(tmp_path, freeze_grace_s=10.0) as b:
        await b.call()
        b.backend.black_hole = True
        with pytest.raises(EngineUnavailable):
            await b.call(key("cold"))
        assert await b.call() is StartKind.WARM
        b.backend.black_hole = False


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


async def test_dead_idle_container_is_noticed_without_the_engine(tmp_path: Path):
    async with bench(tmp_path) as b:
        await b.call()
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
            patch.setattr(type(container), "freeze", _refuse)
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
            patch.setattr(type(container), "freeze", _refuse)
            await b.until(lambda: S.SUSPECT in b.states())
        await b.until(lambda: not {S.SUSPECT, S.REMOVING} & set(b.states()))
        assert (len(asked), len(b.states())) == (2, left)


async def test_container_that_stands_still_at_the_second_wish_only_is_frozen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pool.operations.FREEZE_DEADLINE_S", 60.0)
    async with bench(tmp_path, freeze_grace_s=0.0) as b:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pool.fake.FakeContainer.freeze", lambda _: patch.undo())
            await b.call()
            await b.until(lambda: b.states() == [S.FROZEN])


async def test_container_that_cannot_be_thawed_is_replaced_and_has_run_nothing(tmp_path: Path):
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
    async with bench(tmp_path, freeze_grace_s=0.0) as b:
        await b.call()
        await b.until(lambda: b.states() == [S.FROZEN])
        (container,) = b.backend.containers.values()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(container), "thaw", _refuse)
            with pytest.raises(ThawFailed):
                await b.call()
        await b.until(lambda: b.states() == [])
    gc.collect()
    assert not complaints, "the answer that never came was left to nobody"


async def test_container_frozen_from_outside_under_a_call_is_thawed_again(tmp_path: Path):
    async with bench(tmp_path, freeze_grace_s=0.0) as b:
        await b.call()
        await b.until(lambda: b.states() == [S.FROZEN])
        (container,) = b.backend.containers.values()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(container), "thaw", lambda self: patch.undo())
            assert await b.call() is StartKind.FROZEN


async def test_a_frozen_container_keeps_its_connection_for_a_while(tmp_path: Path):
    fleeting = ReuseKey(spec=msgspec.structs.replace(SPEC, server_keep_alive_s=0.2), action="anna/fleeting", revision="r1")
    async with bench(tmp_path, freeze_grace_s=0.02) as b:
        for a_key in (KEY, fleeting):
            await b.call(a_key)
        await b.until(lambda: b.states() == [S.FROZEN, S.FROZEN])
        lasting, container = b.backend.containers.values()
        async with asyncio.timeout(10):
            while container.connections:
                await asyncio.sleep(0.005)
        assert b.states() == [S.FROZEN, S.FROZEN]
        assert len(lasting.connections) == 1
        dialled = b.backend.calls["dial"]
        assert await b.call(fleeting) is StartKind.FROZEN
        assert b.backend.calls["dial"] == dialled + 1
        assert await b.call() is StartKind.FROZEN
        assert b.backend.calls["dial"] == dialled + 1
        await b.until(lambda: b.states() == [S.FROZEN, S.FROZEN])
        async with asyncio.timeout(10):  # once more: a container freezes often in its life
            while container.connections:
                await asyncio.sleep(0.005)


async def test_cpu_after_the_reply_belongs_to_the_activation_that_replied(tmp_path: Path):
    async with bench(tmp_path, freeze_grace_s=10.0) as b:
        b.backend.action = lambda path, body: Answer(body=b'{"x":1}', cpu_us=1000) if path == "/run" else echo(path, body)
        async with b.lease() as lease:
            deadline = asyncio.get_running_loop().time() + 5
            await lease.request(b"/init", b"{}", deadline=deadline, limit=100)
            lease.initialised()
            await lease.request(b"/run", b"{}", deadline=deadline, limit=100)
            lease.clean = True
            assert lease.read_usage().cpu_us == 1000
            first = lease.activation
        (container,) = b.backend.containers.values()
        container.advance_cpu(777)
        async with b.lease() as lease:
            await lease.request(b"/run", b"{}", deadline=deadline, limit=100)
            lease.clean = True
            assert lease.read_usage().cpu_us == 1000
        assert b.tails == [(first, 777)]


async def test_closing_tells_every_waiter(tmp_path: Path):
    async with bench(tmp_path, memory_mib=256) as b, b.lease():
        async with asyncio.TaskGroup() as callers:
            waiter = callers.create_task(_outcome(b.call(key("other"))))
            await asyncio.sleep(0)
            b.pool.stop_starting()
        assert isinstance(waiter.result(), PoolClosed)


async def test_many_callers_share_few_containers_and_every_call_is_answered(tmp_path: Path):
    async with bench(tmp_path, memory_mib=1024, parallel_starts=2) as b:
        b.backend.delay["create"] = 0.01
        async with asyncio.TaskGroup() as callers:
            for _ in range(200):
                callers.create_task(b.call())
        assert b.backend.calls["create"] <= 4
        assert sum(b.pool.statistics().starts.values()) == 200


def _refuse(_self: object) -> None:
    raise PermissionError(1, "Operation not permitted")


async def _outcome(call: Any) -> BaseException | None:
    try:
        await call
    except Exception as error:  # noqa: BLE001 - whatever it is, the test looks at it
        return error
    return None


def test_the_shell_works_on_uvloop_too(tmp_path: Path):
    """Its handles differ from asyncio's: one of a time that is due already has no `when()`."""

    async def run() -> None:
        async with bench(tmp_path, freeze_grace_s=0.001, memory_mib=1024, launch_patience_s=0.0) as b:
            await asyncio.gather(*(b.call() for _ in range(200)))

    uvloop.run(run())


async def test_a_frozen_container_of_an_earlier_daemon_reserves_what_it_holds_until_it_is_called(tmp_path: Path):
    async with bench(tmp_path) as b:
        name = ContainerId("invokerd-test-old")
        before = await b.backend.create(name, SPEC)
        before.freeze()
        found = FoundContainer(container_id=name, engine_id="e", running=True, labels={})
        b.pool.found(found, await b.backend.adopt(found), SPEC, KEY)
        await b.until(lambda: b.states() == [S.FROZEN])
        (kept,) = b.pool.containers()
        held = before.memory().held
        assert kept.held_mib == -(-held // 2**20) + b.pool.machine.settings.frozen_margin_mib < SPEC.memory_mib
        async with b.lease() as lease:
            assert (lease.container_id, lease.start_kind) == (name, StartKind.FROZEN)
            assert kept.held_mib == SPEC.memory_mib
