"""The shell around the machine: who gets which container, and when the machine is told what.

`Pool.lease` is the one thing that callers need. What the machine wants done with containers is done by `operations.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from pool import events as ev
from pool.backend import ContainerBackend, ContainerHandle, FoundContainer
from pool.books import Container
from pool.errors import InvokerError, PoolOverloaded, WaitedTooLong
from pool.expiries import EARLY_S
from pool.hooks import PoolHooks
from pool.idle import IdleShare
from pool.lease import Lease, Told
from pool.machine import Machine
from pool.model import (
    ActivationId,
    ContainerId,
    ContainerSpec,
    PoolStatistics,
    Reactive,
    ReuseKey,
    Standing,
    StartKind,
)
from pool.netns import has_ended
from pool.operations import Operations
from pool.settings import PoolSettings
from pool.table import ContainerTable

log = logging.getLogger(__name__)

#: The kernel says that memory has run out before it has ended a process: until it surely has, s.
KILL_TAKES_S = 0.5


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
        self._loop = asyncio.get_running_loop()
        self._hooks = hooks or PoolHooks()
        self._told = Told(self._initialised, self._hooks.tail, self._hooks.repaired, self._spoiled)
        self._node = node
        self.machine = Machine(settings, name=self._new_name, observer=self._hooks.transition)
        self._operations = Operations(backend, self.machine.books, self._feed, group=group, table=table, hooks=self._hooks)
        #: Every container that has a handle.
        self._lives = self._operations.lives
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
        #: What is done on which command.
        self._run: dict[type[ev.Command], Callable[[Any], None]] = {
            **self._operations.commands,
            ev.Grant: self._grant,
            ev.Reject: self._reject,
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
        return self._operations.kernel_cpu_us()

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

    def overflowed(self) -> None:
        """The kernel has ended a process because all containers together had too much memory: find out whose, for the records.

        Whatever runs now looks when it ends. What idles is looked at when the kernel is done: no later call is told of it.
        """
        for live in self._lives.values():
            live.expect_kill()
        self._loop.call_later(KILL_TAKES_S, self._look_for_kills)

    def _look_for_kills(self) -> None:
        for container_id, live in self._lives.items():
            if not self.is_busy(container_id):
                with contextlib.suppress(OSError):  # it was this one
                    live.look_for_kills()

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
        live = self._operations.add(found.container_id, spec, handle)
        live.take_over()
        held_mib = None
        with contextlib.suppress(OSError):  # it has ended: the probe finds that
            if handle.is_frozen():
                held_mib = -(-handle.memory().held // 2**20)
        age_s = max(0.0, time.time() - found.created) if found.created else 0.0
        self._feed(ev.Found(found.container_id, spec, key, takes_one, held_mib, age_s))

    def stop_starting(self) -> None:
        """Refuse new activations and tell those that wait. Those in flight go on, and may ask for what belongs to them."""
        self._feed(ev.Draining())

    async def close(self) -> None:
        """Let operations end, freeze what the next daemon may adopt, and let go of all containers. Leases must have ended."""
        self._feed(ev.Closed())
        await self._operations.wait_ended()
        self._closing = True
        if self._wake:
            self._wake.cancel()
        await self._operations.close()

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
        wakes = [due for due in (self.machine.next_wake(), self._operations.stale.soonest()) if due is not None]
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
        self._operations.close_stale(self._loop.time() + EARLY_S)
        self._feed(ev.Tick())

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

    def _spoiled(self, container_id: ContainerId) -> None:
        self._feed(ev.Spoiled(container_id))

    def _key_digest(self, container_id: ContainerId) -> str:
        key = self.machine.books.containers[container_id].key
        assert key is not None
        return key.digest
