"""The shell around the machine: it carries commands out, and tells the machine how they ended.

`Pool.lease` is the one thing that callers need. Everything that waits runs as a named task of the group that the
pool was given; everything that does not, a thaw, a freeze, a counter, is a system call right here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pool import events as ev
from pool.backend import ContainerBackend, ContainerHandle, FoundContainer
from pool.books import Container, Observer
from pool.door import Door, Serve
from pool.errors import ContainerStartFailed, EngineError, InvokerError, PoolOverloaded, WaitedTooLong
from pool.expiries import Expiries
from pool.idle import FROZEN, IdleShare
from pool.lease import Lease, Told
from pool.live import Live
from pool.logs import AttachedLogReader, LogReader, PipeLogReader
from pool.machine import EARLY_S, Machine
from pool.model import (
    ActivationId,
    ContainerId,
    ContainerSpec,
    ContainerState,
    LogTransport,
    MemoryReading,
    PoolStatistics,
    Reactive,
    ReuseKey,
    Standing,
    StartKind,
)
from pool.netns import has_ended
from pool.settings import PoolSettings
from pool.table import ContainerTable

log = logging.getLogger(__name__)

#: How long the kernel may take to freeze a container before it is suspect, s.
FREEZE_DEADLINE_S = 1.0
#: Longest pause between two looks whether it has, s. From then on it is asked again at each: version 1 may stay half-way else.
FREEZE_PAUSE_S = 0.05
#: How long a container may take to answer an empty request, s.
PROBE_DEADLINE_S = 5.0
#: How long a stem cell may take to come up, s.
EXERCISE_DEADLINE_S = 60.0
#: How long operations may still take when the pool closes, s.
CLOSE_DEADLINE_S = 10.0
#: Pauses between attempts to remove a container that the engine would not remove, s: doubled up to the second.
REMOVE_RETRY_S = (0.25, 30.0)


@dataclass(slots=True)
class PoolHooks:
    """What the pool tells whoever wants to know. None may raise.

    Attributes:
        transition: each change of a container's state.
        tail: CPU microseconds used after the reply of an activation: (activation, container id, microseconds).
        late_lines: log lines that came after their activation was over.
        dropped_lines: log lines that a runtime could not write, because the pipe was full.
        repaired: a container was found frozen with a call in flight, and thawed.
        freeze_failed: the kernel would not freeze a container.
        lived: a container was `created` or `removed`: (container id, namespace, path of its action or empty, which, CPU
            microseconds it has used).
        serve: gets each connection that a container makes to the API; None opens no doors.
    """

    transition: Observer | None = None
    tail: Callable[[ActivationId, ContainerId, int], None] | None = None
    late_lines: Callable[[int], None] | None = None
    dropped_lines: Callable[[int], None] | None = None
    repaired: Callable[[ContainerId], None] | None = None
    freeze_failed: Callable[[], None] | None = None
    lived: Callable[[ContainerId, str, str, str, int], None] | None = None
    serve: Serve | None = None


class Waiter(Protocol):
    """Who waits for a lease: is told once, and at once."""

    def grant(self, lease: Lease) -> None:
        """Take the lease."""

    def refuse(self, error: InvokerError) -> None:
        """There is none."""


class _Future:
    """A task that waits for a lease."""

    __slots__ = ("future",)

    def __init__(self, future: asyncio.Future[Lease]) -> None:
        self.future = future

    def grant(self, lease: Lease) -> None:
        if not self.future.done():
            self.future.set_result(lease)

    def refuse(self, error: InvokerError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class Leasing:
    """The block for which an activation holds a container. A class, not a generator: each call passes through here."""

    __slots__ = ("_activation", "_deadline", "_facts", "_key", "_lease", "_pool", "_standing")

    def __init__(
        self, pool: Pool, activation: ActivationId, key: ReuseKey, facts: bytes, *, deadline: float, standing: Standing
    ) -> None:
        self._pool = pool
        self._activation = activation
        self._key = key
        self._facts = facts
        self._deadline = deadline
        self._standing = standing
        self._lease: Lease | None = None

    async def __aenter__(self) -> Lease:
        try:
            self._lease = lease = await self._pool.obtain(self._activation, self._key, self._deadline, self._standing)
            lease.begin(self._facts)
        except BaseException:  # cancelled or refused, what was got goes back; nothing is decided here
            self._pool.give_back(self._activation, self._lease)
            raise
        return lease

    async def __aexit__(self, *_: object) -> None:
        self._pool.give_back(self._activation, self._lease)


def _reclaim(caches: Sequence[tuple[ContainerHandle, int]]) -> None:
    """In a thread."""
    for handle, amount in caches:
        handle.reclaim(amount)


class Pool:
    """Containers of one node, leased to activations."""

    def __init__(
        self,
        backend: ContainerBackend,
        settings: PoolSettings,
        *,
        node: str,
        group: asyncio.TaskGroup,
        table: ContainerTable,
        hooks: PoolHooks | None = None,
    ) -> None:
        """Begin empty.

        Args:
            backend: closed by its owner.
            settings: numbers to decide by.
            node: part of each container's name.
            group: runs the pool's operations; it ends after `close`.
            table: survives a crash; says after it which container was what.
            hooks: observers.
        """
        self.backend = backend
        self._group = group
        self._loop = asyncio.get_running_loop()
        self._table = table
        self._hooks = hooks or PoolHooks()
        self._told = Told(self._initialised, self._hooks.tail, self._hooks.repaired)
        self._node = node
        self.machine = Machine(settings, name=self._new_name, observer=self._hooks.transition)
        #: Every container that has a handle.
        self._lives: dict[ContainerId, Live] = {}
        #: Activation -> its lease, from the grant to the end.
        self._leases: dict[ActivationId, Lease] = {}
        #: Activation -> who waits for its lease: those that did not get one at once, and were told nothing yet.
        self._waiting: dict[ActivationId, Waiter] = {}
        #: Activations refused before anybody waited.
        self._refused: dict[ActivationId, InvokerError] = {}
        self._wake: asyncio.Handle | None = None
        #: When it rings, seconds of the loop's clock. Kept apart: uvloop's handle of a time that is due already has no `when`.
        self._wake_due = 0.0
        self._closing = False
        #: When to close connections of which frozen container. It may have thawed by then, and frozen again.
        self._stale = Expiries()
        #: CPU time of containers that are gone, microseconds.
        self._gone_cpu_us = 0
        #: Creations, probes and removals under way.
        self._operations: set[asyncio.Task[None]] = set()
        #: Readers of attached streams.
        self._readers: set[asyncio.Task[None]] = set()
        self._run: dict[type[ev.Command], Callable[[Any], None]] = {
            ev.Create: lambda command: self._spawn(self._create(command), f"create {command.container}"),
            ev.Exercise: lambda command: self._spawn(self._exercise(command.container), f"exercise {command.container}"),
            ev.Grant: self._grant,
            ev.Reject: self._reject,
            ev.Freeze: self._freeze,
            ev.Probe: lambda command: self._spawn(self._probe(command.container), f"probe {command.container}"),
            ev.Measure: lambda command: self._spawn(self._measure(command.containers), "measure"),
            ev.Remove: lambda command: self._spawn(self._remove(command.container), f"remove {command.container}"),
        }

    # ---- what callers need

    def lease(
        self, activation: ActivationId, key: ReuseKey, *, facts: bytes, deadline: float, standing: Standing = Standing.NEW
    ) -> Leasing:
        """Hold a container for one activation: `async with pool.lease(...) as lease`.

        The container goes back for reuse when nothing was sent to it, or when the caller set `lease.clean`;
        else it is destroyed. Giving back is synchronous: nothing can interrupt it.

        Args:
            activation: unique.
            key: who may reuse the container.
            facts: at most 3000 bytes that the table keeps for the daemon's successor.
            deadline: until when to wait for a container, seconds of the loop's clock.
            standing: what it has behind it.

        Raises:
            WaitedTooLong: the deadline came first.
            PoolOverloaded, MemoryNeverAvailable, PoolClosed: refused.
            EngineError, ActionError: no container could be created.
        """
        return Leasing(self, activation, key, facts, deadline=deadline, standing=standing)

    def take(self, activation: ActivationId, key: ReuseKey) -> Lease | None:
        """Take a container that stands ready, without waiting: what `lease` comes to for most calls.

        `Lease.begin` and `give_back` must follow.

        Returns:
            None: there is none, and nothing has changed.
        """
        container_id = self.machine.find_ready(key)
        if container_id is None:
            return None
        kind = self.machine.take(activation, container_id, self._loop.time())
        return self._lease(activation, container_id, kind, needs_init=False)

    def line_up(
        self, activation: ActivationId, key: ReuseKey, waiter: Waiter, *, standing: Standing = Standing.NEW
    ) -> Lease | None:
        """Take a container, or a place in the queue. `give_back` must follow, and `Lease.begin` before it where there is a lease.

        Args:
            activation: unique.
            key: who may reuse the container.
            waiter: gets the lease, or the error, unless this returns or raises it.
            standing: as of `lease`.

        Raises:
            InvokerError: as `lease`.
        """
        self._feed(ev.Arrived(activation, key, standing))
        lease = self._leases.get(activation)
        if lease is None:
            if refused := self._refused.pop(activation, None):
                raise refused
            self._waiting[activation] = waiter
        return lease

    def expire(self, activation: ActivationId) -> None:
        """The activation has waited for a container for as long as it may."""
        self.refuse(activation, WaitedTooLong())

    def is_ready(self, key: ReuseKey) -> bool:
        """Tell whether a lease for this key would be had at once, of a container with its code."""
        return self.machine.is_ready(key)

    def refusal(self, key: ReuseKey, *, coming: int = 0) -> PoolOverloaded | None:
        """Tell why a lease for this key may not even be waited for now, where none would be had at once; None when it may.

        Args:
            key: who wants it.
            coming: leases of the key that will be asked for in a moment.
        """
        return self.machine.bounds.refusal(key, self._loop.time(), coming=coming)

    async def obtain(self, activation: ActivationId, key: ReuseKey, deadline: float, standing: Standing = Standing.NEW) -> Lease:
        """Get a lease, or wait for one. Whatever happens, `give_back` must follow. For `Leasing`."""
        future: asyncio.Future[Lease] = self._loop.create_future()
        lease = self.line_up(activation, key, _Future(future), standing=standing)
        if lease is not None:
            return lease
        expire = self._loop.call_at(deadline, self.expire, activation)
        try:
            return await future
        finally:
            expire.cancel()

    def give_back(self, activation: ActivationId, lease: Lease | None) -> None:
        """End a lease, or the wish for one."""
        self._waiting.pop(activation, None)
        self._leases.pop(activation, None)
        self._feed(ev.Ended(activation, lease is None or lease.end()))

    @contextlib.contextmanager
    def held(self, activation: ActivationId, lease: Lease) -> Iterator[None]:
        """Give a lease back when the block is left, however."""
        try:
            yield
        finally:
            self.give_back(activation, lease)

    def is_busy(self, container_id: ContainerId) -> bool:
        """Whether an activation runs in this container."""
        container = self.machine.books.containers.get(container_id)
        return container is not None and bool(container.leases)

    def refuse(self, activation: ActivationId, error: InvokerError) -> None:
        """Let an activation that waits for a container wait no more: `lease` raises the error."""
        waiter = self._waiting.pop(activation, None)
        if waiter is not None:
            waiter.refuse(error)

    def retire(self, action: str, *, revision: str | None) -> None:
        """The action was rewritten (`revision` stays) or deleted (None): no old container serves it any more."""
        self._feed(ev.Retired(action, revision))

    def want_stems(self, spec: ContainerSpec, count: int, reactive: Reactive | None = None) -> None:
        """Keep `count` stem cells of this spec ready while they are being used, and more as `reactive` says."""
        self._feed(ev.StemsWanted(spec, count, reactive))

    def freezing_works(self, works: bool) -> None:
        """Freeze idle containers from now on, or, where the kernel does not obey, keep them warm."""
        self._feed(ev.FreezingChanged(works))

    def change_settings(self, settings: PoolSettings) -> None:
        """Decide by other numbers from now on. Not for `freezing`: that is `freezing_works`."""
        self.machine.change_settings(settings)
        self._feed(ev.Tick())

    def statistics(self) -> PoolStatistics:
        """Look at the whole pool."""
        return self.machine.statistics()

    def take_idle(self) -> list[IdleShare]:
        """Return what idle containers have held since this was last asked."""
        self.machine.books.now = self._loop.time()
        return self.machine.books.take_idle()

    def kernel_cpu_us(self) -> int:
        """CPU time that the kernel has counted in all containers of this daemon's time, microseconds."""
        return self._gone_cpu_us + sum(live.total_cpu_us() - live.cpu_before_us for live in self._lives.values())

    def now(self) -> float:
        """Seconds of the pool's clock, which `Container.since` and its like are of."""
        return self._loop.time()

    def containers(self) -> list[Container]:
        """Every container, in the order they were made. Not to be changed."""
        return list(self.machine.books.containers.values())

    # ---- what a look at the engine tells

    def gone(self, container_id: ContainerId) -> None:
        """The engine says that it has no such container any more, or that it does not run. The kernel knows better."""
        live = self._lives.get(container_id)
        if live is not None and not has_ended(live.handle.descriptors.pidfd):
            log.warning("the engine does not know %s, whose process runs: it goes on serving", container_id)
        else:
            self._feed(ev.Died(container_id))

    def refreeze(self, container_id: ContainerId) -> None:
        """Freeze a resting container again that somebody else has thawed."""
        live = self._lives.get(container_id)
        try:
            if live is not None and not live.handle.is_frozen():
                log.warning("%s was thawed from outside and is frozen again", container_id)
                live.handle.freeze()
        except OSError as error:
            log.warning("%s: %s", container_id, error)
            self._feed(ev.Died(container_id))

    def thaw_held(self) -> None:
        """Let containers run again that hold a call and stand still: somebody else has frozen them. Called twice a second."""
        for lease in list(self._leases.values()):
            live = self._lives.get(lease.container_id)
            try:
                if live is not None and lease.sent_at and not lease.being_tested and live.handle.is_frozen():
                    log.warning("%s was frozen from outside with a call in it, and is thawed", lease.container_id)
                    live.handle.thaw()
                    if self._hooks.repaired:
                        self._hooks.repaired(lease.container_id)
            except OSError as error:
                log.debug("%s: %s", lease.container_id, error)  # it is ending: its call learns that from the connection

    # ---- beginning and end

    def found(
        self,
        found: FoundContainer,
        handle: ContainerHandle,
        spec: ContainerSpec,
        key: ReuseKey | None,
        *,
        takes_one: bool = False,
    ) -> None:
        """Take over an idle container of an earlier daemon; it is probed before it serves."""
        live = self._live(found.container_id, spec, handle)
        live.take_over()
        held_mib = None
        with contextlib.suppress(OSError):  # it has ended: the probe finds that
            if handle.is_frozen():
                held_mib = -(-handle.memory().held // 2**20)
        self._feed(ev.Found(found.container_id, spec, key, takes_one, held_mib))

    def stop_starting(self) -> None:
        """Refuse new activations and tell those that wait. Those in flight go on, and may ask for what belongs to them."""
        self._feed(ev.Draining())

    async def close(self) -> None:
        """Let operations end, freeze what the next daemon may adopt, and let go of all containers. Leases must have ended."""
        self._feed(ev.Closed())
        if self._operations:
            await asyncio.wait(self._operations, timeout=CLOSE_DEADLINE_S)
        self._closing = True
        if self._wake:
            self._wake.cancel()
        leftovers = self._operations | self._readers
        for task in leftovers:
            task.cancel()
        if leftovers:
            await asyncio.wait(leftovers)
        for live in self._lives.values():
            container = self.machine.books.containers.get(live.container_id)
            if container is not None and container.state in {ContainerState.WARM, ContainerState.STEM}:
                try:
                    live.handle.freeze()
                except OSError as error:
                    log.warning("%s stays runnable: %s", live.container_id, error)
            self._let_go(live)
            live.handle.close()
        self._lives.clear()

    # ---- the machine's door

    def _feed(self, event: ev.Event) -> None:
        """Tell the machine what happened and carry out what it says."""
        now = self._loop.time()
        for command in self.machine.handle(event, now):
            self._run[type(command)](command)
        if self._wake is None or self._wake_due > now + self.machine.soonest_s:
            self._plan_wake()

    def _plan_wake(self) -> None:
        """One timer for the whole pool. One that rings too early costs a look; it is moved only to an earlier time."""
        wakes = [due for due in (self.machine.next_wake(), self._stale.soonest()) if due is not None]
        if not wakes or self._closing:
            return
        due = min(wakes)
        if self._wake is not None:
            if self._wake_due <= due:
                return
            self._wake.cancel()
        self._wake_due = due
        self._wake = self._loop.call_at(due, self._on_wake)

    def _on_wake(self) -> None:
        self._wake = None
        self._close_stale(self._loop.time() + EARLY_S)
        self._feed(ev.Tick())

    def _close_stale(self, now: float) -> None:
        """Close what is hardly used any more: a frozen container is to cost no descriptor for it."""
        for container_id in self._stale.due(now):
            if self.machine.books.containers[container_id].state in FROZEN:
                self._lives[container_id].close_stale(now)
                self._plan_closing(self._lives[container_id])

    def _plan_closing(self, live: Live) -> None:
        """Look at its connections once their time is over. A look that is planned for an earlier time stays."""
        if live.container_id not in self._stale and (at := live.stale_at()) is not None:
            self._stale.plan(live.container_id, at)

    def _spawn(self, operation: Coroutine[Any, Any, None], name: str, kept: set[asyncio.Task[None]] | None = None) -> None:
        if self._closing:
            operation.close()
            return
        kept = self._operations if kept is None else kept
        try:
            task = self._group.create_task(operation, name=name)
        except RuntimeError:  # the group is being cancelled: a bug elsewhere ends the daemon
            operation.close()
            return
        kept.add(task)
        task.add_done_callback(kept.discard)

    def _new_name(self) -> ContainerId:
        return ContainerId(f"invokerd-{self._node}-{secrets.token_hex(6)}")

    # ---- leases

    def _lease(self, activation: ActivationId, container_id: ContainerId, kind: StartKind, *, needs_init: bool) -> Lease:
        """Make the lease of a container that the machine has granted."""
        lease = self._leases[activation] = Lease(
            self.backend,
            self._lives[container_id],
            activation,
            start_kind=kind,
            needs_init=needs_init,
            loop=self._loop,
            told=self._told,
            key_digest=self._key_digest(container_id) if needs_init else "",
        )
        return lease

    def _grant(self, command: ev.Grant) -> None:
        lease = self._lease(command.activation, command.container, command.start_kind, needs_init=command.needs_init)
        waiter = self._waiting.pop(command.activation, None)
        if waiter is not None:
            waiter.grant(lease)

    def _reject(self, command: ev.Reject) -> None:
        waiter = self._waiting.pop(command.activation, None)
        if waiter is None:
            self._refused[command.activation] = command.error
        else:
            waiter.refuse(command.error)

    def _initialised(self, activation: ActivationId, takes_one: bool) -> None:
        self._feed(ev.Initialised(activation, takes_one))

    def _key_digest(self, container_id: ContainerId) -> str:
        key = self.machine.books.containers[container_id].key
        assert key is not None
        return key.digest

    # ---- operations: the end of each is an event

    async def _create(self, command: ev.Create) -> None:
        container_id, began = command.container, time.monotonic()
        try:
            handle = await self.backend.create(container_id, command.spec)
        except InvokerError as error:
            log.warning("%s could not be created: %s", container_id, error)
            self._feed(ev.CreateFailed(container_id, error))
            return
        live = self._live(container_id, command.spec, handle)
        live.create_began, live.create_ended = began, time.monotonic()
        self._tell_life(live, "created")
        await self._open_door(live)
        self._feed(ev.Created(container_id, exercised=False))

    async def _open_door(self, live: Live) -> None:
        """Let the container reach the API. One that has something else at that place does without."""
        if self._hooks.serve is None:
            return
        try:
            listener = await self.backend.listen(live.handle)
        except OSError as error:
            log.warning("%s cannot call the API: %s", live.container_id, error)
            return
        if self._lives.get(live.container_id) is live:
            live.door = Door(listener, live.container_id, self._hooks.serve, self._loop)
        else:  # it went meanwhile
            listener.close()

    async def _exercise(self, container_id: ContainerId) -> None:
        live = self._lives[container_id]
        try:
            if live.handle.is_frozen():  # a stem cell whose taker was cancelled before it sent anything
                live.handle.thaw()
            await live.exercise(self.backend, self._loop, deadline=self._loop.time() + EXERCISE_DEADLINE_S)
        except (InvokerError, OSError, TimeoutError) as error:
            log.warning("stem cell %s does not answer: %s", container_id, error)
            failure = error if isinstance(error, InvokerError) else ContainerStartFailed(str(error))
            self._feed(ev.CreateFailed(container_id, failure))
            return
        self._feed(ev.Created(container_id, exercised=True))

    async def _remove(self, container_id: ContainerId) -> None:
        await self._destroy(container_id)
        self._feed(ev.Removed(container_id))

    async def _destroy(self, container_id: ContainerId) -> None:
        """Remove it, however often the engine refuses; its memory counts until it is gone."""
        live = self._lives.pop(container_id, None)
        if live is not None:
            self._let_go(live)
            self._gone_cpu_us += live.total_cpu_us() - live.cpu_before_us
        pause, longest = REMOVE_RETRY_S
        while True:
            try:
                await self.backend.remove(container_id, live.handle if live else None)
            except EngineError as error:
                log.warning("%s could not be removed, next attempt in %.2f s: %s", container_id, pause, error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, longest)
            else:
                break
        if live is not None:
            live.handle.close()
            live.slot.release()
            self._tell_life(live, "removed")

    async def _probe(self, container_id: ContainerId) -> None:
        """A found container that stands still is as it should be; any other must answer."""
        live = self._lives[container_id]
        adopting = self.machine.books.containers[container_id].state is ContainerState.ADOPTING
        usable, frozen = False, False
        if live.door is None:
            await self._open_door(live)
        try:
            if adopting and live.handle.is_frozen():
                usable = frozen = True
            else:
                if live.handle.is_frozen():  # on a node that cannot freeze nothing can be thawed either
                    live.handle.thaw()
                await live.exercise(self.backend, self._loop, deadline=self._loop.time() + PROBE_DEADLINE_S)
                usable = True
        except (InvokerError, OSError, TimeoutError) as error:
            log.warning("%s does not answer and is removed: %s", container_id, error)
        self._feed(ev.Probed(container_id, usable, frozen))

    def _freeze(self, command: ev.Freeze) -> None:
        live = self._lives.get(command.container)
        if live is None:
            return
        try:
            live.handle.freeze()
        except OSError as error:
            log.warning("%s cannot be frozen and stays warm: %s", command.container, error)
            self._loop.call_soon(self._freeze_failed, command.container)
            return
        live.freezes += 1
        self._confirm_freeze(live, live.freezes, self._loop.time() + FREEZE_DEADLINE_S, 0.0005)

    def _confirm_freeze(self, live: Live, attempt: int, deadline: float, pause_s: float) -> None:
        """Believe the kernel, not the write. Looks again until it stands still, or was wanted again meanwhile."""
        container = self.machine.books.containers.get(live.container_id)
        stopping = container is not None and container.state in {ContainerState.FREEZING, ContainerState.STEM}
        if not stopping or live.freezes != attempt or live.container_id not in self._lives:
            return
        try:
            frozen = live.handle.is_frozen()
            if frozen:
                self._book_tail(live)
            elif pause_s >= FREEZE_PAUSE_S:
                live.handle.freeze()
        except OSError:
            frozen, deadline = False, 0.0
        if frozen:
            self._plan_closing(live)
            self._feed(ev.FreezeConfirmed(live.container_id))
        elif self._loop.time() >= deadline:
            log.warning("%s was not frozen within %.1f s", live.container_id, FREEZE_DEADLINE_S)
            self._freeze_failed(live.container_id)
        else:
            self._loop.call_later(pause_s, self._confirm_freeze, live, attempt, deadline, min(pause_s * 2, FREEZE_PAUSE_S))

    async def _measure(self, containers: tuple[ContainerId, ...]) -> None:
        """Let frozen containers give back what they can, then tell what each holds.

        Read and told in one breath, after the wait: who was called meanwhile, and frozen again, is told of as it is now.
        """
        caches = [(live.handle, memory.cache) for live, memory in self._read_memory(containers) if memory.cache]
        await asyncio.to_thread(_reclaim, caches)
        held_mib = {live.container_id: -(-memory.held // 2**20) for live, memory in self._read_memory(containers)}
        self._feed(ev.Measured(held_mib))

    def _read_memory(self, containers: Iterable[ContainerId]) -> Iterator[tuple[Live, MemoryReading]]:
        for container_id in containers:
            live = self._lives.get(container_id)
            if live is None:
                continue
            try:
                yield live, live.handle.memory()
            except OSError as error:
                log.warning("%s: its memory cannot be read: %s", container_id, error)

    def _freeze_failed(self, container_id: ContainerId) -> None:
        if self._hooks.freeze_failed:
            self._hooks.freeze_failed()
        self._feed(ev.FreezeFailed(container_id))

    def _book_tail(self, live: Live) -> None:
        activation, tail_us = live.take_tail()
        if activation is not None and tail_us > 0 and self._hooks.tail:
            self._hooks.tail(activation, live.container_id, tail_us)

    # ---- what a running container needs

    def _live(self, container_id: ContainerId, spec: ContainerSpec, handle: ContainerHandle) -> Live:
        slot = self._table.claim(container_id)
        logs: LogReader
        if spec.logs is LogTransport.PIPE:
            hooks = self._hooks
            logs = PipeLogReader(handle.descriptors.log, self._loop, on_late=hooks.late_lines, on_dropped=hooks.dropped_lines)
        else:
            logs = AttachedLogReader(self._loop, on_late=self._hooks.late_lines)
            self._spawn(self._read_attached(container_id, handle, logs), f"logs {container_id}", self._readers)
        live = self._lives[container_id] = Live(container_id, spec, handle, slot, logs)
        self._loop.add_reader(handle.descriptors.pidfd, self._on_death, container_id)
        return live

    async def _read_attached(self, container_id: ContainerId, handle: ContainerHandle, logs: AttachedLogReader) -> None:
        try:
            await logs.read(self.backend.attach_logs(handle))
        except EngineError as error:
            log.warning("log lines of %s are lost: %s", container_id, error)

    def _tell_life(self, live: Live, fact: str) -> None:
        if self._hooks.lived is not None:
            known = self.machine.books.containers.get(live.container_id)
            path = known.key.action if known is not None and known.key is not None else ""
            self._hooks.lived(live.container_id, live.spec.namespace, path, fact, live.last_cpu_us)

    def _let_go(self, live: Live) -> None:
        """Stop watching it. Its descriptors stay open for the removal."""
        self._stale.forget(live.container_id)
        if not live.dead:
            self._loop.remove_reader(live.handle.descriptors.pidfd)
        live.logs.close()
        if live.door is not None:
            live.door.close()
        live.close_connections()

    def _on_death(self, container_id: ContainerId) -> None:
        live = self._lives.get(container_id)
        if live is None:
            return
        self._loop.remove_reader(live.handle.descriptors.pidfd)
        live.dead = True
        self._feed(ev.Died(container_id))
