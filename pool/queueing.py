"""Who is next: start-time fair queueing between users, first come first served inside an action. No clock, no I/O.

Only activations that found no container at once come here. Each user (a Unix id) has a *tag* in virtual time. The user with
the lowest tag is next, and is then charged what the activation will cost, memory times time over the user's weight. A user
who comes back after a pause begins at the present virtual time: what was not used is not saved up.

Source: Goyal, Vin, Cheng: Start-time Fair Queuing, SIGCOMM 1996; here the cost is charged when an activation is served, by
what its action was last seen to take. Who may wait at all is decided in `bounds.py`.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from pool.model import ActivationId, ReuseKey, Standing

#: The soonest and the latest time at which somebody who was refused is told to come back, s.
RETRY_AFTER_S = (1.0, 60.0)
#: For how long an estimate of all users' waiting holds, s.
ESTIMATE_GOOD_FOR_S = 0.25
#: Users without waiting activations whose tags are kept, beyond those that wait.
IDLE_FLOWS = 1024


@dataclass(slots=True, eq=False)
class Waiter:
    """An activation in the queue."""

    activation: ActivationId
    key: ReuseKey
    #: Seconds of the pool's clock.
    arrived: float
    standing: Standing = Standing.NEW

    @property
    def is_nested(self) -> bool:
        """A container waits for it: it goes before all that nobody holds anything for."""
        return self.standing is Standing.NESTED


@dataclass(slots=True, eq=False)
class Line:
    """The activations that wait for one action: nested ones, then the others, by arrival. Never empty while it is kept."""

    #: Since when somebody has always waited, seconds of the pool's clock.
    since: float
    waiters: dict[ActivationId, Waiter] = field(default_factory=dict)
    #: It has refused somebody since it was last empty: more is asked than its action can serve.
    overflowed: bool = False

    def add(self, waiter: Waiter) -> None:
        """Let one wait."""
        if waiter.is_nested:
            others = {name: other for name, other in self.waiters.items() if not other.is_nested}
            for name in others:
                del self.waiters[name]
            self.waiters[waiter.activation] = waiter
            self.waiters |= others
        else:
            self.waiters[waiter.activation] = waiter

    def oldest(self) -> Waiter:
        """The one that is next: who came first, of nested ones if there are any."""
        return next(iter(self.waiters.values()))


@dataclass(slots=True, eq=False)
class _Flow:
    """One user's share of the queue."""

    weight: float
    #: Virtual time at which the user's next activation starts.
    tag: float
    #: When it last began to wait, seconds of the pool's clock.
    since: float
    waiting: int = 0
    #: How many were served since then.
    served: int = 0


class FairQueue:
    """All activations that wait for a container."""

    def __init__(self) -> None:
        """Begin empty."""
        self._waiters: dict[ActivationId, Waiter] = {}
        #: Reuse key's digest -> its line. No empty lines.
        self._lines: dict[str, Line] = {}
        self._flows: dict[int, _Flow] = {}
        #: The tag of the activation that was served last.
        self._virtual_time = 0.0
        #: When `retry_after_s` was last worked out for all users, and what came of it.
        self._estimated_at = -math.inf
        self._estimate_s = 0.0

    def __len__(self) -> int:
        return len(self._waiters)

    def __contains__(self, activation: object) -> bool:
        return activation in self._waiters

    def line(self, digest: str) -> Line | None:
        """Return the activations that wait for one reuse key, None when there are none."""
        return self._lines.get(digest)

    def waiting_of(self, uid: int) -> int:
        """How many activations of a user wait."""
        flow = self._flows.get(uid)
        return flow.waiting if flow else 0

    def users(self) -> Iterable[int]:
        """Every user who waits."""
        return (uid for uid, flow in self._flows.items() if flow.waiting)

    def push(self, waiter: Waiter, *, weight: float) -> None:
        """Let an activation wait."""
        uid = waiter.key.spec.uid
        flow = self._flows.get(uid)
        if flow is None:
            if len(self._flows) > len(self._waiters) + IDLE_FLOWS:
                self._flows = {
                    other: kept for other, kept in self._flows.items() if kept.waiting or kept.tag > self._virtual_time
                }
            flow = self._flows[uid] = _Flow(weight, self._virtual_time, waiter.arrived)
        elif not flow.waiting:
            flow.tag = max(flow.tag, self._virtual_time)
            flow.since, flow.served = waiter.arrived, 0
        flow.weight = weight
        flow.waiting += 1
        self._waiters[waiter.activation] = waiter
        line = self._lines.get(waiter.key.digest)
        if line is None:
            line = self._lines[waiter.key.digest] = Line(waiter.arrived)
        line.add(waiter)

    def remove(self, activation: ActivationId) -> Waiter:
        """Let one go that wants no more. Raises KeyError when it does not wait."""
        waiter = self._waiters.pop(activation)
        digest = waiter.key.digest
        line = self._lines[digest]
        del line.waiters[activation]
        if not line.waiters:
            del self._lines[digest]
        self._flows[waiter.key.spec.uid].waiting -= 1
        return waiter

    def serve(self, waiter: Waiter, cost: float) -> None:
        """Let one go that got a container, and charge its user.

        Args:
            waiter: it waits.
            cost: what it will use, MiB times seconds.
        """
        self.remove(waiter.activation)
        flow = self._flows[waiter.key.spec.uid]
        self._virtual_time = max(self._virtual_time, flow.tag)
        flow.tag += cost / flow.weight
        flow.served += 1

    def overflow(self, digest: str) -> None:
        """Somebody who wanted to join this line was refused."""
        if line := self._lines.get(digest):
            line.overflowed = True

    def in_turn(self, *, of: Callable[[ReuseKey], bool] | None = None) -> Sequence[tuple[str, Waiter]]:
        """Give every line with its oldest activation: nested ones, then lines of the user who is next, then by age.

        Args:
            of: leaves out the lines of keys that it refuses.
        """
        heads = [(digest, line.oldest()) for digest, line in self._lines.items()]
        if of is not None:
            heads = [head for head in heads if of(head[1].key)]
        if len(heads) > 1:
            heads.sort(key=lambda head: (not head[1].is_nested, self._flows[head[1].key.spec.uid].tag, head[1].arrived))
        return heads

    def waiting_for(self, spec_digest: str) -> Sequence[Waiter]:
        """Give who is next of each line whose containers are made from this spec, the longest waiting first."""
        heads = [line.oldest() for line in self._lines.values() if line.oldest().key.spec.digest == spec_digest]
        return sorted(heads, key=lambda waiter: (not waiter.is_nested, waiter.arrived))

    def all(self) -> list[Waiter]:
        """Give every activation, by arrival."""
        return list(self._waiters.values())

    def retry_after_s(self, now: float, uid: int | None = None) -> float:
        """Estimate when there will be room again: how long what waits will take, at the pace since it began to wait.

        Args:
            now: seconds of the pool's clock.
            uid: of one user's activations; None of all.
        """
        if uid is not None:
            flow = self._flows.get(uid)
            return _time_to_serve_s([flow] if flow and flow.waiting else [], now)
        if now - self._estimated_at > ESTIMATE_GOOD_FOR_S:  # of all users: under overload many are refused in that time
            self._estimated_at = now
            self._estimate_s = _time_to_serve_s([flow for flow in self._flows.values() if flow.waiting], now)
        return self._estimate_s

    def check_invariants(self) -> None:
        """Raise AssertionError where lines, flows and waiters disagree."""
        assert all(line.waiters for line in self._lines.values()), "an empty line was kept"
        assert {activation for line in self._lines.values() for activation in line.waiters} == set(self._waiters)
        for uid, flow in self._flows.items():
            assert flow.waiting == sum(waiter.key.spec.uid == uid for waiter in self._waiters.values())


def _time_to_serve_s(flows: Sequence[_Flow], now: float) -> float:
    """How long what these users wait for will take at the pace since they began to wait, within `RETRY_AFTER_S`."""
    least, most = RETRY_AFTER_S
    pace = sum(flow.served / max(now - flow.since, 0.001) for flow in flows)
    if not pace:
        return least
    return min(max(math.ceil(sum(flow.waiting for flow in flows) / pace), least), most)


def weight_of(namespace: str, shares: Iterable[tuple[str, float]]) -> float:
    """Return the weight of a namespace: of the first pattern that fits, else 1."""
    return next((weight for pattern, weight in shares if fnmatch.fnmatchcase(namespace, pattern)), 1.0)
