import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pool import netns
from pool.netns import Dialer, has_ended

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="entering a network namespace needs root")

#: A server in a network namespace of its own: unshare, bring up loopback, listen, answer each connection once.
SERVER = """
import ctypes, fcntl, socket, struct, sys
assert ctypes.CDLL(None).unshare(0x40000000) == 0
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
fcntl.ioctl(s, 0x8914, struct.pack("16sh14x", b"lo", 0x49))  # SIOCSIFFLAGS: up
listener = socket.socket()
if sys.argv[1] != "deaf":
    listener.bind(("127.0.0.1", 8080))
    listener.listen(int(sys.argv[2]))
print("ready", flush=True)
while sys.argv[1] == "serve":
    connection, _ = listener.accept()
    connection.sendall(b"from " + str(connection.getsockname()[1]).encode())
    connection.close()
sys.stdin.readline()
"""


class Namespace:
    def __init__(self, mode: str, backlog: int) -> None:
        self.child = subprocess.Popen(
            [sys.executable, "-c", SERVER, mode, str(backlog)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.child.stdout.readline() == b"ready\n"
        self.pidfd = os.pidfd_open(self.child.pid)

    def close(self) -> None:
        self.child.kill()
        self.child.communicate()
        os.close(self.pidfd)


@pytest.fixture
def namespace():
    opened = []

    def make(mode: str = "serve", backlog: int = 16) -> Namespace:
        opened.append(Namespace(mode, backlog))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.fixture
async def dialer():
    dialer = Dialer()
    yield dialer
    dialer.close()


async def every_thread_is_at(home: Path) -> bool:
    """Tell whether every thread is at home, once those that have been given up are gone."""
    deadline = asyncio.get_running_loop().time() + 20
    while asyncio.get_running_loop().time() < deadline:
        with contextlib.suppress(OSError):  # one that ends meanwhile is in no namespace
            if all((thread / "ns/net").readlink() == home for thread in Path("/proc/self/task").iterdir()):
                return True
        await asyncio.sleep(0.01)
    return False


async def read_all(sock: socket.socket) -> bytes:
    with sock:
        return await asyncio.get_running_loop().sock_recv(sock, 100)


async def test_a_socket_reaches_the_server_in_its_namespace(dialer, namespace):
    sock = await dialer.dial(namespace().pidfd)
    assert sock.getblocking() is False
    assert await read_all(sock) == b"from 8080"


async def test_this_process_stays_in_its_own_namespace(dialer, namespace):
    home = Path("/proc/self/ns/net").readlink()
    other = namespace()
    (await dialer.dial(other.pidfd)).close()
    assert Path(f"/proc/{other.child.pid}/ns/net").readlink() != home
    assert await every_thread_is_at(home)


async def test_many_dials_at_once_all_arrive(dialer, namespace):
    pidfd = namespace(backlog=64).pidfd
    async with asyncio.TaskGroup() as group:
        dials = [group.create_task(dialer.dial(pidfd)) for _ in range(32)]
    assert [await read_all(dial.result()) for dial in dials] == [b"from 8080"] * 32


async def test_a_port_where_nothing_listens_refuses_at_once(dialer, namespace):
    with pytest.raises(ConnectionRefusedError):
        await dialer.dial(namespace("deaf").pidfd)


async def test_a_server_that_stands_still_can_be_dialled_and_answers_later(dialer, namespace):
    other = namespace()
    other.child.send_signal(19)
    sock = await dialer.dial(other.pidfd)
    with pytest.raises(BlockingIOError):
        sock.recv(1)
    other.child.send_signal(18)
    assert await read_all(sock) == b"from 8080"


async def test_a_full_backlog_ends_in_the_deadline_and_holds_up_nobody(namespace):
    full, good = namespace("silent", backlog=0), namespace()
    dialer = Dialer(deadline_s=0.1)
    kept = []
    try:
        with pytest.raises(TimeoutError):  # noqa: PT012 -- how many fit is the kernel's business
            while True:
                kept.append(await dialer.dial(full.pidfd))
        async with asyncio.TaskGroup() as group:
            dialer._deadline_s = 60.0  # of the next ones: none ends while the other is served
            stuck = group.create_task(dialer.dial(full.pidfd))
            assert await read_all(await dialer.dial(good.pidfd)) == b"from 8080"
            assert not stuck.done()
            stuck.cancel()
    finally:
        for sock in kept:
            sock.close()
        dialer.close()


async def test_a_socket_whose_caller_is_cancelled_before_it_has_it_is_closed(dialer, namespace, monkeypatch):
    settled = []
    settle = netns._settle

    def settle_and_cancel(wish, sock, failure) -> None:
        settle(wish, sock, failure)
        settled.append(sock)
        dialling.cancel()

    monkeypatch.setattr(netns, "_settle", settle_and_cancel)
    dialling = asyncio.get_running_loop().create_task(dialer.dial(namespace().pidfd))
    with pytest.raises(asyncio.CancelledError):
        await dialling
    assert [sock.fileno() for sock in settled] == [-1]


async def test_a_descriptor_that_is_no_namespace_is_an_error_and_the_thread_lives_on(dialer, namespace):
    reader, writer = os.pipe()
    try:
        with pytest.raises(OSError, match="Invalid argument"):
            await dialer.dial(reader)
    finally:
        os.close(reader)
        os.close(writer)
    assert await read_all(await dialer.dial(namespace().pidfd)) == b"from 8080"
    assert dialer.lost_threads == 0


async def test_a_thread_that_cannot_return_home_is_replaced_by_one_at_home(namespace):
    from pool.netns import _setns

    home = Path("/proc/self/ns/net").readlink()
    entries: list[threading.Thread] = []

    def setns(fd: int, kind: int) -> None:
        entries.append(threading.current_thread())
        if len(entries) == 2:  # the first return
            raise OSError(1, "Operation not permitted")
        _setns(fd, kind)

    dialer = Dialer(setns=setns)
    try:
        pidfd = namespace().pidfd
        first, second = await asyncio.gather(dialer.dial(pidfd), dialer.dial(pidfd))
        assert await read_all(first) == await read_all(second) == b"from 8080"
        assert dialer.lost_threads == 1
        assert len(set(entries)) == 2
        assert await every_thread_is_at(home)
    finally:
        dialer.close()


async def test_a_cancelled_dial_leaves_no_descriptor(dialer, namespace):
    pidfd = namespace().pidfd
    (await dialer.dial(pidfd)).close()
    before = len(list(Path("/proc/self/fd").iterdir()))
    async with asyncio.TaskGroup() as group:
        dials = [group.create_task(dialer.dial(pidfd)) for _ in range(8)]
        await asyncio.sleep(0)
        for dial in dials:
            dial.cancel()
    (await dialer.dial(pidfd)).close()  # the thread has served all before it
    assert len(list(Path("/proc/self/fd").iterdir())) == before


async def test_a_closed_dialer_refuses_and_leaves_no_thread(namespace):
    before = threading.active_count()
    dialer = Dialer()
    assert threading.active_count() == before + 1
    dialer.close()
    dialer.close()
    assert threading.active_count() == before
    with pytest.raises(OSError, match="closed"):
        await dialer.dial(namespace().pidfd)


async def test_the_namespace_of_a_process_that_has_ended_cannot_be_entered_and_the_thread_lives_on(dialer, namespace):
    other = namespace()
    (await dialer.dial(other.pidfd)).close()
    assert not has_ended(other.pidfd)
    before = len(list(Path("/proc/self/fd").iterdir()))
    other.child.kill()
    other.child.wait()
    assert has_ended(other.pidfd)
    with pytest.raises(ProcessLookupError):
        await dialer.dial(other.pidfd)
    with pytest.raises(ProcessLookupError):
        await dialer.listen(other.pidfd, ("127.0.0.1", 3233), backlog=4)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert await read_all(await dialer.dial(namespace().pidfd)) == b"from 8080"
    assert dialer.lost_threads == 0


async def test_a_process_that_nobody_has_reaped_yet_has_ended_all_the_same(dialer, namespace):
    other = namespace()
    other.child.kill()
    async with asyncio.timeout(10):
        while not has_ended(other.pidfd):
            await asyncio.sleep(0.005)
    with pytest.raises(ProcessLookupError):
        await dialer.dial(other.pidfd)


async def test_what_listens_in_a_namespace_is_reached_from_there_and_not_from_here(dialer, namespace):
    home = Path("/proc/self/ns/net").readlink()
    pidfd = namespace("deaf").pidfd
    with await dialer.listen(pidfd, ("127.0.0.1", 3233), backlog=4) as listener:
        assert listener.getblocking() is False
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", 3233), timeout=5).close()
        inside = Dialer(address=("127.0.0.1", 3233))
        try:
            with await inside.dial(pidfd) as sock:
                accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
                with accepted:
                    await asyncio.get_running_loop().sock_sendall(accepted, b"hello")
                    assert await asyncio.get_running_loop().sock_recv(sock, 10) == b"hello"
        finally:
            inside.close()
    assert await every_thread_is_at(home)


async def test_a_place_that_is_taken_in_a_namespace_is_an_error_and_nothing_stays_open(dialer, namespace):
    pidfd = namespace().pidfd
    open_before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OSError, match="in use"):
        await dialer.listen(pidfd, ("127.0.0.1", 8080), backlog=4)
    assert len(list(Path("/proc/self/fd").iterdir())) == open_before
