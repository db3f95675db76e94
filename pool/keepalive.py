"""Which idle container is worth least, and for how long one is kept that nobody needs: policies as functions of values.

A policy is asked two things. `worth` orders idle containers when memory is wanted: the lowest goes first. `keep_s` says how long
a container may idle though its memory is not wanted. Neither has a state, a clock or I/O, so that the same code decides in
the daemon and in the simulation (`pool/simulation.py`), on the same values.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

#: Gaps between two uses fall into buckets, so many for each doubling, from the first bound on.
BUCKETS_PER_DOUBLING = 2
FIRST_BOUND_S = 0.0625
#: The last bucket begins at 36 hours.
BUCKETS = 2 + 21 * BUCKETS_PER_DOUBLING
#: Upper bounds of the buckets, s; the last has none.
BOUNDS_S = tuple(FIRST_BOUND_S * 2 ** (number / BUCKETS_PER_DOUBLING) for number in range(BUCKETS - 1))
#: Where within each bucket its gaps are taken to lie, s.
MIDDLES_S = (FIRST_BOUND_S / 2, *(bound * 2 ** (0.5 / BUCKETS_PER_DOUBLING) for bound in BOUNDS_S))
#: Gaps remembered; beyond these the old ones weigh half.
MOST_GAPS = 256.0
#: Number of gaps after which a histogram is believed (hybrid histogram).
ENOUGH_GAPS = 8
#: Weight of the belief that a function of which little is known is used ever more rarely, in gaps.
PRIOR_GAPS = 0.3


def bucket_of(gap_s: float) -> int:
    """Return the bucket of a gap, s."""
    if gap_s <= FIRST_BOUND_S:
        return 0
    return min(BUCKETS - 1, 1 + int(math.log2(gap_s / FIRST_BOUND_S) * BUCKETS_PER_DOUBLING))


class Habits:
    """How an action's containers have been used: counts, and for how long they idled in between. Only `Machine` writes here."""

    __slots__ = ("calls", "gaps", "noted", "total")

    def __init__(self) -> None:
        #: Uses, with an old one weighing less: halved whenever the gaps are.
        self.calls = 0.0
        #: How many gaps fell into each bucket.
        self.gaps = array("f", bytes(4 * BUCKETS))
        #: Sum of `gaps`.
        self.total = 0.0
        #: Gaps noted ever.
        self.noted = 0

    def note_gap(self, gap_s: float) -> None:
        """A container was used, or would have been had it been kept, after it had idled for this long, s."""
        self.gaps[bucket_of(gap_s)] += 1.0
        self.total += 1.0
        self.noted += 1
        if self.total > MOST_GAPS:
            for number in range(BUCKETS):
                self.gaps[number] /= 2
            self.total /= 2
            self.calls /= 2

    def percentile_s(self, share: float) -> float:
        """Return the upper bound of the bucket in which this share of the gaps is reached, s; infinite beyond the last."""
        reached = 0.0
        for number, count in enumerate(self.gaps):
            reached += count
            if reached >= share * self.total:
                return BOUNDS_S[number] if number < len(BOUNDS_S) else math.inf
        return math.inf


@dataclass(frozen=True, slots=True)
class Idle:
    """What a policy may look at: one container that nobody uses.

    Attributes:
        memory_mib: what its removal frees.
        idle_s: for how long nobody has used it.
        start_cost_s: how long it takes to start another one.
        habits: of the action that it serves; None for a stem cell.
        clock: worth of the last container that had been removed when this one was last used (greedy-dual's clock).
        key: reuse key's digest, for a policy that knows the future; None for a stem cell.
        position: how many idle containers of the same action would be used before this one.
        now: seconds of the pool's clock.
    """

    memory_mib: int
    idle_s: float
    start_cost_s: float
    habits: Habits | None
    clock: float = 0.0
    key: str | None = None
    position: int = 0
    now: float = 0.0


class Policy(Protocol):
    """Decides what to keep."""

    @property
    def name(self) -> str:
        """As in the configuration."""

    def worth(self, idle: Idle) -> float:
        """What keeping it is worth, in a unit of the policy's own: the lowest goes first."""

    def keep_s(self, idle: Idle) -> float:
        """For how long from its last use it is kept though nobody wants its memory, s."""


@dataclass(frozen=True, slots=True)
class FixedTtl:
    """Longest idle first, and each for the same time: what OpenWhisk, Fn and most others do."""

    ttl_s: float
    name: str = "ttl"

    def worth(self, idle: Idle) -> float:
        """See `Policy`."""
        return -idle.idle_s

    def keep_s(self, _: Idle) -> float:
        """See `Policy`."""
        return self.ttl_s


@dataclass(frozen=True, slots=True)
class Lru:
    """Longest idle first; kept until memory is wanted."""

    name: str = "lru"

    def worth(self, idle: Idle) -> float:
        """See `Policy`."""
        return -idle.idle_s

    def keep_s(self, _: Idle) -> float:
        """See `Policy`."""
        return math.inf


@dataclass(frozen=True, slots=True)
class GreedyDual:
    """Clock + calls x cost / size; kept until memory is wanted.

    Source: Fuerst, Sharma: FaasCache, ASPLOS 2021.
    """

    name: str = "greedy-dual"

    def worth(self, idle: Idle) -> float:
        """See `Policy`."""
        calls = idle.habits.calls if idle.habits else 1.0
        return idle.clock + calls * idle.start_cost_s / idle.memory_mib

    def keep_s(self, _: Idle) -> float:
        """See `Policy`."""
        return math.inf


@dataclass(frozen=True, slots=True)
class HybridHistogram:
    """Kept for as long as nearly all gaps of its action were, if enough are known and it is no odd one; else for a fixed time.

    Without the early removal and return before the next expected call: in a frozen container there is nothing to gain by it but
    memory, and this policy is judged by cold starts first.

    Source: Shahrad and others: Serverless in the Wild, USENIX ATC 2020; margins as in their text.
    """

    fallback_s: float
    tail: float = 0.99
    margin: float = 1.1
    name: str = "histogram"

    def worth(self, idle: Idle) -> float:
        """See `Policy`. Their text has no rule for a shortage: the longest idle goes first."""
        return -idle.idle_s

    def keep_s(self, idle: Idle) -> float:
        """See `Policy`."""
        habits = idle.habits
        if habits is None or habits.noted < ENOUGH_GAPS:
            return self.fallback_s
        tail_s = habits.percentile_s(self.tail)
        return tail_s * self.margin if math.isfinite(tail_s) else self.fallback_s


@dataclass(frozen=True, slots=True)
class Blend:
    """The best chance of a use for each MiB and second that it is kept, by the gaps seen so far; recency where few are known.

    From the histogram of gaps, given how long it has idled already, the worth is the most that any further time of waiting
    promises: chance of a use within that time, over the mean time until then. For a known distribution this index is the best
    rule there is (Gittins); it is also what least hit density (Beckmann, Chen, Cidon, NSDI 2018) estimates for caches. A prior of
    gaps spread evenly over the logarithm of time makes it plain recency for an action of which little is known.

    `cost_power` says how far a start's cost counts: 0 minimises the number of cold starts, 1 the time that they take. It and
    the prior were chosen on seeds 1 and 2 of `bench/traces.py`; the seeds that judge are others.
    """

    longest_s: float
    cost_power: float = 0.25
    prior: float = PRIOR_GAPS
    name: str = "blend"

    def worth(self, idle: Idle) -> float:
        """See `Policy`."""
        cost = idle.start_cost_s**self.cost_power if self.cost_power else 1.0
        return use_rate(idle.habits, idle.idle_s, self.prior) * cost / idle.memory_mib

    def keep_s(self, _: Idle) -> float:
        """See `Policy`."""
        return self.longest_s


def use_rate(habits: Habits | None, idle_s: float, prior: float) -> float:
    """Return the best chance of a use for each second of waiting on, 1/s; see `Blend`.

    Args:
        habits: None when nothing is known.
        idle_s: how long nobody has used it.
        prior: weight of the prior, in gaps.
    """
    first = bucket_of(idle_s)
    each = prior / BUCKETS
    counts = [count + each for count in habits.gaps[first:]] if habits else [each] * (BUCKETS - first)
    left = sum(counts)
    best = used = spent = 0.0
    for number, count in enumerate(counts, start=first):
        # In the bucket it is in, half of what is left of it; a use at once is as good as one within a millisecond.
        after_s = max(MIDDLES_S[number] - idle_s, 0.001)
        if number == first:
            after_s = max((BOUNDS_S[first] if first < len(BOUNDS_S) else 2 * idle_s) - idle_s, 0.002) / 2
        used += count
        spent += count * after_s
        rate = used / (spent + (left - used) * after_s)
        best = max(best, rate)
    return best


E = TypeVar("E")


def choose_evictions(candidates: Iterable[tuple[float, int, E]], needed_mib: int) -> Sequence[tuple[float, E]]:
    """Choose idle containers to remove so that `needed_mib` MiB become free.

    The least worth first; as few as suffice. Empty when all together would not suffice:
    evicting in vain makes later starts cold and helps nobody.

    Args:
        candidates: (worth, MiB that its removal frees, container) of each that nobody holds, any order.
        needed_mib: memory that must become free, MiB, > 0.

    Returns:
        (worth, container) of each, the least first.

    Source: OpenWhisk, `ContainerPool.remove`.
    """
    chosen: list[tuple[float, int, E]] = []
    freed = 0
    for candidate in sorted(candidates, key=lambda each: each[0]):
        chosen.append(candidate)
        freed += candidate[1]
        if freed >= needed_mib:
            # One that is large may have made earlier, smaller ones needless.
            for each in chosen[:-1]:
                if freed - each[1] >= needed_mib:
                    freed -= each[1]
                    chosen.remove(each)
            return [(worth, container) for worth, _, container in chosen]
    return []


#: Policy by its name in the configuration, made from the longest time that anything is kept, s.
POLICIES: dict[str, Callable[[float], Policy]] = {
    "blend": Blend,
    "greedy-dual": lambda _: GreedyDual(),
    "histogram": HybridHistogram,
    "lru": lambda _: Lru(),
    "ttl": FixedTtl,
}
