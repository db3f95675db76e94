"""Calls from inside containers: who waits for whom, and who is refused so that the others go on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from invoker_site import Site, action, site

from invoker import nesting
from invoker.errors import NestedWouldWait
from invoker.model import Activation, Limits
from invoker.nesting import find_progressing
from pool.errors import PoolClosed
from pool.fake_server import Answer, echo
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
        look = s.invoker._nesting._find_stuck
        s.invoker._nesting._find_stuck = lambda: (looks.append(look()), looks[-1])[1]  # type: ignore[method-assign]
        while len(looks) < 5:
            await asyncio.sleep(nesting.LOOK_S)
        assert looks == [set()] * len(looks)
        assert not inner.done()
        (other,) = [each for each in s.invoker._tickets.values() if each.call.action.path == "outer-other"]
        s.invoker.cancel(other.activation_id)
        done = await inner
        assert isinstance(done, Activation)
        assert done.meter.outcome == "ok"
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
        (other,) = [each for each in s.invoker._tickets.values() if each.call.action.path == "outer-other"]
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
