"""The pool as a state machine: events in, commands out, no I/O, no clock of its own.

`Machine.handle` is synchronous, so nothing can interleave with a decision, and no lock is needed. The shell
(`pool.py`, `operations.py`) carries the commands out; the end of each comes back as an event. Here is what each event comes to;
the containers and their states are in `books.py`, the queue in `queueing.py`. Who of it gets which container is decided in
`serving.py`, what is started and what goes for it in `launcher.py`, what becomes of a container that nobody uses in `resting.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pool import events as ev
from pool.books import EVICTABLE, Books, Container, Observer
from pool.bounds import Bounds
from pool.errors import ActionError, InvokerError, MemoryNeverAvailable, PoolClosed
from pool.launcher import Launcher, Orders
from pool.model import ActivationId, ContainerId, ContainerSpec, ContainerState, PoolStatistics, ReuseKey, Standing, StartKind
from pool.queueing import FairQueue, Waiter
from pool.resting import Resting
from pool.serving import Serving
from pool.settings import PoolSettings
from pool.sick_keys import SickKeys

S = ContainerState


#: What an activation finds that is granted a container in this state.
_START_KINDS = {
    S.STARTING: StartKind.COLD,
    S.STEM: StartKind.STEM,
    S.STEM_FROZEN: StartKind.STEM,
    S.BUSY: StartKind.WARM,
    S.WARM: StartKind.WARM,
    S.FREEZING: StartKind.FROZEN,
    S.FROZEN: StartKind.FROZEN,
}


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
        #: How far ahead anything can be planned from now on at the soonest, seconds.
        self.soonest_s = _soonest_s(settings)
        self._name = name
        self.books = Books(
            freezing=lambda: self.settings.freezing,
            keep_s=lambda container: self._resting.keep_s(container),  # noqa: PLW0108 - it is made below, of these books
            observer=observer,
        )
        #: Every activation that waits.
        self._queue = FairQueue()
        orders = Orders(
            start=self._start,
            remove=self._remove,
            serve=lambda key: self._serving.serve(key),  # noqa: PLW0108 - it is made below, of this launcher
            measure=lambda containers: self._commands.append(ev.Measure(containers)),
        )
        #: What is to be started, and what goes for it.
        self.launcher = Launcher(lambda: self.settings, self.books, self._queue, orders)
        #: Who of those that wait gets which container.
        self._serving = Serving(lambda: self.settings, self.books, self._queue, self.launcher, self._grant)
        #: What becomes of containers that nobody uses.
        self._resting = Resting(lambda: self.settings, self.books, self.launcher, freeze=self._freeze, remove=self._remove)
        #: Who may wait.
        self.bounds = Bounds(lambda: self.settings, self._queue, self.launcher)
        #: Activation -> the container it holds.
        self._holds: dict[ActivationId, Container] = {}
        #: Actions whose containers cannot be made.
        self._sick_keys = SickKeys()
        #: Only what belongs to something in flight is taken.
        self._draining = False
        self._closed = False
        self._starts = dict.fromkeys(StartKind, 0)
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
            ev.Measured: self._on_measured,
            ev.Spoiled: self._on_spoiled,
            ev.Died: self._on_died,
            ev.Removed: self._on_removed,
            ev.Found: self._on_found,
            ev.Retired: self._on_retired,
            ev.StemsWanted: self._on_stems_wanted,
            ev.FreezingChanged: self._on_freezing_changed,
            ev.Tick: self._on_tick,
            ev.Draining: self._on_draining,
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

    def change_settings(self, settings: PoolSettings) -> None:
        """Decide by other numbers from the next event on."""
        self.settings = settings
        self.soonest_s = _soonest_s(settings)
        self.launcher.forget_weights()

    def next_wake(self) -> float | None:
        """When the next `Tick` is due, seconds of the pool's clock; None when nothing is planned."""
        wakes = (self._resting.next_look(), self.launcher.again)
        return min((due for due in wakes if due is not None), default=None)

    def holder(self, activation: ActivationId) -> ContainerId | None:
        """Which container the activation holds now."""
        container = self._holds.get(activation)
        return container.container_id if container else None

    def is_ready(self, key: ReuseKey) -> bool:
        """Whether an activation of this key would be granted a container with its code at once."""
        return key.digest in self.books.ready and not self._closed

    def find_ready(self, key: ReuseKey) -> ContainerId | None:
        """Which container an activation of this key would be granted at once; None: there is none, or it has to be asked for."""
        ready = self.books.ready.get(key.digest)
        return next(reversed(ready)) if ready and not (self._closed or self._draining) else None

    def take(self, activation: ActivationId, container_id: ContainerId, now: float) -> StartKind:
        """Grant the container that `find_ready` found in the same breath: what `Arrived` comes to, with nothing to be decided.

        Args:
            activation: that gets it.
            container_id: of the container.
            now: as of `handle`.
        """
        self.books.now = now
        return self._hand_out(activation, self.books.containers[container_id])

    def is_waiting(self, activation: ActivationId) -> bool:
        """Whether the activation is in the queue."""
        return activation in self._queue

    def statistics(self) -> PoolStatistics:
        """Count everything once."""
        states = dict.fromkeys(ContainerState, 0)
        for container in self.books.containers.values():
            states[container.state] += 1
        return PoolStatistics(
            containers=states,
            waiting=len(self._queue),
            memory_used_mib=self.books.used_mib,
            memory_budget_mib=self.settings.memory_mib,
            starts=dict(self._starts),
            evictions=self.launcher.evictions,
        )

    # ---- activations

    def _on_arrived(self, event: ev.Arrived) -> None:
        key = event.key
        ready = self.books.ready.get(key.digest)
        refused = self._closed or (self._draining and event.standing < Standing.PART)
        if ready and not refused:
            self._grant(event.activation, next(reversed(ready.values())))
            return
        if refused:
            self._commands.append(ev.Reject(event.activation, PoolClosed()))
            return
        if too_large := self._too_large(key):
            self._commands.append(ev.Reject(event.activation, too_large))
            return
        if failure := self._known_failure(key):
            self._commands.append(ev.Reject(event.activation, failure))
            return
        if event.standing is Standing.NEW and (refusal := self.bounds.refusal(key, self.books.now)):
            self._commands.append(ev.Reject(event.activation, refusal))
            return
        behind_others = self._queue.line(key.digest) is not None
        self._wait(event.activation, key, event.standing)
        if not behind_others or key.spec.digest in self.books.stems:  # else the others have had what there was
            self._serving.serve(key)
        if event.activation not in self._queue or self.launcher.may_grow(key):  # else its line can only wait
            self.launcher.launch()

    def _too_large(self, key: ReuseKey) -> MemoryNeverAvailable | None:
        settings, wanted = self.settings, f"the action's memory limit of {key.spec.memory_mib} MB"
        if key.spec.memory_mib > settings.memory_mib:
            return MemoryNeverAvailable(f"{wanted} is more than the pool's {settings.memory_mib} MB")
        if key.spec.memory_mib > settings.max_memory_per_user_mib:
            return MemoryNeverAvailable(f"{wanted} is more than the {settings.max_memory_per_user_mib} MB that one user may have")
        return None

    def _known_failure(self, key: ReuseKey) -> InvokerError | None:
        """Return why no container is made for this key now, where one would have to be made. None to go on."""
        if key.digest not in self._sick_keys or key.digest in self.books.by_key or key.spec.digest in self.books.stems:
            return None
        return self._sick_keys.refusal(key.digest, self.books.now)

    def _wait(self, activation: ActivationId, key: ReuseKey, standing: Standing) -> None:
        now, spec = self.books.now, key.spec
        if key.digest not in self.books.by_key:
            pace = self.launcher.find_pace(key.digest)
            if pace is not None and pace.ended_at is not None:
                pace.habits.note_gap(now - pace.ended_at)  # what would have been met, had its last container been kept
        user = self.books.user(spec.uid)
        user.active_at, user.weight = now, self.launcher.weight_of(spec.namespace)
        self._queue.push(Waiter(activation, key, now, standing), weight=user.weight)

    def _on_initialised(self, event: ev.Initialised) -> None:
        container = self._holds.get(event.activation)
        if container is None:
            return
        container.takes_one = event.takes_one
        self.books.move(container, S.BUSY)
        assert container.key is not None
        self._sick_keys.succeeded(container.key.digest)
        if container.idle_since == container.born:
            container.start_cost_s = self.books.now - container.born
        pace = self.launcher.pace_of(container.key)
        pace.takes_one = event.takes_one
        if pace.serving_since is None:
            pace.serving_since = self.books.now
        self._serving.serve_with(container)
        self.launcher.launch()  # it is no longer coming: those behind it may be worth another one

    def _on_ended(self, event: ev.Ended) -> None:
        container = self._holds.pop(event.activation, None)
        if container is None:
            if event.activation in self._queue:
                self._queue.remove(event.activation)
            return
        self._note_end(container, granted=container.leases.pop(event.activation))
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
            self._serving.serve_with(container)
        elif self._rest(container):
            return  # it serves on: nothing has come free that a launch could use
        self.launcher.launch()

    def _note_end(self, container: Container, *, granted: float) -> None:
        """Learn from a lease that has ended, granted at that time."""
        now = self.books.now
        container.freezable = True
        if container.state is S.BUSY and container.key is not None:
            pace = self.launcher.pace_of(container.key)
            pace.note_end(now - granted, now)
            if not container.leases and container.idle_since > container.born:
                pace.habits.note_gap(granted - container.idle_since)
        container.idle_since = now
        container.clock = self.launcher.clock
        self.books.users[container.spec.uid].active_at = now

    def _rest(self, container: Container) -> bool:
        """A busy container's last lease has ended: give it to the next in its line (True), else let it rest."""
        key = container.key
        assert key is not None
        line = self._queue.line(key.digest)
        if line is None:
            self.books.move(container, S.WARM)
            if self.settings.freezing and self.settings.freeze_grace_s <= 0:
                self._freeze(container)
        elif self.launcher.gives_way(container, line):
            self.launcher.evictions += 1
            self._remove(container)
        else:  # BUSY to BUSY is no transition: it goes straight to the next activation
            self._serving.serve_one(line.oldest(), container)
            if container.takes > 1:
                self._serving.serve_with(container)
            return True
        return False

    def _grant(self, activation: ActivationId, container: Container) -> None:
        """Hand out a container that can take one more lease."""
        kind = self._hand_out(activation, container)
        self._commands.append(ev.Grant(activation, container.container_id, kind, container.state is S.INITIALISING))

    def _hand_out(self, activation: ActivationId, container: Container) -> StartKind:
        before = container.state
        kind = _START_KINDS[before]
        container.leases[activation] = self.books.now
        self._holds[activation] = container
        if kind is StartKind.COLD or kind is StartKind.STEM:
            self.launcher.stems.note_use(container.spec.digest, self.books.now)
            self.books.move(container, S.INITIALISING)
        elif before is not S.BUSY:
            self.books.move(container, S.BUSY)
        else:
            self.books.note_ready(container)
        self._starts[kind] += 1
        return kind

    # ---- containers

    def _on_created(self, event: ev.Created) -> None:
        container = self.books.containers.get(event.container)
        if container is None or container.state is not S.STARTING:
            return
        if not event.exercised:
            self.launcher.width.note(container.started_with, self.books.now - container.born, self.books.now)
        if self._closed or (self._draining and not self._queue):
            self._remove(container)
        else:
            self._offer(container, exercised=event.exercised)
        self.launcher.launch()

    def _offer(self, container: Container, *, exercised: bool) -> None:
        """Give a container that has come up to who waits for it, or for its like; else make it a stem cell.

        One that nobody takes serves an empty request first: frozen before it listens it could never be reached.
        """
        line = self._queue.line(container.key.digest) if container.key else None
        if line:
            self._serving.serve_one(line.oldest(), container)
            return
        self.books.unspecialise(container)
        self._serving.serve_spec(container)
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
        self.launcher.stems.short.add(container.spec.digest)
        if key is not None:
            self._sick_keys.failed(key.digest, event.error, self.books.now)
        line = self._queue.line(key.digest) if key else None
        if line:
            victims = list(line.waiters.values())
            # The action's own fault will not mend; ours may, so only the one it was started for is told.
            for waiter in victims if isinstance(event.error, ActionError) else victims[:1]:
                self._reject(waiter, event.error)
        self.launcher.launch()

    def _on_freeze_confirmed(self, event: ev.FreezeConfirmed) -> None:
        container = self.books.containers.get(event.container)
        if container is None:
            return
        container.measured = False
        if container.state is S.FREEZING:
            self.books.move(container, S.FROZEN)
        elif container.state is S.STEM:
            self.books.move(container, S.STEM_FROZEN)
        if self.launcher.blocked:
            self.launcher.launch()

    def _on_freeze_failed(self, event: ev.FreezeFailed) -> None:
        container = self.books.containers.get(event.container)
        if container is None:
            return
        if container.state is S.FREEZING:
            container.freezable = False
            self.books.move(container, S.SUSPECT)
            self._commands.append(ev.Probe(container.container_id))
        elif container.state is S.STEM:
            self._remove(container)

    def _on_probed(self, event: ev.Probed) -> None:
        container = self.books.containers.get(event.container)
        if container is None or container.state not in {S.SUSPECT, S.ADOPTING}:
            return
        has_room = event.frozen or not container.missing_mib or self._serving.grow(container)
        if not event.usable or self._closed or not has_room:
            self._remove(container)
        elif container.key is None:
            self.books.move(container, S.STEM_FROZEN if event.frozen else S.STEM)
            self._serving.serve_spec(container)
            self._freeze_stem(container)
        else:
            self.books.move(container, S.FROZEN if event.frozen else S.WARM)
            self._serving.serve_with(container)
        self.launcher.launch()

    def _on_spoiled(self, event: ev.Spoiled) -> None:
        container = self.books.containers.get(event.container)
        if container is not None and container.state is S.BUSY:
            self.books.move(container, S.DRAINING)
            self.launcher.launch()

    def _on_died(self, event: ev.Died) -> None:
        """Whoever holds it learns that from the broken connection; an idle one goes at once."""
        container = self.books.containers.get(event.container)
        if container is None or container.state in {S.STARTING, S.REMOVING, S.DRAINING}:
            return
        if container.state is S.BUSY:
            self.books.move(container, S.DRAINING)
        elif container.state is not S.INITIALISING:
            self._remove(container)
        self.launcher.launch()

    def _on_removed(self, event: ev.Removed) -> None:
        container = self.books.containers.get(event.container)
        if container is None:
            return
        self.books.forget(container)
        self.launcher.stems.short.add(container.spec.digest)
        self.launcher.launch()

    def _on_measured(self, event: ev.Measured) -> None:
        """Reserve for those that are still frozen what they hold, and a margin. They cannot grow while they stand still."""
        for container_id, measured_mib in event.held_mib.items():
            container = self.books.containers.get(container_id)
            if container is None or container.state not in {S.FROZEN, S.STEM_FROZEN}:
                continue
            if (held_mib := self._frozen_mib(measured_mib)) < container.held_mib:
                self.books.hold(container, held_mib)
        self.launcher.launch()

    def _frozen_mib(self, measured_mib: int) -> int:
        """How much to reserve for a frozen container that holds so much."""
        return max(1, measured_mib + self.settings.frozen_margin_mib)

    def _on_found(self, event: ev.Found) -> None:
        now = self.books.now
        container = Container(
            event.container, event.spec, event.key, S.ADOPTING, now, now, now, older_s=event.age_s, takes_one=event.takes_one
        )
        if event.key is not None:
            self.launcher.pace_of(event.key).takes_one = event.takes_one
        if event.held_mib is not None and self.settings.shrink_frozen:  # as before: else they might not all have room
            container.held_mib = min(self._frozen_mib(event.held_mib), container.memory_mib)
        self.books.add(container)
        if self.books.used_mib - self.books.removing_mib > self.settings.memory_mib:  # the budget was made smaller since
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
        self.launcher.launch()

    def _on_stems_wanted(self, event: ev.StemsWanted) -> None:
        digest = event.spec.digest
        if event.count > 0 and not self._draining:
            self.launcher.stems.want(event.spec, event.count, event.reactive, self.books.now)
        elif self.launcher.stems.drop(digest):
            for container in list(self.books.stems.get(digest, {}).values()):
                self._remove(container)
        self.launcher.launch()

    def _on_freezing_changed(self, event: ev.FreezingChanged) -> None:
        if event.works == self.settings.freezing:
            return
        self.change_settings(replace(self.settings, freezing=event.works))
        self.books.sort_idle()
        for container in list(self.books.containers.values()):
            self._freeze_stem(container)

    def _on_tick(self, _: ev.Tick) -> None:
        self._resting.look()
        if self.launcher.again is not None and self.launcher.again <= self.books.now:
            self.launcher.launch()

    def _on_draining(self, _: ev.Draining) -> None:
        self._draining = True
        self.launcher.stems.clear()
        for waiter in self._queue.all():
            if waiter.standing < Standing.PART:
                self._reject(waiter, PoolClosed())

    def _on_closed(self, _: ev.Closed) -> None:
        self._draining = self._closed = True
        self.launcher.stems.clear()
        for waiter in self._queue.all():
            self._reject(waiter, PoolClosed())

    def _reject(self, waiter: Waiter, error: InvokerError) -> None:
        self._queue.remove(waiter.activation)
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

    def _start(self, spec: ContainerSpec, key: ReuseKey | None) -> None:
        assert not self._closed
        assert self.books.used_mib + spec.memory_mib <= self.settings.memory_mib, "memory budget overrun"
        container = Container(self._name(), spec, key, S.STARTING, self.books.now, self.books.now, self.books.now)
        self.books.add(container)
        container.started_with = self.books.starting
        self._commands.append(ev.Create(container.container_id, spec))

    # ---- proof

    def check_invariants(self) -> None:
        """Raise AssertionError where queue, leases and books disagree. For tests and debugging; O(everything)."""
        books = self.books
        books.check_invariants()
        assert books.used_mib - books.removing_mib <= self.settings.memory_mib, "memory budget overrun"
        assert self._holds == {activation: c for c in books.containers.values() for activation in c.leases}
        assert not any(activation in self._queue for activation in self._holds)
        self._queue.check_invariants()
        for waiter in self._queue.all():
            assert not books.ready.get(waiter.key.digest), "an activation waits beside a container that could take it"
            for container in books.shrunk.get(waiter.key.digest, {}).values():
                fits = books.used_mib + container.missing_mib <= self.settings.memory_mib
                assert not fits, "an activation waits beside a container that could be given its memory back"


def _soonest_s(settings: PoolSettings) -> float:
    return min(settings.freeze_grace_s, settings.keep_alive_s, settings.stem_keep_s, settings.launch_patience_s)
