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
    #: Activation -> when it was granted. Empty unless `state` is in `LEASED`.
    leases: dict[ActivationId, float] = field(default_factory=dict)
    #: The last states, oldest first, with the time of entry: the story that an illegal transition tells.
    history: deque[tuple[ContainerState, float]] = field(default_factory=lambda: deque(maxlen=12))

    @property
    def memory_mib(self) -> int:
        """Memory reserved for it, MiB."""
        return self.spec.memory_mib


class Books:
    """All containers, and indexes over them. Only `Machine` writes here."""

    def __init__(self, *, freezing: Callable[[], bool], observer: Observer | None = None) -> None:
        """Begin empty.

        Args:
            freezing: whether this node can freeze.
            observer: told of each transition (container, before, after, seconds in before); may not raise.
        """
        self._freezing = freezing
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
        #: All and only containers in WARM, by entry: the first is the first to be frozen.
        self.warm: dict[ContainerId, Container] = {}
        #: All and only containers in FROZEN or STEM_FROZEN (in WARM or STEM where the node cannot freeze), by entry.
        self.resting: dict[ContainerId, Container] = {}
        #: Sum of memory over `containers`, MiB; derived, `check_invariants` compares.
        self.used_mib = 0
        #: Of that, the sum over those in REMOVING: it comes free soon; derived likewise.
        self.removing_mib = 0
        #: How many are in STARTING; derived likewise.
        self.starting = 0

    def add(self, container: Container) -> None:
        """Make a container known, in the state it bears."""
        self.containers[container.container_id] = container
        self.used_mib += container.memory_mib
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
        self.used_mib -= container.memory_mib
        if self._observer:
            self._observer(container, container.state, None, self.now - container.since)

    def _leave(self, container: Container) -> None:
        container_id, state = container.container_id, container.state
        self.warm.pop(container_id, None)
        self.resting.pop(container_id, None)
        if container.key is not None:
            ready = self.ready.get(container.key.digest)
            if ready and ready.pop(container_id, None) is not None and not ready:
                del self.ready[container.key.digest]
        if state is S.STEM or state is S.STEM_FROZEN:
            stems = self.stems[container.spec.digest]
            del stems[container_id]
            if not stems:
                del self.stems[container.spec.digest]
        elif state is S.STARTING:
            self.starting -= 1
        elif state is S.REMOVING:
            self.removing_mib -= container.memory_mib

    def _enter(self, container: Container) -> None:
        container_id, state = container.container_id, container.state
        self.note_ready(container)
        if state is S.WARM:
            self.warm[container_id] = container
        elif state is S.STEM or state is S.STEM_FROZEN:
            self.stems.setdefault(container.spec.digest, {})[container_id] = container
        elif state is S.STARTING:
            self.starting += 1
        elif state is S.REMOVING:
            self.removing_mib += container.memory_mib
            self._unlink_key(container)
        if state in {S.FROZEN, S.STEM_FROZEN} or (not self._freezing() and state in {S.WARM, S.STEM}):
            self.resting[container_id] = container

    def can_take(self, container: Container) -> bool:
        """Whether it has its code, and room for one more lease."""
        state = container.state
        if state is S.WARM or state is S.FROZEN or state is S.FREEZING:
            return True
        return state is S.BUSY and container.key is not None and len(container.leases) < container.key.concurrency

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
            self._unlink_key(container)
            container.key = key
            self.by_key.setdefault(key.digest, {})[container.container_id] = container

    def unspecialise(self, container: Container) -> None:
        """It has no code, and may become any action of its spec."""
        if container.key is not None:
            self._leave(container)
            self._unlink_key(container)
            container.key = None
            self._enter(container)

    def _unlink_key(self, container: Container) -> None:
        if container.key is None:
            return
        siblings = self.by_key.get(container.key.digest)
        if siblings is not None and siblings.pop(container.container_id, None) is not None and not siblings:
            del self.by_key[container.key.digest]

    @staticmethod
    def flat(index: dict[str, dict[ContainerId, Container]]) -> dict[ContainerId, Container]:
        """Merge an index of indexes."""
        return dict(itertools.chain.from_iterable(group.items() for group in index.values()))

    def check_invariants(self) -> None:
        """Raise AssertionError where an index disagrees with the containers. O(everything)."""
        containers = list(self.containers.values())

        def those(*states: ContainerState) -> dict[ContainerId, Container]:
            return {c.container_id: c for c in containers if c.state in states}

        assert self.used_mib == sum(c.memory_mib for c in containers)
        assert self.removing_mib == sum(c.memory_mib for c in those(S.REMOVING).values())
        assert self.starting == len(those(S.STARTING))
        for container in containers:
            assert bool(container.leases) == (container.state in LEASED), (container.state, container.leases)
            assert len(container.leases) <= (container.key.concurrency if container.key else 1)
            if container.state in {S.STEM, S.STEM_FROZEN}:
                assert container.key is None
            elif container.state not in {S.STARTING, S.ADOPTING, S.REMOVING}:
                assert container.key is not None
        assert self.warm == those(S.WARM)
        resting = (S.FROZEN, S.STEM_FROZEN) if self._freezing() else (S.FROZEN, S.STEM_FROZEN, S.WARM, S.STEM)
        assert self.resting == those(*resting)
        assert self.flat(self.stems) == those(S.STEM, S.STEM_FROZEN)
        assert self.flat(self.ready) == {c.container_id: c for c in containers if c.key and self.can_take(c)}
        assert self.flat(self.by_key) == {c.container_id: c for c in containers if c.key and c.state is not S.REMOVING}
