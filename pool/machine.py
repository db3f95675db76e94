"""The pool as a state machine: events in, commands out, no I/O, no clock of its own.

`Machine.handle` is synchronous, so nothing can interleave with a decision, and no lock is needed. The shell
(`pool.py`) carries the commands out; the end of each comes back as an event. The containers and their states are in
`books.py`; here are the queue and the decisions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from pool import events as ev
from pool.books import EVICTABLE, Books, Container, Observer
from pool.errors import ActionError, InvokerError, MemoryNeverAvailable, PoolClosed, PoolOverloaded
from pool.model import ActivationId, ContainerId, ContainerSpec, ContainerState, PoolStatistics, ReuseKey, StartKind
from pool.policy import choose_evictions, wanted_starts

S = ContainerState

#: Weight of the newest value in a moving average.
AVERAGE_WEIGHT = 0.2


@dataclass(slots=True, eq=False)
class Waiter:
    """An activation in the queue."""

    activation: ActivationId
    key: ReuseKey
    arrived: float


@dataclass(slots=True)
class Pace:
    """What was seen of the activations of one key."""

    #: Moving average of how long a lease lasts, s; None before the first has ended.
    mean_s: float | None = None
    #: When its first container had its code, seconds of the pool's clock.
    serving_since: float | None = None
    #: For how long its activations have waited while it was serving, summed since the last start, s.
    waited_s: float = 0.0

    def note_end(self, lasted_s: float) -> None:
        """A lease has ended."""
        self.mean_s = lasted_s if self.mean_s is None else self.mean_s + AVERAGE_WEIGHT * (lasted_s - self.mean_s)


@dataclass(slots=True, eq=False)
class StemTarget:
    """How many stem cells of a spec are kept."""

    spec: ContainerSpec
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """Numbers that the machine decides by.

    Attributes:
        memory_mib: the sum over all containers never exceeds it.
        freeze_grace_s: how long an idle container stays runnable. 0 freezes at once.
        freezing: false where the self-test found that this node cannot freeze: then warm, never frozen.
        keep_alive_s: how long an idle container is kept.
        parallel_starts: creations in flight at the engine.
        max_waiting: activations in the queue; one more is refused.
        max_containers_per_action: hard cap, whatever waits.
        launch_patience_s: a container busy for less than this may soon be free, and is counted on.
        large_request_patience_s: how long smaller activations may overtake one for which no memory is free.
    """

    memory_mib: int
    freeze_grace_s: float = 0.05
    freezing: bool = True
    keep_alive_s: float = 600.0
    parallel_starts: int = 4
    max_waiting: int = 10_000
    max_containers_per_action: int = 1000
    launch_patience_s: float = 0.1
    large_request_patience_s: float = 5.0


class Machine:
    """Decides which container serves which activation. See the module docstring."""

    def __init__(self, settings: PoolSettings, *, name: Callable[[], ContainerId], observer: Observer | None = None) -> None:
        """Begin empty.

        Args:
            settings: may be replaced at any time between two events.
            name: gives a new unique container id at each call.
            observer: told of each transition (container, before, after, seconds in before); may not raise.
        """
        self.settings = settings
        self._name = name
        self.books = Books(freezing=lambda: self.settings.freezing, observer=observer)
        #: Every activation in the queue, by arrival.
        self._waiters: dict[ActivationId, Waiter] = {}
        #: Reuse key's digest -> its activations in the queue, by arrival. No empty entries.
        self._queues: dict[str, dict[ActivationId, Waiter]] = {}
        #: Activation -> the container it holds.
        self._holds: dict[ActivationId, Container] = {}
        #: Spec's digests whose stem cells may be fewer than wanted: looked at when there is nothing better to do.
        self._short_of_stems: set[str] = set()
        #: Spec's digest -> how many stem cells are wanted.
        self._stem_targets: dict[str, StemTarget] = {}
        #: Reuse key's digest -> what was seen of it; forgotten with the key's last container.
        self._pace: dict[str, Pace] = {}
        #: Moving average of how long a start takes, s.
        self._start_cost_s = 0.3
        #: When a launch that patience held back is to be looked at again.
        self._launch_again: float | None = None
        self._closed = False
        self._starts = dict.fromkeys(StartKind, 0)
        self._evictions = 0
        self._commands: list[ev.Command] = []
        self._handlers: dict[type[ev.Event], Callable[..., None]] = {
            ev.Arrived: self._on_arrived,
            ev.Initialised: self._on_initialised,
            ev.Ended: self._on_ended,
            ev.Created: self._on_created,
            ev.CreateFailed: self._on_create_failed,
            ev.FreezeConfirmed: self._on_freeze_confirmed,
            ev.FreezeFailed: self._on_freeze_failed,
            ev.Probed: self._on_probed,
            ev.Died: self._on_died,
            ev.Removed: self._on_removed,
            ev.Found: self._on_found,
            ev.Retired: self._on_retired,
            ev.StemsWanted: self._on_stems_wanted,
            ev.Tick: self._on_tick,
            ev.Closed: self._on_closed,
        }

    # ---- the one door

    def handle(self, event: ev.Event, now: float) -> list[ev.Command]:
        """Take one event and return what is to be done, in order.

        Args:
            event: what happened. An event about a container or activation that is gone is no news and does nothing.
            now: seconds of the pool's clock; never before an earlier call's.
        """
        self.books.now = now
        commands: list[ev.Command] = []
        self._commands = commands
        self._handlers[type(event)](event)
        return commands

    def soonest(self) -> float:
        """How far ahead anything can be planned from now on at the soonest, seconds."""
        settings = self.settings
        return min(settings.freeze_grace_s, settings.keep_alive_s, settings.launch_patience_s)

    def next_wake(self) -> float | None:
        """When the next `Tick` is due, seconds of the pool's clock; None when nothing is planned."""
        wakes = []
        if self.books.warm and self.settings.freezing:
            wakes.append(next(iter(self.books.warm.values())).since + self.settings.freeze_grace_s)
        if self.books.resting:
            wakes.append(next(iter(self.books.resting.values())).since + self.settings.keep_alive_s)
        if self._launch_again is not None:
            wakes.append(self._launch_again)
        return min(wakes, default=None)

    def holder(self, activation: ActivationId) -> ContainerId | None:
        """Which container the activation holds now."""
        container = self._holds.get(activation)
        return container.container_id if container else None

    def is_waiting(self, activation: ActivationId) -> bool:
        """Whether the activation is in the queue."""
        return activation in self._waiters

    def statistics(self) -> PoolStatistics:
        """Count everything once."""
        states = dict.fromkeys(ContainerState, 0)
        for container in self.books.containers.values():
            states[container.state] += 1
        return PoolStatistics(
            containers=states,
            waiting=len(self._waiters),
            memory_used_mib=self.books.used_mib,
            memory_budget_mib=self.settings.memory_mib,
            starts=dict(self._starts),
            evictions=self._evictions,
        )

    # ---- activations

    def _on_arrived(self, event: ev.Arrived) -> None:
        key = event.key
        ready = self.books.ready.get(key.digest)
        if ready and not self._closed:
            self._grant(event.activation, next(reversed(ready.values())))
            return
        if self._closed:
            self._commands.append(ev.Reject(event.activation, PoolClosed()))
            return
        if key.spec.memory_mib > self.settings.memory_mib:
            text = f"the action's memory limit of {key.spec.memory_mib} MB is more than the pool's {self.settings.memory_mib} MB"
            self._commands.append(ev.Reject(event.activation, MemoryNeverAvailable(text)))
            return
        if len(self._waiters) >= self.settings.max_waiting:
            text = f"{len(self._waiters)} activations wait for a container already; try again later"
            self._commands.append(ev.Reject(event.activation, PoolOverloaded(text)))
            return
        waiter = Waiter(event.activation, key, self.books.now)
        self._waiters[event.activation] = waiter
        self._queues.setdefault(key.digest, {})[event.activation] = waiter
        self._serve(key)
        self._launch()

    def _on_initialised(self, event: ev.Initialised) -> None:
        container = self._holds.get(event.activation)
        if container is None:
            return
        self.books.move(container, S.BUSY)
        assert container.key is not None
        pace = self._pace_of(container.key)
        if pace.serving_since is None:
            pace.serving_since = self.books.now
        self._serve_with(container)

    def _on_ended(self, event: ev.Ended) -> None:
        if event.activation in self._waiters:
            self._forget_waiter(event.activation)
            return
        container = self._holds.pop(event.activation, None)
        if container is None:
            return
        granted = container.leases.pop(event.activation)
        container.idle_since = self.books.now
        if container.state is S.BUSY and container.key is not None:
            self._pace_of(container.key).note_end(self.books.now - granted)
        if container.state is S.INITIALISING and event.reusable and not self._closed:
            self.books.move(container, S.STARTING)
            self._offer(container, exercised=False)
        elif container.state is S.INITIALISING or not event.reusable:
            self._give_up(container)
        elif container.state is S.DRAINING:
            if not container.leases:
                self._remove(container)
        elif container.leases:
            self.books.note_ready(container)
            self._serve_with(container)
        else:
            self._rest(container)
        self._launch()

    def _rest(self, container: Container) -> None:
        """A busy container's last lease has ended: give it to the next in its queue, else let it rest."""
        key = container.key
        assert key is not None
        queue = self._queues.get(key.digest)
        if queue:  # BUSY to BUSY is no transition: it goes straight to the next activation
            self.books.note_ready(container)
            self._serve_with(container)
            return
        self.books.move(container, S.WARM)
        if self.settings.freezing and self.settings.freeze_grace_s <= 0:
            self._freeze(container)

    def _grant(self, activation: ActivationId, container: Container) -> None:
        """Hand out a container that can take one more lease."""
        before = container.state
        kind = {
            S.STARTING: StartKind.COLD,
            S.STEM: StartKind.STEM,
            S.STEM_FROZEN: StartKind.STEM,
            S.BUSY: StartKind.WARM,
            S.WARM: StartKind.WARM,
            S.FREEZING: StartKind.FROZEN,
            S.FROZEN: StartKind.FROZEN,
        }[before]
        container.leases[activation] = self.books.now
        self._holds[activation] = container
        needs_init = kind is StartKind.COLD or kind is StartKind.STEM
        if needs_init:
            self._short_of_stems.add(container.spec.digest)
            self.books.move(container, S.INITIALISING)
        elif before is not S.BUSY:
            self.books.move(container, S.BUSY)
        else:
            self.books.note_ready(container)
        self._starts[kind] += 1
        self._commands.append(ev.Grant(activation, container.container_id, kind, needs_init))

    def _serve(self, key: ReuseKey) -> None:
        """Give the queue of `key` what is there: ready containers, then stem cells."""
        digest = key.digest
        while queue := self._queues.get(digest):
            ready = self.books.ready.get(digest)
            if ready:
                self._take(next(iter(queue.values())), next(reversed(ready.values())))
                continue
            stems = self.books.stems.get(key.spec.digest)
            if not stems or sum(self._coming(digest)) >= len(queue) or self._at_cap(key):
                return
            stem = next(iter(stems.values()))
            self.books.specialise(stem, key)
            self._take(next(iter(queue.values())), stem)

    def _serve_with(self, container: Container) -> None:
        """Give a container with code to its own queue, as often as its concurrency allows."""
        key = container.key
        assert key is not None
        while self.books.can_take(container) and (queue := self._queues.get(key.digest)):
            self._take(next(iter(queue.values())), container)

    def _serve_spec(self, container: Container) -> None:
        """Give a stem cell to any activation that waits for its spec, the longest waiting first."""
        for waiter in self._waiters.values():
            if waiter.key.spec.digest == container.spec.digest:
                self.books.specialise(container, waiter.key)
                self._take(waiter, container)
                return

    def _take(self, waiter: Waiter, container: Container) -> None:
        self._forget_waiter(waiter.activation)
        pace = self._pace_of(waiter.key)
        if pace.serving_since is not None:
            pace.waited_s += self.books.now - max(waiter.arrived, pace.serving_since)
        self._grant(waiter.activation, container)

    def _forget_waiter(self, activation: ActivationId) -> None:
        waiter = self._waiters.pop(activation)
        queue = self._queues[waiter.key.digest]
        del queue[activation]
        if not queue:
            del self._queues[waiter.key.digest]

    # ---- containers

    def _on_created(self, event: ev.Created) -> None:
        container = self.books.containers.get(event.container)
        if container is None or container.state is not S.STARTING:
            return
        self._start_cost_s += AVERAGE_WEIGHT * (self.books.now - container.born - self._start_cost_s)
        if self._closed:
            self._remove(container)
        else:
            self._offer(container, exercised=event.exercised)
        self._launch()

    def _offer(self, container: Container, *, exercised: bool) -> None:
        """Give a container that has come up to who waits for it, or for its like; else make it a stem cell.

        One that nobody takes serves an empty request first: frozen before it listens it could never be reached.
        """
        queue = self._queues.get(container.key.digest) if container.key else None
        if queue:
            self._take(next(iter(queue.values())), container)
            return
        self.books.unspecialise(container)
        self._serve_spec(container)
        if container.state is not S.STARTING:
            return
        if exercised:
            self.books.move(container, S.STEM)
            self._freeze_stem(container)
        else:
            self._commands.append(ev.Exercise(container.container_id))

    def _on_create_failed(self, event: ev.CreateFailed) -> None:
        container = self.books.containers.get(event.container)
        if container is None:
            return
        key = container.key
        self._remove(container)  # whatever was made of it; its memory counts until that is known to be gone
        self._short_of_stems.add(container.spec.digest)
        if key is not None and key.digest in self._queues:
            victims = list(self._queues[key.digest].values())
            # The action's own fault will not mend; ours may, so only the one it was started for is told.
            for waiter in victims if isinstance(event.error, ActionError) else victims[:1]:
                self._reject(waiter, event.error)
        self._launch()

    def _on_freeze_confirmed(self, event: ev.FreezeConfirmed) -> None:
        container = self.books.containers.get(event.container)
        if container is None:
            return
        if container.state is S.FREEZING:
            self.books.move(container, S.FROZEN)
        elif container.state is S.STEM:
            self.books.move(container, S.STEM_FROZEN)

    def _on_freeze_failed(self, event: ev.FreezeFailed) -> None:
        container = self.books.containers.get(event.container)
        if container is None:
            return
        if container.state is S.FREEZING:
            self.books.move(container, S.SUSPECT)
            self._commands.append(ev.Probe(container.container_id))
        elif container.state is S.STEM:
            self._remove(container)

    def _on_probed(self, event: ev.Probed) -> None:
        container = self.books.containers.get(event.container)
        if container is None or container.state not in {S.SUSPECT, S.ADOPTING}:
            return
        if not event.usable or self._closed:
            self._remove(container)
        elif container.key is None:
            self.books.move(container, S.STEM_FROZEN if event.frozen else S.STEM)
            self._serve_spec(container)
            self._freeze_stem(container)
        else:
            self.books.move(container, S.FROZEN if event.frozen else S.WARM)
            self._serve_with(container)
        self._launch()

    def _on_died(self, event: ev.Died) -> None:
        """Whoever holds it learns that from the broken connection; an idle one goes at once."""
        container = self.books.containers.get(event.container)
        if container is None or container.state in {S.STARTING, S.REMOVING, S.DRAINING}:
            return
        if container.state is S.BUSY:
            self.books.move(container, S.DRAINING)
        elif container.state is not S.INITIALISING:
            self._remove(container)
        self._launch()

    def _on_removed(self, event: ev.Removed) -> None:
        container = self.books.containers.get(event.container)
        if container is None:
            return
        self.books.forget(container)
        self._short_of_stems.add(container.spec.digest)
        if container.key is not None and container.key.digest not in self.books.by_key:
            self._pace.pop(container.key.digest, None)
        self._launch()

    def _on_found(self, event: ev.Found) -> None:
        container = Container(event.container, event.spec, event.key, S.ADOPTING, self.books.now, self.books.now, self.books.now)
        self.books.add(container)
        if self.books.used_mib > self.settings.memory_mib:  # the budget was made smaller since
            self._remove(container)
        else:
            self._commands.append(ev.Probe(container.container_id))

    def _on_retired(self, event: ev.Retired) -> None:
        for container in list(self.books.containers.values()):
            key = container.key
            if key is None or key.action != event.action or key.revision == event.revision:
                continue
            if container.state is S.BUSY:
                self.books.move(container, S.DRAINING)
            elif container.state in EVICTABLE or container.state in {S.FREEZING, S.SUSPECT, S.ADOPTING}:
                self._remove(container)
            # STARTING becomes a stem cell when nobody waits; INITIALISING serves the call it was given for: its
            # key is never looked up again, so it ends by its keep-alive.
        self._launch()

    def _on_stems_wanted(self, event: ev.StemsWanted) -> None:
        digest = event.spec.digest
        if event.count > 0:
            self._stem_targets[digest] = StemTarget(event.spec, event.count)
            self._short_of_stems.add(digest)
        elif self._stem_targets.pop(digest, None) is not None:
            for container in list(self.books.stems.get(digest, {}).values()):
                self._remove(container)
        self._launch()

    def _on_tick(self, _: ev.Tick) -> None:
        settings = self.settings
        if settings.freezing:
            for container in self._due(self.books.warm, settings.freeze_grace_s):
                self._freeze(container)
        for container in self._due(self.books.resting, settings.keep_alive_s):
            if container.key is None:
                self._stem_targets.pop(container.spec.digest, None)
            self._remove(container)
        if self._launch_again is not None and self._launch_again <= self.books.now:
            self._launch()

    def _on_closed(self, _: ev.Closed) -> None:
        self._closed = True
        self._stem_targets.clear()
        for waiter in list(self._waiters.values()):
            self._reject(waiter, PoolClosed())

    def _due(self, ordered: dict[ContainerId, Container], after_s: float) -> list[Container]:
        """Take from the front of a dictionary ordered by `since` those whose time is up."""
        limit = self.books.now - after_s + 1e-6  # a timer may fire a hair early
        return list(itertools.takewhile(lambda container: container.since <= limit, ordered.values()))

    def _reject(self, waiter: Waiter, error: InvokerError) -> None:
        self._forget_waiter(waiter.activation)
        self._commands.append(ev.Reject(waiter.activation, error))

    def _freeze(self, container: Container) -> None:
        self.books.move(container, S.FREEZING)
        self._commands.append(ev.Freeze(container.container_id))

    def _freeze_stem(self, container: Container) -> None:
        if container.state is S.STEM and self.settings.freezing:
            self._commands.append(ev.Freeze(container.container_id))

    def _give_up(self, container: Container) -> None:
        """It must not be used again; it goes as soon as the last lease on it has ended."""
        if not container.leases:
            self._remove(container)
        elif container.state is S.BUSY:
            self.books.move(container, S.DRAINING)

    def _remove(self, container: Container) -> None:
        self.books.move(container, S.REMOVING)
        self._commands.append(ev.Remove(container.container_id))

    # ---- launching

    def _coming(self, digest: str) -> tuple[int, int]:
        """Count the containers of a key that will soon take from its queue: (coming up, soon free).

        Also plans a look at the time when the patience with the latter ends.
        """
        starting = soon_free = 0
        patience = self.settings.launch_patience_s
        for container in self.books.by_key.get(digest, {}).values():
            if container.state is S.STARTING or container.state is S.INITIALISING:
                starting += 1
            elif container.state is S.BUSY:
                youngest = max(container.leases.values())
                if self.books.now - youngest < patience:
                    soon_free += 1
                    again = youngest + patience
                    if self._launch_again is None or again < self._launch_again:
                        self._launch_again = again
        return starting, soon_free

    def _pace_of(self, key: ReuseKey) -> Pace:
        pace = self._pace.get(key.digest)
        if pace is None:
            pace = self._pace[key.digest] = Pace()
        return pace

    def _at_cap(self, key: ReuseKey) -> bool:
        return len(self.books.by_key.get(key.digest, ())) >= self.settings.max_containers_per_action

    def _launch(self) -> None:
        """Look for work for the engine where there may be some."""
        if self._queues or self._short_of_stems or self._launch_again is not None:
            self._launch_all()

    def _launch_all(self) -> None:
        """Start what is worth starting, within memory and the engine's limit; then replenish stem cells.

        Queues are served in the order of their longest waiting activation. One for which no memory is free even
        after evictions is overtaken for a while (`large_request_patience_s`), then holds back all behind it.
        """
        self._launch_again = None
        if self._closed:
            return
        removing_mib = self.books.removing_mib
        for digest, oldest in self._queues_by_age():
            key, pace = oldest.key, self._pace_of(oldest.key)
            self._serve(key)
            queue = self._queues.get(digest)
            if not queue:
                continue
            starting, soon_free = self._coming(digest)
            wanted = wanted_starts(
                waiting=len(queue),
                starting=starting,
                soon_free=soon_free,
                concurrency=key.concurrency,
                mean_s=pace.mean_s,
                waited_s=pace.waited_s,
                start_cost_s=self._start_cost_s,
                most=self.settings.parallel_starts,
            )
            for _ in range(wanted):
                if self.books.starting >= self.settings.parallel_starts or self._at_cap(key):
                    break
                free_mib = self.settings.memory_mib - self.books.used_mib
                if key.spec.memory_mib <= free_mib:
                    pace.waited_s = 0.0
                    self._start(key.spec, key)
                    continue
                # What is being removed comes free soon: evict only what is missing beyond that.
                missing_mib = key.spec.memory_mib - free_mib - removing_mib
                if missing_mib > 0:
                    removing_mib += self._evict(missing_mib, sparing=digest)
                if self.books.now - oldest.arrived > self.settings.large_request_patience_s:
                    return
                break
        if not self._queues:
            self._replenish_stems()

    def _queues_by_age(self) -> list[tuple[str, Waiter]]:
        heads = [(digest, next(iter(queue.values()))) for digest, queue in self._queues.items()]
        if len(heads) > 1:
            heads.sort(key=lambda head: head[1].arrived)
        return heads

    def _evict(self, needed_mib: int, *, sparing: str) -> int:
        """Remove idle containers of other keys; return the MiB that this will free, 0 when it would not suffice."""
        idle = (c for c in self.books.containers.values() if c.state in EVICTABLE and (c.key is None or c.key.digest != sparing))
        chosen = choose_evictions(idle, needed_mib)
        for container in chosen:
            self._evictions += 1
            self._remove(container)
        return sum(container.memory_mib for container in chosen)

    def _replenish_stems(self) -> None:
        """Start missing stem cells, only into memory that is free and only while the engine has nothing better to do."""
        for digest in list(self._short_of_stems):
            target = self._stem_targets.get(digest)
            have = len(self.books.stems.get(digest, ()))
            have += sum(1 for c in self.books.containers.values() if c.state is S.STARTING and c.spec.digest == digest)
            if target is None or have >= target.count:
                self._short_of_stems.discard(digest)
                continue
            for _ in range(target.count - have):
                if self.books.starting >= max(1, self.settings.parallel_starts // 2):
                    return
                if self.books.used_mib + target.spec.memory_mib > self.settings.memory_mib:
                    break
                self._start(target.spec, None)

    def _start(self, spec: ContainerSpec, key: ReuseKey | None) -> None:
        container = Container(self._name(), spec, key, S.STARTING, self.books.now, self.books.now, self.books.now)
        self.books.add(container)
        self._commands.append(ev.Create(container.container_id, spec))

    # ---- proof

    def check_invariants(self) -> None:
        """Raise AssertionError where queue, leases and books disagree. For tests and debugging; O(everything)."""
        books = self.books
        books.check_invariants()
        removing = any(c.state is S.REMOVING for c in books.containers.values())
        assert books.used_mib <= self.settings.memory_mib or removing, "memory budget overrun"
        assert self._holds == {activation: c for c in books.containers.values() for activation in c.leases}
        assert not set(self._holds) & set(self._waiters)
        assert {w.activation for queue in self._queues.values() for w in queue.values()} == set(self._waiters)
        for digest, queue in self._queues.items():
            assert queue, "an empty queue was kept"
            assert not books.ready.get(digest), "an activation waits beside a container that could take it"
