"""The action server of a fake container, talked to as the pool's connections do."""

import asyncio
import os

import msgspec
import pytest

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
    async with asyncio.timeout(30):
        return await loop.sock_recv(sock, 65536)


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
        async with asyncio.timeout(30):
            while not backend.containers[A].requests:
                await asyncio.sleep(0)
        handle.freeze()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(loop.sock_recv(sock, 10), 0.05)
        handle.thaw()
        assert await asyncio.wait_for(loop.sock_recv(sock, 12), 30) == b"HTTP/1.1 200"


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
