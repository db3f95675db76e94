"""Values of the pool: what a container is made from, who may reuse it, and in which state it is."""

from __future__ import annotations

import enum
import functools
import hashlib
from dataclasses import dataclass
from typing import NewType

import msgspec

#: Our own name of a container, unique for ever on this node; also its name in the engine.
ContainerId = NewType("ContainerId", str)
#: 32 lower-case hexadecimal digits.
ActivationId = NewType("ActivationId", str)


class LogTransport(enum.Enum):
    """How a container's log lines reach the daemon."""

    #: Our runtimes: framed lines on a FIFO that the daemon owns (`pool/logs.py`).
    PIPE = "pipe"
    #: Foreign images: the engine's attached stream.
    ATTACHED = "attached"


class Mount(msgspec.Struct, frozen=True, kw_only=True):
    """A bind mount from the host.

    Attributes:
        source: absolute path on the host.
        target: absolute path in the container.
        read_only: whether the container may only read it.
    """

    source: str
    target: str
    read_only: bool = True


class ContainerSpec(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """All that a container is created from. A stem cell may become any action with an equal spec.

    Attributes:
        namespace: name of the namespace whose activations run in it.
        uid, gid, groups: numeric ids of the process; never from a request.
        image: immutable image id (`sha256:...`), never a tag.
        kind: the runtime's kind, for people and for metrics.
        memory_mib: memory limit; swap is the same, so none.
        cpu_millis: CPU quota in thousandths of a core; 0 is no quota.
        cpu_weight: `docker --cpu-shares`, 2 to 262144.
        pids, open_files: limits of the whole container, and of each process.
        tmp_mib: size of `/tmp`; it counts as memory.
        network: `none`, or the name of an engine network that the site allows.
        mounts: bind mounts, in order of their target.
        environment: variables of the container itself, sorted by name.
        logs: how log lines reach the daemon.
        server_keep_alive_s: after how long idle the server in the container may close a connection.
    """

    namespace: str
    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    image: str
    kind: str
    memory_mib: int
    cpu_millis: int = 0
    cpu_weight: int = 1024
    pids: int = 1024
    open_files: int = 1024
    tmp_mib: int = 64
    network: str = "none"
    mounts: tuple[Mount, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    logs: LogTransport = LogTransport.PIPE
    server_keep_alive_s: float = 1.0

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, hexadecimal: equal specs, equal digests, over restarts too."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()


class ReuseKey(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Who may reuse a warm container: the same action, at the same revision, made from the same spec.

    Attributes:
        spec: what the container is made from; it holds namespace, uid, image digest, limits and mounts.
        action: path of the action, `namespace/[package/]name`.
        revision: changes with each write of the action, so that a re-created action never meets old code.
        concurrency: how many activations one container may run at the same time.
    """

    spec: ContainerSpec
    action: str
    revision: str
    concurrency: int = 1

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256, hexadecimal. Dictionaries of the warm path are keyed by it: a str keeps its hash."""
        parts = (self.spec.digest, self.action, self.revision, self.concurrency)
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


class Reactive(msgspec.Struct, frozen=True, kw_only=True):
    """How the number of stem cells follows demand: `reactive` of OpenWhisk's runtimes manifest.

    Attributes:
        least: kept when none is used.
        most: kept however many are used.
        ttl_s: without a use for this long the number goes down to the least.
        threshold: so many uses in a minute ...
        increment: ... are answered by so many stem cells.
    """

    least: int = 0
    most: int
    ttl_s: float
    threshold: int = 1
    increment: int = 1


class ContainerState(enum.Enum):
    """Where a container is in its life. `books.TRANSITIONS` says what may follow what."""

    # Members are singletons: the inherited hash, of the name, is a Python call that each look-up of a transition would pay.
    __hash__ = object.__hash__

    STARTING = "starting"
    STEM = "stem"
    STEM_FROZEN = "stem_frozen"
    INITIALISING = "initialising"
    BUSY = "busy"
    #: Leased, but takes no more: its action was rewritten, or one of its activations went wrong.
    DRAINING = "draining"
    WARM = "warm"
    FREEZING = "freezing"
    FROZEN = "frozen"
    ADOPTING = "adopting"
    SUSPECT = "suspect"
    REMOVING = "removing"


class Standing(enum.IntEnum):
    """What an activation that wants a container has behind it; the higher goes before.

    A drain refuses what has not begun, a full queue what is new. What an activation in a container waits for goes first,
    because it frees two.
    """

    #: A caller asked for it, and waits.
    NEW = 0
    #: A caller asked for it, and it was let in: its place in the queue was looked for already.
    ADMITTED = 1
    #: A part of a sequence that has begun.
    PART = 2
    #: Called from inside a container, which waits for it.
    NESTED = 3


class StartKind(enum.Enum):
    """What an activation found: nothing, a stem cell, a running container, or a frozen one."""

    __hash__ = object.__hash__  # as above

    COLD = "cold"
    STEM = "stem"
    WARM = "warm"
    FROZEN = "frozen"


class MemoryKill(enum.Enum):
    """Why the kernel has ended a process of a container for memory, if it has."""

    NONE = "none"
    #: The container had as much as it may have.
    OWN_LIMIT = "own-limit"
    #: It had less: all containers together, or all of the machine, had too much, and this one had the largest process.
    ALL_TOGETHER = "all-together"


class PeakQuality(enum.Enum):
    """What a peak of memory says. No price plan bills a lifetime peak."""

    #: The kernel's high-water mark, reset when the activation began.
    EXACT = "exact"
    #: The highest of the readings taken while it ran.
    SAMPLED = "sampled"
    #: The high-water mark of the container's whole life: an upper bound.
    LIFETIME = "lifetime"


class MemoryReading(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Memory of a container's cgroup, bytes. A struct, not a dataclass: one is made for each activation.

    Attributes:
        peak: high-water mark, page cache included.
        peak_quality: what `peak` says.
        anonymous: anonymous memory now.
        shared: tmpfs and other shared memory now.
        cache: page cache of files now, without `shared`.
    """

    peak: int
    peak_quality: PeakQuality
    anonymous: int
    shared: int
    cache: int

    @property
    def held(self) -> int:
        """All that its processes and files hold now, page cache included, bytes."""
        return self.anonymous + self.shared + self.cache


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatistics:
    """A look at the pool, taken at one instant.

    Attributes:
        containers: how many in each state; every state is present.
        waiting: activations that wait for a container.
        memory_used_mib: sum over all containers, those being removed included.
        memory_budget_mib: never exceeded by `memory_used_mib`.
        starts: containers handed out so far, by start kind.
        evictions: idle containers removed to make room, so far.
    """

    containers: dict[ContainerState, int]
    waiting: int
    memory_used_mib: int
    memory_budget_mib: int
    starts: dict[StartKind, int]
    evictions: int
