"""A machine to be driven by hand, for the tests of the machine and of its launcher."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from pool import events as ev
from pool.machine import Machine
from pool.model import ActivationId, ContainerId, ContainerSpec, ContainerState, ReuseKey
from pool.settings import PoolSettings


def spec(memory_mib: int = 256, namespace: str = "anna", uid: int = 1001) -> ContainerSpec:
    return ContainerSpec(namespace=namespace, uid=uid, gid=uid, image="sha256:00", kind="python:3", memory_mib=memory_mib)


def key(
    name: str = "hello",
    *,
    revision: str = "r1",
    concurrency: int = 1,
    memory_mib: int = 256,
    namespace: str = "anna",
    uid: int = 1001,
) -> ReuseKey:
    return ReuseKey(
        spec=spec(memory_mib, namespace, uid), action=f"{namespace}/{name}", revision=revision, concurrency=concurrency
    )


class Driver:
    """A machine and the commands that were not carried out yet; checks the invariants after each event."""

    def __init__(self, **changes: object) -> None:
        counter = itertools.count(1)
        self.observed: list[tuple[ContainerState | None, ContainerState | None]] = []
        values = {"memory_mib": 2048, **changes}
        self.machine = Machine(
            PoolSettings(**values),
            name=lambda: ContainerId(f"c{next(counter)}"),
            observer=lambda _c, before, after, _s: self.observed.append((before, after)),
        )
        self.now = 0.0

    def feed(self, event: ev.Event) -> list[ev.Command]:
        commands = self.machine.handle(event, self.now)
        self.machine.check_invariants()
        return commands

    def arrive(self, name: str, a_key: ReuseKey | None = None) -> list[ev.Command]:
        return self.feed(ev.Arrived(ActivationId(name), a_key or key()))

    def state(self, container: str) -> ContainerState | None:
        found = self.machine.books.containers.get(ContainerId(container))
        return found.state if found else None

    def warm(self, name: str = "a1", a_key: ReuseKey | None = None) -> ContainerId:
        """Bring up one WARM container by a whole cold activation."""
        commands = self.arrive(name, a_key)
        container = only(commands, ev.Create).container
        self.feed(ev.Created(container, exercised=False))
        self.feed(ev.Initialised(ActivationId(name)))
        self.feed(ev.Ended(ActivationId(name), True))
        return container

    def come_up(self, container: ContainerId) -> list[ev.Command]:
        """A container that nobody waits for: it is exercised, then it is there."""
        commands = self.feed(ev.Created(container, exercised=False))
        if ev.Exercise(container) in commands:
            commands = self.feed(ev.Created(container, exercised=True))
        return commands

    def tick(self, seconds: float) -> list[ev.Command]:
        self.now += seconds
        return self.feed(ev.Tick())


def only(commands: Iterable[ev.Command], kind: type) -> ev.Command:
    (found,) = [command for command in commands if isinstance(command, kind)]
    return found


def kinds(commands: Iterable[ev.Command]) -> list[str]:
    return [type(command).__name__ for command in commands]
