import asyncio
import contextlib
import logging
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from invoker.systemd import JournalFormatter, Notifier, configure_logging, inherited_sockets


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """The service manager's end: a real datagram socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(30)
        yield sock


def fields(datagram: bytes) -> dict[str, str]:
    return dict(line.split("=", 1) for line in datagram.decode().split("\n"))


def test_each_message_is_one_datagram(manager: socket.socket) -> None:
    notifier = Notifier(manager.getsockname())
    notifier.ready("serving\n3 actions")
    assert fields(manager.recv(4096)) == {"READY": "1", "STATUS": "serving 3 actions"}
    notifier.stopping("draining")
    assert fields(manager.recv(4096)) == {"STOPPING": "1", "STATUS": "draining"}
    notifier.watchdog()
    assert fields(manager.recv(4096)) == {"WATCHDOG": "1"}
    notifier.status("busy")
    assert fields(manager.recv(4096)) == {"STATUS": "busy"}
    notifier.extend_timeout(2.5)
    assert fields(manager.recv(4096)) == {"EXTEND_TIMEOUT_USEC": "2500000"}
    notifier.close()


async def test_a_start_asks_for_time_again_and_again_until_it_is_ready(manager: socket.socket, monkeypatch) -> None:
    monkeypatch.setattr("invoker.systemd.START_STEP_S", 0.03)
    manager.setblocking(False)
    loop = asyncio.get_running_loop()
    notifier = Notifier(manager.getsockname())
    notifier.starting()
    async with asyncio.timeout(30):
        for _ in range(4):
            assert fields(await loop.sock_recv(manager, 4096)) == {"EXTEND_TIMEOUT_USEC": "30000"}
    notifier.ready()
    heard = []
    with contextlib.suppress(BlockingIOError):
        while True:
            heard.append(fields(manager.recv(4096)))
    assert heard[-1] == {"READY": "1"}
    assert notifier._start_step is None
    notifier.close()


async def test_a_start_that_fails_asks_for_no_more_time(manager: socket.socket) -> None:
    notifier = Notifier(manager.getsockname())
    notifier.starting()
    notifier.close()
    assert notifier._start_step is None


def test_reloading_carries_the_monotonic_clock_in_the_same_datagram(manager: socket.socket) -> None:
    notifier = Notifier(manager.getsockname())
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.reloading()
    told = fields(manager.recv(4096))
    assert told["RELOADING"] == "1"
    assert before <= int(told["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.close()


def test_an_abstract_socket_is_reached_by_its_at_sign() -> None:
    name = f"invokerd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name)
        sock.settimeout(30)
        notifier = Notifier("@" + name)
        notifier.ready()
        assert sock.recv(64) == b"READY=1"
        notifier.close()


def test_a_manager_that_is_not_there_or_does_not_read_fails_nothing(tmp_path: Path, manager: socket.socket) -> None:
    absent = Notifier(str(tmp_path / "absent"))
    absent.ready()
    absent.close()
    absent.close()
    absent.ready()
    deaf = Notifier(manager.getsockname())
    for _ in range(10_000):  # far more than the receive queue holds: none of these may wait
        deaf.watchdog()
    deaf.close()
    Notifier(None).ready("nobody listens")


def test_the_environment_is_taken_once_and_not_left_to_children(manager: socket.socket) -> None:
    environ = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "20000000", "WATCHDOG_PID": str(os.getpid()), "A": "b"}
    notifier = Notifier.from_environment(environ)
    assert notifier.watchdog_interval_s == 10.0
    assert environ == {"A": "b"}
    notifier.close()


@pytest.mark.parametrize(
    "environ", [{}, {"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "soon"}]
)
def test_without_a_watchdog_of_ours_there_is_no_interval(environ: dict[str, str]) -> None:
    assert Notifier.from_environment(environ).watchdog_interval_s is None


def place_at(target: int, sock: socket.socket) -> int:
    """Give a socket the descriptor number that systemd would have given it."""
    os.dup2(sock.fileno(), target)
    return target


def test_inherited_sockets_are_taken_with_their_names_and_only_once() -> None:
    first = 200
    with socket.create_server(("127.0.0.1", 0)) as http, socket.create_server(("127.0.0.1", 0)) as other:
        for number, sock in enumerate((http, other)):
            place_at(first + number, sock)
        environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "http:metrics"}
        taken = inherited_sockets(environ, first)
        assert [each.name for each in taken] == ["http", "metrics"]
        assert taken[0].socket.getsockname() == http.getsockname()
        assert taken[0].socket.gettimeout() == 0
        assert not os.get_inheritable(taken[0].socket.fileno())
        assert environ == {}
        assert inherited_sockets(environ, first) == []
        for each in taken:
            each.socket.close()


def test_sockets_without_names_are_unknown() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        first = place_at(210, server)
        (taken,) = inherited_sockets({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}, first)
        assert taken.name == "unknown"
        taken.socket.close()


@pytest.mark.parametrize(
    "environ", [{}, {"LISTEN_PID": "1", "LISTEN_FDS": "1"}, {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "x"}]
)
def test_sockets_of_another_process_are_left_alone(environ: dict[str, str]) -> None:
    assert inherited_sockets(dict(environ)) == []


def test_a_promised_descriptor_that_is_not_there_is_an_error() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        inherited_sockets({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}, 999)


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


def test_the_journal_gets_a_priority_on_each_line_and_no_time() -> None:
    try:
        int("why")
    except ValueError:
        record = logging.LogRecord("pool", logging.ERROR, "f", 1, "broken %s", ("x",), sys.exc_info())
    lines = JournalFormatter().format(record).splitlines()
    assert lines[0] == "<3>pool: broken x"
    assert len(lines) > 2
    assert all(line.startswith("<3>") for line in lines)


def test_logs_have_a_time_only_outside_of_the_journal(root_logger: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("warning", {})
    root_logger.info("unheard")
    logging.getLogger("pool").warning("heard")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \S+ WARNING +pool: heard\n", capsys.readouterr().err)
    configure_logging("debug", {"JOURNAL_STREAM": "1:2"})
    logging.getLogger("pool").debug("fine")
    assert capsys.readouterr().err == "<7>pool: fine\n"
