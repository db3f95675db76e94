"""Listening at an address, on a socket of systemd's, and where somebody else listens already."""

from __future__ import annotations

import socket

import aiohttp
import pytest
from aiohttp import web

from invoker import listeners as listeners_module
from invoker.config.keys import Address, ConfigError
from invoker.listeners import Listener, listening
from invoker.systemd import InheritedSocket


def listener(name: str, port: int = 0) -> Listener:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(text=name)

    application = web.Application()
    application.router.add_get("/", answer)
    return Listener(name=name, runner=web.AppRunner(application), address=Address("127.0.0.1", port))


async def ask(port: int) -> str:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/") as response:
        return await response.text()


async def test_each_server_listens_at_its_own_address_while_the_block_runs() -> None:
    servers = [listener("http"), listener("metrics")]
    async with listening(*servers, backlog=16):
        ports = [each.runner.addresses[0][1] for each in servers]
        assert [await ask(port) for port in ports] == ["http", "metrics"]
    assert [each.runner.addresses for each in servers] == [[], []]


async def test_a_socket_that_systemd_has_passed_goes_before_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as passed:
        passed.setblocking(False)
        monkeypatch.setattr(listeners_module, "inherited_sockets", lambda: [InheritedSocket("http", passed)])
        servers = [listener("http"), listener("metrics")]
        async with listening(*servers, backlog=16):
            assert servers[0].runner.addresses == [passed.getsockname()]
            assert servers[0].place == f"127.0.0.1:{passed.getsockname()[1]}"
            assert servers[1].runner.addresses != [passed.getsockname()]
            assert await ask(passed.getsockname()[1]) == "http"


async def test_a_socket_of_no_servers_name_is_the_first_ones_that_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `systemd-socket-activate` passes it, or a unit without FileDescriptorName."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        for passed, expected in (
            ([InheritedSocket("unknown", one)], {"http": one}),
            ([InheritedSocket("unknown", one), InheritedSocket("unknown", two)], {"http": one, "metrics": two}),
            ([InheritedSocket("api.socket", one), InheritedSocket("http", two)], {"http": two, "metrics": one}),
        ):
            copies = [InheritedSocket(each.name, each.socket.dup()) for each in passed]
            for each in copies:
                each.socket.setblocking(False)
            monkeypatch.setattr(listeners_module, "inherited_sockets", lambda copies=copies: copies)
            servers = [listener("http"), listener("metrics")]
            async with listening(*servers, backlog=16):
                for server in servers:
                    if server.name in expected:
                        address = expected[server.name].getsockname()
                        assert server.runner.addresses == [address]
                        assert await ask(address[1]) == server.name


async def test_more_sockets_than_servers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        passed = [InheritedSocket("http", one), InheritedSocket("http", two)]
        monkeypatch.setattr(listeners_module, "inherited_sockets", lambda: passed)
        with pytest.raises(ConfigError, match=r"2 sockets were passed .*there is use for 1: http"):
            async with listening(listener("http"), backlog=16):
                pytest.fail("it must not serve")


async def test_an_address_that_is_taken_is_named_with_its_key_and_what_was_open_is_closed() -> None:
    first = listener("http")
    with socket.create_server(("127.0.0.1", 0)) as owner:
        taken = owner.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"metrics\.listen = 127\.0\.0\.1:{taken}: .*choose another address"):
            async with listening(first, listener("metrics", taken), backlog=16):
                pytest.fail("it must not serve")
    assert first.runner.addresses == []
