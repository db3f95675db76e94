"""The door of a container: what it lets through, and when."""

import asyncio
import contextlib
import socket

import pytest

from pool import door as door_module
from pool.door import DESCRIPTORS, Door
from pool.model import ContainerId

NAME = ContainerId("c1")


class Visitors:
    """A door on a loopback port, and what came through it."""

    def __init__(self, loop):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.address = self.listener.getsockname()
        self.served = asyncio.Queue()
        self.door = Door(self.listener, NAME, lambda sock, name: self.served.put_nowait((sock, name)), loop)

    def knock(self):
        return socket.create_connection(self.address)

    async def next(self):
        async with asyncio.timeout(10):
            return await self.served.get()


@pytest.fixture
async def visitors():
    visitors = Visitors(asyncio.get_running_loop())
    with contextlib.ExitStack() as stack:
        visitors.stack = stack
        yield visitors
        visitors.door.close()
        while not visitors.served.empty():
            visitors.served.get_nowait()[0].close()


async def test_who_knocks_is_served_under_the_containers_name(visitors):
    outside = visitors.stack.enter_context(visitors.knock())
    inside, name = await visitors.next()
    assert name == NAME
    assert not inside.getblocking()
    outside.sendall(b"hello")
    assert await asyncio.get_running_loop().sock_recv(inside, 10) == b"hello"
    inside.close()


async def test_a_container_has_so_many_connections_and_the_next_one_waits_for_one_to_end(visitors, monkeypatch):
    monkeypatch.setattr(door_module, "FULL_RETRY_S", 0.001)
    for _ in range(DESCRIPTORS):
        visitors.stack.enter_context(visitors.knock())
    inside = [(await visitors.next())[0] for _ in range(DESCRIPTORS - 1)]
    await asyncio.sleep(0.02)
    assert visitors.served.empty()
    inside.pop().close()
    inside.append((await visitors.next())[0])
    for each in inside:
        each.close()


async def test_a_closed_door_lets_nobody_through_also_while_it_was_full(visitors):
    for _ in range(DESCRIPTORS):
        visitors.stack.enter_context(visitors.knock())
    inside = [(await visitors.next())[0] for _ in range(DESCRIPTORS - 1)]
    await asyncio.sleep(0)
    visitors.door.close()
    visitors.door.close()
    with pytest.raises(OSError):
        visitors.knock()
    for each in inside:
        each.close()


async def test_without_descriptors_of_our_own_it_is_told_of_and_tried_again(visitors, monkeypatch, caplog):
    monkeypatch.setattr(door_module, "FULL_RETRY_S", 0.001)

    class Poor:
        """A listener that finds no descriptor, once."""

        def __init__(self, listener):
            self._listener = listener
            self.refused = 0

        def accept(self):
            if not self.refused:
                self.refused += 1
                raise OSError(24, "Too many open files")
            return self._listener.accept()

        def __getattr__(self, name):
            return getattr(self._listener, name)

    visitors.door._listener = Poor(visitors.listener)
    visitors.stack.enter_context(visitors.knock())
    inside, _ = await visitors.next()
    assert "cannot be let through its door" in caplog.text
    inside.close()
