"""What is kept of a running container: connections until their time is over, and counters from where they stood."""

from __future__ import annotations

import asyncio
import socket

import msgspec
import pytest

from pool.connection import Connection
from pool.errors import ConnectionLost
from pool.fake import FakeBackend, FakeHandle
from pool.live import CONNECTION_KEPT_S, Live
from pool.model import ContainerId, ContainerSpec

SPEC = ContainerSpec(namespace="anna", uid=1001, gid=1001, image="sha256:00", kind="nodejs:20", memory_mib=256)


async def test_connections_are_closed_when_their_time_is_over_and_not_while_they_are_used():
    loop = asyncio.get_running_loop()
    live = Live(ContainerId("c"), msgspec.structs.replace(SPEC, server_keep_alive_s=20.0), None, None, None)
    assert live.stale_at() is None
    pairs = [socket.socketpair() for _ in range(3)]
    for near, _ in pairs:
        near.setblocking(False)
    first, second, busy = (Connection(near, loop, now=at) for (near, _), at in zip(pairs, (100.0, 101.0, 0.0), strict=True))
    live.connection, live.others = first, [second, busy]
    answer = busy.send(b"/run", b"{}", limit=10)
    assert live.stale_at() == 110.0
    live.close_stale(109.9)
    assert live.connection is first
    live.close_stale(110.0)
    assert (first.usable, live.connection, live.others) == (False, None, [second, busy])
    assert live.stale_at() == 111.0
    live.close_stale(200.0)
    assert live.others == [busy]
    assert live.stale_at() is None
    assert not answer.done()
    live.close_connections()
    with pytest.raises(ConnectionLost):
        await answer
    for _, far in pairs:
        far.close()


async def test_a_connection_that_could_be_used_for_a_day_is_kept_for_a_minute():
    live = Live(ContainerId("c"), msgspec.structs.replace(SPEC, server_keep_alive_s=86400.0), None, None, None)
    near, far = socket.socketpair()
    near.setblocking(False)
    live.connection = Connection(near, asyncio.get_running_loop(), now=100.0)
    assert live.stale_at() == 100.0 + CONNECTION_KEPT_S
    assert live.kept_connection(5000.0) is live.connection, "one that is there is used"
    live.close_stale(100.0 + CONNECTION_KEPT_S)
    assert live.connection is None
    far.close()


async def test_a_connection_is_used_again_within_half_of_the_servers_keep_alive_and_never_after():
    """A server that wakes with an expired timer closes what was just written to."""
    loop = asyncio.get_running_loop()
    live = Live(ContainerId("c"), msgspec.structs.replace(SPEC, server_keep_alive_s=5.0), None, None, None)
    pairs = [socket.socketpair() for _ in range(2)]
    for near, _ in pairs:
        near.setblocking(False)
    first, other = (Connection(near, loop, now=100.0) for near, _ in pairs)
    live.connection, live.others = first, [other]
    assert live.kept_connection(102.4) is first
    answer = first.send(b"/run", b"{}", limit=10)
    assert live.kept_connection(102.4) is other, "the first is another activation's"
    assert live.kept_connection(102.5) is None
    assert (live.others, other.usable, first.usable) == ([], False, True)
    first.close()
    with pytest.raises(ConnectionLost):
        await answer
    near, far = socket.socketpair()
    near.setblocking(False)
    pairs.append((near, far))
    live.connection = idle = Connection(near, loop, now=100.0)
    assert live.kept_connection(102.5) is None
    assert (live.connection, idle.usable) == (None, False)
    for _, far in pairs:
        far.close()


async def test_what_a_container_has_suffered_under_an_earlier_daemon_is_no_calls_of_this_one():
    backend = FakeBackend()
    predecessors = await backend.create(ContainerId("c"), SPEC)
    (container,) = backend.containers.values()
    container.oom_count, container.throttled, container.cpu = 2, 300, 4000
    handle = FakeHandle(container)
    successor = Live(container.container_id, SPEC, handle, None, None)
    successor.take_over()
    assert (successor.oom_kills, successor.throttled_us, successor.cpu_before_us) == (2, 300, 4000)
    container.die()
    successor.take_over()
    assert successor.cpu_before_us == 4000, "what was last known"
    handle.close()
    predecessors.close()
    backend.bury_all()
    await backend.close()
