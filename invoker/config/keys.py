"""What the configuration is declared with: keys that carry their meaning and bounds, and a walk over a tree of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self, TypeVar

from pool.errors import InvokerError

_T = TypeVar("_T")


class ConfigError(InvokerError):
    """The configuration is not usable.

    Attributes:
        problems: one sentence each, with file, key and what to do.
    """

    code = "bad-configuration"

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


def key(
    default: _T,
    doc: str,
    *,
    factory: Callable[[], _T] | None = None,
    shown: str | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    choices: tuple[str, ...] = (),
    openwhisk: _T | None = None,
) -> _T:
    """Declare one key.

    Args:
        default: value when nobody sets it; ignored when `factory` computes it.
        doc: what it means, for the reference and the example file.
        factory: computes a default that depends on the machine.
        shown: how the documentation names a computed default.
        at_least: least value of a number.
        at_most: greatest value of a number.
        choices: the only allowed texts; none allows any.
        openwhisk: the default under `limits.profile = "openwhisk"`.
    """
    metadata = {
        "doc": doc,
        "shown": shown,
        "at_least": at_least,
        "at_most": at_most,
        "choices": choices,
        "openwhisk": openwhisk,
    }
    if factory is not None:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a TCP server listens; port 0 lets the kernel choose."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `host:port`, `[v6]:port` or `:port` (all addresses). Raise ValueError otherwise."""
        host, colon, port = text.rpartition(":")
        if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535 or (":" in host and host[:1] != "["):
            raise ValueError("expected host:port, such as 127.0.0.1:3233")
        return cls(host.strip("[]") or "0.0.0.0", int(port))  # noqa: S104 - written by the site as `:port`

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Key(NamedTuple):
    """One leaf of the tree: its dotted name, its declaration, and its value in some configuration."""

    name: str
    field: dataclasses.Field[Any]
    value: Any


def walk(branch: Any, prefix: str = "") -> Iterator[Key]:
    """Yield every key of a configuration or of one of its branches, in the order of declaration."""
    for each in dataclasses.fields(branch):
        value = getattr(branch, each.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, Address):
            yield from walk(value, f"{prefix}{each.name}.")
        else:
            yield Key(f"{prefix}{each.name}", each, value)
