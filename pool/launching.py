"""How many containers to start, and at whose cost: the launch rule, the engine's width, and users' shares of memory.

Functions of values, and one small object that learns from measured times. No clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

#: So many starts' worth of waiting justify a start.
PATIENCE_STARTS = 4.0
#: Weight of the newest value in a moving average.
AVERAGE_WEIGHT = 0.2
#: More starts in parallel must promise this much more in the same time.
WORTH_WIDENING = 1.05
#: What was measured longer ago than this says nothing about now, s.
MEASURE_GOOD_FOR_S = 600.0
#: A user who has used nothing for longer than this has no claim to a share of the memory, s.
CLAIM_GOOD_FOR_S = 60.0


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


def herd_patience_s(*, serving: int, most: int, start_cost_s: float) -> float:
    """For how long somebody must have waited without a break for an action that has run before to get another container, s.

    Once as many serve as the engine starts in parallel, two a core, a herd that they will have served in a moment is no reason
    for more. The time is the shorter the more of them serve, so that they double in it while the pressure lasts.

    Args:
        serving: containers of the action, in any state.
        most: starts that the engine runs in parallel.
        start_cost_s: how long a start takes, seconds.
    """
    return PATIENCE_STARTS * start_cost_s * most / serving if serving >= most else 0.0


@dataclass(slots=True)
class _Measured:
    """What a start took at one width, as a moving average."""

    mean_s: float
    at: float


class StartWidth:
    """How many starts the engine is given at a time: between half of `most` and `most`, by what starts were seen to take.

    Two starts at a time that each take twice as long are no gain, and take the processors from those who run. So the width is
    the one with the most starts a second, width over mean time, and of two that are nearly the same the smaller. What was not
    tried, or not for a while, is tried: the widest first.
    """

    def __init__(self) -> None:
        """Know nothing yet."""
        self._measured: dict[int, _Measured] = {}
        #: Moving average of how long a start takes, whatever the width, s.
        self.cost_s = 0.3

    def note(self, width: int, took_s: float, now: float) -> None:
        """Learn from one start.

        Args:
            width: starts in flight when it began, itself included.
            took_s: how long it took.
            now: seconds of the pool's clock.
        """
        self.cost_s += AVERAGE_WEIGHT * (took_s - self.cost_s)
        known = self._measured.get(width)
        if known is None or now - known.at > MEASURE_GOOD_FOR_S:
            self._measured[width] = _Measured(took_s, now)
        else:
            known.mean_s += AVERAGE_WEIGHT * (took_s - known.mean_s)
            known.at = now

    def choose(self, most: int, now: float) -> int:
        """Return the width to start with: at least 1, at most `most`."""
        least = max(1, most // 2)
        best, best_rate = most, 0.0
        for width in range(least, most + 1):
            known = self._measured.get(width)
            if known is None or now - known.at > MEASURE_GOOD_FOR_S:
                continue
            rate = width / max(known.mean_s, 1e-6)
            if rate > best_rate * WORTH_WIDENING:
                best, best_rate = width, rate
        widest = self._measured.get(most)
        if widest is None or now - widest.at > MEASURE_GOOD_FOR_S:
            return most
        return best


@dataclass(frozen=True, slots=True)
class Claim:
    """What one user has of the memory, and may claim."""

    held_mib: int
    weight: float
    #: Has used, or waited for, a container of late.
    active: bool


class Shares:
    """The users' shares of the memory at one instant.

    A share is the budget divided by weight among the active users. Nobody is kept to it while there is room. When there is
    none, the idle containers of an active user who holds no more than the share are not taken for others, and a user who holds
    more gives way, container by container as they come free, to one who would still be within.
    """

    def __init__(self, claims: Mapping[int, Claim], budget_mib: int) -> None:
        """Take the claims by user, and the memory there is to share, MiB."""
        self._claims = claims
        total = sum(claim.weight for claim in claims.values() if claim.active)
        self._mib_per_weight = budget_mib / total if total else float(budget_mib)

    def of(self, uid: int) -> float:
        """Return a user's share, MiB."""
        claim = self._claims.get(uid)
        return self._mib_per_weight * claim.weight if claim else 0.0

    def is_protected(self, owner: int, taker: int) -> bool:
        """Whether idle containers of `owner` are not to be removed for `taker`."""
        claim = self._claims.get(owner)
        return owner != taker and claim is not None and claim.active and claim.held_mib <= self.of(owner)

    def gives_way(self, holder: int, wanter: int, needed_mib: int) -> bool:
        """Whether `holder` is to give up a container that comes free, so that `wanter` gets `needed_mib`."""
        holding, wanting = self._claims.get(holder), self._claims.get(wanter)
        if holder == wanter or holding is None:
            return False
        held_mib = wanting.held_mib if wanting else 0
        return holding.held_mib > self.of(holder) and held_mib + needed_mib <= self.of(wanter)
