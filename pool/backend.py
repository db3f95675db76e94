"""The privileged seam: everything that needs the engine's socket, cgroup files or a foreign network namespace.

`docker.py` implements it for real, `fake.py` for tests and benches, and one contract suite runs on both
(`tests/pool/test_backend_contract.py`). The verbs return descriptors, so that they can move into a separate
privileged process which passes them over a Unix socket, and the warm path gains no hop.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from pool.model import ContainerId, ContainerSpec, LogTransport, MemoryReading


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptors:
    """Open descriptors of one running container; -1 where this kernel has no such file.

    Attributes:
        pid: the main process, as the host sees it; valid while `pidfd` is not readable.
        pidfd: readable once the main process has ended; the pool watches it, and enters the network namespace by it.
        freeze: v1 `freezer.state`, v2 `cgroup.freeze`.
        frozen: v1 the same file, v2 `cgroup.events`.
        cpu: v1 `cpuacct.usage` (ns), v2 `cpu.stat` (us).
        memory_peak: v1 `memory.max_usage_in_bytes`, v2 `memory.peak`.
        memory_stat: `memory.stat`.
        log: read end of the log FIFO; -1 with an attached stream.
        throttled: v1 `cpu.stat`, v2 the same file as `cpu`.
        cgroup_version: 1 or 2: how to read all of them.
        oom_file: path of v1 `memory.oom_control`, v2 `memory.events`, which is opened when it is looked at; empty where there is
            none. It bears the engine's id of the container: it never comes to be another's.
    """

    pid: int
    pidfd: int
    freeze: int
    frozen: int
    cpu: int
    memory_peak: int
    memory_stat: int
    log: int
    throttled: int = -1
    cgroup_version: int = 2
    oom_file: str = ""

    def opened(self) -> set[int]:
        """Return each open descriptor once."""
        files = (self.freeze, self.frozen, self.cpu, self.throttled, self.memory_peak, self.memory_stat)
        return {fd for fd in (self.pidfd, self.log, *files) if fd >= 0}


class ContainerHandle(Protocol):
    """One running container. Nothing here waits but `reclaim`: each other method is a read or a write of a file of the kernel's.

    All raise `OSError` when the kernel refuses; the container is then suspect.
    """

    container_id: ContainerId
    engine_id: str
    descriptors: Descriptors

    def freeze(self) -> None:
        """Ask the kernel to freeze all of its processes. `is_frozen` tells when that is done."""

    def thaw(self) -> None:
        """Let its processes run again. Harmless when they run already."""

    def is_frozen(self) -> bool:
        """Ask the kernel whether all of its processes stand still."""

    def cpu_us(self) -> int:
        """CPU time of all of its processes since it was created, microseconds, monotonic."""

    def throttled_us(self) -> int:
        """Time for which the CPU quota stopped it, since it was created, microseconds."""

    def memory(self) -> MemoryReading:
        """Read memory now, and the peak since the last `reset_memory_peak`."""

    def reclaim(self, amount: int) -> None:
        """Give so many bytes back to the node, page cache first, where the kernel can (v2, Linux 5.19); else do nothing.

        May wait long, and touches no descriptor: for a thread. Never raises.
        """

    def reset_memory_peak(self) -> None:
        """Begin a new peak where the kernel can (v1; v2 from Linux 6.12). Else do nothing."""

    def oom_kills(self) -> int:
        """How often the kernel killed one of its processes for memory, since it was created. Opens a file; not for each call."""

    def close(self) -> None:
        """Close all descriptors. Safe to repeat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundContainer:
    """A container that carries this node's labels, as the engine lists it.

    Attributes:
        running: false for created, exited and dead ones.
        labels: all of its labels; see `recipe.labels_of`.
        created: when it was, wall clock, seconds; 0 where the engine does not say.
    """

    container_id: ContainerId
    engine_id: str
    running: bool
    labels: Mapping[str, str]
    created: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image of the engine.

    Attributes:
        image_id: immutable, `sha256:...`.
        logs: whether it speaks the framed log pipe (label `invokerd.protocol=pipe`).
        server_keep_alive_s: label `invokerd.keep-alive-s`; 1 when it says nothing.
        concurrent: its server can run several activations at the same time (label `invokerd.concurrent=true`).
    """

    image_id: str
    logs: LogTransport
    server_keep_alive_s: float
    concurrent: bool = False


class ContainerBackend(Protocol):
    """What the pool needs of an engine. Each verb has its own deadline inside and raises only what it names."""

    async def create(self, container_id: ContainerId, spec: ContainerSpec) -> ContainerHandle:
        """Create and start a container, labelled with node, boot id and spec; return as soon as its process runs.

        A failure on the way leaves nothing behind, where the engine obeys. Where it does not, or is not asked because it has just
        not answered, the caller removes what there may be: `remove` with no handle, until it succeeds; but not where the error
        says `nothing_made`. Cancelled, it leaves what the engine makes in spite of that to the next look at all containers.

        Raises:
            ImageNotFound, ContainerStartFailed: the image's fault.
            EngineError, EngineUnavailable: the engine's.
        """

    async def adopt(self, found: FoundContainer) -> ContainerHandle:
        """Open the descriptors of a running container which an earlier daemon left.

        Raises:
            EngineError, EngineUnavailable, ContainerStartFailed: it has ended meanwhile, it is in another cgroup than one made
                now would be, or its log lines would be lost.
        """

    async def remove(self, container_id: ContainerId, handle: ContainerHandle | None) -> None:
        """Thaw where the kernel demands it, kill through the cgroup, remove from the engine, close the handle.

        Returns when the engine says that it is gone; gone already is success.

        Raises:
            EngineError, EngineUnavailable: still there; the caller tries again.
            ContainerUnkillable: its process does not end; the engine was not asked.
        """

    async def dial(self, handle: ContainerHandle) -> socket.socket:
        """Open a non-blocking TCP connection to 127.0.0.1:8080 in the container's network namespace.

        Works while it is frozen: the kernel completes the handshake.

        Raises:
            ConnectionRefusedError: nothing listens there yet.
            ProcessLookupError: it has ended.
            OSError: its namespace cannot be entered.
        """

    async def listen(self, handle: ContainerHandle) -> socket.socket:
        """Listen at `door.API_ADDRESS` in the container's network namespace; a non-blocking socket.

        Raises:
            OSError: something listens there, or it has ended.
        """

    async def list_containers(self) -> list[FoundContainer]:
        """List every container that carries this node's label, whatever its state.

        Raises:
            EngineError, EngineUnavailable.
        """

    async def resolve_image(
        self, reference: str, *, pull: bool, credentials: Mapping[str, str] | None = None, user: str = ""
    ) -> Image:
        """Find the immutable image behind a reference; pull it first when absent and `pull` is true.

        Pulls of one reference are shared by all who wait for it, and each user has one under way at a time.

        Args:
            reference: name, with a tag or digest.
            pull: whether it may come from a registry.
            credentials: for that.
            user: on whose behalf, the namespace; empty is the daemon's own.

        Raises:
            ImageNotFound: not here, and not to be had.
            EngineError, EngineUnavailable.
        """

    async def remove_image(self, image_id: str, reference: str) -> None:
        """Take a name from an image; with its last name the image goes. Success where it does not bear the name any more.

        Raises:
            EngineError, EngineUnavailable: still there; also while any container is made from it.
        """

    def attach_logs(self, handle: ContainerHandle) -> AsyncIterator[tuple[str, bytes]]:
        """Yield (`stdout` or `stderr`, bytes) of a container without a log pipe, until it ends.

        Raises:
            EngineError, EngineUnavailable: the stream broke; lines are lost and must be said to be lost.
        """

    async def was_out_of_memory(self, container_id: ContainerId) -> bool:
        """Tell whether the kernel ended a container for its memory, as the engine noted it; False where it cannot tell."""

    async def close(self) -> None:
        """Stop threads and sessions. Containers stay."""
