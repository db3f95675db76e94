"""The wall: raised, mended and told of on made-up hierarchies; and hit, on this machine's engine."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import uuid

import pytest

from pool.backend import ContainerHandle
from pool.docker import DockerBackend
from pool.model import ContainerId, ContainerSpec
from pool.parent import NoParentCgroup, find_memory_group, limit_bytes
from pool.user_groups import UserGroups, parent_path
from pool.wall import Wall
from tests.support.made_up_cgroups import fill_group, hierarchy

MIB = 2**20
NAME = "functions_n"


def refuse(command: list[str]) -> None:
    pytest.fail(f"nothing is to be run: {command}")


@pytest.mark.parametrize(("version", "file"), [(1, "memory.limit_in_bytes"), (2, "memory.max")])
async def test_the_wall_is_raised_and_put_right_where_somebody_has_changed_or_removed_it(tmp_path, version, file):
    proc, point = hierarchy(tmp_path, version)
    wall = Wall(NAME, driver="cgroupfs", memory_mib=1000, proc=proc, run=refuse)
    await wall.keep()
    limit = point / NAME / file
    assert (wall.problem, limit.read_text()) == ("", str(limit_bytes(1000)))
    fill_group(point / NAME, version)
    await wall.keep()
    assert limit.read_text() == str(limit_bytes(1000))
    for each in (point / NAME).iterdir():
        each.unlink()
    (point / NAME).rmdir()
    await wall.keep()
    assert limit.read_text() == str(limit_bytes(1000))


@pytest.mark.parametrize("version", [1, 2])
async def test_a_limit_is_lowered_when_the_containers_of_the_larger_pool_hold_less_than_it(tmp_path, caplog, version):
    proc, point = hierarchy(tmp_path, version)
    before = limit_bytes(2000)
    fill_group(point / NAME, version, usage=1900 * MIB, cache=300 * MIB, limit=before)
    wall = Wall(NAME, driver="cgroupfs", memory_mib=1000, proc=proc, run=refuse)
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            await wall.keep()
        assert find_memory_group(NAME, driver="cgroupfs", proc=proc).read_limit() == before
        assert "1600 MiB are held" in wall.problem
        assert "1050 or less" in wall.problem
        fill_group(point / NAME, version, usage=1200 * MIB, cache=300 * MIB, limit=before)
        await wall.keep()
    assert wall.problem == ""
    assert find_memory_group(NAME, driver="cgroupfs", proc=proc).read_limit() == wall.limit
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"], "told once, and once that it is over"


async def test_systemd_is_told_at_the_start_and_again_where_its_slice_has_another_limit(tmp_path):
    proc, point = hierarchy(tmp_path, 2)
    told: list[list[str]] = []
    wall = Wall(NAME, driver="systemd", memory_mib=1000, proc=proc, run=told.append)
    for _ in range(2):  # there is no slice before there is a container
        await wall.keep()
    order = ["systemctl", "set-property", "--runtime", f"{NAME}.slice", f"MemoryMax={wall.limit}", "MemorySwapMax=0"]
    assert told == [order]
    fill_group(point / f"{NAME}.slice", 2, limit=wall.limit)
    await wall.keep()
    assert told == [order]
    fill_group(point / f"{NAME}.slice", 2)
    await wall.keep()
    assert told == [order, order]
    assert not (point / NAME).exists()


async def test_a_node_on_which_no_wall_can_be_is_told_of_once_and_goes_on(tmp_path, caplog):
    proc, _ = hierarchy(tmp_path, 1)
    (proc / "self" / "mountinfo").write_text("")
    wall = Wall(NAME, driver="cgroupfs", memory_mib=1000, proc=proc, run=refuse)
    for _ in range(2):
        await wall.keep()
    (record,) = caplog.records
    assert (
        "nothing bounds the memory of all containers together: no cgroup hierarchy with a memory controller"
        in record.getMessage()
    )
    with pytest.raises(NoParentCgroup):
        wall.raise_now()
    wall = Wall(NAME, driver="none", memory_mib=1000, proc=proc, run=refuse)
    await wall.keep()
    assert "driver 'none'" in wall.problem


async def test_a_systemd_that_refuses_is_told_of(tmp_path):
    proc, _ = hierarchy(tmp_path, 2)

    def failing(_command: list[str]) -> None:
        raise NoParentCgroup("systemctl set-property: Access denied")

    wall = Wall(NAME, driver="systemd", memory_mib=1000, proc=proc, run=failing)
    await wall.keep()
    assert wall.problem == "systemctl set-property: Access denied"


async def test_a_container_that_the_engine_made_elsewhere_is_seen(tmp_path):
    proc, point = hierarchy(tmp_path, 1)
    wall = Wall(NAME, driver="cgroupfs", memory_mib=1000, proc=proc, run=refuse)
    await wall.keep()
    for file in ("", f"{point}/{NAME}/u1/abc/memory.oom_control"):
        wall.saw(file)
        assert wall.problem == ""
    wall.saw("/sys/fs/cgroup/memory/inner/functions/u1/abc/memory.oom_control")
    await wall.keep()
    assert "made a container in /sys/fs/cgroup/memory/inner/functions/u1/abc, not below" in wall.problem


# ---- for real


@pytest.fixture
async def walled(engine_url, tmp_path):
    """A backend whose containers are behind a wall of 64 MiB of their own; gone afterwards, with their cgroups."""
    name = f"functions_{uuid.uuid4().hex[:8]}"
    backend = await DockerBackend.open(engine_url, node=name, boot_id="b", run_dir=tmp_path / "containers")
    driver = backend.facts.cgroup_driver
    groups = UserGroups(parent_path(name, driver) or pytest.skip("no cgroups"), lambda _namespace: 1.0)
    backend.use_groups(groups)
    backend.wall = Wall(name, driver=driver, memory_mib=48)
    await backend.wall.keep()
    try:
        yield backend
    finally:
        for left in await backend.list_containers():
            await backend.remove(left.container_id, None)
        backend.wall.close()
        await backend.close()
        groups.remove_empty(parent=True)


async def eater(backend: DockerBackend, image: str, uid: int) -> ContainerHandle:
    """Start a container whose own limit is above the wall."""
    spec = ContainerSpec(namespace="n", uid=uid, gid=uid, image=image, kind="probe", memory_mib=256)
    return await backend.create(ContainerId(f"invokerd-wall-{uuid.uuid4().hex[:12]}"), spec)


async def run(backend: DockerBackend, handle: ContainerHandle, script: bytes) -> bytes:
    """Run a shell script in a container; return what it says."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(60):
        with await dial(backend, handle) as sock:
            await loop.sock_sendall(sock, b"POST /cgi-bin/sh HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s" % (len(script), script))
            answer = b""
            while data := await loop.sock_recv(sock, 65536):
                answer += data
    return answer


async def dial(backend: DockerBackend, handle: ContainerHandle) -> socket.socket:
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            return await backend.dial(handle)
        await asyncio.sleep(0.005)


@pytest.mark.docker
async def test_who_is_ended_at_the_wall_is_counted_as_such_with_less_than_its_own_limit_and_nobody_else_is(walled, probe_images):
    innocent, greedy = [await eater(walled, probe_images["pipe"].image_id, uid) for uid in (43240, 43250)]
    assert walled.wall.problem == ""
    hit = asyncio.Event()
    walled.wall.on_hit = hit.set
    greedy.reset_memory_peak()
    assert b"ended with 137" in await run(walled, greedy, b"dd if=/dev/zero of=/dev/null bs=160M count=1; echo ended with $?")
    async with asyncio.timeout(60):
        await hit.wait()
    assert walled.wall.hits >= 1
    assert greedy.oom_kills() >= 1
    assert innocent.oom_kills() == 0
    assert greedy.memory().peak <= walled.wall.limit


@pytest.mark.docker
async def test_the_largest_is_ended_at_the_wall_though_it_is_frozen(walled, probe_images):
    large, small = [await eater(walled, probe_images["pipe"].image_id, uid) for uid in (43240, 43250)]
    await run(walled, large, b"(dd if=/dev/zero bs=40M count=1 | sleep 600) >/dev/null 2>&1 &")
    async with asyncio.timeout(60):
        while large.memory().anonymous < 40 * MIB:
            await asyncio.sleep(0.005)
        large.freeze()
        while not large.is_frozen():
            await asyncio.sleep(0.001)
    said = await run(walled, small, b"dd if=/dev/zero of=/dev/null bs=32M count=1; echo ended with $?")
    assert large.oom_kills() == 1
    # The kernel may be so quick to look again that the first has not yet given back what it had.
    assert (b"ended with 137" in said, b"ended with 0" in said) == (small.oom_kills() == 1, small.oom_kills() == 0)
    large.thaw()
