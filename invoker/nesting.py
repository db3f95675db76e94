"""Calls from inside containers: an action that waits for another one must not wait for what it holds itself.

A blocking call from a container waits for a container of its own while the caller keeps the one that it has. When the memory
is full of callers that all wait so, none can ever go on. `Nesting` knows who called whom, looks at it while such calls wait,
and refuses one, so that the others go on. While anything runs that waits for nobody, memory will come free, and where there is
room a container will be started by and by: none is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from invoker.errors import NestedWouldWait
from pool.model import ActivationId, ContainerId, ContainerState, ReuseKey
from pool.pool import Pool

#: Between two looks, s. A call is refused when two of them find it stuck.
LOOK_S = 0.5

_PASSING = frozenset({ContainerState.STARTING, ContainerState.ADOPTING, ContainerState.REMOVING, ContainerState.SUSPECT})


@dataclass(frozen=True, slots=True)
class NestedCall:
    """A blocking call from inside a container, in flight.

    Attributes:
        origin: the container that called.
        key: of the container that it needs.
    """

    origin: ContainerId
    key: ReuseKey


def find_progressing(
    leases: Mapping[ContainerId, Collection[ActivationId]], calls: Mapping[ActivationId, ContainerId]
) -> set[ContainerId]:
    """Tell which leased containers will come free by themselves, sooner or later.

    Those that wait for no call of theirs; and those that wait for one which runs in such a container.

    Args:
        leases: every container with a lease, and the activations in it.
        calls: nested calls in flight, and the containers that called.
    """
    holder = {activation: container for container, activations in leases.items() for activation in activations}
    waits_for: dict[ContainerId, list[ContainerId | None]] = {}
    for activation, origin in calls.items():
        waits_for.setdefault(origin, []).append(holder.get(activation))
    progressing = {container for container in leases if container not in waits_for}
    while True:
        more = {
            origin
            for origin, others in waits_for.items()
            if origin in leases and origin not in progressing and any(other in progressing for other in others)
        }
        if not more:
            return progressing
        progressing |= more


class Nesting:
    """The nested calls in flight.

    Args:
        pool: whose containers call and are called.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        #: In the order in which they came.
        self._calls: dict[ActivationId, NestedCall] = {}
        #: Found stuck by the last look.
        self._stuck: set[ActivationId] = set()
        self._timer: asyncio.TimerHandle | None = None

    def enter(self, activation: ActivationId, call: NestedCall) -> None:
        """A nested call wants a container."""
        self._calls[activation] = call
        if self._timer is None:
            self._timer = self._loop.call_later(LOOK_S, self._look)

    def leave(self, activation: ActivationId) -> None:
        """It has ended."""
        del self._calls[activation]
        self._stuck.discard(activation)
        if not self._calls and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        """Refuse the youngest call that was found stuck twice: one at a time, for it lets the others go on."""
        self._timer = self._loop.call_later(LOOK_S, self._look)
        stuck = self._find_stuck()
        for activation in reversed(self._calls):
            if activation in stuck and activation in self._stuck:
                stuck.discard(activation)
                self._pool.refuse(activation, NestedWouldWait())
                break
        self._stuck = stuck

    def _find_stuck(self) -> set[ActivationId]:
        waiting = {activation: call for activation, call in self._calls.items() if self._pool.machine.is_waiting(activation)}
        containers = self._pool.containers()
        if not waiting or any(container.state in _PASSING for container in containers):
            return set()
        leased = {container.container_id: container for container in containers if container.leases}
        leases = {name: tuple(container.leases) for name, container in leased.items()}
        progressing = find_progressing(leases, {activation: call.origin for activation, call in self._calls.items()})
        uids = {leased[name].spec.uid for name in progressing}
        launcher = self._pool.machine.launcher
        return {
            activation
            for activation, call in waiting.items()
            if not launcher.has_room(call.key)
            and (not progressing or (call.key.spec.uid not in uids and launcher.at_cap(call.key)))
        }
