"""What several leases on one container share, and what each has for itself."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
import pytest

from pool.connection import Response
from pool.errors import ConnectionLost, ContainerStartFailed, ContainerUnreachable, ThawFailed
from pool.fake import FakeBackend
from pool.fake_server import Answer, Misbehaviour, echo
from pool.hooks import PoolHooks
from pool.lease import Lease
from pool.model import ActivationId, ContainerSpec, MemoryKill, PeakQuality, ReuseKey
from pool.pool import Pool
from pool.settings import PoolSettings
from pool.table import ContainerTable

SPEC = ContainerSpec(namespace="anna", uid=1001, gid=1001, image="sha256:00", kind="nodejs:20", memory_mib=256, cpu_millis=500)
KEY = ReuseKey(spec=SPEC, action="anna/a", revision="r", concurrency=3)


class Bench:
    """A pool on a fake engine."""

    def __init__(self, pool: Pool, backend: FakeBackend) -> None:
        self.pool = pool
        self.backend = backend
        self.tails: list[tuple[str, int]] = []

    @property
    def container(self):
        (container,) = self.backend.containers.values()
        return container

    @asynccontextmanager
    async def lease(self, name: str):
        loop = asyncio.get_running_loop()
        async with self.pool.lease(ActivationId(name), KEY, facts=b"", deadline=loop.time() + 10) as lease:
            if lease.needs_init:
                await self.request(lease, "/init")
                lease.initialised()
            yield lease

    async def request(self, lease: Lease, path: str = "/run", value: object = None, deadline_s: float = 10.0):
        body = msgspec.json.encode({"value": value})
        deadline = asyncio.get_running_loop().time() + deadline_s
        return await lease.request(path.encode(), body, deadline=deadline, limit=1000)


@pytest.fixture
async def bench(tmp_path):
    backend = FakeBackend()
    table = ContainerTable.open(tmp_path / "table", "boot")
    try:
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            hooks = PoolHooks(tail=lambda activation, _container, us: bench.tails.append((activation, us)))
            bench = Bench(
                Pool(backend, PoolSettings(memory_mib=256, freeze_grace_s=10.0), node="n", group=group, table=table, hooks=hooks),
                backend,
            )
            yield bench
            await bench.pool.close()
    finally:
        backend.bury_all()
        await backend.close()
        table.close()


async def test_each_of_several_leases_has_a_connection_of_its_own_and_they_are_kept(bench):
    bench.backend.action = lambda path, body: (
        Answer(after_s=0.05, body=msgspec.json.encode(body["value"])) if path == "/run" else echo(path, body)
    )
    for _ in range(2):
        async with AsyncExitStack() as stack:
            leases = [await stack.enter_async_context(bench.lease(name)) for name in ("a", "b", "c")]
            async with asyncio.TaskGroup() as group:
                answers = [group.create_task(bench.request(lease, value={"n": n})) for n, lease in enumerate(leases)]
            assert [msgspec.json.decode(each.result().body) for each in answers] == [{"n": 0}, {"n": 1}, {"n": 2}]
            for lease in leases:
                lease.clean = True
                lease.read_usage()
    assert bench.backend.calls["dial"] == 3
    assert bench.backend.calls["create"] == 1


async def test_cpu_time_is_shared_by_those_that_run_and_adds_up(bench):
    async with bench.lease("a") as a:
        start = bench.container.cpu
        bench.container.advance_cpu(100)  # a alone
        async with bench.lease("b") as b:
            bench.container.advance_cpu(301)  # two of them
            used = [b.read_usage()]
            b.clean = True
        bench.container.advance_cpu(50)  # a alone
        used.append(a.read_usage())
        a.clean = True
    assert [each.is_shared for each in used] == [True, True]
    assert [each.cpu_us for each in used] in ([150, 301], [151, 300])
    assert sum(each.cpu_us for each in used) == bench.container.cpu - start
    bench.container.advance_cpu(7)
    async with bench.lease("c") as c:
        c.clean = True
        alone = c.read_usage()
    assert (alone.cpu_us, alone.is_shared) == (0, False)
    assert [us for _, us in bench.tails] == [7]


async def test_what_an_activation_that_went_wrong_goes_on_to_use_beside_others_is_its_tail_and_not_theirs(bench):
    async with bench.lease("a") as a:
        start = bench.container.cpu
        async with bench.lease("b") as b:
            await bench.request(b)
            bench.container.advance_cpu(200)  # two of them
            used = [b.read_usage().cpu_us]  # its time is up
        bench.container.advance_cpu(1000)  # two of them, as far as anybody can tell
        used.append(a.read_usage().cpu_us)
        a.clean = True
        bench.container.advance_cpu(7)  # nobody but what has no end
        end = bench.container.cpu
    async with asyncio.timeout(10):
        while bench.backend.containers:
            await asyncio.sleep(0)
    assert used == [100, 600]
    assert bench.tails == [("b", 500), ("b", 7)]
    assert sum(used) + sum(us for _, us in bench.tails) == end - start


async def test_a_container_in_which_one_went_wrong_takes_no_more_though_its_lease_has_not_ended(bench):
    async with bench.lease("a") as a, bench.lease("b") as b:
        assert bench.pool.is_ready(KEY)
        await bench.request(b)
        b.read_usage()
        assert bench.pool.take(ActivationId("c"), KEY) is None
        a.clean = True
        a.read_usage()


@pytest.mark.parametrize(("needs_init", "error"), [(False, ContainerUnreachable), (True, ConnectionLost)])
async def test_what_could_not_even_be_sent_to_a_container_with_its_code_may_be_tried_in_another(
    bench, monkeypatch, needs_init, error
):
    async with bench.lease("a") as a:
        a.clean = True
        await bench.request(a)
    async with bench.lease("b") as lease:
        connection = lease.connection()
        assert connection is not None

        def broken(*_: object, **__: object) -> None:
            raise ConnectionLost("the container closed the connection: Broken pipe")

        monkeypatch.setattr(connection, "send_for", broken)
        lease.needs_init = needs_init
        with pytest.raises(ConnectionLost if needs_init else ThawFailed) as caught:
            lease.send(connection, asyncio.get_running_loop().create_future(), b"/run", b"{}", deadline=0.0, limit=10)
        assert type(caught.value) is error


async def test_a_container_that_has_ended_before_it_was_dialled_is_told_as_such(bench):
    loop = asyncio.get_running_loop()
    async with bench.pool.lease(ActivationId("a"), KEY, facts=b"", deadline=loop.time() + 10) as lease:
        bench.container.die()
        with pytest.raises(ContainerStartFailed, match="ended before it could serve"):
            await bench.request(lease, "/init")


@pytest.mark.parametrize(("needs_init", "failure"), [(True, ContainerStartFailed), (False, ContainerUnreachable)])
async def test_an_attempt_to_dial_that_takes_too_long_is_not_the_actions_time_limit(bench, needs_init, failure):
    async with bench.lease("a") as lease:
        lease._live.close_connections()
        lease.needs_init = needs_init
        bench.backend.fail_next("dial", TimeoutError())
        with pytest.raises(failure):
            await bench.request(lease)


@pytest.mark.parametrize(
    ("peak_mib", "clean", "quality", "seen"),
    [
        (247, True, PeakQuality.EXACT, 0),  # no step of the kernel's bridges what is left to the limit of 256
        (248, True, PeakQuality.EXACT, 1),
        (20, False, PeakQuality.EXACT, 1),
        (20, True, PeakQuality.SAMPLED, 1),
        (248, True, PeakQuality.LIFETIME, 1),
    ],
)
async def test_kills_for_memory_are_looked_for_where_there_can_have_been_one(bench, peak_mib, clean, quality, seen):
    async with bench.lease("a") as a:
        container = bench.container
        container.oom_count = 1
        container.memory = msgspec.structs.replace(container.memory, peak=peak_mib << 20, peak_quality=quality)
        a.clean = clean
        assert a.read_usage().oom_kills == seen


@pytest.mark.parametrize(
    ("kills", "peak_mib", "quality", "overflowed", "kill"),
    [
        (0, 256, PeakQuality.EXACT, False, MemoryKill.NONE),
        (0, 256, PeakQuality.EXACT, True, MemoryKill.NONE),
        (1, 256, PeakQuality.EXACT, True, MemoryKill.OWN_LIMIT),
        (1, 248, PeakQuality.LIFETIME, False, MemoryKill.OWN_LIMIT),
        (1, 100, PeakQuality.EXACT, True, MemoryKill.ALL_TOGETHER),
        (1, 100, PeakQuality.LIFETIME, False, MemoryKill.ALL_TOGETHER),  # to all of the machine
        (1, 100, PeakQuality.SAMPLED, False, MemoryKill.OWN_LIMIT),
        (1, 100, PeakQuality.SAMPLED, True, MemoryKill.ALL_TOGETHER),
    ],
)
async def test_a_container_that_fell_to_all_together_is_told_from_one_that_met_its_own_limit(
    bench, kills, peak_mib, quality, overflowed, kill
):
    async with bench.lease("a") as lease:
        if overflowed:
            bench.pool.overflowed()
        container = bench.container
        container.oom_count = kills
        container.memory = msgspec.structs.replace(container.memory, peak=peak_mib << 20, peak_quality=quality)
        assert await lease.memory_kill(lease.read_usage()) is kill


@pytest.mark.parametrize("overflowed", [False, True])
async def test_where_the_counters_are_gone_the_wall_tells_for_whose_memory_it_was(bench, overflowed):
    async with bench.lease("a") as lease:
        assert await lease.memory_kill(None) is MemoryKill.NONE
        bench.container.oom_count = 1
        if overflowed:
            bench.pool.overflowed()
        assert await lease.memory_kill(None) is (MemoryKill.ALL_TOGETHER if overflowed else MemoryKill.OWN_LIMIT)


async def test_once_all_together_had_too_much_a_call_that_ends_well_looks_for_kills_too_and_only_that_one(bench):
    counted = []
    for kills in (1, 2):
        async with bench.lease("a") as lease:
            if kills == 1:
                bench.pool.overflowed()
            bench.container.oom_count = kills
            bench.container.memory = msgspec.structs.replace(bench.container.memory, peak=20 << 20)
            lease.clean = True
            counted.append(lease.read_usage().oom_kills)
    assert counted == [1, 0]


async def test_what_was_killed_in_an_idle_container_is_told_to_no_call(bench, monkeypatch):
    monkeypatch.setattr("pool.pool.KILL_TAKES_S", 0.0)
    async with bench.lease("a") as lease:
        lease.clean = True
        lease.read_usage()
    bench.pool.overflowed()
    bench.container.oom_count = 1
    await asyncio.sleep(0.01)  # the look is due at once: the loop has come to it by now
    async with bench.lease("b") as lease:
        assert lease.read_usage().oom_kills == 0


async def test_each_kill_for_memory_is_counted_once(bench):
    counted = []
    for kills in (1, 1, 3):
        async with bench.lease("a") as lease:
            bench.container.oom_count = kills
            bench.container.memory = msgspec.structs.replace(bench.container.memory, peak=256 << 20)
            lease.clean = True
            counted.append(lease.read_usage().oom_kills)
    assert counted == [1, 0, 2]


async def test_time_lost_to_the_cpu_limit_is_told_once_to_the_call_that_lost_it(bench):
    lost = []
    for total_us in (100, 100, 350):
        async with bench.lease("a") as lease:
            bench.container.throttled = total_us
            lease.clean = True
            lost.append(lease.read_usage().throttled_us)
    assert lost == [100, 0, 250]


async def test_one_that_fails_leaves_the_others_their_connections_and_the_container_goes_after_them(bench):
    bench.backend.action = lambda path, body: (
        Misbehaviour.CLOSE
        if path == "/run" and body["value"] == {"is": "bad"}
        else Answer(after_s=0.05)
        if path == "/run"
        else echo(path, body)
    )
    async with bench.lease("a") as a:
        async with asyncio.TaskGroup() as group:
            good = group.create_task(bench.request(a, value={"is": "good"}))
            with pytest.raises(ConnectionLost, match="closed the connection"):
                async with bench.lease("b") as b:
                    await bench.request(b, value={"is": "bad"})
        assert good.result().status == 200
        a.clean = True
        a.read_usage()
    while bench.backend.containers:
        await asyncio.sleep(0.001)


async def test_a_call_that_is_given_up_leaves_no_connection_on_which_its_answer_could_still_come(bench):
    bench.backend.action = lambda path, body: (
        Misbehaviour.HANG if path == "/run" and body["value"] == {"is": "slow"} else echo(path, body)
    )
    async with bench.lease("a") as a:
        await bench.request(a, value={"is": "quick"})
        async with bench.lease("b") as b, asyncio.TaskGroup() as group:
            first = group.create_task(bench.request(a, value={"is": "slow"}))
            second = group.create_task(bench.request(b, value={"is": "slow"}))
            while bench.container.requests.count("/run") < 3:
                await asyncio.sleep(0)
            assert len(bench.container.connections) == 2
            second.cancel()
            while len(bench.container.connections) > 1:
                await asyncio.sleep(0)
            assert not first.done()
            first.cancel()
        while bench.container.connections:
            await asyncio.sleep(0)
        assert (await bench.request(a, value={"is": "quick"})).status == 200, "on a new one"


async def test_what_the_runtime_says_of_its_lines_is_believed_as_far_as_it_are_two_counts(bench):
    async with bench.lease("a" * 32) as lease:
        lease.clean = True
        lease.logs.begin(lease.activation, limit_bytes=1000)
        lease.note_logs(Response())
        assert lease.log_frames is None, "it did not say"
        lease.note_logs(Response(logs="9" * 5000 + ",x"))
        assert lease.log_frames is None
        lease.note_logs(Response(logs="0,0"))
        assert lease.log_frames == 0
        lease.note_logs(Response(logs="3,7"))
        assert lease.log_frames == 3
        (said,) = lease.logs.end(lease.activation)
        assert "7 lines were lost" in said
