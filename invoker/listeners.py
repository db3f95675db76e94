"""Where clients and Prometheus reach the daemon: sockets that systemd passed, else the configured addresses."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from aiohttp import web
from aiohttp.web_runner import BaseRunner

from invoker.config.keys import Address, ConfigError
from invoker.systemd import InheritedSocket, inherited_sockets


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """One server and its place.

    Attributes:
        name: of its section in the configuration, and of systemd's socket for it.
        runner: the server.
        address: where it listens unless systemd has passed a socket.
    """

    name: str
    runner: BaseRunner
    address: Address

    @property
    def place(self) -> str:
        """Where it does listen: what `address` says, or the socket that was passed."""
        at = self.runner.addresses[0]
        return f"{at[0]}:{at[1]}" if isinstance(at, tuple) else str(at)


def _share_out(passed: list[InheritedSocket], names: list[str]) -> dict[str, socket.socket]:
    """Say whose each socket is: the server's that it is named after; one with another name is the first's without one.

    A unit without `FileDescriptorName`, or `systemd-socket-activate`, names none: nobody would accept its clients.

    Raises:
        ConfigError: there are more than servers.
    """
    shared = {each.name: each.socket for each in passed if each.name in names}
    unnamed = [each for each in passed if shared.get(each.name) is not each.socket]
    left = [name for name in names if name not in shared]
    if len(unnamed) > len(left):
        raise ConfigError([f"{len(passed)} sockets were passed (LISTEN_FDS), there is use for {len(names)}: {', '.join(names)}"])
    return shared | {name: each.socket for name, each in zip(left, unnamed, strict=False)}


@asynccontextmanager
async def listening(*listeners: Listener, backlog: int) -> AsyncIterator[None]:
    """Listen while the block runs.

    Args:
        listeners: opened in this order.
        backlog: connections that the kernel holds for each until they are accepted.

    Raises:
        ConfigError: an address cannot be used.
        OSError: a socket that systemd promised is not there.
    """
    inherited = _share_out(inherited_sockets(), [each.name for each in listeners])
    async with AsyncExitStack() as stack:
        for each in listeners:
            await each.runner.setup()
            stack.push_async_callback(each.runner.cleanup)
            passed = inherited.get(each.name)
            try:
                if passed is not None:
                    await web.SockSite(each.runner, passed, backlog=backlog).start()
                else:
                    await web.TCPSite(each.runner, each.address.host, each.address.port, backlog=backlog).start()
            except OSError as error:
                reason = error.strerror or str(error)
                text = f"{each.name}.listen = {each.address}: {reason}; choose another address, or end who has it"
                raise ConfigError([text]) from error
        yield
