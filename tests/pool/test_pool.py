"""The shell on the fake backend: what callers get, and what is left however they are interrupted."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop

from pool.errors import ConnectionLost, EngineError, EngineUnavailable, PoolClosed, ThawFailed, WaitedTooLong
from pool.fake_server import Answer, Misbehaviour, echo
from pool.model import ReuseKey, StartKind
from tests.pool.pool_bench import KEY, SPEC, S, bench, key, refuse


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
        (stem,) = b.backend.containers.values()
        assert stem.requests == ["/"], "it has served once before it was frozen: what it imports and touches is there"
        assert await b.call() is StartKind.STEM
        assert stem.requests == ["/", "/init", "/run"]
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


async def test_container_that_cannot_be_thawed_is_replaced_and_has_run_nothing(tmp_path: Path):
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
    async with bench(tmp_path, freeze_grace_s=0.0) as b:
        await b.call()
        await b.until(lambda: b.states() == [S.FROZEN])
        (container,) = b.backend.containers.values()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(container), "thaw", refuse)
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


@pytest.mark.parametrize("end", ["frozen", "retired", "closed"])
async def test_cpu_after_the_reply_is_booked_also_where_no_call_follows(tmp_path: Path, end: str):
    """Work after the answer is not free: neither up to the freeze, nor where the container goes or the daemon ends before it."""
    async with bench(tmp_path, freeze_grace_s=0.01 if end == "frozen" else 10.0) as b:
        async with b.lease() as lease:
            deadline = asyncio.get_running_loop().time() + 5
            await lease.request(b"/init", b"{}", deadline=deadline, limit=100)
            lease.initialised()
            await lease.request(b"/run", b"{}", deadline=deadline, limit=100)
            lease.clean = True
            lease.read_usage()
            first = lease.activation
        (container,) = b.backend.containers.values()
        container.advance_cpu(777)
        assert b.tails == []
        if end == "frozen":
            await b.until(lambda: b.states() == [S.FROZEN])
        elif end == "retired":
            b.pool.retire(KEY.action, revision=None)
            await b.until(lambda: b.states() == [])
        else:
            await b.pool.close()
        assert b.tails == [(first, 777)]


async def test_what_idles_at_the_end_stands_still_until_the_next_daemon_adopts_it(tmp_path: Path):
    async with bench(tmp_path, freeze_grace_s=10.0) as b:
        await b.call()
        (container,) = b.backend.containers.values()
        assert not container.frozen
        await b.pool.close()
        assert container.frozen


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
