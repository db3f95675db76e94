"""What only the fake can do: be scripted. That it behaves like the real one is in `test_backend_contract.py`."""

import asyncio
import os

import msgspec
import pytest

from pool.backend import Image
from pool.errors import ContainerStartFailed, EngineError, EngineUnavailable, ImageNotFound
from pool.fake import FakeBackend
from pool.fake_server import Answer, Misbehaviour
from pool.frames import FrameParser
from pool.model import ContainerId, ContainerSpec, LogTransport
from pool.netns import has_ended

SPEC = ContainerSpec(namespace="n", uid=1, gid=1, image="sha256:x", kind="python:3", memory_mib=128)
A = ContainerId("a")


@pytest.fixture
async def backend():
    backend = FakeBackend()
    yield backend
    await backend.close()
    backend.bury_all()


async def post(sock, path: str, body: object) -> bytes:
    loop = asyncio.get_running_loop()
    data = msgspec.json.encode(body)
    await loop.sock_sendall(sock, b"POST %s HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (path.encode(), len(data), data))
    async with asyncio.timeout(2):
        return await loop.sock_recv(sock, 65536)


async def test_the_next_calls_fail_as_scripted_and_then_no_more(backend):
    backend.fail_next("create", EngineError("disk full"), times=2)
    for _ in range(2):
        with pytest.raises(EngineError, match="disk full"):
            await backend.create(A, SPEC)
    await backend.create(A, SPEC)
    assert backend.calls["create"] == 3


async def test_a_call_can_be_stopped_before_and_after_its_effect(backend):
    before, after = backend.hold("create"), backend.hold("create:done")
    async with asyncio.TaskGroup() as group:
        creating = group.create_task(backend.create(A, SPEC))
        await before.reached.wait()
        assert A not in backend.containers
        before.release()
        await after.reached.wait()
        assert A in backend.containers
        assert not creating.done()
        after.release()
    assert creating.result().container_id == A


async def test_a_container_that_dies_while_it_is_created_fails_to_start(backend):
    hold = backend.hold("create:done")
    async with asyncio.TaskGroup() as group:
        failing = group.create_task(asyncio.wait_for(_expect_start_failure(backend), 2))
        await hold.reached.wait()
        backend.kill(A)
        hold.release()
    assert failing.result()
    assert backend.containers == {}


async def _expect_start_failure(backend) -> bool:
    with pytest.raises(ContainerStartFailed):
        await backend.create(A, SPEC)
    return True


async def test_a_black_hole_ends_each_engine_verb_in_its_deadline_and_no_dial(backend):
    handle = await backend.create(A, SPEC)
    backend.black_hole, backend.deadline_s = True, 0.01
    for verb in (backend.ping(), backend.list_containers(), backend.create(ContainerId("b"), SPEC), backend.remove(A, handle)):
        with pytest.raises(EngineUnavailable):
            await verb
    (await backend.dial(handle)).close()


async def test_delays_are_kept(backend):
    backend.delay["ping"] = 0.02
    began = asyncio.get_running_loop().time()
    await backend.ping()
    assert asyncio.get_running_loop().time() - began >= 0.019


async def test_illegal_use_is_loud(backend):
    handle = await backend.create(A, SPEC)
    with pytest.raises(AssertionError, match="created twice"):
        await backend.create(A, SPEC)
    await backend.remove(A, handle)
    for use in (handle.freeze, handle.thaw, handle.cpu_us, handle.memory, handle.is_frozen):
        with pytest.raises(AssertionError, match="closed handle"):
            use()
    with pytest.raises(AssertionError, match="removed twice"):
        await backend.remove(A, handle)
    with pytest.raises(AssertionError, match="dialled after"):
        await backend.dial(handle)


async def test_the_kernel_of_a_container_can_be_played(backend):
    handle = await backend.create(A, SPEC)
    container = backend.containers[A]
    container.advance_cpu(123)
    assert handle.cpu_us() == 123
    container.obeys_freeze = False
    handle.freeze()
    assert not handle.is_frozen()
    container.obeys_freeze, container.obeys_thaw = True, False
    handle.freeze()
    handle.thaw()
    assert handle.is_frozen()
    container.oom_count = 2
    assert handle.oom_kills() == 2


async def test_an_action_answers_init_and_run_by_script():
    seen = []

    def action(path, body):
        seen.append((path, body))
        return Answer(status=502 if path == "/init" else 200, body=b'{"a":1}', cpu_us=50)

    backend = FakeBackend(action=action)
    handle = await backend.create(A, SPEC)
    with await backend.dial(handle) as sock:
        assert (await post(sock, "/init", {"value": {"code": "x"}})).startswith(b"HTTP/1.1 502")
        assert (await post(sock, "/run", {"value": {}})).endswith(b'{"a":1}')
    assert seen == [("/init", {"value": {"code": "x"}}), ("/run", {"value": {}})]
    assert (handle.cpu_us(), backend.containers[A].requests) == (100, ["/init", "/run"])
    await backend.close()
    backend.bury_all()


@pytest.mark.parametrize("how", list(Misbehaviour))
async def test_an_action_misbehaves_by_script(backend, how):
    backend.action = lambda _path, _body: how
    handle = await backend.create(A, SPEC)
    with await backend.dial(handle) as sock:
        if how is Misbehaviour.HANG:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(post(sock, "/run", {}), 0.05)
        elif how is Misbehaviour.DIE:
            assert await post(sock, "/run", {}) == b""
            assert has_ended(handle.descriptors.pidfd)
        else:
            answer = await post(sock, "/run", {})
            beginning = {
                Misbehaviour.CLOSE: b"",
                Misbehaviour.GARBAGE: b"\x00\x01",
                Misbehaviour.TRUNCATE: b"HTTP/1.1 200 OK\r\nContent-Length: 100",
            }[how]
            assert answer.startswith(beginning)
            assert bool(answer) is bool(beginning)
            if answer:
                assert await asyncio.get_running_loop().sock_recv(sock, 10) == b""


async def test_a_slow_action_that_is_frozen_meanwhile_answers_after_the_thaw(backend):
    backend.action = lambda _path, _body: Answer(after_s=0.01)
    handle = await backend.create(A, SPEC)
    with await backend.dial(handle) as sock:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, b"POST /run HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}")
        async with asyncio.timeout(2):
            while not backend.containers[A].requests:
                await asyncio.sleep(0)
        handle.freeze()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(loop.sock_recv(sock, 10), 0.05)
        handle.thaw()
        assert await asyncio.wait_for(loop.sock_recv(sock, 12), 2) == b"HTTP/1.1 200"


async def test_an_actions_lines_are_in_the_pipe_before_its_answer(backend):
    backend.action = lambda _path, _body: Answer(logs=(("stdout", "one"), ("stderr", "two")))
    handle = await backend.create(A, SPEC)
    with await backend.dial(handle) as sock:
        answer = await post(sock, "/run", {"activation_id": "b" * 32, "value": {}})
    assert b"X-Invokerd-Logs: 2,0\r\n" in answer
    frames = FrameParser().feed(os.read(handle.descriptors.log, 65536))
    assert [(f.activation, f.seq, f.stream, f.text) for f in frames] == [("b" * 32, 0, "o", b"one"), ("b" * 32, 1, "e", b"two")]


async def test_a_foreign_actions_lines_end_with_the_sentinel(backend):
    backend.action = lambda _path, _body: Answer(logs=(("stdout", "one"), ("stderr", "two")))
    handle = await backend.create(A, msgspec.structs.replace(SPEC, logs=LogTransport.ATTACHED))
    with await backend.dial(handle) as sock:
        await post(sock, "/run", {})
    backend.kill(A)
    said: dict[str, bytes] = {"stdout": b"", "stderr": b""}
    async for name, data in backend.attach_logs(handle):
        said[name] += data
    assert said == {
        "stdout": b"one\nXXX_THE_END_OF_A_WHISK_ACTIVATION_XXX\n",
        "stderr": b"two\nXXX_THE_END_OF_A_WHISK_ACTIVATION_XXX\n",
    }


async def test_a_port_stays_closed_as_long_as_scripted(backend):
    handle = await backend.create(A, SPEC)
    backend.containers[A].refuse_dials = 2
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            await backend.dial(handle)
    (await backend.dial(handle)).close()


async def test_a_second_backend_finds_what_the_first_has_left(backend):
    handle = await backend.create(A, SPEC)
    handle.freeze()
    handle.close()
    successor = FakeBackend(containers=backend.containers)
    (found,) = await successor.list_containers()
    adopted = await successor.adopt(found)
    assert adopted.is_frozen()
    adopted.close()
    await successor.close()


async def test_a_pull_fetches_what_the_registry_has(backend):
    backend.registry["r/i:1"] = Image(image_id="sha256:77", logs=LogTransport.PIPE, server_keep_alive_s=1.0)
    with pytest.raises(ImageNotFound):
        await backend.resolve_image("r/i:1", pull=False)
    assert (await backend.resolve_image("r/i:1", pull=True)).image_id == "sha256:77"
    assert (await backend.resolve_image("r/i:1", pull=True)).image_id == "sha256:77"
    assert backend.calls["pull"] == 1
