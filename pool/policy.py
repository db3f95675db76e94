"""Rules of the pool as functions of values: whom to evict, how many to start. No state, no clock, no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

#: So many starts' worth of waiting justify a start.
PATIENCE_STARTS = 4.0


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


def wanted_starts(
    *,
    waiting: int,
    starting: int,
    soon_free: int,
    concurrency: int,
    mean_s: float | None,
    waited_s: float,
    start_cost_s: float,
    most: int,
) -> int:
    """How many more containers of one action are worth starting.

    Beyond Fn's rule: none while those that are coming would empty the queue sooner than a new container could run,
    unless activations have by now waited for longer than a start would have cost (as one who rents skis buys them once the
    rent has come to the price); and of an action that never ended a run, no more at a time than the engine starts in
    parallel, for the first of them will tell how long a run takes.

    Args:
        waiting: activations of the action that wait.
        starting: containers of it that come up, or are being initialised.
        soon_free: containers of it busy for so short a time that they may be done before a new one could run.
        concurrency: activations that one container takes at a time.
        mean_s: how long a lease of this action lasts, seconds; None when none has ended.
        waited_s: for how long activations have waited in vain since the last start, summed, seconds.
        start_cost_s: how long a start takes, seconds.
        most: starts that the engine runs in parallel.

    Returns:
        A count >= 0.

    Source: Fn, `slots.go`: start when (waiting - idle) > starting.
    """
    wanted = -(-waiting // concurrency)
    coming = starting + soon_free
    if mean_s is None:
        return max(0, min(wanted - coming, most - coming))
    if waited_s > PATIENCE_STARTS * start_cost_s:
        return max(0, wanted - starting)
    if coming and waiting * mean_s <= start_cost_s * coming * concurrency:
        return 0
    return max(0, wanted - coming)
