"""The node's self-test, on the fake engine: what it finds of the kernel's freezer, and what then becomes of calls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from invoker import keeper as keeper_module
from invoker.health import Check
from invoker.keeper import Keeper, find_test_image
from invoker.manifest import Manifest
from invoker.systemd import Notifier
from pool.backend import Image
from pool.errors import WaitedTooLong
from pool.fake import FakeBackend, FakeContainer
from pool.fake_server import Answer
from pool.hooks import PoolHooks
from pool.lease import Lease
from pool.machine import PoolSettings
from pool.model import ActivationId, ContainerSpec, ContainerState, LogTransport, ReuseKey, StartKind
from pool.pool import Pool
from pool.table import ContainerTable

SPEC = ContainerSpec(
    namespace="anna", uid=1001, gid=1001, image="sha256:00", kind="python:3", memory_mib=256, server_keep_alive_s=86400.0
)
KEY = ReuseKey(spec=SPEC, action="anna/hello", revision="r1")


class Manager(Notifier):
    """A service manager that counts how often it heard that the daemon is well."""

    def __init__(self) -> None:
        super().__init__(None, watchdog_interval_s=0.0)
        self.fed = 0

    def watchdog(self) -> None:
        self.fed += 1


class Node:
    """A pool on a fake engine, and its keeper."""

    def __init__(self, group: asyncio.TaskGroup, table: ContainerTable) -> None:
        self.backend = FakeBackend()
        self.failures = 0
        hooks = PoolHooks(freeze_failed=self._freeze_failed)
        settings = PoolSettings(memory_mib=2048, freeze_grace_s=0.0)
        self.pool = Pool(self.backend, settings, node="n", group=group, table=table, hooks=hooks)
        self.stores: list[Check] = []
        self.manager = Manager()
        self.engine = Check(name="engine", ok=True)
        #: Told of each time that the loop was late, seconds.
        self.lag_listeners: list[Callable[[float], None]] = []
        self.keeper = Keeper(
            pool=self.pool,
            notifier=self.manager,
            engine=lambda: self.engine,
            extra_checks=lambda: self.stores,
            on_lag=self._late,
        )
        self._calls = 0

    def _late(self, late_s: float) -> None:
        for listener in self.lag_listeners:
            listener(late_s)

    def _freeze_failed(self) -> None:
        self.failures += 1
        self.keeper.test_soon()

    async def call(self) -> StartKind:
        self._calls += 1
        deadline = asyncio.get_running_loop().time() + 10
        async with self.pool.lease(ActivationId(f"{self._calls:032x}"), KEY, facts=b"{}", deadline=deadline) as lease:
            if lease.needs_init:
                await lease.request(b"/init", b"{}", deadline=deadline, limit=100)
                lease.initialised()
            await lease.request(b"/run", b"{}", deadline=deadline, limit=100)
            lease.clean = True
            return lease.start_kind

    def states(self) -> list[ContainerState]:
        return [each.state for each in self.pool.containers() if each.key is not None and each.key.action == KEY.action]

    def freezing(self) -> Check:
        return self.check("freezing")

    def check(self, name: str) -> Check:
        (check,) = [check for check in self.keeper.health().checks if check.name == name]
        return check

    async def until(self, condition: Callable[[], bool]) -> None:
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
            node.keeper.draining = True
            await node.pool.close()
            node.backend.bury_all()
            await node.backend.close()
    finally:
        table.close()


@asynccontextmanager
async def under_test(node: Node, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Run the self-test, without pauses, while the block runs."""
    monkeypatch.setattr(keeper_module, "PROBE_PAUSE_S", 0.0)
    monkeypatch.setattr(keeper_module, "PROBE_SECOND_S", 0.0)
    monkeypatch.setattr(keeper_module, "PROBE_EVERY_S", 0.005)
    monkeypatch.setattr(keeper_module, "FREEZE_WITHIN_S", 0.05)
    async with asyncio.TaskGroup() as group:
        loop = group.create_task(node.keeper.probe_loop("sha256:00", 65534))
        yield
        loop.cancel()


@asynccontextmanager
async def under_watch(node: Node, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Look after the loop, at each of its turns, while the block runs."""
    monkeypatch.setattr(keeper_module, "LAG_EVERY_S", 0.0)
    async with asyncio.TaskGroup() as group:
        watch = group.create_task(node.keeper.watch_loop())
        yield
        watch.cancel()


def refuse(_self: FakeContainer) -> None:
    raise OSError(30, "Read-only file system")


async def test_where_the_kernel_freezes_the_self_test_says_so_and_idle_containers_are_frozen(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    async with running(tmp_path) as node, under_test(node, monkeypatch):
        await node.until(lambda: "took" in node.freezing().detail)
        assert node.keeper.freezing_works
        await node.call()
        await node.until(lambda: node.states() == [ContainerState.FROZEN])
    assert [line for line in caplog.messages if "containers can be frozen" in line]


@pytest.mark.parametrize("how", ["refuses", "does not obey"])
async def test_where_it_does_not_the_node_says_so_and_the_second_call_is_warm(tmp_path, monkeypatch, caplog, how):
    async with running(tmp_path) as node:
        with pytest.MonkeyPatch.context() as kernel:
            kernel.setattr(FakeContainer, "freeze", refuse if how == "refuses" else lambda _self: None)
            async with under_test(node, monkeypatch):
                await node.until(lambda: not node.freezing().ok)
                assert [await node.call() for _ in range(3)] == [StartKind.COLD, StartKind.WARM, StartKind.WARM]
                assert node.states() == [ContainerState.WARM]
                assert node.failures == 0, "the pool goes on trying what the self-test found not to work"
                assert not node.keeper.freezing_works
                assert not node.keeper.health().ok
                assert node.keeper.ready().ok, "it takes work all the same"
                node.pool.machine.check_invariants()
                kernel.undo()
                await node.until(lambda: node.freezing().ok)  # somebody has mended it
                await node.until(lambda: node.states() == [ContainerState.FROZEN])
                assert await node.call() is StartKind.FROZEN
                node.pool.machine.check_invariants()
    assert len([line for line in caplog.messages if "cannot be frozen" in line and "self-test" in line]) == 1


async def test_a_single_container_that_cannot_be_frozen_stays_warm_and_makes_the_node_test_itself(tmp_path):
    async with running(tmp_path) as node:
        with pytest.MonkeyPatch.context() as kernel:
            kernel.setattr(FakeContainer, "freeze", refuse)
            await node.call()
            await node.until(lambda: node.failures == 1 and node.states() == [ContainerState.WARM])
            for _ in range(100):
                await asyncio.sleep(0)
            assert node.failures == 1, "it is tried again and again"
            assert await node.call() is StartKind.WARM
        await node.until(lambda: node.states() == [ContainerState.WARM])
        await node.call()
        await node.until(lambda: node.states() == [ContainerState.FROZEN])


async def test_a_test_whose_error_says_nothing_is_told_of_by_the_errors_name(tmp_path, monkeypatch):
    async def too_late(*_arguments: object, **_named: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(Lease, "request", too_late)
    async with running(tmp_path) as node, under_test(node, monkeypatch):
        await node.until(lambda: "TimeoutError" in node.keeper.health().checks[0].detail)


async def test_containers_that_do_not_go_are_told_of_and_the_node_takes_work_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(keeper_module, "REMOVED_WITHIN_S", 0.0)
    monkeypatch.setattr("pool.operations.REMOVE_RETRY_S", (0.01, 0.01))
    async with running(tmp_path) as node:
        await node.call()
        stuck = node.backend.hold("remove")
        node.pool.retire(KEY.action, revision=None)
        await stuck.reached.wait()
        (check,) = [check for check in node.keeper.health().checks if check.name == "removals"]
        assert not check.ok
        assert "1 containers, 256 MiB" in check.detail
        assert "removals" not in [check.name for check in node.keeper.ready().checks]
        stuck.release()
        await node.until(lambda: not node.pool.containers())
        assert [check.ok for check in node.keeper.health().checks if check.name == "removals"] == [True]


async def test_a_call_whose_container_was_frozen_by_hand_is_thawed(tmp_path):
    async with running(tmp_path) as node:
        node.pool.freezing_works(works=False)
        await node.call()
        (container,) = node.backend.containers.values()
        container.freeze()
        async with asyncio.TaskGroup() as calls:
            call = calls.create_task(node.call())
            await node.until(lambda: node.states() == [ContainerState.BUSY])
            for _ in range(100):
                await asyncio.sleep(0)
            assert not call.done()
            node.pool.thaw_held()
        assert call.result() is StartKind.WARM


async def test_the_watch_thaws_what_stands_still_under_a_call(tmp_path, monkeypatch):
    async with running(tmp_path) as node:
        node.pool.freezing_works(works=False)
        await node.call()
        (container,) = node.backend.containers.values()
        container.freeze()
        async with under_watch(node, monkeypatch):
            assert await node.call() is StartKind.WARM


async def test_a_test_of_long_ago_says_nothing_about_now(tmp_path, monkeypatch):
    async with running(tmp_path) as node:
        assert not node.keeper.ready().ok, "before the first test has ended"
        async with under_test(node, monkeypatch):
            await node.until(lambda: node.keeper.health().ok)
        assert node.keeper.ready().ok
        monkeypatch.setattr(keeper_module, "PROBE_GOOD_FOR_S", 0.0)
        assert "no test activation ended" in node.check("self-test").detail
        assert not node.keeper.health().ok
        assert not node.keeper.ready().ok
    assert keeper_module.PROBE_EVERY_S + keeper_module.PROBE_DEADLINE_S < 30.0, "there is news before the last is too old"


async def test_an_engine_that_does_not_answer_is_neither_well_nor_ready(tmp_path, monkeypatch):
    async with running(tmp_path) as node, under_test(node, monkeypatch):
        await node.until(lambda: node.check("self-test").ok)
        node.engine = Check(name="engine", ok=False, detail="it does not answer")
        assert not node.keeper.health().ok
        assert not node.keeper.ready().ok


async def test_a_container_that_answers_something_else_than_it_was_asked_is_no_health(tmp_path, monkeypatch):
    async with running(tmp_path) as node, under_test(node, monkeypatch):
        node.backend.action = lambda _path, _body: Answer(body=b'{"echo": -1}')
        await node.until(lambda: "/run answered 200" in node.check("self-test").detail)
        assert not node.check("self-test").ok


async def test_a_test_without_room_says_nothing_while_calls_run_and_is_no_health_where_none_does(tmp_path, monkeypatch):
    async with running(tmp_path) as node:
        probe_once = node.keeper._probe_once
        deadline = asyncio.get_running_loop().time() + 10
        async with AsyncExitStack() as stack:
            lease = await stack.enter_async_context(node.pool.lease(ActivationId("b" * 32), KEY, facts=b"{}", deadline=deadline))

            async def no_room(*_: object) -> StartKind:
                raise WaitedTooLong

            monkeypatch.setattr(node.keeper, "_probe_once", no_room)
            async with under_test(node, monkeypatch):
                await node.until(lambda: node.check("self-test").ok)
                assert "the pool is full" in node.check("self-test").detail
                lease.clean = False
                await stack.aclose()
                await node.until(lambda: not node.check("self-test").ok)
                monkeypatch.setattr(node.keeper, "_probe_once", probe_once)
                await node.until(lambda: node.check("self-test").ok)


async def test_a_loop_that_was_late_is_neither_well_nor_ready(tmp_path, monkeypatch):
    seen: list[tuple[bool, bool]] = []

    async with running(tmp_path) as node, under_test(node, monkeypatch):
        await node.until(lambda: node.check("self-test").ok)

        def note(late_s: float) -> None:
            if late_s >= 0.25:
                seen.append((node.check("event-loop").ok, node.keeper.ready().ok))

        node.lag_listeners.append(note)
        async with under_watch(node, monkeypatch):
            await asyncio.sleep(0)
            time.sleep(0.3)  # holds the loop: this is what is tried
            await node.until(lambda: bool(seen))
            await node.until(lambda: node.check("event-loop").ok)
    assert set(seen) == {(False, False)}


async def test_the_watchdog_is_fed_while_tests_end_well_and_where_a_restart_would_mend_nothing(tmp_path, monkeypatch):
    async with running(tmp_path) as node:

        async def is_fed() -> bool:
            before = node.manager.fed
            for _ in range(100):
                await asyncio.sleep(0)
            return node.manager.fed > before

        async with under_test(node, monkeypatch), under_watch(node, monkeypatch):
            await node.until(lambda: node.check("self-test").ok)
            assert await is_fed()
            monkeypatch.setattr(keeper_module, "RESTART_AFTER_S", 0.0)
            await is_fed()
            assert not await is_fed(), "no test has ended well for too long"
            node.engine = Check(name="engine", ok=False)
            assert await is_fed(), "an engine that does not answer is not mended by a restart"
            node.engine = Check(name="engine", ok=True)
            await is_fed()
            node.keeper.draining = True
            assert await is_fed(), "calls that take long are to end"


async def test_the_self_tests_own_freeze_is_left_alone(tmp_path):
    async with running(tmp_path) as node:
        deadline = asyncio.get_running_loop().time() + 10
        async with node.pool.lease(ActivationId("b" * 32), KEY, facts=b"{}", deadline=deadline) as lease:
            await lease.request(b"/init", b"{}", deadline=deadline, limit=100)
            lease.initialised()
            await _check_while_the_watch_looks(node, lease)
            lease.clean = True


async def _check_while_the_watch_looks(node: Node, lease: Lease) -> None:
    (container,) = node.backend.containers.values()
    frozen = []

    def freeze() -> None:
        container.frozen = True
        node.pool.thaw_held()
        frozen.append(container.frozen)

    container.freeze = freeze  # type: ignore[method-assign]
    await lease.check_freezing(1.0)
    assert frozen == [True]
    assert not container.frozen


IMAGE = Image(image_id="sha256:77", logs=LogTransport.PIPE, server_keep_alive_s=86400.0)


async def test_the_self_test_runs_on_the_default_python_unless_it_is_not_here_or_the_pool_is_too_small(caplog):
    manifest, backend = Manifest.load(), FakeBackend()
    (python,) = [each for each in manifest.runtimes.values() if each.family == "python" and each.default]
    backend.images[python.image] = IMAGE
    assert await find_test_image(manifest, backend, memory_mib=2 * keeper_module.PROBE_MEMORY_MIB) == "sha256:77"
    assert await find_test_image(manifest, backend, memory_mib=2 * keeper_module.PROBE_MEMORY_MIB - 1) is None
    assert await find_test_image(Manifest.parse(b'{"runtimes": {}}'), backend, memory_mib=4096) is None
    assert caplog.messages == []
    backend.images = {"another": IMAGE}
    assert await find_test_image(manifest, backend, memory_mib=4096) is None
    (told,) = caplog.messages
    assert python.image in told
    assert "scripts/images" in told
    await backend.close()


@pytest.mark.parametrize("disk", ["state-disk", "engine-disk"])
async def test_a_full_disk_is_no_health_and_the_node_takes_work_as_long_as_the_journal_has_room(tmp_path, disk):
    async with running(tmp_path) as node:
        node.stores = [Check(name="journal", ok=True), Check(name=disk, ok=False, detail="database or disk is full")]
        assert disk in [check.name for check in node.keeper.health().checks if not check.ok]
        assert {"journal", disk} & {check.name for check in node.keeper.ready().checks} == {"journal"}
