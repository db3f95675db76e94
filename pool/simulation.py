"""Play a trace against the daemon's own state machine: what would a policy of keep-alive have cost?

No engine and no clock: the machine decides as it does in the daemon, and the ends of what it commands are events of a simulated
time. What is not modelled: the processors (runs do not slow each other down), and freezing (it costs no call a start).
"""

from __future__ import annotations

import bisect
import heapq
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from pool import events as ev
from pool.keepalive import POLICIES, Idle, Policy
from pool.machine import Machine
from pool.model import ActivationId, ContainerId, ContainerSpec, ReuseKey
from pool.settings import PoolSettings
from pool.trace import Call, Function, Trace

#: What the engine takes to remove a container, s.
REMOVE_S = 0.07
#: What OpenWhisk keeps for, s.
USUAL_TTL_S = 600.0
#: Shares of the trace's footprint.
SIZES = (0.1, 0.2, 0.35, 0.5, 0.8)
_UID = 1000


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a trace under one policy and in so much memory.

    Attributes:
        policy: its name.
        memory_mib: the budget.
        calls: in the trace.
        cold: that had to wait for a new container.
        refused: that got none: larger than the budget.
        held_mib_s: memory held by containers, busy or idle, until the last call begins, MiB times seconds.
        used_mib_s: of that, while they ran.
        mean_wait_ms, p99_wait_ms: from a call to its begin.
        evictions: containers removed to make room.
    """

    policy: str
    memory_mib: int
    calls: int
    cold: int
    refused: int
    held_mib_s: float
    used_mib_s: float
    mean_wait_ms: float
    p99_wait_ms: float
    evictions: int

    @property
    def cold_share(self) -> float:
        """Of the calls, how many had to wait for a new container."""
        return self.cold / max(1, self.calls)


class Clairvoyant:
    """Knows the future: what is used last goes first (Belady), weighed by its memory. The mark to measure policies by.

    With containers of different sizes no rule is optimal for sure, and the true optimum is out of reach (NP-hard): a close
    neighbour of the bound, and no policy of the daemon's.
    """

    def __init__(self, uses: Mapping[str, list[float]], *, by_size: bool) -> None:
        """Learn the times of all uses by reuse key's digest, rising; `by_size` weighs the time by the memory held."""
        self._uses = uses
        self._by_size = by_size
        self.name = "clairvoyant by size" if by_size else "clairvoyant"

    def worth(self, idle: Idle) -> float:
        """See `Policy`."""
        uses = self._uses.get(idle.key or "", [])
        place = bisect.bisect_right(uses, idle.now) + idle.position
        if place >= len(uses):
            return -math.inf
        after_s = uses[place] - idle.now
        return -after_s * (idle.memory_mib if self._by_size else 1)

    def keep_s(self, _: Idle) -> float:
        """See `Policy`."""
        return math.inf


def simulate(
    trace: Trace, policy: Policy, memory_mib: int, *, keep_alive_s: float = math.inf, parallel_starts: int = 8
) -> Outcome:
    """Play a trace.

    Args:
        trace: what is called.
        policy: what is kept.
        memory_mib: budget of the pool.
        keep_alive_s: how long anything is kept at most.
        parallel_starts: of the engine.
    """
    settings = PoolSettings(
        memory_mib=memory_mib,
        freezing=False,
        keep_alive_s=min(keep_alive_s, 1e9),
        policy=policy,
        parallel_starts=parallel_starts,
        max_waiting=10**9,
        max_waiting_per_user=10**9,
        shrink_frozen=False,
    )
    return _Run(trace, settings).play()


def keys_of(trace: Trace) -> list[ReuseKey]:
    """Make the reuse key of each function of a trace."""
    return [_key(function) for function in trace.functions]


def clairvoyant(trace: Trace, *, by_size: bool) -> Clairvoyant:
    """Make the policy that knows this trace."""
    uses: dict[str, list[float]] = {}
    digests = [key.digest for key in keys_of(trace)]
    for call in trace.calls:
        uses.setdefault(digests[call.function], []).append(call.at_s)
    return Clairvoyant(uses, by_size=by_size)


def _key(function: Function) -> ReuseKey:
    spec = ContainerSpec(
        namespace="trace", uid=_UID, gid=_UID, image=f"sha256:{function.name}", kind="trace", memory_mib=function.memory_mib
    )
    return ReuseKey(spec=spec, action=function.name, revision="1")


@dataclass
class _Run:
    """One play of a trace."""

    trace: Trace
    settings: PoolSettings
    _now: float = 0.0
    _cold: int = 0
    _refused: int = 0
    _held: float = 0.0
    _used: float = 0.0
    _waits: list[float] = field(default_factory=list)
    _next_tick: float = math.inf

    def __post_init__(self) -> None:
        numbers = itertools.count()
        self._machine = Machine(self.settings, name=lambda: ContainerId(f"c{next(numbers)}"))
        self._keys = keys_of(self.trace)
        self._starts_s = {
            key.spec.digest: function.start_s for key, function in zip(self._keys, self.trace.functions, strict=True)
        }
        self._calls: dict[ActivationId, Call] = {}
        self._order = itertools.count()
        self._agenda: list[tuple[float, int, ev.Event]] = []

    def play(self) -> Outcome:
        """Play it to its end."""
        for number, call in enumerate(self.trace.calls):
            self._until(call.at_s)
            activation = ActivationId(f"{number}")
            self._calls[activation] = call
            self._feed(ev.Arrived(activation, self._keys[call.function]), call.at_s)
        while self._calls and self._agenda:
            at_s, _, event = heapq.heappop(self._agenda)
            self._feed(event, at_s)
        waits = sorted(self._waits)
        return Outcome(
            policy=self.settings.policy.name,
            memory_mib=self.settings.memory_mib,
            calls=len(self.trace.calls),
            cold=self._cold,
            refused=self._refused,
            held_mib_s=self._held,
            used_mib_s=self._used,
            mean_wait_ms=1000 * sum(waits) / max(1, len(waits)),
            p99_wait_ms=1000 * waits[max(0, math.ceil(0.99 * len(waits)) - 1)] if waits else 0.0,
            evictions=self._machine.launcher.evictions,
        )

    def _until(self, at_s: float) -> None:
        while self._agenda and self._agenda[0][0] <= at_s:
            due_s, _, event = heapq.heappop(self._agenda)
            self._feed(event, due_s)

    def _plan(self, after_s: float, event: ev.Event) -> None:
        heapq.heappush(self._agenda, (self._now + after_s, next(self._order), event))

    def _feed(self, event: ev.Event, at_s: float) -> None:
        self._held += self._machine.books.used_mib * (at_s - self._now)
        self._now = at_s
        if type(event) is ev.Tick:
            self._next_tick = math.inf
        for command in self._machine.handle(event, at_s):
            self._carry_out(command)
        wake = self._machine.next_wake()
        if wake is not None and wake < self._next_tick:
            self._next_tick = wake
            self._plan(max(0.0, wake - at_s), ev.Tick())

    def _carry_out(self, command: ev.Command) -> None:
        match command:
            case ev.Grant(activation=activation, needs_init=needs_init):
                call = self._calls.pop(activation)
                self._cold += needs_init
                self._waits.append(self._now - call.at_s)
                self._used += self.trace.functions[call.function].memory_mib * call.run_s
                if needs_init:
                    self._plan(0.0, ev.Initialised(activation))
                self._plan(call.run_s, ev.Ended(activation, True))
            case ev.Create(container=container, spec=spec):
                self._plan(self._starts_s[spec.digest], ev.Created(container, exercised=False))
            case ev.Exercise(container=container):
                self._plan(0.0, ev.Created(container, exercised=True))
            case ev.Remove(container=container):
                self._plan(REMOVE_S, ev.Removed(container))
            case ev.Reject(activation=activation):
                del self._calls[activation]
                self._refused += 1


def contenders(trace: Trace, keep_alive_s: float) -> list[Policy]:
    """Make every policy of the daemon, with the time that most others keep for `ttl`, and the two that know the future."""
    return [
        *(make(USUAL_TTL_S if name == "ttl" else keep_alive_s) for name, make in POLICIES.items()),
        clairvoyant(trace, by_size=False),
        clairvoyant(trace, by_size=True),
    ]


def compare(trace: Trace, sizes_mib: Iterable[int], keep_alive_s: float) -> Iterator[Outcome]:
    """Play a trace under every policy in every size of memory."""
    for memory_mib in sizes_mib:
        for policy in contenders(trace, keep_alive_s):
            yield simulate(trace, policy, memory_mib, keep_alive_s=keep_alive_s)


def five_sizes(trace: Trace) -> tuple[int, ...]:
    """Choose memory sizes between hardly enough and nearly everything that the trace's functions need."""
    largest = max(function.memory_mib for function in trace.functions)
    return tuple(max(largest, round(trace.footprint_mib * share)) for share in SIZES)
