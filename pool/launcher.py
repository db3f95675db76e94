"""Makes room and starts containers: whose turn it is, what is worth starting, what has to go for it.

Part of the machine, and as synchronous: it reads books and queue, and says what is to be done through the functions that it
was given. The rules themselves are functions of values, in `launching.py`, `keepalive.py` and `stems.py`.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from pool.books import LEASED, Books, Container
from pool.keepalive import Habits, Idle, choose_evictions
from pool.launching import (
    AVERAGE_WEIGHT,
    CLAIM_GOOD_FOR_S,
    PATIENCE_STARTS,
    Claim,
    Shares,
    StartWidth,
    herd_patience_s,
    wanted_starts,
)
from pool.model import ContainerId, ContainerSpec, ContainerState, ReuseKey
from pool.queueing import FairQueue, Line, weight_of
from pool.settings import PoolSettings
from pool.stems import StemTargets

S = ContainerState

#: Actions whose pace is remembered; the least recently begun are forgotten first.
MOST_PACES = 20_000
#: Frozen containers that are measured at a time.
MEASURED_AT_ONCE = 64
#: Lines that are looked at, in turn, while there is no memory for them, or no place within their user's caps: with hundreds of
#: them each event would cost milliseconds.
MOST_BLOCKED = 32
#: A user whose last activation was no longer ago than this would notice what others' starts cost, s.
NEIGHBOUR_S = 1.0
#: What an activation is thought to take of which nothing is known, s.
UNKNOWN_RUN_S = 1.0


@dataclass(slots=True)
class Pace:
    """What was seen of the activations of one key."""

    #: Moving average of how long a lease lasts, s; None before the first has ended.
    mean_s: float | None = None
    #: When its first container had its code, seconds of the pool's clock.
    serving_since: float | None = None
    #: For how long its activations have waited while it was serving, summed since the last start, s.
    waited_s: float = 0.0
    #: When a container was last started for it, seconds of the pool's clock.
    started_at: float = float("-inf")
    #: When its last lease ended, seconds of the pool's clock.
    ended_at: float | None = None
    #: Its code said that it runs one activation at a time, whatever the key's concurrency.
    takes_one: bool = False
    #: How its containers are used.
    habits: Habits = field(default_factory=Habits)

    def note_end(self, lasted_s: float, now: float) -> None:
        """A lease has ended."""
        self.mean_s = lasted_s if self.mean_s is None else self.mean_s + AVERAGE_WEIGHT * (lasted_s - self.mean_s)
        self.ended_at = now
        self.habits.calls += 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What the launcher may have done. Each changes the books at once."""

    start: Callable[[ContainerSpec, ReuseKey | None], None]
    remove: Callable[[Container], None]
    serve: Callable[[ReuseKey], None]
    measure: Callable[[tuple[ContainerId, ...]], None]


class Launcher:
    """Decides on starts and evictions. See the module docstring."""

    def __init__(self, settings: Callable[[], PoolSettings], books: Books, queue: FairQueue, orders: Orders) -> None:
        """Know of no action yet."""
        self._settings = settings
        self._books = books
        self._queue = queue
        self._orders = orders
        self.stems = StemTargets()
        self.width = StartWidth()
        #: Reuse key's digest -> what was seen of it, the least recently begun first.
        self._paces: OrderedDict[str, Pace] = OrderedDict()
        #: When a launch that patience held back is to be looked at again.
        self.again: float | None = None
        #: Worth of the container that was evicted last: greedy-dual's clock.
        self.clock = 0.0
        self.evictions = 0
        #: Lines for which there was no memory when last looked at, with the MiB that they need.
        self.blocked: dict[str, int] = {}
        self._weights: dict[str, float] = {}

    # ---- what is known of an action and of a user

    def pace_of(self, key: ReuseKey) -> Pace:
        """Return what was seen of a key's activations."""
        pace = self._paces.get(key.digest)
        if pace is None:
            pace = self._paces[key.digest] = Pace()
            if len(self._paces) > MOST_PACES:
                self._paces.popitem(last=False)
        return pace

    def find_pace(self, digest: str) -> Pace | None:
        """Return what was seen of a key's activations, if anything."""
        return self._paces.get(digest)

    def takes(self, key: ReuseKey) -> int:
        """How many activations one container of this key runs at a time, as far as its code has told."""
        pace = self._paces.get(key.digest)
        return 1 if pace is not None and pace.takes_one else key.concurrency

    def forget_weights(self) -> None:
        """The settings have changed."""
        self._weights.clear()

    def weight_of(self, namespace: str) -> float:
        """Return the weight of a namespace in queue and memory."""
        weight = self._weights.get(namespace)
        if weight is None:
            weight = self._weights[namespace] = weight_of(namespace, self._settings().shares)
        return weight

    def mean_s(self, key: ReuseKey) -> float:
        """See `Forecast`."""
        pace = self._paces.get(key.digest)
        return 0.0 if pace is None or pace.mean_s is None else pace.mean_s

    def cost_of(self, key: ReuseKey) -> float:
        """Estimate what an activation uses, MiB times seconds."""
        pace = self._paces.get(key.digest)
        mean_s = UNKNOWN_RUN_S if pace is None or pace.mean_s is None else pace.mean_s
        return key.spec.memory_mib * max(mean_s, 0.001) / self.takes(key)

    def expected_wait_s(self, key: ReuseKey, waiting: int) -> float:
        """Estimate how long an activation will wait behind so many others of its action; 0 where nothing is known yet.

        The others' runs, divided among the containers that the action has and those that it could still have: within its
        caps, in memory that is free. Idle containers of others, which may go for it, are not counted on.

        Returns:
            Seconds.
        """
        books, settings, uid = self._books, self._settings(), key.spec.uid
        has = len(books.by_key.get(key.digest, ()))
        user = books.users.get(uid)
        more = min(
            (settings.memory_mib - books.used_mib) // key.spec.memory_mib,
            settings.max_containers_per_action - has,
            settings.max_containers_per_user - (user.containers if user else 0),
            (settings.max_memory_per_user_mib - (user.limits_mib if user else 0)) // key.spec.memory_mib,
        )
        could_have = has + max(more, 0)
        takes = self.takes(key)
        return waiting * self.mean_s(key) / (could_have * takes) if could_have else 0.0

    def at_cap(self, key: ReuseKey) -> bool:
        """Whether the action or its user has all the containers, or the user all the memory, that it may have."""
        return self._action_at_cap(key) or self._user_at_cap(key.spec)

    def has_room(self, key: ReuseKey) -> bool:
        """Whether another container could be started for this key without anything going for it."""
        return not self.at_cap(key) and self._books.used_mib + key.spec.memory_mib <= self._settings().memory_mib

    def may_grow(self, key: ReuseKey) -> bool:
        """Whether a launch could bring the line of this key another container, now that one more has lined up.

        At the user's cap one of another action may go for it. That is looked for when the line begins, and with what happens
        later, but not with each of a flood.
        """
        if key.digest in self._books.shrunk:
            return True
        if self._action_at_cap(key):
            return False
        line = self._queue.line(key.digest)
        return not self._user_at_cap(key.spec) or (line is not None and len(line.waiters) == 1)

    def may_have_stem(self, key: ReuseKey) -> bool:
        """Whether the action may have one more of its user's stem cells. Those count as the user's already."""
        return not self._action_at_cap(key)

    def _action_at_cap(self, key: ReuseKey) -> bool:
        return len(self._books.by_key.get(key.digest, ())) >= self._settings().max_containers_per_action

    def _user_at_cap(self, spec: ContainerSpec) -> bool:
        return max(self._beyond_cap(spec)) > 0

    def _beyond_cap(self, spec: ContainerSpec) -> tuple[int, int]:
        """How many containers, and MiB, the user would be beyond its caps with one more of this spec; below zero within them."""
        user, settings = self._books.users.get(spec.uid), self._settings()
        if user is None:
            return 0, 0  # the first one: the machine refuses what is more than a user may have at all
        return (
            user.containers + 1 - settings.max_containers_per_user,
            user.limits_mib + spec.memory_mib - settings.max_memory_per_user_mib,
        )

    def _missing_of_user(self, spec: ContainerSpec) -> tuple[int, int]:
        """The same, when what is being removed will be gone."""
        containers, memory_mib = self._beyond_cap(spec)
        if max(containers, memory_mib) > 0:
            going = [c for c in self._books.containers.values() if c.state is S.REMOVING and c.spec.uid == spec.uid]
            containers -= len(going)
            memory_mib -= sum(each.memory_mib for each in going)
        return containers, memory_mib

    # ---- launching

    def launch(self) -> None:
        """Look for work for the engine where there may be some."""
        if self._queue or self.stems.short or self.again is not None or self.blocked:
            self._launch_all()

    def _launch_all(self) -> None:
        """Start what is worth starting, within memory and the engine's width; then replenish stem cells.

        Lines are looked at in the order of the fair queue. One for which no memory is free even
        after evictions is overtaken for a while (`large_request_patience_s`), then holds back all behind it.
        """
        self.again = None
        self.blocked.clear()
        books = self._books
        width = self.width.choose(self._settings().parallel_starts, books.now)
        lines = self._queue.in_turn() if books.starting < width else self._queue.in_turn(of=self._has_something)
        #: User -> lines for which there was no place within its caps; None -> lines for which there was no memory.
        blocked: Counter[int | None] = Counter()
        for digest, oldest in lines:
            spec = oldest.key.spec
            if self._has_something(oldest.key):
                self._orders.serve(oldest.key)
            elif books.starting >= width or max(blocked[None], blocked[spec.uid]) >= MOST_BLOCKED:
                continue  # only a start could help it, and there is none to be had
            line = self._queue.line(digest)
            if line is not None and not self._launch_line(digest, line, width):
                return
            if digest in self.blocked:
                blocked[spec.uid if self._user_at_cap(spec) else None] += 1
        if not self._queue:
            self._replenish_stems(width)

    def _has_something(self, key: ReuseKey) -> bool:
        """Whether there is a container that the line of this key may be given without a start, perhaps after it has grown."""
        books = self._books
        return key.digest in books.ready or key.digest in books.shrunk or key.spec.digest in books.stems

    def _launch_line(self, digest: str, line: Line, width: int) -> bool:
        """Start what one line is worth. False when it has waited so long for memory that all behind it must wait too."""
        books, settings = self._books, self._settings()
        oldest = line.oldest()
        key, pace = oldest.key, self.pace_of(oldest.key)
        starting, soon_free = self.coming(digest)
        if pace.mean_s is not None and books.now < (until := self._herd_until(line, pace)):
            self._look_again(until)
            return True
        wanted = wanted_starts(
            waiting=len(line.waiters),
            starting=starting,
            soon_free=soon_free,
            concurrency=self.takes(key),
            mean_s=pace.mean_s,
            waited_s=pace.waited_s,
            start_cost_s=self.width.cost_s,
            most=settings.parallel_starts,
        )
        for _ in range(wanted):
            growth_mib = self._growth_mib(key)
            if not growth_mib and (self._engine_is_taken(key, width) or self._action_at_cap(key)):
                break
            needed_mib = growth_mib or key.spec.memory_mib
            if not growth_mib and self._user_at_cap(key.spec):
                self.blocked[digest] = needed_mib
                self._make_room_of_user(key)
                break  # it holds up nobody else
            free_mib = settings.memory_mib - books.used_mib
            if needed_mib > free_mib:
                self.blocked[digest] = needed_mib
                # What is being removed comes free soon: make room only for what is missing beyond that.
                self._make_room(needed_mib - free_mib - books.removing_mib, key)
                return books.now - oldest.arrived <= settings.large_request_patience_s
            if growth_mib:
                break  # it may have it, and `serve` found that enough is coming
            pace.waited_s, pace.started_at = 0.0, books.now
            self._orders.start(key.spec, key)
        return True

    def _engine_is_taken(self, key: ReuseKey, width: int) -> bool:
        """Whether the engine has enough to do for now, as far as this key is concerned.

        A start costs more processor time than many a call. Who has containers to go on with starts one more at a time while
        others have something running: they would notice more.
        """
        books = self._books
        if books.starting >= width or not books.starting:
            return books.starting >= width
        has_some = any(container.state is S.BUSY for container in books.by_key.get(key.digest, {}).values())
        return has_some and any(
            books.now - user.active_at < NEIGHBOUR_S for uid, user in books.users.items() if uid != key.spec.uid
        )

    def _herd_until(self, line: Line, pace: Pace) -> float:
        """Until when those who wait may be a herd that is served in a moment, seconds of the pool's clock.

        What a container waits for is none: those that are busy may be just those that wait for it.
        """
        settings, oldest = self._settings(), line.oldest()
        serving = len(self._books.by_key.get(oldest.key.digest, ()))
        patience_s = herd_patience_s(serving=serving, most=settings.parallel_starts, start_cost_s=self.width.cost_s)
        if oldest.is_nested:
            patience_s = min(patience_s, settings.launch_patience_s)
        return max(line.since, pace.started_at) + patience_s

    def _look_again(self, when: float) -> None:
        if self.again is None or when < self.again:
            self.again = when

    def _growth_mib(self, key: ReuseKey) -> int:
        """How much memory a frozen container of this key, or a stem cell for it, lacks to run; 0 when there is none."""
        shrunk = self._books.shrunk.get(key.digest)
        if shrunk:
            return min(container.missing_mib for container in shrunk.values())
        stems = self._books.stems.get(key.spec.digest)
        if stems and self.may_have_stem(key):
            return min(container.missing_mib for container in stems.values())
        return 0

    def coming(self, digest: str) -> tuple[int, int]:
        """Count the containers of a key that will soon take from its queue: (coming up, soon free).

        Also plans a look at the time when the patience with the latter ends.
        """
        starting = soon_free = 0
        patience, now = self._settings().launch_patience_s, self._books.now
        for container in self._books.by_key.get(digest, {}).values():
            if container.state is S.STARTING or container.state is S.INITIALISING:
                starting += 1
            elif container.state is S.BUSY:
                again = max(container.leases.values()) + patience
                if now < again:
                    soon_free += 1
                    self._look_again(again)
        return starting, soon_free

    def _replenish_stems(self, width: int) -> None:
        """Start missing stem cells, only into memory that is free and only while the engine has nothing better to do."""
        books, settings = self._books, self._settings()
        for digest in list(self.stems.short):
            target = self.stems.get(digest)
            have = len(books.stems.get(digest, ()))
            have += sum(1 for c in books.containers.values() if c.state is S.STARTING and c.spec.digest == digest)
            wanted = target.wanted(books.now) if target else 0
            if target is None or have >= wanted:
                self.stems.short.discard(digest)
                continue
            for _ in range(wanted - have):
                if books.starting >= max(1, width // 2):
                    return
                if books.used_mib + target.spec.memory_mib > settings.memory_mib or self._user_at_cap(target.spec):
                    break
                self._orders.start(target.spec, None)

    # ---- room

    def _make_room(self, missing_mib: int, key: ReuseKey) -> None:
        """Free memory for a container of this key: first what frozen ones do not really hold, then idle ones go."""
        if missing_mib <= 0:
            return
        shares, taker = self.shares(), key.spec.uid
        # A user for whom nothing runs yet may take whatever idles: else a request beyond its user's share could wait for ever.
        protects = not self._serves_nothing(taker)
        protected = {uid for uid in self._books.users if protects and shares.is_protected(uid, taker)}
        if self._settings().shrink_frozen:
            unmeasured = [
                container
                for container in self._books.resting.values()
                if not container.measured and container.state in {S.FROZEN, S.STEM_FROZEN} and container.spec.uid not in protected
            ][:MEASURED_AT_ONCE]
            if unmeasured:
                for container in unmeasured:
                    container.measured = True
                self._orders.measure(tuple(container.container_id for container in unmeasured))
                return
        worths = self._worths(lambda container: container.spec.uid not in protected and not container.is_of(key))
        candidates = [(worth, container.held_mib, container) for worth, container in worths]
        self._evict(choose_evictions(candidates, missing_mib))

    def _make_room_of_user(self, key: ReuseKey) -> None:
        """Have idle containers of other actions go, for one of this key whose user has all that it may have."""
        missing, missing_mib = self._missing_of_user(key.spec)
        if max(missing, missing_mib) <= 0:
            return
        idle = list(self._worths(lambda container: container.spec.uid == key.spec.uid and not container.is_of(key)))
        going: dict[ContainerId, tuple[float, Container]] = {}
        if missing_mib > 0:
            chosen = choose_evictions(((worth, each.memory_mib, each) for worth, each in idle), missing_mib)
            going = {container.container_id: (worth, container) for worth, container in chosen}
        if missing > len(going):
            chosen = choose_evictions(((worth, 1, each) for worth, each in idle), missing)
            going |= {container.container_id: (worth, container) for worth, container in chosen}
        self._evict(going.values())

    def _evict(self, chosen: Iterable[tuple[float, Container]]) -> None:
        for worth, container in chosen:
            self.clock = max(self.clock, worth)
            self.evictions += 1
            self._orders.remove(container)

    def _serves_nothing(self, uid: int) -> bool:
        """Whether no container of a user runs an activation, or comes up."""
        return not any(c.spec.uid == uid and c.state in {S.STARTING, *LEASED} for c in self._books.containers.values())

    def _worths(self, may_go: Callable[[Container], bool]) -> Iterator[tuple[float, Container]]:
        """Give every idle container that may go with what it is worth. Stem cells go first: nobody has used them yet.

        Args:
            may_go: says the same of all containers of a key; what it refuses costs little.
        """
        policy = self._settings().policy
        books = self._books
        all_idle = {**books.flat(books.stems), **books.warm, **books.lingering, **books.resting}.values()
        idle = [each for each in all_idle if may_go(each)]
        positions: dict[str, int] = {}
        for container in sorted(idle, key=lambda each: -each.idle_since):
            if container.key is None:
                yield float("-inf"), container
                continue
            position = positions[container.key.digest] = positions.get(container.key.digest, -1) + 1
            yield policy.worth(self.idle(container, position)), container

    def idle(self, container: Container, position: int = 0) -> Idle:
        """Describe an idle container to a policy."""
        key = container.key
        pace = self._paces.get(key.digest) if key else None
        return Idle(
            memory_mib=container.held_mib,
            idle_s=self._books.now - container.idle_since,
            start_cost_s=container.start_cost_s or self.width.cost_s,
            habits=pace.habits if pace else None,
            clock=container.clock,
            key=key.digest if key else None,
            position=position,
            now=self._books.now,
        )

    def shares(self) -> Shares:
        """Divide the memory among the users of this moment."""
        books = self._books
        waiting = set(self._queue.users())
        claims = {
            uid: Claim(
                held_mib=user.held_mib,
                weight=user.weight,
                active=uid in waiting or books.now - user.active_at < CLAIM_GOOD_FOR_S,
            )
            for uid, user in books.users.items()
        }
        return Shares(claims, self._settings().memory_mib)

    # ---- giving way

    def gives_way(self, container: Container, own: Line) -> bool:
        """Whether a container that comes free is to go, though activations of its own action wait, for one that lacks memory.

        For a user who would still be within the share, where the holder is beyond it, at once. Else, among equals, when
        somebody has waited for longer than the holder's own line, and for so long that several starts would have been done.
        """
        others = [digest for digest in self.blocked if container.key is None or digest != container.key.digest]
        if not others:
            return False
        books, shares = self._books, self.shares()
        holder = container.spec.uid
        coming_mib = self._settings().memory_mib - books.used_mib + books.removing_mib
        for digest in others:
            line, needed_mib = self._queue.line(digest), self.blocked[digest]
            if line is None:
                continue
            oldest = line.oldest()
            wanter = oldest.key.spec.uid
            patience_s = PATIENCE_STARTS * self.width.cost_s
            has_waited = books.now - oldest.arrived > patience_s and oldest.arrived < own.oldest().arrived
            goes_before = oldest.is_nested and not own.oldest().is_nested
            if self._user_at_cap(oldest.key.spec):  # only what the user has itself helps, and what goes already may do
                if holder == wanter and (goes_before or has_waited) and max(self._missing_of_user(oldest.key.spec)) > 0:
                    return True
                continue
            if needed_mib <= coming_mib:
                continue
            if goes_before:
                return holder == wanter or not shares.is_protected(holder, wanter)
            if shares.gives_way(holder, wanter, needed_mib):
                return True
            if has_waited:
                return holder == wanter or not shares.is_protected(holder, wanter)
        return False
