"""What is done with containers on the machine's command: created, exercised, probed, frozen, measured, removed.

Everything that waits runs as a named task; a freeze is a system call right here. The end of each is an event for the machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from typing import Any

from pool import events as ev
from pool.backend import ContainerBackend, ContainerHandle
from pool.books import Books
from pool.door import Door
from pool.errors import ContainerStartFailed, EngineError, EngineUnavailable, InvokerError
from pool.expiries import Expiries
from pool.hooks import PoolHooks
from pool.idle import FROZEN
from pool.live import Live
from pool.logs import AttachedLogReader, LogReader, PipeLogReader, ReadingTurns
from pool.model import ContainerId, ContainerSpec, ContainerState, LogTransport, MemoryReading
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
#: Pauses between attempts to remove a container that the engine would not remove, s: doubled up to the second. While the
#: engine is not asked at all (its breaker is open), the breaker says how long to wait.
REMOVE_RETRY_S = (0.25, 30.0)


class Operations:
    """Carries commands out. Has the running containers, as far as the node and not the machine knows them."""

    def __init__(
        self,
        backend: ContainerBackend,
        books: Books,
        feed: Callable[[ev.Event], None],
        *,
        group: asyncio.TaskGroup,
        table: ContainerTable,
        hooks: PoolHooks,
    ) -> None:
        """Begin empty.

        Args:
            backend: makes and removes containers.
            books: of the machine; only read.
            feed: tells the machine how an operation has ended.
            group: runs the operations.
            table: has a slot for each container.
            hooks: observers.
        """
        self._backend = backend
        self._books = books
        self._feed = feed
        self._group = group
        self._loop = asyncio.get_running_loop()
        self._table = table
        self._hooks = hooks
        self._closing = False
        #: Every container that has a handle.
        self.lives: dict[ContainerId, Live] = {}
        #: When to close connections of which frozen container. It may have thawed by then, and frozen again.
        self.stale = Expiries()
        #: Those of which the engine knows nothing, since nothing was asked of it: until they are removed.
        self._unmade: set[ContainerId] = set()
        #: CPU time of containers that are gone, microseconds.
        self._gone_cpu_us = 0
        #: Creations, probes and removals under way.
        self._tasks: set[asyncio.Task[None]] = set()
        #: Of containers that write without end.
        self._reading_turns = ReadingTurns()
        #: Readers of attached streams.
        self._readers: set[asyncio.Task[None]] = set()
        #: What is done on which command.
        self.commands: dict[type[ev.Command], Callable[[Any], None]] = {
            ev.Create: lambda command: self._spawn(self._create(command), f"create {command.container}"),
            ev.Exercise: lambda command: self._spawn(self._exercise(command.container), f"exercise {command.container}"),
            ev.Freeze: self._freeze,
            ev.Probe: lambda command: self._spawn(self._probe(command.container), f"probe {command.container}"),
            ev.Measure: lambda command: self._spawn(self._measure(command.containers), "measure"),
            ev.Remove: lambda command: self._spawn(self._remove(command.container), f"remove {command.container}"),
        }

    def kernel_cpu_us(self) -> int:
        """CPU time that the kernel has counted in all containers, microseconds."""
        return self._gone_cpu_us + sum(live.total_cpu_us() - live.cpu_before_us for live in self.lives.values())

    # ---- the end

    async def wait_ended(self) -> None:
        """Wait until what is under way has ended, or `CLOSE_DEADLINE_S` are over."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_DEADLINE_S)

    async def close(self) -> None:
        """Begin nothing more, cancel what has not ended, freeze what the next daemon may adopt, let go of all containers."""
        self._closing = True
        leftovers = self._tasks | self._readers
        for task in leftovers:
            task.cancel()
        if leftovers:
            await asyncio.wait(leftovers)
        for live in self.lives.values():
            container = self._books.containers.get(live.container_id)
            if container is not None and container.state in {ContainerState.WARM, ContainerState.STEM}:
                try:
                    live.handle.freeze()
                except OSError as error:
                    log.warning("%s stays runnable: %s", live.container_id, error)
            self._book_last_tail(live)
            self._let_go(live)
            live.handle.close()
        self.lives.clear()

    # ---- the end of each is an event

    async def _create(self, command: ev.Create) -> None:
        container_id, began = command.container, time.monotonic()
        try:
            handle = await self._backend.create(container_id, command.spec)
        except InvokerError as error:
            log.warning("%s could not be created: %s", container_id, error)
            if error.nothing_made:
                self._unmade.add(container_id)
            self._feed(ev.CreateFailed(container_id, error))
            return
        live = self.add(container_id, command.spec, handle)
        live.create_began, live.create_ended = began, time.monotonic()
        self._tell_life(live, "created")
        await self._open_door(live)
        self._feed(ev.Created(container_id, exercised=False))

    async def _open_door(self, live: Live) -> None:
        """Let the container reach the API. One that has something else at that place does without."""
        if self._hooks.serve is None:
            return
        try:
            listener = await self._backend.listen(live.handle)
        except OSError as error:
            log.warning("%s cannot call the API: %s", live.container_id, error)
            return
        if self.lives.get(live.container_id) is live:
            live.door = Door(listener, live.container_id, self._hooks.serve, self._loop)
        else:  # it went meanwhile
            listener.close()

    async def _exercise(self, container_id: ContainerId) -> None:
        live = self.lives[container_id]
        try:
            _wake(live.handle)  # a stem cell whose taker was cancelled before it sent anything
            await live.exercise(self._backend, self._loop, deadline=self._loop.time() + EXERCISE_DEADLINE_S)
        except (InvokerError, OSError, TimeoutError) as error:
            log.warning("stem cell %s does not answer: %s", container_id, error)
            failure = error if isinstance(error, InvokerError) else ContainerStartFailed(str(error))
            self._feed(ev.CreateFailed(container_id, failure))
            return
        self._feed(ev.Created(container_id, exercised=True))

    async def _remove(self, container_id: ContainerId) -> None:
        if container_id in self._unmade:
            self._unmade.remove(container_id)
        else:
            await self._destroy(container_id)
        self._feed(ev.Removed(container_id))

    async def _destroy(self, container_id: ContainerId) -> None:
        """Remove it, however often the engine refuses; its memory counts until it is gone."""
        live = self.lives.pop(container_id, None)
        if live is not None:
            self._book_last_tail(live)
            self._let_go(live)
            self._gone_cpu_us += live.total_cpu_us() - live.cpu_before_us
        pause, longest = REMOVE_RETRY_S
        while True:
            try:
                await self._backend.remove(container_id, live.handle if live else None)
            except EngineError as error:
                refused_s = error.retry_after_s if isinstance(error, EngineUnavailable) else None
                if refused_s is not None:
                    # The engine was not even asked: no attempt. It may be well long before the next one were due.
                    await asyncio.sleep(refused_s)
                    continue
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
        live = self.lives[container_id]
        adopting = self._books.containers[container_id].state is ContainerState.ADOPTING
        usable, frozen = False, False
        if live.door is None:
            await self._open_door(live)
        try:
            if adopting and live.handle.is_frozen():
                usable = frozen = True
            else:
                _wake(live.handle)
                await self._ask(live)
                usable = True
        except (InvokerError, OSError, TimeoutError) as error:
            log.warning("%s does not answer and is removed: %s", container_id, error)
        self._feed(ev.Probed(container_id, usable, frozen))

    async def _ask(self, live: Live) -> None:
        """Let it answer; asked once more when that takes long, since a slow node makes no container a bad one.

        Raises:
            TimeoutError: it was slow both times.
            InvokerError, OSError: it cannot answer.
        """
        try:
            await live.exercise(self._backend, self._loop, deadline=self._loop.time() + PROBE_DEADLINE_S)
        except TimeoutError:
            log.info("%s has not answered within %.1f s and is asked once more", live.container_id, PROBE_DEADLINE_S)
            await live.exercise(self._backend, self._loop, deadline=self._loop.time() + PROBE_DEADLINE_S)

    def _freeze(self, command: ev.Freeze) -> None:
        live = self.lives.get(command.container)
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
        container = self._books.containers.get(live.container_id)
        stopping = container is not None and container.state in {ContainerState.FREEZING, ContainerState.STEM}
        if not stopping or live.freezes != attempt or live.container_id not in self.lives:
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
            live = self.lives.get(container_id)
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

    def _book_last_tail(self, live: Live) -> None:
        """Book what was used since the last reply by a container that goes without having stood still since."""
        with contextlib.suppress(OSError):  # its counters are gone with it
            self._book_tail(live)

    def _book_tail(self, live: Live) -> None:
        activation, tail_us = live.take_tail()
        if activation is not None and tail_us > 0 and self._hooks.tail:
            self._hooks.tail(activation, live.container_id, tail_us)

    def _spawn(self, operation: Coroutine[Any, Any, None], name: str, kept: set[asyncio.Task[None]] | None = None) -> None:
        if self._closing:
            operation.close()
            return
        kept = self._tasks if kept is None else kept
        try:
            task = self._group.create_task(operation, name=name)
        except RuntimeError:  # the group is being cancelled: a bug elsewhere ends the daemon
            operation.close()
            return
        kept.add(task)
        task.add_done_callback(kept.discard)

    # ---- what a running container needs

    def add(self, container_id: ContainerId, spec: ContainerSpec, handle: ContainerHandle) -> Live:
        """Begin to keep a container that runs, and to watch it."""
        slot = self._table.claim(container_id)
        logs: LogReader
        if spec.logs is LogTransport.PIPE:
            hooks = self._hooks
            logs = PipeLogReader(
                handle.descriptors.log,
                self._loop,
                turns=self._reading_turns,
                on_late=hooks.late_lines,
                on_dropped=hooks.dropped_lines,
            )
        else:
            logs = AttachedLogReader(self._loop, on_late=self._hooks.late_lines)
            self._spawn(self._read_attached(container_id, handle, logs), f"logs {container_id}", self._readers)
        live = self.lives[container_id] = Live(container_id, spec, handle, slot, logs)
        self._loop.add_reader(handle.descriptors.pidfd, self._on_death, container_id)
        return live

    async def _read_attached(self, container_id: ContainerId, handle: ContainerHandle, logs: AttachedLogReader) -> None:
        try:
            await logs.read(self._backend.attach_logs(handle))
        except EngineError as error:
            log.warning("log lines of %s are lost: %s", container_id, error)

    def _tell_life(self, live: Live, fact: str) -> None:
        if self._hooks.lived is not None:
            known = self._books.containers.get(live.container_id)
            path = known.key.action if known is not None and known.key is not None else ""
            self._hooks.lived(live.container_id, live.spec.namespace, path, fact, live.last_cpu_us)

    def _let_go(self, live: Live) -> None:
        """Stop watching it. Its descriptors stay open for the removal."""
        self.stale.forget(live.container_id)
        if not live.dead:
            self._loop.remove_reader(live.handle.descriptors.pidfd)
        live.logs.close()
        if live.door is not None:
            live.door.close()
        live.close_connections()

    def _on_death(self, container_id: ContainerId) -> None:
        live = self.lives.get(container_id)
        if live is None:
            return
        self._loop.remove_reader(live.handle.descriptors.pidfd)
        live.dead = True
        self._feed(ev.Died(container_id))

    # ---- connections of containers that rest

    def close_stale(self, now: float) -> None:
        """Close what is hardly used any more: a frozen container is to cost no descriptor for it."""
        for container_id in self.stale.due(now):
            if self._books.containers[container_id].state in FROZEN:
                self.lives[container_id].close_stale(now)
                self._plan_closing(self.lives[container_id])

    def _plan_closing(self, live: Live) -> None:
        """Look at its connections once their time is over. A look that is planned for an earlier time stays."""
        if live.container_id not in self.stale and (at := live.stale_at()) is not None:
            self.stale.plan(live.container_id, at)


def _wake(handle: ContainerHandle) -> None:
    """Let a container run before it is asked something. Version 1 may have stopped it half-way, which no look tells.

    Raises:
        OSError: it stands still, and cannot be thawed. On a node that cannot freeze nothing can be thawed, nor stands still.
    """
    try:
        handle.thaw()
    except OSError:
        if handle.is_frozen():
            raise


def _reclaim(caches: Sequence[tuple[ContainerHandle, int]]) -> None:
    """In a thread."""
    for handle, amount in caches:
        handle.reclaim(amount)
