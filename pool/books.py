"""The books of the pool: every container, its state, and the indexes that decisions look things up in.

`TRANSITIONS` is the whole life of a container on one page, and `Books.move` is the only place where a state changes;
so all indexes are kept, and all transitions observed, in one place. No I/O, no clock of its own.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from pool.errors import IllegalTransition
from pool.expiries import Expiries
from pool.idle import IDLE, IdleMeter, IdleShare
from pool.model import ActivationId, ContainerId, ContainerSpec, ContainerState, ReuseKey

S = ContainerState

#: Every (from, to) that may happen. What is not here raises `IllegalTransition`.
TRANSITIONS: frozenset[tuple[ContainerState, ContainerState]] = frozenset(
    {
        (S.STARTING, S.STEM),  # nobody waits for it any more, or it was started to be one
        (S.STARTING, S.INITIALISING),
        (S.STARTING, S.REMOVING),
        (S.STEM, S.STEM_FROZEN),
        (S.STEM, S.INITIALISING),
        (S.STEM, S.REMOVING),
        (S.STEM_FROZEN, S.INITIALISING),
        (S.STEM_FROZEN, S.REMOVING),
        (S.INITIALISING, S.BUSY),
        (S.INITIALISING, S.STARTING),  # its taker was cancelled before it sent a byte
        (S.INITIALISING, S.REMOVING),
        (S.BUSY, S.WARM),
        (S.BUSY, S.DRAINING),
        (S.BUSY, S.REMOVING),
        (S.WARM, S.BUSY),
        (S.WARM, S.FREEZING),
        (S.WARM, S.REMOVING),
        (S.FREEZING, S.FROZEN),
        (S.FREEZING, S.BUSY),
        (S.FREEZING, S.SUSPECT),
        (S.FREEZING, S.REMOVING),
        (S.FROZEN, S.BUSY),
        (S.FROZEN, S.REMOVING),
        (S.DRAINING, S.REMOVING),
        (S.ADOPTING, S.STEM),
        (S.ADOPTING, S.STEM_FROZEN),
        (S.ADOPTING, S.WARM),
        (S.ADOPTING, S.FROZEN),
        (S.ADOPTING, S.REMOVING),
        (S.SUSPECT, S.WARM),
        (S.SUSPECT, S.FROZEN),
        (S.SUSPECT, S.REMOVING),
    }
)

#: Somebody holds a lease exactly in these.
LEASED = frozenset({S.INITIALISING, S.BUSY, S.DRAINING})
#: May be evicted: nobody holds it and no operation on it is in flight.
EVICTABLE = frozenset({S.STEM, S.STEM_FROZEN, S.WARM, S.FROZEN})

#: Users whose last container is gone that are remembered.
MOST_USERS = 4096

Observer = Callable[["Container", ContainerState | None, ContainerState | None, float], None]


@dataclass(slots=True, eq=False)
class Container:
    """One container as the machine sees it. Only `Machine` writes here."""

    container_id: ContainerId
    spec: ContainerSpec
    #: Of the action that it serves or is started for; None for a stem cell.
    key: ReuseKey | None
    state: ContainerState
    #: When it came into `state`, seconds of the pool's clock.
    since: float
    #: When it was made known to the machine.
    born: float
    #: When the last lease on it ended; `born` before the first.
    idle_since: float
    #: How long it had been there when it was found, of one of an earlier daemon, s.
    older_s: float = 0.0
    #: Its code said that it runs one activation at a time, whatever the key's concurrency.
    takes_one: bool = False
    #: False once the kernel would not freeze it, until its next lease: till then it rests warm.
    freezable: bool = True
    #: Up to when its idleness is booked in `Books.idle`, seconds of the pool's clock.
    settled: float = 0.0
    #: Memory reserved for it, MiB: its limit, but while it is frozen, or was found so, perhaps what it really holds.
    held_mib: int = 0
    #: What it holds was asked for since it was last frozen.
    measured: bool = False
    #: Starts in flight when its own began, itself included.
    started_with: int = 0
    #: From the order to create it until it had its code, where it was started for its first activation, s; else 0.
    start_cost_s: float = 0.0
    #: The pool's eviction clock when it was last used; see `keepalive.Idle`.
    clock: float = 0.0
    #: Activation -> when it was granted. Empty unless `state` is in `LEASED`.
    leases: dict[ActivationId, float] = field(default_factory=dict)
    #: The last states, oldest first, with the time of entry: the story that an illegal transition tells.
    history: deque[tuple[ContainerState, float]] = field(default_factory=lambda: deque(maxlen=12))

    def __post_init__(self) -> None:
        self.held_mib = self.held_mib or self.spec.memory_mib
        self.settled = self.since

    @property
    def memory_mib(self) -> int:
        """Its memory limit, MiB."""
        return self.spec.memory_mib

    @property
    def takes(self) -> int:
        """How many activations it may run at the same time."""
        return 1 if self.takes_one or self.key is None else self.key.concurrency

    def is_of(self, key: ReuseKey) -> bool:
        """Whether it serves this key, or is started for it."""
        return self.key is not None and self.key.digest == key.digest

    @property
    def missing_mib(self) -> int:
        """Memory that must be reserved for it before it may run again, MiB."""
        return self.spec.memory_mib - self.held_mib


@dataclass(slots=True, eq=False)
class User:
    """What one Unix user has."""

    #: Sum of the memory reserved for the user's containers, MiB.
    held_mib: int = 0
    #: How many they are.
    containers: int = 0
    #: Sum of their limits, MiB: a frozen one counts in full.
    limits_mib: int = 0
    #: When an activation of the user last ended or began to wait, seconds of the pool's clock.
    active_at: float = float("-inf")
    #: Weight of the user's namespace in queue and memory.
    weight: float = 1.0


class Books:
    """All containers, and indexes over them. Only `Machine` writes here."""

    def __init__(
        self, *, freezing: Callable[[], bool], keep_s: Callable[[Container], float], observer: Observer | None = None
    ) -> None:
        """Begin empty.

        Args:
            freezing: whether this node can freeze.
            keep_s: for how long a container may rest, s.
            observer: told of each transition (container, before, after, seconds in before); may not raise.
        """
        self._freezing = freezing
        self._keep_s = keep_s
        self._observer = observer
        #: Seconds of the pool's clock, set by the machine before each event.
        self.now = 0.0
        #: Every container that is not forgotten.
        self.containers: dict[ContainerId, Container] = {}
        #: Reuse key's digest -> its containers that can take one more lease; the last used stands last.
        self.ready: dict[str, dict[ContainerId, Container]] = {}
        #: Spec's digest -> all and only its containers in STEM or STEM_FROZEN; the oldest stands first.
        self.stems: dict[str, dict[ContainerId, Container]] = {}
        #: Reuse key's digest -> containers of that key, in any state but REMOVING.
        self.by_key: dict[str, dict[ContainerId, Container]] = {}
        #: Containers in WARM that may be frozen, by entry: the first is the first whose grace is over.
        self.warm: dict[ContainerId, Container] = {}
        #: The other ones in WARM that may be frozen: their grace is over, but their next use is expected soon.
        self.lingering: dict[ContainerId, Container] = {}
        #: When to look at which of these again.
        self.lingers = Expiries()
        #: All and only containers that rest: in FROZEN or STEM_FROZEN, and in WARM or STEM what will not be frozen; by entry.
        self.resting: dict[ContainerId, Container] = {}
        #: Reuse key's digest -> its containers in FROZEN that hold less than their limit: they must grow before they run.
        self.shrunk: dict[str, dict[ContainerId, Container]] = {}
        #: Unix user -> what the user has. Users without containers are forgotten by and by.
        self.users: dict[int, User] = {}
        #: What idle containers have held.
        self.idle = IdleMeter()
        #: When to look at which container in `resting` again.
        self.expiries = Expiries()
        #: Sum of memory reserved over `containers`, MiB; derived, `check_invariants` compares.
        self.used_mib = 0
        #: Of that, the sum over those in REMOVING: it comes free soon; derived likewise.
        self.removing_mib = 0
        #: How many are in STARTING; derived likewise.
        self.starting = 0

    def add(self, container: Container) -> None:
        """Make a container known, in the state it bears."""
        self.containers[container.container_id] = container
        self.used_mib += container.held_mib
        user = self.user(container.spec.uid)
        user.held_mib += container.held_mib
        user.containers += 1
        user.limits_mib += container.memory_mib
        if container.key is not None:
            self.by_key.setdefault(container.key.digest, {})[container.container_id] = container
        container.history.append((container.state, self.now))
        self._enter(container)
        if self._observer:
            self._observer(container, None, container.state, 0.0)

    def move(self, container: Container, after: ContainerState) -> None:
        """Change its state. Raises IllegalTransition, with its story, where `TRANSITIONS` does not allow that."""
        before = container.state
        if (before, after) not in TRANSITIONS:
            story = ", ".join(f"{state.value} at {at:.3f}" for state, at in container.history)
            raise IllegalTransition(f"{container.container_id}: {before.value} to {after.value} at {self.now:.3f}, after {story}")
        seconds = self.now - container.since
        if before in IDLE:
            self._settle(container)
        container.settled = self.now
        self._leave(container)
        container.state = after
        container.since = self.now
        container.history.append((after, self.now))
        self._enter(container)
        if self._observer:
            self._observer(container, before, after, seconds)

    def forget(self, container: Container) -> None:
        """It is gone: its memory counts no more."""
        self._leave(container)
        self._unlink_key(container)
        del self.containers[container.container_id]
        self.expiries.forget(container.container_id)
        self.lingers.forget(container.container_id)
        self.used_mib -= container.held_mib
        user = self.users[container.spec.uid]
        user.held_mib -= container.held_mib
        user.containers -= 1
        user.limits_mib -= container.memory_mib
        if self._observer:
            self._observer(container, container.state, None, self.now - container.since)

    def user(self, uid: int) -> User:
        """Return what a user has."""
        user = self.users.get(uid)
        if user is None:
            if len(self.users) > MOST_USERS:
                self.users = {other: kept for other, kept in self.users.items() if kept.containers}
            user = self.users[uid] = User()
        return user

    def linger(self, container: Container, until: float) -> None:
        """Leave a container in WARM running beyond its grace, until this time."""
        self.warm.pop(container.container_id, None)
        self.lingering[container.container_id] = container
        self.lingers.plan(container.container_id, until)

    def hold(self, container: Container, held_mib: int) -> None:
        """Reserve this much for a container from now on: its limit before it runs, what it holds while it is frozen."""
        self._settle(container)
        more = held_mib - container.held_mib
        self._leave(container)
        container.held_mib = held_mib
        self.used_mib += more
        self.users[container.spec.uid].held_mib += more
        self._enter(container)

    def _settle(self, container: Container) -> None:
        """Book its idleness until now: its state, its memory or its owner is about to change."""
        if container.state in IDLE:
            path = container.key.action if container.key else ""
            seconds, container.settled = self.now - container.settled, self.now
            share = self.idle.of(container.container_id, container.spec.namespace, path)
            share.add(container.state, seconds, container.held_mib)

    def take_idle(self) -> list[IdleShare]:
        """Return what idle containers have held since this was last asked, by container and owner."""
        for container in self.containers.values():
            self._settle(container)
        return self.idle.take()

    def _leave(self, container: Container) -> None:
        """Take it out of the indexes of its state. `ready` is brought up to date when it has entered the next."""
        container_id, state = container.container_id, container.state
        if state is S.BUSY:
            return  # in no other index than `ready`: the usual case
        if state in EVICTABLE and self.warm.pop(container_id, None) is None:
            self.lingering.pop(container_id, None)
            self.resting.pop(container_id, None)
        if state is S.FROZEN and container.key is not None:
            _drop(self.shrunk, container.key.digest, container_id)
        elif state is S.STEM or state is S.STEM_FROZEN:
            _drop(self.stems, container.spec.digest, container_id)
        elif state is S.STARTING:
            self.starting -= 1
        elif state is S.REMOVING:
            self.removing_mib -= container.held_mib

    def _enter(self, container: Container) -> None:
        container_id, state = container.container_id, container.state
        self.note_ready(container)
        if state is S.BUSY:
            return  # in no other index: the usual case
        if state in EVICTABLE and self._rests(container):
            self._begin_rest(container)
        elif state is S.WARM:
            self.warm[container_id] = container
        if state is S.FROZEN:
            if container.key is not None and container.held_mib < container.spec.memory_mib:
                self.shrunk.setdefault(container.key.digest, {})[container_id] = container
        elif state is S.STEM or state is S.STEM_FROZEN:
            self.stems.setdefault(container.spec.digest, {})[container_id] = container
        elif state is S.STARTING:
            self.starting += 1
        elif state is S.REMOVING:
            self.removing_mib += container.held_mib
            self._unlink_key(container)

    def _begin_rest(self, container: Container) -> None:
        self.resting[container.container_id] = container
        if container.container_id not in self.expiries:
            self.expiries.plan(container.container_id, self.now + self._keep_s(container))

    def _rests(self, container: Container) -> bool:
        """Whether nothing more happens to it until it is wanted or its keep-alive ends."""
        state = container.state
        if state is S.FROZEN or state is S.STEM_FROZEN:
            return True
        return (state is S.WARM or state is S.STEM) and not (self._freezing() and container.freezable)

    def sort_idle(self) -> None:
        """Build `warm` and `resting` anew: the node was found to freeze, or not to."""
        self.warm.clear()
        self.lingering.clear()
        self.resting.clear()
        for container in sorted(self.containers.values(), key=lambda each: each.since):
            if self._rests(container):
                self._begin_rest(container)
            elif container.state is S.WARM:
                self.warm[container.container_id] = container

    def can_take(self, container: Container) -> bool:
        """Whether it has its code, and room for one more lease."""
        state = container.state
        if state is S.WARM or state is S.FREEZING:
            return True
        if state is S.FROZEN:
            return container.held_mib == container.spec.memory_mib
        return state is S.BUSY and container.key is not None and len(container.leases) < container.takes

    def note_ready(self, container: Container) -> None:
        """Bring `ready` up to date for one container; the last used stands last, so that the tail may go idle."""
        key = container.key
        if key is None:
            return
        ready = self.ready.get(key.digest)
        if self.can_take(container):
            if ready is None:
                ready = self.ready[key.digest] = {}
            else:
                ready.pop(container.container_id, None)
            ready[container.container_id] = container
        elif ready is not None and ready.pop(container.container_id, None) is not None and not ready:
            del self.ready[key.digest]

    def specialise(self, container: Container, key: ReuseKey) -> None:
        """It is to serve this key from now on."""
        if container.key is not key:
            self._settle(container)
            self._unlink_key(container)
            container.key = key
            self.by_key.setdefault(key.digest, {})[container.container_id] = container

    def unspecialise(self, container: Container) -> None:
        """It has no code, and may become any action of its spec. It is not in `ready`, where containers with code are."""
        if container.key is not None:
            self._leave(container)
            self._unlink_key(container)
            container.key = None
            self._enter(container)

    def _unlink_key(self, container: Container) -> None:
        if container.key is None:
            return
        _drop(self.by_key, container.key.digest, container.container_id)

    @staticmethod
    def flat(index: dict[str, dict[ContainerId, Container]]) -> dict[ContainerId, Container]:
        """Merge an index of indexes."""
        return dict(itertools.chain.from_iterable(group.items() for group in index.values()))

    def check_invariants(self) -> None:
        """Raise AssertionError where an index disagrees with the containers. O(everything)."""
        containers = list(self.containers.values())

        def those(*states: ContainerState) -> dict[ContainerId, Container]:
            return {c.container_id: c for c in containers if c.state in states}

        assert self.used_mib == sum(c.held_mib for c in containers)
        assert self.removing_mib == sum(c.held_mib for c in those(S.REMOVING).values())
        for uid, user in self.users.items():
            owned = [c for c in containers if c.spec.uid == uid]
            assert (user.held_mib, user.containers) == (sum(c.held_mib for c in owned), len(owned))
            assert user.limits_mib == sum(c.memory_mib for c in owned)
        assert {c.spec.uid for c in containers} <= set(self.users)
        for container in containers:
            shrinkable = container.state in {S.FROZEN, S.STEM_FROZEN, S.ADOPTING, S.REMOVING}
            assert container.held_mib == container.memory_mib or (shrinkable and 0 < container.held_mib < container.memory_mib)
        shrunk = {c.container_id: c for c in those(S.FROZEN).values() if c.held_mib < c.memory_mib}
        assert self.flat(self.shrunk) == shrunk
        assert all(container_id in self.expiries for container_id in self.resting)
        assert self.starting == len(those(S.STARTING))
        for container in containers:
            assert bool(container.leases) == (container.state in LEASED), (container.state, container.leases)
            assert len(container.leases) <= container.takes
            if container.state in {S.STEM, S.STEM_FROZEN}:
                assert container.key is None
            elif container.state not in {S.STARTING, S.ADOPTING, S.REMOVING}:
                assert container.key is not None
        assert self.resting == {c.container_id: c for c in containers if self._rests(c)}
        assert not self.warm.keys() & self.lingering.keys()
        assert self.warm | self.lingering == {name: c for name, c in those(S.WARM).items() if name not in self.resting}
        assert self.flat(self.stems) == those(S.STEM, S.STEM_FROZEN)
        assert self.flat(self.ready) == {c.container_id: c for c in containers if c.key and self.can_take(c)}
        assert self.flat(self.by_key) == {c.container_id: c for c in containers if c.key and c.state is not S.REMOVING}


def _drop(index: dict[str, dict[ContainerId, Container]], digest: str, container_id: ContainerId) -> None:
    """Take a container out of an index of indexes, without leaving an empty one."""
    group = index.get(digest)
    if group is not None and group.pop(container_id, None) is not None and not group:
        del index[digest]
