"""Whom `invokerctl` talks to: the control socket for operators, the API for users; and with which key."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from invoker.commands.ctl_client import TIMEOUT_S, Client, Exit, Failure

if TYPE_CHECKING:
    from invoker.config.model import Config
    from invoker.record.rating import Prices

_START_HINT = "is the daemon running? systemctl status invokerd, or invokerd serve --config FILE"


@dataclass(slots=True)
class Target:
    """What the options before the subcommand say. A subcommand's own options go before them.

    Attributes:
        config_path: the daemon's file; None is the default one.
        socket: the control socket, where no configuration can be read.
        apihost: the API's address.
        auth: `uuid:key`.
        insecure: take any certificate.
    """

    config_path: Path | None = None
    socket: Path | None = None
    apihost: str | None = None
    auth: str | None = None
    insecure: bool = False

    def operator(self, timeout_s: float = TIMEOUT_S) -> Client:
        """Make a client of the control socket."""
        path = self.socket or self._config().control_socket
        return Client(f"unix://{path}", timeout_s=timeout_s, start_hint=_START_HINT)

    def user(self) -> Client:
        """Make a client of the API.

        Raises:
            Failure: no key is known (exit code 2).
        """
        properties = read_wskprops()
        auth = self.auth or properties.get("AUTH")
        if not auth:
            raise Failure(
                "no key is known",
                Exit.USAGE,
                "give --auth UUID:KEY, set INVOKERCTL_AUTH, or write AUTH=UUID:KEY into ~/.wskprops",
            )
        # An explicit --config means that daemon, whatever else the user works with.
        configured = self._config().http.url if self.config_path and not self.apihost else None
        host = self.apihost or configured or properties.get("APIHOST") or self._config().http.url
        return Client(with_scheme(host), auth=auth, insecure=self.insecure, start_hint=_START_HINT)

    @property
    def acts_as_operator(self) -> bool:
        """Whether a verb that both may use is meant for the control socket: no key was given, and a daemon was."""
        if self.auth:
            return False
        return bool(self.config_path or self.socket) or not read_wskprops().get("AUTH")

    def config(self) -> Config:
        """Read the daemon's configuration. Raises Failure where it cannot be used."""
        return self._config()

    def prices(self) -> Prices:
        """Read the price plans that the configuration names. Raises Failure where they cannot be used."""
        from invoker.config.keys import ConfigError
        from invoker.configured import load_prices

        try:
            return load_prices(self.config())
        except ConfigError as error:
            raise Failure("\n".join(error.problems), Exit.BAD_CONFIG) from error

    def _config(self) -> Config:
        from invoker.config.keys import ConfigError
        from invoker.config.load import load

        try:
            return load(self.config_path).config
        except ConfigError as error:
            raise Failure(
                "\n".join(error.problems), Exit.BAD_CONFIG, "or name the socket: --socket STATE_DIR/control.sock"
            ) from error


def with_scheme(host: str) -> str:
    """Complete an address without a scheme: http:// on this machine, https:// elsewhere, as `wsk` does."""
    if "://" in host:
        return host
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:  # the client says that it is none
        name = ""
    local = name in ("localhost", "::1") or name.startswith("127.")
    return f"http://{host}" if local else f"https://{host}"


def read_wskprops(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Read the properties file of `wsk`: `WSK_CONFIG_FILE`, else `~/.wskprops`; empty when there is none.

    Args:
        environ: environment variables; None is the process's own.
    """
    try:
        lines = properties_path(environ).read_text("utf-8", "replace").splitlines()
    except OSError:
        return {}
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.lstrip().startswith("#"))
    return {name.strip(): value.strip().strip("\"'") for name, value in pairs}


def properties_path(environ: Mapping[str, str] | None = None) -> Path:
    """Where the properties file of `wsk` is, or would be; `environ` as for `read_wskprops`."""
    environ = os.environ if environ is None else environ
    return Path(environ.get("WSK_CONFIG_FILE") or Path(environ.get("HOME", "/")) / ".wskprops")
