"""What every backend promises: the same tests on the fake always, and on a real engine where there is one."""

import asyncio
import contextlib
import os
import socket
import uuid

import pytest

from pool.backend import ContainerBackend, ContainerHandle
from pool.docker import DockerBackend
from pool.door import API_ADDRESS
from pool.errors import ContainerStartFailed, EngineError, ImageNotFound
from pool.fake import FakeBackend
from pool.frames import FrameParser
from pool.model import ContainerId, ContainerSpec, LogTransport
from pool.netns import Dialer, has_ended
from pool.operations import FREEZE_PAUSE_S
from pool.recipe import spec_of

ACTIVATION = "a" * 32
NODE = f"contract-{uuid.uuid4().hex[:6]}"


class World:
    """A backend, and how its containers are made to do things."""

    def __init__(self, backend: ContainerBackend, specs: dict[str, ContainerSpec]) -> None:
        self.backend = backend
        self.specs = specs

    def new_id(self) -> ContainerId:
        return ContainerId(f"invokerd-{NODE}-{uuid.uuid4().hex[:12]}")

    async def create(self, kind: str = "pipe") -> ContainerHandle:
        return await self.backend.create(self.new_id(), self.specs[kind])

    async def dial(self, handle: ContainerHandle):
        """Dial until the server listens."""
        async with asyncio.timeout(10):
            while True:
                try:
                    return await self.backend.dial(handle)
                except ConnectionRefusedError:
                    await asyncio.sleep(0.005)

    async def knock(self, handle: ContainerHandle):
        """Connect to the container's door, as its processes would."""
        if isinstance(self.backend, FakeBackend):
            door = self.backend.containers[handle.container_id].door
            assert door is not None
            sock = await asyncio.to_thread(socket.create_connection, door)
            sock.setblocking(False)
            return sock
        dialer = Dialer(address=API_ADDRESS)
        try:
            return await dialer.dial(handle.descriptors.pidfd)
        finally:
            dialer.close()

    async def kill(self, handle: ContainerHandle) -> None:
        """End its process behind the backend's back, and wait until that shows."""
        if isinstance(self.backend, FakeBackend):
            self.backend.kill(handle.container_id)
        else:
            os.kill(handle.descriptors.pid, 9)
        async with asyncio.timeout(10):
            while not has_ended(handle.descriptors.pidfd) or await self.is_running(handle):
                await asyncio.sleep(0.005)

    async def is_running(self, handle: ContainerHandle) -> bool:
        return any(f.running for f in await self.backend.list_containers() if f.container_id == handle.container_id)

    async def write_log(self, handle: ContainerHandle, data: bytes) -> None:
        if isinstance(self.backend, FakeBackend):
            self.backend.containers[handle.container_id].write_log(data)
        else:
            await self.run_script(handle, b"printf '%s' > /run/invokerd/log" % data.replace(b"\n", b"\\n"))

    async def run_script(self, handle: ContainerHandle, script: bytes) -> bytes:
        """Run a shell script inside a real probe container."""
        request = b"POST /cgi-bin/sh HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(script) + script
        answer = await self.ask(handle, request)
        return answer.partition(b"\r\n\r\n")[2]

    async def ask(
        self, handle: ContainerHandle, request: bytes = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    ) -> bytes:
        with await self.dial(handle) as sock:
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(sock, request)
            return await read_answer(sock)


async def read_answer(sock) -> bytes:
    """Read one response: to its length where it tells one, else to the end."""
    answer = b""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(10):
        while data := await loop.sock_recv(sock, 65536):
            answer += data
            head, separator, body = answer.partition(b"\r\n\r\n")
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            if separator and lengths and len(body) >= int(lengths[0].split(b":")[1]):
                break
    return answer


def spec(image: str, logs: LogTransport) -> ContainerSpec:
    return ContainerSpec(namespace="contract", uid=12345, gid=23456, image=image, kind="probe", memory_mib=64, logs=logs)


@pytest.fixture(params=["fake", pytest.param("docker", marks=pytest.mark.docker)])
async def world(request, tmp_path):
    if request.param == "fake":
        backend = FakeBackend(node=NODE)
        backend.images["probe"] = await backend.resolve_image("probe", pull=False)
        known = "sha256:probe"
        yield World(backend, {"pipe": spec(known, LogTransport.PIPE), "foreign": spec(known, LogTransport.ATTACHED)})
        await backend.close()
        backend.bury_all()
        return
    url, images = request.getfixturevalue("engine_url"), request.getfixturevalue("probe_images")
    specs = {
        "pipe": spec(images["pipe"].image_id, LogTransport.PIPE),
        "foreign": spec(images["talking"].image_id, LogTransport.ATTACHED),
    }
    backend = await DockerBackend.open(url, node=NODE, boot_id="boot", run_dir=tmp_path)
    try:
        yield World(backend, specs)
    finally:
        for left in await backend.list_containers():
            await backend.remove(left.container_id, None)
        await backend.close()
    assert list(tmp_path.iterdir()) == []


async def freeze(handle: ContainerHandle) -> None:
    """Ask until it stands still, as the pool does: a freezer of version 1 may stay half-way after one write."""
    handle.freeze()
    async with asyncio.timeout(30):
        while not handle.is_frozen():
            await asyncio.sleep(FREEZE_PAUSE_S)
            handle.freeze()


async def test_a_created_container_runs_and_can_be_listed(world):
    handle = await world.create()
    assert not has_ended(handle.descriptors.pidfd)
    assert not handle.is_frozen()
    (found,) = await world.backend.list_containers()
    assert (found.container_id, found.engine_id, found.running) == (handle.container_id, handle.engine_id, True)
    assert found.labels["invokerd.node"] == NODE
    assert spec_of(found) == world.specs["pipe"]
    await world.backend.remove(handle.container_id, handle)
    assert await world.backend.list_containers() == []


async def test_counters_can_be_read_and_only_grow(world):
    handle = await world.create()
    before = handle.cpu_us()
    handle.reset_memory_peak()
    await world.ask(handle)
    assert handle.cpu_us() >= before
    assert handle.throttled_us() >= 0
    assert handle.oom_kills() == 0
    reading = handle.memory()
    assert reading.peak > 0
    assert min(reading.anonymous, reading.shared, reading.cache) >= 0


async def test_a_frozen_container_takes_a_connection_and_answers_after_the_thaw(world):
    handle = await world.create()
    assert b"200" in await world.ask(handle)
    await freeze(handle)
    with await world.backend.dial(handle) as sock:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await loop.sock_recv(sock, 1)
        handle.thaw()
        assert not handle.is_frozen()
        assert (await read_answer(sock)).startswith(b"HTTP/1.")


async def test_a_door_is_knocked_at_from_inside_the_container_and_can_be_opened_again(world):
    handle = await world.create()
    for _ in range(2):
        with await world.backend.listen(handle) as listener, await world.knock(handle) as outside:
            inside, _ = await asyncio.get_running_loop().sock_accept(listener)
            with inside:
                await asyncio.get_running_loop().sock_sendall(outside, b"hello")
                assert await asyncio.get_running_loop().sock_recv(inside, 10) == b"hello"


async def test_a_thaw_of_a_running_container_is_harmless(world):
    handle = await world.create()
    handle.thaw()
    handle.thaw()
    assert b"200" in await world.ask(handle)


async def test_a_frozen_container_can_be_removed(world):
    handle = await world.create()
    await freeze(handle)
    pidfd = os.dup(handle.descriptors.pidfd)
    try:
        await world.backend.remove(handle.container_id, handle)
        assert has_ended(pidfd)
    finally:
        os.close(pidfd)
    assert await world.backend.list_containers() == []


async def test_a_frozen_container_without_a_handle_can_be_removed(world):
    """What a daemon finds that was left by one that was killed."""
    handle = await world.create()
    await freeze(handle)
    handle.close()
    async with asyncio.timeout(30):
        await world.backend.remove(handle.container_id, None)
    assert await world.backend.list_containers() == []


async def test_the_removal_of_what_is_gone_is_success(world):
    await world.backend.remove(world.new_id(), None)


async def test_a_removal_closes_every_descriptor(world):
    warm = await world.create()
    await world.ask(warm)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    handle = await world.create()
    await world.backend.remove(handle.container_id, handle)
    handle.close()
    async with asyncio.timeout(10):  # a connection to the engine closes in the loop's next turns
        while len(os.listdir("/proc/self/fd")) != before:  # noqa: PTH208
            await asyncio.sleep(0.01)


async def test_a_container_has_at_most_seven_descriptors(world):
    handle = await world.create()
    opened = handle.descriptors.opened()
    assert len(opened) <= 7  # with the door eight
    assert all(os.fstat(fd) for fd in opened)


async def test_the_death_of_a_container_shows_on_its_pidfd_and_in_the_list(world):
    handle = await world.create()
    heard = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(handle.descriptors.pidfd, heard.set)
    try:
        await world.kill(handle)
        await asyncio.wait_for(heard.wait(), 30)
    finally:
        loop.remove_reader(handle.descriptors.pidfd)
    (found,) = await world.backend.list_containers()
    assert not found.running
    with pytest.raises(ProcessLookupError):
        await world.backend.dial(handle)
    with pytest.raises(ContainerStartFailed):
        await world.backend.adopt(found)
    await world.backend.remove(handle.container_id, handle)
    assert await world.backend.list_containers() == []


async def test_the_files_of_a_dead_container_say_no(world):
    handle = await world.create()
    await world.kill(handle)
    with pytest.raises(OSError):
        handle.cpu_us()
    with pytest.raises(OSError):
        handle.freeze()


async def test_a_container_that_somebody_killed_was_not_out_of_memory(world):
    handle = await world.create()
    await world.kill(handle)
    assert await world.backend.was_out_of_memory(handle.container_id) is False


async def test_a_frozen_container_is_adopted_as_it_is(world):
    old = await world.create()
    await world.ask(old)
    await freeze(old)
    old.close()
    (found,) = await world.backend.list_containers()
    handle = await world.backend.adopt(found)
    assert handle.is_frozen()
    handle.thaw()
    assert b"200" in await world.ask(handle)
    await world.write_log(handle, b"%s 0 o 1 still heard\n" % ACTIVATION.encode())
    assert [f.text for f in await read_frames(handle)] == [b"still heard"]


async def read_frames(handle: ContainerHandle, count: int = 1):
    parser, frames = FrameParser(), []
    async with asyncio.timeout(30):
        while len(frames) < count:
            try:
                frames += parser.feed(os.read(handle.descriptors.log, 65536))
            except BlockingIOError:
                await asyncio.sleep(0.005)
    return frames


async def test_what_a_container_writes_to_its_log_pipe_arrives(world):
    handle = await world.create("pipe")
    lines = b"%s 0 o 17 to out\n%s 1 e 18 to err\n" % (ACTIVATION.encode(), ACTIVATION.encode())
    await world.write_log(handle, lines)
    frames = await read_frames(handle, 2)
    assert [(f.activation, f.seq, f.stream, f.time_us, f.text) for f in frames] == [
        (ACTIVATION, 0, "o", 17, b"to out"),
        (ACTIVATION, 1, "e", 18, b"to err"),
    ]


async def test_a_foreign_image_is_heard_from_its_first_line_to_its_end(world):
    handle = await world.create("foreign")
    assert handle.descriptors.log == -1
    if isinstance(world.backend, FakeBackend):
        container = world.backend.containers[handle.container_id]
        container.write_log(b"first\n")
        container.attached.put_nowait(("stderr", b"second\n"))
    said = {"stdout": b"", "stderr": b""}
    async with asyncio.timeout(10):
        async with contextlib.aclosing(world.backend.attach_logs(handle)) as stream:
            async for name, data in stream:
                said[name] += data
                if said["stdout"].startswith(b"first\n") and said["stderr"].startswith(b"second\n"):
                    await world.kill(handle)
    assert said["stdout"].startswith(b"first\n")
    await world.backend.remove(handle.container_id, handle)


async def test_an_image_that_nobody_has_is_not_found(world):
    with pytest.raises(ImageNotFound):
        await world.backend.resolve_image("invokerd-no-such-image:1", pull=False)


async def test_a_create_from_an_image_that_is_gone_leaves_nothing(world):
    gone = spec("sha256:" + "0" * 64, LogTransport.PIPE)
    with pytest.raises(ImageNotFound):
        await world.backend.create(world.new_id(), gone)
    assert await world.backend.list_containers() == []


async def test_a_cancelled_create_leaves_nothing_that_a_later_look_does_not_remove(world):
    container_id = world.new_id()
    if isinstance(world.backend, FakeBackend):
        world.backend.delay["create:done"] = 5.0
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.06):
            await world.backend.create(container_id, world.specs["pipe"])
    await remove_all(world)
    # An engine that was just making it may have it appear after that. Its name is free or taken once it is through.
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(EngineError, ContainerStartFailed):
                await world.backend.remove(container_id, await world.backend.create(container_id, world.specs["pipe"]))
                break
            await remove_all(world)
    assert await world.backend.list_containers() == []


async def remove_all(world: World) -> None:
    """Do as a look at the engine does that finds containers which nobody knows."""
    for found in await world.backend.list_containers():
        await world.backend.remove(found.container_id, None)


async def test_several_containers_live_beside_each_other(world):
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(world.create()) for _ in range(3)]
    handles = [task.result() for task in tasks]
    await freeze(handles[0])
    assert b"200" in await world.ask(handles[1])
    async with asyncio.TaskGroup() as group:
        for handle in handles:
            group.create_task(world.backend.remove(handle.container_id, handle))
    assert await world.backend.list_containers() == []
