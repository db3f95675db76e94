"""A fake engine for tests and benches: scripted delays and failures, real descriptors, an action server on loopback.

It is verified: the contract suite that runs on it runs on `DockerBackend` too. It is strict where the real one is
only unpredictable: using a closed handle or removing a container twice raises `AssertionError`, so that a bug of the
pool shows at once. A frozen fake container really stands still: its server answers after the thaw.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Iterator, Mapping

import msgspec

from pool import recipe
from pool.backend import ContainerHandle, Descriptors, FoundContainer, Image
from pool.errors import ContainerStartFailed, EngineError, EngineUnavailable, ImageNotFound, InvokerError
from pool.fake_server import Action, ActionConnection, echo
from pool.model import ContainerId, ContainerSpec, LogTransport, MemoryReading, PeakQuality

_IDLE_MEMORY = MemoryReading(peak=8 << 20, peak_quality=PeakQuality.EXACT, anonymous=6 << 20, shared=0, cache=1 << 20)


class FakeContainer:
    """A container as kernel and engine see it. It outlives the backend, as a real one outlives the daemon.

    Attributes:
        alive: its main process runs.
        frozen: the kernel's view.
        obeys_freeze, obeys_thaw: false makes the kernel ignore the wish, as a process in D state does.
        cpu: microseconds of CPU; only `advance_cpu` moves it.
        refuse_dials: how many more dials meet a closed port.
        door: where its door listens.
        action: answers its `/init` and `/run`.
        requests: paths of the requests its server has answered, in order.
    """

    def __init__(self, container_id: ContainerId, spec: ContainerSpec, action: Action, labels: Mapping[str, str]) -> None:
        self.container_id = container_id
        self.engine_id = f"engine-{container_id}"
        self.spec = spec
        self.labels = dict(labels)
        self.action = action
        self.alive = True
        self.removed = False
        self.frozen = False
        self.obeys_freeze = True
        self.obeys_thaw = True
        self.cpu = 0
        self.throttled = 0
        self.memory = _IDLE_MEMORY
        self.oom_count = 0
        self.refuse_dials = 0
        self.door: tuple[str, int] | None = None
        self.requests: list[str] = []
        self.connections: set[ActionConnection] = set()
        self.handles: set[FakeHandle] = set()
        self.attached: asyncio.Queue[tuple[str, bytes] | None] = asyncio.Queue()
        self.log_read, self.log_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def advance_cpu(self, microseconds: int) -> None:
        """Let it use CPU time, as the kernel would count it."""
        self.cpu += microseconds

    def write_log(self, data: bytes) -> None:
        """Write bytes as its process would: to the log pipe, or to the attached stdout."""
        if self.spec.logs is LogTransport.PIPE:
            os.write(self.log_write, data)
        else:
            self.attached.put_nowait(("stdout", data))

    def freeze(self) -> None:
        """Stand still, unless it is told to ignore that."""
        self.frozen = self.frozen or self.obeys_freeze

    def thaw(self) -> None:
        """Run again, and answer what has arrived meanwhile."""
        if self.frozen and self.obeys_thaw:
            self.frozen = False
            for connection in tuple(self.connections):
                connection.resume()

    def die(self) -> None:
        """End its process: pidfds become readable, connections and streams break."""
        if not self.alive:
            return
        self.alive = False
        for handle in self.handles:
            os.eventfd_write(handle.descriptors.pidfd, 1)
        for connection in tuple(self.connections):
            connection.abort()
        self.attached.put_nowait(None)

    def bury(self) -> None:
        """Forget it after its removal: nothing of it stays open."""
        self.removed = True
        for fd in (self.log_read, self.log_write):
            os.close(fd)


class FakeHandle:
    """The descriptors of a `FakeContainer`; `pidfd` and `log` are real ones, the others -1."""

    def __init__(self, container: FakeContainer) -> None:
        self.container = container
        self.container_id = container.container_id
        self.engine_id = container.engine_id
        self.closed = False
        log = os.dup(container.log_read) if container.spec.logs is LogTransport.PIPE else -1
        self.descriptors = Descriptors(
            pid=1,
            pidfd=os.eventfd(0 if container.alive else 1, os.EFD_CLOEXEC | os.EFD_NONBLOCK),
            freeze=-1,
            frozen=-1,
            cpu=-1,
            memory_peak=-1,
            memory_stat=-1,
            log=log,
        )
        container.handles.add(self)

    def _kernel(self) -> FakeContainer:
        """Return the container if its cgroup is still there; the kernel says ENODEV when it is not."""
        assert not self.closed, f"{self.container_id}: use of a closed handle"
        if not self.container.alive:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), self.container_id)
        return self.container

    def freeze(self) -> None:
        """See `ContainerHandle`."""
        self._kernel().freeze()

    def thaw(self) -> None:
        """See `ContainerHandle`."""
        self._kernel().thaw()

    def is_frozen(self) -> bool:
        """See `ContainerHandle`."""
        return self._kernel().frozen

    def cpu_us(self) -> int:
        """See `ContainerHandle`."""
        return self._kernel().cpu

    def throttled_us(self) -> int:
        """See `ContainerHandle`."""
        return self._kernel().throttled

    def memory(self) -> MemoryReading:
        """See `ContainerHandle`."""
        return self._kernel().memory

    def reclaim(self, amount: int) -> None:
        """See `ContainerHandle`."""
        memory = self.container.memory
        self.container.memory = msgspec.structs.replace(memory, cache=max(0, memory.cache - amount))

    def reset_memory_peak(self) -> None:
        """See `ContainerHandle`."""
        self._kernel()

    def oom_kills(self) -> int:
        """See `ContainerHandle`."""
        return self._kernel().oom_count

    def close(self) -> None:
        """See `ContainerHandle`."""
        if self.closed:
            return
        self.closed = True
        self.container.handles.discard(self)
        os.close(self.descriptors.pidfd)
        if self.descriptors.log >= 0:
            os.close(self.descriptors.log)


class Hold:
    """Stops the next call of a verb: wait for `reached`, look around, then `release()`."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self._released = asyncio.Event()

    def release(self) -> None:
        """Let the call go on."""
        self._released.set()

    async def wait(self) -> None:
        """Block the call that met this hold."""
        self.reached.set()
        await self._released.wait()


class FakeBackend:
    """A `ContainerBackend` in memory.

    Attributes:
        containers: what the engine holds; hand it to a second backend to play a restart of the daemon.
        images: what `resolve_image` finds without pulling; empty means: any reference.
        registry: what a pull can fetch.
        delay: seconds per verb.
        calls: how often each verb was called.
        black_hole: the engine accepts and never answers; its verbs end after `deadline_s` with EngineUnavailable.
        action: answers `/init` and `/run` of containers created from now on.
    """

    def __init__(
        self,
        *,
        action: Action = echo,
        containers: dict[ContainerId, FakeContainer] | None = None,
        node: str = "fake",
        boot_id: str = "boot",
    ) -> None:
        self.containers = {} if containers is None else containers
        self.action = action
        self._node = node
        self._boot_id = boot_id
        self.images: dict[str, Image] = {}
        self.registry: dict[str, Image] = {}
        self.delay: dict[str, float] = {}
        self.calls: Counter[str] = Counter()
        self.black_hole = False
        self.deadline_s = 0.05
        self._failures: defaultdict[str, deque[InvokerError | OSError]] = defaultdict(deque)
        self._holds: defaultdict[str, deque[Hold]] = defaultdict(deque)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)

    def fail_next(self, verb: str, error: InvokerError | OSError, *, times: int = 1) -> None:
        """Let the next calls of a verb fail, before they have any effect."""
        self._failures[verb].extend([error] * times)

    def hold(self, verb: str) -> Hold:
        """Stop the next call of a verb before it has any effect; `<verb>:done` stops it after that."""
        hold = Hold()
        self._holds[verb].append(hold)
        return hold

    def kill(self, container_id: ContainerId) -> None:
        """End a container's process behind the pool's back."""
        self.containers[container_id].die()

    async def create(self, container_id: ContainerId, spec: ContainerSpec) -> ContainerHandle:
        """See `ContainerBackend`."""
        with self._whole_or_nothing(container_id):
            await self._enter("create")
            assert container_id not in self.containers, f"{container_id}: created twice"
            if self.images and spec.image not in {image.image_id for image in self.images.values()}:
                raise ImageNotFound(f"image {spec.image} is gone from this node")
            labels = recipe.labels_of(spec, node=self._node, boot_id=self._boot_id)
            container = FakeContainer(container_id, spec, self.action, labels)
            self.containers[container_id] = container
            await self._stage("create:done")
            if not container.alive:
                raise ContainerStartFailed
            return FakeHandle(container)

    async def adopt(self, found: FoundContainer) -> ContainerHandle:
        """See `ContainerBackend`."""
        await self._enter("adopt")
        container = self.containers.get(found.container_id)
        if container is None or not container.alive:
            raise ContainerStartFailed
        return FakeHandle(container)

    async def remove(self, container_id: ContainerId, handle: ContainerHandle | None) -> None:
        """See `ContainerBackend`. A second removal after one that succeeded is a bug of the pool."""
        assert handle is None or (isinstance(handle, FakeHandle) and not handle.closed), f"{container_id}: removed twice"
        await self._enter("remove")
        container = self.containers.get(container_id)
        if container is not None:
            container.die()
            await self._stage("remove:done")
            if self.containers.pop(container_id, None) is not None:
                container.bury()
        if handle is not None:
            handle.close()

    async def dial(self, handle: ContainerHandle) -> socket.socket:
        """See `ContainerBackend`. The engine has no part in it: a black hole does not stop it."""
        assert isinstance(handle, FakeHandle)
        assert not handle.closed, f"{handle.container_id}: dialled after its removal"
        self.calls["dial"] += 1
        await self._stage("dial")
        container = handle.container
        if not container.alive:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH), container.container_id)
        if container.refuse_dials > 0:
            container.refuse_dials -= 1
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        near, far = self._socket_pair()
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: ActionConnection(container), far)
        except BaseException:
            near.close()
            raise
        return near

    async def listen(self, handle: ContainerHandle) -> socket.socket:
        """See `ContainerBackend`. The test dials what it finds in `FakeContainer.door`."""
        assert isinstance(handle, FakeHandle)
        self.calls["listen"] += 1
        await self._stage("listen")
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        handle.container.door = listener.getsockname()
        return listener

    async def list_containers(self) -> list[FoundContainer]:
        """See `ContainerBackend`."""
        await self._enter("list_containers")
        return [
            FoundContainer(container_id=c.container_id, engine_id=c.engine_id, running=c.alive, labels=c.labels)
            for c in self.containers.values()
        ]

    async def resolve_image(
        self, reference: str, *, pull: bool, credentials: Mapping[str, str] | None = None, user: str = ""
    ) -> Image:
        """See `ContainerBackend`."""
        del credentials, user
        await self._enter("resolve_image")
        if not self.images and not self.registry:
            return Image(image_id=f"sha256:{reference}", logs=LogTransport.PIPE, server_keep_alive_s=86400.0)
        if reference not in self.images and pull and reference in self.registry:
            self.calls["pull"] += 1
            await self._stage("pull")
            self.images[reference] = self.registry[reference]
        if reference not in self.images:
            raise ImageNotFound(f"{reference} is neither here nor to be had")
        return self.images[reference]

    async def remove_image(self, image_id: str, reference: str) -> None:
        """See `ContainerBackend`."""
        await self._enter("remove_image")
        if any(container.spec.image == image_id for container in self.containers.values()):
            raise EngineError(f"image {image_id} is being used")
        image = self.images.get(reference)
        if image is not None and image.image_id == image_id:
            del self.images[reference]

    async def attach_logs(self, handle: ContainerHandle) -> AsyncIterator[tuple[str, bytes]]:
        """See `ContainerBackend`."""
        assert isinstance(handle, FakeHandle)
        await self._enter("attach_logs")
        while (chunk := await handle.container.attached.get()) is not None:
            yield chunk

    async def was_out_of_memory(self, container_id: ContainerId) -> bool:
        """See `ContainerBackend`."""
        container = self.containers.get(container_id)
        return container is not None and container.oom_count > 0

    async def close(self) -> None:
        """See `ContainerBackend`. Containers stay; `bury_all` forgets them too."""
        self._listener.close()

    def bury_all(self) -> None:
        """End and forget every container, at the end of a test."""
        for container in self.containers.values():
            for handle in tuple(container.handles):
                handle.close()
            container.die()
            container.bury()
        self.containers.clear()

    async def _enter(self, verb: str) -> None:
        self.calls[verb] += 1
        if self.black_hole:
            await asyncio.sleep(self.deadline_s)
            raise EngineUnavailable(f"{verb}: no answer within {self.deadline_s} s")
        await self._stage(verb)

    async def _stage(self, stage: str) -> None:
        """Meet what the test has scripted for this stage: a hold, a delay, a failure, in this order."""
        if self._holds[stage]:
            await self._holds[stage].popleft().wait()
        if self.delay.get(stage):
            await asyncio.sleep(self.delay[stage])
        if self._failures[stage]:
            raise self._failures[stage].popleft()

    @contextlib.contextmanager
    def _whole_or_nothing(self, container_id: ContainerId) -> Iterator[None]:
        """A create that fails or is cancelled leaves nothing behind."""
        existed = container_id in self.containers
        done = False
        try:
            yield
            done = True
        finally:
            if not done and not existed and (container := self.containers.pop(container_id, None)) is not None:
                container.die()
                container.bury()

    def _socket_pair(self) -> tuple[socket.socket, socket.socket]:
        """Connect two TCP sockets over loopback, so that socket options work as on a real one."""
        near = socket.create_connection(self._listener.getsockname())
        far, peer = self._listener.accept()
        assert peer == near.getsockname(), "somebody else dialled the fake"
        near.setblocking(False)
        far.setblocking(False)
        return near, far
