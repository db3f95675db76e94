# ruff: noqa: RUF009 - key() is dataclasses.field() with a declaration beside it
"""The one configuration: a frozen tree, each key with its default, its unit in the name, and what it means.

`load.py` builds it from a TOML file and the environment, `text.py` renders the documentation from the same declarations,
`reload.py` knows what may change while the daemon runs, and each part of the daemon is handed its own branch. What cannot be
is refused in `rules.py`.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import os
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from invoker.config.keys import Address, key
from pool.keepalive import POLICIES
from pool.model import Mount

_MIB = 1024 * 1024
_DAY_S = 86_400


def _half_of_memory_mib() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // _MIB // 2


def _twice_the_cores() -> int:
    return 2 * len(os.sched_getaffinity(0))


def _host_name() -> str:
    return re.sub(r"[^a-z0-9-]", "-", socket.gethostname().partition(".")[0].lower()).strip("-")[:40] or "node"


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpConfig:
    """The API that users and their clients call."""

    listen: Address = key(Address("127.0.0.1", 3233), "Where the API listens. A socket passed by systemd goes before it.")
    public_url: str = key(
        "",
        "URL under which clients reach this API. Actions reach it through a door of their own.",
        shown="`http://` and `listen`",
    )
    operator_credentials_file: Path | None = key(
        None,
        "One line `user:password`: who may `POST /disable`, by which OpenWhisk's operators take a controller out of service.",
        shown="nobody may",
    )
    drain_s: float = key(30.0, "How long calls may finish after SIGTERM before they are cancelled.", at_least=0)
    backlog: int = key(4096, "Connections the kernel may hold before the daemon accepts them.", at_least=1)

    @property
    def url(self) -> str:
        """The public URL without a trailing slash. All addresses count as this machine's own."""
        own = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.listen.host, self.listen.host)  # noqa: S104 - compared, not bound
        return self.public_url.rstrip("/") or f"http://{Address(own, self.listen.port)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsConfig:
    """What Prometheus scrapes."""

    listen: Address = key(Address("127.0.0.1", 3234), "Where `/metrics` listens, apart from the API.")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """The container engine."""

    url: str = key(
        "unix:///var/run/docker.sock",
        "The engine's socket. It must be on this machine: containers are reached through their cgroups and namespaces.",
        shown="`DOCKER_HOST`, else `unix:///var/run/docker.sock`",
    )
    create_deadline_s: float = key(30.0, "How long the engine may take to create or to start a container.", at_least=0.1)
    remove_deadline_s: float = key(30.0, "How long it may take to remove one.", at_least=0.1)
    read_deadline_s: float = key(5.0, "How long it may take to answer a question.", at_least=0.1)
    pull_deadline_s: float = key(900.0, "How long an image may take to come from its registry.", at_least=1)
    cgroups: tuple[str, ...] = key(
        (),
        "CPU cgroups of the engine's processes, such as `/system.slice/docker.service`. While containers start or are removed "
        "they are idle (`cpu.idle`), so that calls of other actions need not wait; not where they would starve.",
        shown="none: it gives way to nobody",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StemCellConfig:
    """Containers that are started and frozen before anybody needs them."""

    enabled: bool = key(True, "Keep stem cells of the common runtimes.")
    count: int = key(
        0,
        "How many to keep for each runtime and recently active user; 0 keeps as many as the manifest's `initialCount`.",
        at_least=0,
        at_most=64,
    )
    keep_s: float = key(600.0, "How long they are kept after their user's last first call of an action.", at_least=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolConfig:
    """The containers: how many, for how long, in how much memory."""

    memory_mib: int = key(
        0,
        "Memory all containers together may have. Never exceeded.",
        factory=_half_of_memory_mib,
        shown="half of the machine's memory",
        at_least=64,
    )
    cgroup_parent: str = key(
        "",
        "Name of the cgroup of all containers, those of each user in one of their own below it; the kernel limits it to 1.05 x "
        "`memory_mib`, at least 16 MiB more. Each daemon on a machine needs one of its own.",
        shown="`functions_NODE`, by `node`",
    )
    cpu_weight: float = key(
        0.0,
        "Weight of all containers together in CPU time beside what else runs on the machine; a usual service has 1.",
        shown="0: as it is",
        at_least=0,
        at_most=1000,
    )
    freeze_grace_s: float = key(0.05, "How long an idle container runs on before it is frozen.", at_least=0, at_most=60)
    freeze_grace_most_s: float = key(
        0.5,
        "The same, at most, for an action whose calls usually come again within that time. 0 treats all alike.",
        at_least=0,
        at_most=60,
    )
    keep_alive_s: float = key(3600.0, "How long an idle container is kept at most before it is removed.", at_least=0)
    keep_alive_policy: str = key(
        "blend",
        "Which idle container goes first when memory is wanted, and how long one stays; see docs/keepalive.md.",
        choices=tuple(sorted(POLICIES)),
    )
    shrink_frozen: bool = key(
        True, "When memory is wanted, reserve for frozen containers only what they really hold, until they run again."
    )
    frozen_margin_mib: int = key(16, "Reserved for a frozen container beyond what it holds.", at_least=4)
    max_waiting: int = key(4096, "Activations that may wait for a container; the next one is told to come back.", at_least=0)
    max_waiting_per_user: int = key(1024, "Those of one user.", at_least=0)
    shares: tuple[str, ...] = key(
        (),
        'Weights of namespaces in queue, memory and CPU time, `"PATTERN=WEIGHT"` each; the first pattern that fits counts. '
        "A reload applies to a user's place in queue and memory from the next call on.",
        shown="none: all weigh 1",
    )
    max_wait_s: float = key(
        55.0,
        "How long an activation may wait for a container; one that will wait for more than half of it is refused at once.",
        at_least=0.1,
    )
    overload_wait_s: float = key(
        2.0,
        "Once an action was refused a place in the queue, and until its line is empty, only what will wait for less is taken.",
        at_least=0,
    )
    parallel_starts: int = key(
        0,
        "Containers the engine starts at the same time; more gain nothing.",
        factory=_twice_the_cores,
        shown="twice the cores",
        at_least=1,
        at_most=256,
    )
    max_containers_per_action: int = key(64, "Containers one action may have at the same time.", at_least=1)
    max_containers_per_user: int = key(256, "Containers one user may have at the same time, stem cells included.", at_least=1)
    max_memory_per_user_mib: int | None = key(
        None,
        "Memory that one user's containers may have at the same time: the sum of the actions' limits, frozen ones in full.",
        shown="none: no limit",
        at_least=16,
    )
    stem_cells: StemCellConfig = field(default_factory=StemCellConfig)

    def weights(self) -> tuple[tuple[str, float], ...]:
        """Parse `shares` into (pattern, weight). Raise ValueError with the entry that is none."""
        parsed = []
        for entry in self.shares:
            pattern, equals, weight = entry.rpartition("=")
            try:
                number = float(weight)
            except ValueError:
                number = 0.0
            if not equals or not pattern or not 0.001 <= number <= 1000:
                raise ValueError(f'{entry!r} is not "PATTERN=WEIGHT" with a weight of 0.001 to 1000, such as "physics-*=4"')
            parsed.append((pattern, number))
        return tuple(parsed)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsConfig:
    """What one action may ask for, and what one namespace may do. `invokerd` reloads it on SIGHUP."""

    profile: str = key(
        "site",
        "Where the defaults of this section come from: `site` suits a research node, `openwhisk` has upstream's numbers.",
        choices=("site", "openwhisk"),
    )
    invocations_per_minute: int = key(600_000, "Invocations of a namespace in a clock minute.", at_least=0, openwhisk=60)
    concurrent_invocations: int = key(1000, "Activations of a namespace in flight.", at_least=0, openwhisk=30)
    fires_per_minute: int = key(60_000, "Trigger fires of a namespace in a clock minute.", at_least=0, openwhisk=60)
    cpu_seconds_per_window: int | None = key(
        None,
        "CPU seconds that a namespace may use within `cpu_window_s`; while they are used up its calls are refused.",
        shown="none: no limit",
        at_least=0,
    )
    cpu_window_s: int = key(
        3600, "Length of that window, s; it slides on by a sixtieth of its length at a time.", at_least=60, at_most=604_800
    )
    timeout_min_ms: int = key(100, "Least time limit of an action.", at_least=1, openwhisk=100)
    timeout_default_ms: int = key(60_000, "Time limit of an action that names none.", at_least=1, openwhisk=60_000)
    timeout_max_ms: int = key(3_600_000, "Greatest time limit of an action.", at_least=1, openwhisk=300_000)
    memory_min_mib: int = key(64, "Least memory limit of an action.", at_least=16, openwhisk=128)
    memory_default_mib: int = key(256, "Memory limit of an action that names none.", at_least=16, openwhisk=256)
    memory_max_mib: int = key(
        0,
        "Greatest memory limit of an action. Unless set, it is never more than `pool.memory_mib`.",
        factory=_half_of_memory_mib,
        shown="`pool.memory_mib`",
        at_least=16,
        openwhisk=512,
    )
    logs_min_mib: int = key(0, "Least log limit of an action.", at_least=0, openwhisk=0)
    logs_default_mib: int = key(
        10, "Log limit of an action that names none. A line counts as 16 bytes at least.", at_least=0, openwhisk=10
    )
    logs_max_mib: int = key(100, "Greatest log limit of an action.", at_least=0, openwhisk=10)
    concurrency_min: int = key(1, "Least number of activations in one container.", at_least=1, openwhisk=1)
    concurrency_default: int = key(1, "That number for an action that names none.", at_least=1, openwhisk=1)
    concurrency_max: int = key(8, "Greatest number of activations in one container.", at_least=1, at_most=8, openwhisk=1)
    shared_packages_execute_only: bool = key(
        False, "Others may list and run what is in a published package, but not read it: neither code nor parameters."
    )
    payload_bytes: int = key(_MIB, "Greatest body of an invocation.", at_least=1024, at_most=40 * _MIB, openwhisk=_MIB)
    result_bytes: int = key(_MIB, "Greatest result of an action; a longer one is cut.", at_least=1024, openwhisk=_MIB)
    code_bytes: int = key(
        48 * _MIB,
        "Greatest code of an action, as sent (base64 when binary).",
        at_least=1024,
        at_most=49 * _MIB,
        openwhisk=48 * _MIB,
    )

    @classmethod
    def of_profile(cls, profile: str, **changes: Any) -> Self:
        """Take the defaults of a profile, then `changes`."""
        values: dict[str, Any] = {}
        if profile == "openwhisk":
            values = {f.name: f.metadata["openwhisk"] for f in dataclasses.fields(cls) if f.metadata["openwhisk"] is not None}
        return cls(**(values | {"profile": profile} | changes))


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteMount:
    """A directory of the host that the site lets functions see. An operator grants it to a namespace by its name."""

    name: str = key("", "What `invokerctl namespace create --mount NAME` calls it.")
    source: Path = key(Path(), "Absolute path on the host.")
    target: Path = key(Path(), "Absolute path in the container.")
    read_only: bool = key(True, "Functions may only read it. Otherwise the rights are those of the user.")
    namespaces: tuple[str, ...] = key(("*",), "Patterns of the namespaces that may have it.")

    def may_have(self, namespace: str) -> bool:
        """Tell whether a namespace may be granted this mount."""
        return any(fnmatch.fnmatchcase(namespace, pattern) for pattern in self.namespaces)


@dataclass(frozen=True, slots=True, kw_only=True)
class IsolationConfig:
    """Who functions run as, and what bounds them beside the limits of their action."""

    allow_root: bool = key(False, "Let a namespace have uid or gid 0. Its functions are then root, without capabilities.")
    min_uid: int = key(1000, "Least uid and gid of a namespace, so that it never is a system account.", at_least=1)
    pids: int = key(1024, "Processes and threads in one container.", at_least=8)
    open_files: int = key(1024, "Open files of each process in a container.", at_least=64)
    tmp_mib: int = key(64, "Size of `/tmp`; what is in it counts as the action's memory.", at_least=1)
    cpu_policy: str = key(
        "fixed",
        "`fixed`: every container has `cpu_millis`. `by-memory`: `cpu_millis_per_gib` for each GiB of its limit.",
        choices=("fixed", "by-memory"),
    )
    cpu_millis: int = key(1000, "CPU quota in thousandths of a core; 0 is no quota.", at_least=0)
    cpu_millis_per_gib: int = key(1000, "CPU quota by memory, thousandths of a core for each GiB.", at_least=10)
    mounts: tuple[SiteMount, ...] = key((), "Directories of the host that namespaces may be granted.")

    def cpu_millis_for(self, memory_mib: int) -> int:
        """Compute the CPU quota of a container, thousandths of a core; 0 is none. Never more than the machine has."""
        quota = self.cpu_millis
        if self.cpu_policy == "by-memory":
            # The kernel refuses a quota under 1 ms in its period of 100 ms.
            quota = max(10, memory_mib * self.cpu_millis_per_gib // 1024)
        return min(quota, 1000 * (os.cpu_count() or 1))

    def refuse_identity(self, uid: int, gid: int, groups: Iterable[int] = ()) -> str | None:
        """Say why a namespace may not have this identity; None when it may."""
        for name, number in (("uid", uid), ("gid", gid), *(("group", group) for group in groups)):
            if not 0 <= number < 2**32 - 1:
                return f"{name} {number} is not a Unix id"
            if number == 0 and not self.allow_root:
                return f"{name} 0 is root; choose the user's own {name}, or set isolation.allow_root = true"
            if 0 < number < self.min_uid and name != "group":
                return f"{name} {number} is below isolation.min_uid = {self.min_uid}, where system accounts are"
        return None

    def mounts_for(self, namespace: str, names: Iterable[str]) -> tuple[Mount, ...]:
        """Resolve the names granted to a namespace, in order of their target.

        Raises:
            ValueError: a name the site does not have, or not for this namespace, or two of one target; the text says which.
        """
        site = {mount.name: mount for mount in self.mounts}
        granted: dict[str, Mount] = {}
        for name in names:
            mount = site.get(name)
            if mount is None or not mount.may_have(namespace):
                known = ", ".join(sorted(m.name for m in self.mounts if m.may_have(namespace))) or "none"
                raise ValueError(f"mount {name!r} is not offered to namespace {namespace!r}; offered: {known}")
            target = str(mount.target)
            if target in granted and granted[target].source != str(mount.source):
                raise ValueError(f"mount {name!r} and another one both have the target {target}")
            granted[target] = Mount(source=str(mount.source), target=target, read_only=mount.read_only)
        return tuple(granted[target] for target in sorted(granted))


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreConfig:
    """How long, and how much, is kept. The ledger is not here: what is billed is never deleted by age."""

    keep_activations_s: int = key(30 * _DAY_S, "Age at which an activation record is deleted.", at_least=60)
    keep_activations_bytes: int = key(2**30, "Records of one namespace; the oldest go first.", at_least=_MIB)
    keep_results_s: int = key(7 * _DAY_S, "Age at which a result is deleted from its record.", at_least=60)
    keep_results_bytes: int = key(2**30, "Results of one namespace; the oldest go first.", at_least=_MIB)
    keep_logs_s: int = key(7 * _DAY_S, "Age at which logs are deleted.", at_least=60)
    keep_logs_bytes: int = key(2**30, "Logs of one namespace; the oldest go first.", at_least=_MIB)
    encrypt_parameters: bool = key(
        False, "Encrypt the parameters of actions, packages and triggers when they are written, not only those that ask for it."
    )
    parameter_key_file: Path | None = key(
        None,
        "The 32 bytes that parameters are encrypted with; made when it is missing. Keep it apart from copies of `state_dir`.",
        shown="`parameters.key` in `state_dir`",
    )
    journal_segment_bytes: int = key(
        16 * _MIB, "Size of a journal segment, allocated before it is needed.", at_least=_MIB, at_most=2**30
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PricesConfig:
    """What usage costs. `invokerd` reloads it on SIGHUP."""

    file: Path | None = key(None, "TOML file with the price plans.", shown="none: the plan that comes with invokerd")


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimesConfig:
    """Which kinds there are."""

    manifest: Path | None = key(None, "JSON file with the kinds and their images.", shown="none: what comes with invokerd")
    catalog: bool = key(True, "Whether the packages of `whisk.system` are installed, or renewed, at each start.")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """What the daemon says of itself; functions' output goes to the store."""

    level: str = key("info", "Least level that is written.", choices=("debug", "info", "warning", "error"))


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryConfig:
    """Images of actions that bring their own."""

    allow: tuple[str, ...] = key(("*",), "Patterns of image names an action may have, compared as the action writes them.")
    credentials_file: Path | None = key(
        None, "Credentials in the format of Docker's `config.json`; readable by the daemon alone.", shown="none"
    )

    def allows(self, image: str) -> bool:
        """Tell whether an action may name this image."""
        return any(fnmatch.fnmatchcase(image, pattern) for pattern in self.allow)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole configuration."""

    state_dir: Path = key(Path("/var/lib/invokerd"), "Everything the daemon keeps. On a local disk; one daemon each.")
    node: str = key(
        "",
        "Name of this node in every record, and on its containers: each daemon on an engine needs one of its own.",
        factory=_host_name,
        shown="the host's name",
    )
    http: HttpConfig = field(default_factory=HttpConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    pool: PoolConfig = field(default_factory=PoolConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    isolation: IsolationConfig = field(default_factory=IsolationConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    prices: PricesConfig = field(default_factory=PricesConfig)
    runtimes: RuntimesConfig = field(default_factory=RuntimesConfig)
    log: LogConfig = field(default_factory=LogConfig)
    registry: RegistryConfig = field(default_factory=RegistryConfig)

    @property
    def control_socket(self) -> Path:
        """Where operators reach the daemon."""
        return self.state_dir / "control.sock"
