"""What only the fake can do: be scripted. That it behaves like the real one is in `test_backend_contract.py`."""

import asyncio

import pytest

from pool.backend import Image
from pool.errors import ContainerStartFailed, EngineError, EngineUnavailable, ImageNotFound
from pool.fake import FakeBackend
from pool.model import ContainerId, ContainerSpec, LogTransport

SPEC = ContainerSpec(namespace="n", uid=1, gid=1, image="sha256:x", kind="python:3", memory_mib=128)
A = ContainerId("a")


@pytest.fixture
async def backend():
    backend = FakeBackend()
    yield backend
    await backend.close()
    backend.bury_all()


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
        failing = group.create_task(asyncio.wait_for(_expect_start_failure(backend), 30))
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
    for verb in (backend.list_containers(), backend.create(ContainerId("b"), SPEC), backend.remove(A, handle)):
        with pytest.raises(EngineUnavailable):
            await verb
    (await backend.dial(handle)).close()


async def test_delays_are_kept(backend):
    backend.delay["list_containers"] = 0.02
    began = asyncio.get_running_loop().time()
    await backend.list_containers()
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
