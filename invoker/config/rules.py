"""What cannot be: values out of bounds, and pairs of values that contradict each other.

Functions of a `Config`; each problem names the key that is at fault, so that the loader can add file and line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from invoker.config.keys import Address, walk
from invoker.config.model import (
    Config,
    EngineConfig,
    HttpConfig,
    IsolationConfig,
    LimitsConfig,
    PoolConfig,
    SiteMount,
    StoreConfig,
)

#: Bytes of a Unix socket's path, without the final NUL.
_SOCKET_PATH_BYTES = 107
#: Places of a container that are ours or the kernel's.
_RESERVED_TARGETS = ("/proc", "/sys", "/dev", "/tmp", "/run/invokerd", "/action")  # noqa: S108
#: Places of the host which would hand the node to a function.
_FORBIDDEN_SOURCES = ("/proc", "/sys", "/dev", "/run", "/var/run", "/etc", "/boot", "/var/lib/docker")


class Problem(NamedTuple):
    """One thing that cannot be: the dotted key at fault, and the reason, a sentence without its subject."""

    key: str
    text: str


def find_problems(config: Config) -> list[Problem]:
    """Return everything that is wrong with a configuration; nothing when it may be used."""
    return [
        *_bounds(config),
        *_places(config),
        *_http(config.http, config.metrics.listen),
        *_engine(config.engine),
        *_pool(config.pool),
        *_limits(config.limits, config.pool.memory_mib),
        *_store(config.store),
        *_isolation(config.isolation, config.state_dir),
    ]


def _bounds(config: Config) -> Iterator[Problem]:
    for name, declared, value in walk(config):
        low, high, choices = (declared.metadata[what] for what in ("at_least", "at_most", "choices"))
        if value is None:
            continue
        if low is not None and value < low:
            yield Problem(name, f"{value} is too small; at least {low}")
        elif high is not None and value > high:
            yield Problem(name, f"{value} is too large; at most {high}")
        elif choices and value not in choices:
            yield Problem(name, f"{value!r} is none of {', '.join(choices)}")


def _places(config: Config) -> Iterator[Problem]:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", config.node):
        yield Problem("node", f"{config.node!r} must be 1 to 40 of a-z, 0-9 and -, and begin with a letter or a digit")
    if len(str(config.control_socket).encode()) > _SOCKET_PATH_BYTES:
        yield Problem("state_dir", f"too long: a Unix socket in it would have more than {_SOCKET_PATH_BYTES} bytes")
    if config.state_dir in (Path("/"), Path("/var/lib"), Path("/etc"), Path("/home"), Path("/tmp")):  # noqa: S108
        yield Problem("state_dir", f"{config.state_dir} must be a directory of invokerd's own")
    for name, path in (
        ("prices.file", config.prices.file),
        ("runtimes.manifest", config.runtimes.manifest),
        ("registry.credentials_file", config.registry.credentials_file),
        ("http.operator_credentials_file", config.http.operator_credentials_file),
    ):
        if path is not None and not path.is_file():
            yield Problem(name, f"{path} is no file that can be read")
    for name, secret in (
        ("registry.credentials_file", config.registry.credentials_file),
        ("store.parameter_key_file", config.store.parameter_key_file),
        ("http.operator_credentials_file", config.http.operator_credentials_file),
    ):
        if secret is not None and secret.is_file() and secret.stat().st_mode & 0o077:
            yield Problem(name, f"{secret} may be read by others; chmod 600 it")


def _http(http: HttpConfig, metrics: Address) -> Iterator[Problem]:
    if http.listen == metrics and metrics.port != 0:
        yield Problem("metrics.listen", f"{metrics} is also http.listen; each needs its own port")
    if http.public_url and urlsplit(http.public_url).scheme not in ("http", "https"):
        yield Problem("http.public_url", f"{http.public_url!r} must begin with http:// or https://")


def _engine(engine: EngineConfig) -> Iterator[Problem]:
    parts = urlsplit(engine.url)
    local = parts.scheme == "tcp" and parts.hostname in ("127.0.0.1", "::1", "localhost")
    if not local and not (parts.scheme == "unix" and parts.path.startswith("/")):
        yield Problem("engine.url", f"{engine.url!r} must be unix:///path: the engine has to be on this machine")
    for group in engine.cgroups:
        if not group.startswith("/") or not group.strip("/") or ".." in group.split("/"):
            reason = "must be the path of a cgroup below the root, such as '/system.slice/docker.service'"
            yield Problem("engine.cgroups", f"{group!r} {reason}")


def _pool(pool: PoolConfig) -> Iterator[Problem]:
    try:
        pool.weights()
    except ValueError as error:
        yield Problem("pool.shares", str(error))
    if not re.fullmatch(r"([a-z0-9][a-z0-9_-]{0,59})?", pool.cgroup_parent) or pool.cgroup_parent in ("docker", "system", "user"):
        yield Problem("pool.cgroup_parent", f"{pool.cgroup_parent!r} must be up to 60 of a-z, 0-9, _ and -, and nobody else's")
    if pool.max_waiting_per_user > pool.max_waiting:
        yield Problem(
            "pool.max_waiting_per_user", f"{pool.max_waiting_per_user} is more than pool.max_waiting = {pool.max_waiting}"
        )


def _limits(limits: LimitsConfig, pool_mib: int) -> Iterator[Problem]:
    for what, unit in (("timeout", "_ms"), ("memory", "_mib"), ("logs", "_mib"), ("concurrency", "")):
        least, default, most = (f"{what}_{which}{unit}" for which in ("min", "default", "max"))
        low, middle, high = (getattr(limits, name) for name in (least, default, most))
        if low > high:
            yield Problem(f"limits.{least}", f"{low} is more than limits.{most} = {high}")
        elif not low <= middle <= high:
            yield Problem(f"limits.{default}", f"{middle} is not between limits.{least} = {low} and limits.{most} = {high}")
    if limits.memory_max_mib > pool_mib:
        yield Problem("limits.memory_max_mib", f"{limits.memory_max_mib} is more than pool.memory_mib = {pool_mib}")


def _store(store: StoreConfig) -> Iterator[Problem]:
    for name in ("keep_results_s", "keep_logs_s"):
        age = getattr(store, name)
        if age > store.keep_activations_s:
            yield Problem(
                f"store.{name}", f"{age} is more than store.keep_activations_s = {store.keep_activations_s}: both go together"
            )


def _isolation(isolation: IsolationConfig, state_dir: Path) -> Iterator[Problem]:
    if isolation.cpu_policy == "by-memory" and isolation.cpu_millis != IsolationConfig().cpu_millis:
        yield Problem("isolation.cpu_millis", 'has no effect with isolation.cpu_policy = "by-memory"; remove one of them')
    names = [mount.name for mount in isolation.mounts]
    for number, mount in enumerate(isolation.mounts):
        where = f"isolation.mounts[{number}]"
        if mount.name in names[:number]:
            yield Problem(f"{where}.name", f"{mount.name!r} is there twice")
        yield from _mount(where, mount, state_dir)


def _mount(where: str, mount: SiteMount, state_dir: Path) -> Iterator[Problem]:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", mount.name):
        yield Problem(f"{where}.name", f"{mount.name!r} must be letters, digits and . _ -")
    for name, path in (("source", mount.source), ("target", mount.target)):
        if not path.is_absolute() or ".." in path.parts or path == Path("/"):
            yield Problem(f"{where}.{name}", f"{path} must be an absolute path below /, without ..")
            return
    if any(mount.target.is_relative_to(each) for each in _RESERVED_TARGETS):
        yield Problem(f"{where}.target", f"{mount.target} belongs to the container; not one of {', '.join(_RESERVED_TARGETS)}")
    if any(mount.source.is_relative_to(each) or Path(each).is_relative_to(mount.source) for each in _FORBIDDEN_SOURCES):
        yield Problem(f"{where}.source", f"{mount.source} would give functions a part of the host that is not theirs")
    if mount.source.is_relative_to(state_dir) or state_dir.is_relative_to(mount.source):
        yield Problem(f"{where}.source", f"{mount.source} and state_dir = {state_dir} hold each other: keys would be readable")
