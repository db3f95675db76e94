"""Calls from inside containers: who waits for whom, and who is refused so that the others go on."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from invoker_site import Site, action, site

from invoker import nesting
from invoker.activation import Activation
from invoker.errors import NestedWouldWait
from invoker.invocation import Call
from invoker.model import Identity, Limits, Namespace
from invoker.nesting import find_progressing
from pool.errors import PoolClosed
from pool.fake_server import Answer, Misbehaviour, echo
from pool.model import ActivationId, ContainerId


def progressing(leases: dict[str, str], calls: dict[str, str]) -> set[str]:
    """Leases by container, `a b` each; callers by activation."""
    return set(
        find_progressing(
            {ContainerId(name): [ActivationId(each) for each in held.split()] for name, held in leases.items()},
            {ActivationId(name): ContainerId(origin) for name, origin in calls.items()},
        )
    )


@pytest.mark.parametrize(
    ("leases", "calls", "expected"),
    [
        ({"A": "a"}, {}, {"A"}),
        ({"A": "a"}, {"n": "A"}, set()),
        ({"A": "a", "B": "b"}, {"n": "A"}, {"B"}),
        ({"A": "a", "B": "n"}, {"n": "A"}, {"A", "B"}),
        ({"A": "a", "B": "n"}, {"n": "A", "m": "B"}, set()),
        ({"A": "a", "B": "n", "C": "m"}, {"n": "A", "m": "B"}, {"A", "B", "C"}),
        ({"A": "a", "B": "n"}, {"n": "A", "m": "A"}, {"A", "B"}),
        ({"A": "a1 a2"}, {"n": "A"}, set()),
    ],
)
def test_who_will_come_free(leases: dict[str, str], calls: dict[str, str], expected: set[str]):
    assert progressing(leases, calls) == expected


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(nesting, "LOOK_S", 0.02)


class Caller:
    """Plays actions `outer...` that call `inner` from inside and answer when that has ended."""

    def __init__(self, s: Site) -> None:
        self.s = s
        self.release: dict[str, asyncio.Event] = {}
        s.backend.action = self._answer

    def _answer(self, path: str, body: Any) -> Answer:
        return Answer(after_s=3600.0) if path == "/run" and "outer" in body["action_name"] else echo(path, body)

    async def running(self, group: asyncio.TaskGroup, name: str, memory: int) -> ContainerId:
        """Begin an outer action; returns its container once it runs."""
        call = self.s.call(action(name, limits=Limits(memory=memory)))
        group.create_task(self.s.invoker.invoke(call))
        while True:
            for container in self.s.pool.containers():
                if container.leases and container.key is not None and container.key.action == f"anna/{name}":
                    ran = self.s.backend.containers[container.container_id].requests
                    if container.state.value == "busy" or "/run" in ran:
                        return container.container_id
            await asyncio.sleep(0.001)

    async def end(self) -> None:
        self.s.invoker.cancel_all()
        await self.s.invoker.wait_idle()


async def test_a_call_for_which_no_memory_can_come_free_is_refused(tmp_path: Path):
    async with site(tmp_path, memory_mib=256) as s, asyncio.TaskGroup() as group:
        caller = Caller(s)
        outer = await caller.running(group, "outer", 256)
        with pytest.raises(NestedWouldWait):
            await s.invoker.invoke(s.call(action("inner"), origin=outer))
        await caller.end()
        assert [each.meter.outcome for each in s.finished] == ["nested-would-wait", "cancelled"]


async def test_a_call_waits_while_something_else_runs_that_will_come_free(tmp_path: Path):
    async with site(tmp_path, memory_mib=384) as s, asyncio.TaskGroup() as group:
        caller = Caller(s)
        outer = await caller.running(group, "outer", 256)
        await caller.running(group, "outer-other", 128)
        inner = group.create_task(s.invoker.invoke(s.call(action("inner", limits=Limits(memory=128)), origin=outer)))
        looks: list[set[ActivationId]] = []
        look = s.invoker._long_way._nesting._find_stuck
        s.invoker._long_way._nesting._find_stuck = lambda: (looks.append(look()), looks[-1])[1]  # type: ignore[method-assign]
        while len(looks) < 5:
            await asyncio.sleep(nesting.LOOK_S)
        assert looks == [set()] * len(looks)
        assert not inner.done()
        (other,) = [each for each in s.invoker._in_flight if each.call.action.path == "outer-other"]
        s.invoker.cancel(other.activation_id)
        done = await inner
        assert isinstance(done, Activation)
        assert done.meter.outcome == "ok"
        await caller.end()


async def test_who_has_had_its_answer_is_not_taken_to_wait_and_nobody_is_refused_for_it(tmp_path: Path):
    async with site(tmp_path, memory_mib=768) as s, asyncio.TaskGroup() as group:
        caller = Caller(s)
        answered = await caller.running(group, "outer-answered", 256)
        waits = await caller.running(group, "outer", 256)
        await s.invoker.invoke(s.call(action("inner"), origin=answered))
        looks: list[set[ActivationId]] = []
        look = s.invoker._long_way._nesting._find_stuck
        s.invoker._long_way._nesting._find_stuck = lambda: (looks.append(look()), looks[-1])[1]  # type: ignore[method-assign]
        assert s.invoker._long_way._nesting._timer is None, "nothing to look at"
        large = group.create_task(s.invoker.invoke(s.call(action("large", limits=Limits(memory=512)), origin=waits)))
        while len(looks) < 5:
            await asyncio.sleep(nesting.LOOK_S)
        assert looks == [set()] * len(looks), "the one that computes will make room"
        (computes,) = [each for each in s.invoker._in_flight if each.call.action.path == "outer-answered"]
        s.invoker.cancel(computes.activation_id)
        done = await large
        assert isinstance(done, Activation)
        assert done.meter.outcome == "ok"
        await caller.end()


async def test_who_may_have_no_more_containers_is_refused_though_others_run_on(tmp_path: Path):
    """What they free is not for him, so that he would wait for himself."""
    bert = Namespace(name="bert", uuid="b", key_hash="", uid=2002, gid=2002, created_ms=0)
    async with site(tmp_path, memory_mib=1024, max_containers_per_user=1) as s, asyncio.TaskGroup() as group:
        caller = Caller(s)
        outer = await caller.running(group, "outer", 256)
        other = s.call(action("outer", namespace="bert"), identity=Identity(namespace=bert, api_key="b:k"))
        group.create_task(s.invoker.invoke(other))
        while len(s.invoker._in_flight) < 2 or s.pool.statistics().waiting:
            await asyncio.sleep(0)
        with pytest.raises(NestedWouldWait):
            await s.invoker.invoke(s.call(action("inner"), origin=outer))
        await caller.end()


async def test_it_goes_before_what_nobody_holds_a_container_for(tmp_path: Path):
    async with site(tmp_path, memory_mib=384) as s, asyncio.TaskGroup() as group:
        caller = Caller(s)
        outer = await caller.running(group, "outer", 256)
        await caller.running(group, "outer-other", 128)
        first = group.create_task(s.invoker.invoke(s.call(action("new", limits=Limits(memory=128)))))
        while not s.pool.statistics().waiting:
            await asyncio.sleep(0)
        inner = group.create_task(s.invoker.invoke(s.call(action("inner", limits=Limits(memory=128)), origin=outer)))
        while s.pool.statistics().waiting < 2:
            await asyncio.sleep(0)
        (other,) = [each for each in s.invoker._in_flight if each.call.action.path == "outer-other"]
        s.invoker.cancel(other.activation_id)
        await inner
        await first
        ended = [each.path for each in s.finished]
        assert ended.index("anna/inner") < ended.index("anna/new")
        await caller.end()


async def test_a_drain_goes_on_serving_what_is_in_flight_and_nothing_new(tmp_path: Path):
    async with site(tmp_path, memory_mib=1024) as s, asyncio.TaskGroup() as group:
        caller = Caller(s)
        outer = await caller.running(group, "outer", 256)
        s.invoker.refuse()
        done = await s.invoker.invoke(s.call(action("inner"), origin=outer))
        assert isinstance(done, Activation)
        assert done.meter.outcome == "ok"
        for origin in (None, ContainerId("somebody-else")):
            with pytest.raises(PoolClosed):
                await s.invoker.invoke(s.call(action("inner"), origin=origin))
        await caller.end()


class Recursion:
    """Plays an action that calls itself from inside, `levels` deep, waits for the answer, and tells what became of it."""

    def __init__(self, s: Site, group: asyncio.TaskGroup) -> None:
        self.s = s
        self.group = group
        #: What each nested call came to, in the order they ended.
        self.inner: list[str] = []
        s.backend.action = self._answer
        s.config = replace(s.config, pool=replace(s.config.pool, max_wait_s=25.0))

    def call(self, levels: int, origin: ContainerId | None = None) -> Call:
        return self.s.call(action("recurse"), payload=b'{"levels":%d}' % levels, origin=origin, wait_s=25.0)

    def _answer(self, path: str, body: Any) -> Answer | Misbehaviour:
        if path != "/run" or not body["value"].get("levels"):
            return echo(path, body)
        inner: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.group.create_task(self._go_deeper(body["value"]["levels"] - 1, ActivationId(body["activation_id"]), inner))
        return Answer(until=inner)

    async def _go_deeper(self, levels: int, activation: ActivationId, ended: asyncio.Future[None]) -> None:
        origin = self.s.pool.machine.holder(activation)
        try:
            done = await self.s.invoker.invoke(self.call(levels, origin))
            assert isinstance(done, Activation)
            self.inner.append(done.meter.outcome)
        except NestedWouldWait as error:
            self.inner.append(error.code)
        ended.set_result(None)


@pytest.mark.parametrize(
    ("trees", "levels", "containers"),
    [(1, 5, 6), (1, 5, 3), (1, 1, 1), (3, 1, 2), (6, 3, 4), (8, 4, 2)],
)
async def test_however_deep_and_many_calls_nest_all_of_them_end(tmp_path: Path, trees: int, levels: int, containers: int):
    """Depth times trees is more than there are containers: some inner calls are refused, every outer one goes on to its end."""
    async with site(tmp_path, memory_mib=256 * containers) as s, asyncio.TaskGroup() as group:
        recursion = Recursion(s, group)
        tops = await asyncio.gather(*(s.invoker.invoke(recursion.call(levels)) for _ in range(trees)))
        assert [done.meter.outcome for done in tops if isinstance(done, Activation)] == ["ok"] * trees
        assert set(recursion.inner) <= {"ok", "nested-would-wait"}
        assert ("nested-would-wait" in recursion.inner) == (trees * (levels + 1) > containers), recursion.inner
        assert len(s.finished) == trees + len(recursion.inner), "each has a record, the refused ones too"
        assert not any(container.leases for container in s.pool.containers())
        assert s.pool.statistics().waiting == 0
        s.pool.machine.check_invariants()


async def test_a_refused_call_lets_the_others_of_another_user_wait_no_longer(tmp_path: Path):
    """A recursion that can go no deeper holds all the memory: who called meanwhile is served when it has unwound."""
    async with site(tmp_path, memory_mib=768) as s, asyncio.TaskGroup() as group:
        recursion = Recursion(s, group)
        top = group.create_task(s.invoker.invoke(recursion.call(5)))
        while s.pool.statistics().waiting < 1:
            await asyncio.sleep(0)
        bystander = Namespace(name="bert", uuid="b", key_hash="", uid=2002, gid=2002, created_ms=0)
        done = await s.invoker.invoke(
            s.call(action("other", namespace="bert"), identity=Identity(namespace=bystander, api_key="b:k"), wait_s=25.0)
        )
        assert isinstance(done, Activation)
        assert done.meter.outcome == "ok"
        await top
