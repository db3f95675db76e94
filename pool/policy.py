"""Rules of the pool as functions of values: whom to evict, how many to start. No state, no clock, no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar


class Evictable(Protocol):
    """What a rule of eviction may look at."""

    @property
    def memory_mib(self) -> int:
        """Memory that its removal frees, MiB."""

    @property
    def idle_since(self) -> float:
        """When it was last used, seconds of the pool's clock."""


E = TypeVar("E", bound=Evictable)


def choose_evictions(idle: Iterable[E], needed_mib: int) -> Sequence[E]:
    """Choose idle containers to remove so that `needed_mib` MiB become free.

    Longest idle first; as few as suffice. Empty when all of `idle` together would not suffice:
    evicting in vain makes later starts cold and helps nobody.

    Args:
        idle: containers that nobody holds, any order. Not mutated.
        needed_mib: memory that must become free, MiB, > 0.
    Source: OpenWhisk, `ContainerPool.remove`.
    """
    chosen: list[E] = []
    freed = 0
    for container in sorted(idle, key=lambda candidate: candidate.idle_since):
        chosen.append(container)
        freed += container.memory_mib
        if freed >= needed_mib:
            return chosen
    return []


def wanted_starts(*, waiting: int, coming: int, concurrency: int, mean_s: float | None, start_cost_s: float, most: int) -> int:
    """How many more containers of one action are worth starting.

    Beyond Fn's rule: none while those that are coming would empty the queue sooner than a new container could run;
    and of an action that never ended a run, no more at a time than the engine starts in parallel, for the first
    of them will tell how long a run takes.

    Args:
        waiting: activations of the action that wait.
        coming: containers of it that will soon take some of them: starting, initialising, or busy for
            so short a time that they may be done before a new one could run.
        concurrency: activations that one container takes at a time.
        mean_s: how long a lease of this action lasts, seconds; None when none has ended.
        start_cost_s: how long a start takes, seconds.
        most: starts that the engine runs in parallel.

    Returns:
        A count >= 0.

    Source: Fn, `slots.go`: start when (waiting - idle) > starting.
    """
    missing = max(0, -(-waiting // concurrency) - coming)
    if mean_s is None:
        return max(0, min(missing, most - coming))
    if coming and waiting * mean_s <= start_cost_s * coming * concurrency:
        return 0
    return missing
