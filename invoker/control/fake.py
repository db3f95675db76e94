"""A `Control` without a daemon behind it, for tests of the control socket and of `invokerctl`."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from invoker.control.messages import (
    BillReply,
    BillRow,
    CancelReply,
    ChangeNamespace,
    CorrectionReply,
    MakeCorrection,
    PoolRow,
    StatusReply,
    UsageRow,
)
from invoker.control.server import serve_control
from invoker.errors import EntityExists, EntityNotFound
from invoker.model import LimitOverrides, Namespace
from pool.model import ActivationId


class FakeControl:
    """Keeps namespaces in memory; containers, usage and activations are what a test puts there.

    Attributes:
        namespaces: by name.
        keys: the present key of each namespace.
        rows: what `pool_rows` returns.
        usages: what `usage` picks from.
        lines: what `bill` picks from; the month is never complete.
        corrections: what `correct` was asked for.
        activations: id to (namespace, `queued` or `running`); a cancelled one is taken out.
        problems: what `status` complains of.
        running: activations under way; while draining, each look at the status ends one.
        draining: whether `drain` was called.
        asked: spans that `usage` was asked for, (namespace, since_ms, until_ms).
    """

    def __init__(self) -> None:
        self.namespaces: dict[str, Namespace] = {}
        self.keys: dict[str, str] = {}
        self.rows: list[PoolRow] = []
        self.usages: list[UsageRow] = []
        self.lines: list[BillRow] = []
        self.corrections: list[MakeCorrection] = []
        self.activations: dict[str, tuple[str, str]] = {}
        self.problems: tuple[str, ...] = ()
        self.running = 0
        self.draining = False
        self.asked: list[tuple[str | None, int, int]] = []

    async def create_namespace(self, name: str, uid: int, gid: int, groups: Sequence[int], mounts: Sequence[str]) -> str:
        """See `Control`."""
        if name in self.namespaces:
            raise EntityExists(f"Namespace {name} already exists.")
        user = str(uuid.uuid4())
        self.namespaces[name] = Namespace(
            name=name, uuid=user, key_hash="", uid=uid, gid=gid, groups=tuple(groups), mounts=tuple(mounts), created_ms=0
        )
        return self._new_key(name)

    def _new_key(self, name: str) -> str:
        self.keys[name] = f"{self._find(name).uuid}:{uuid.uuid4().hex}"
        return self.keys[name]

    def _find(self, name: str) -> Namespace:
        if name not in self.namespaces:
            raise EntityNotFound(f"Namespace {name} does not exist.")
        return self.namespaces[name]

    def list_namespaces(self) -> list[Namespace]:
        """See `Control`."""
        return sorted(self.namespaces.values(), key=lambda each: each.name)

    async def delete_namespace(self, name: str) -> None:
        """See `Control`."""
        self._find(name)
        del self.namespaces[name], self.keys[name]

    async def change_namespace(self, name: str, wanted: ChangeNamespace) -> None:
        """See `Control`."""
        given = {field: value for field, value in msgspec.structs.asdict(wanted).items() if value is not None}
        self.namespaces[name] = msgspec.structs.replace(self._find(name), **given)

    async def rotate_key(self, name: str) -> str:
        """See `Control`."""
        return self._new_key(name)

    async def change_limits(self, name: str, limits: LimitOverrides) -> None:
        """See `Control`."""
        self.namespaces[name] = msgspec.structs.replace(self._find(name), limits=limits)

    def pool_rows(self) -> list[PoolRow]:
        """See `Control`."""
        return list(self.rows)

    def status(self) -> StatusReply:
        """See `Control`."""
        if self.draining and self.running:
            self.running -= 1
        return StatusReply(
            node="fake",
            version="0",
            state="draining" if self.draining else "ready",
            pid=4711,
            started_ms=0,
            running=self.running,
            containers={"frozen": len(self.rows)},
            memory_used_mib=sum(row.memory_mib for row in self.rows),
            memory_budget_mib=4096,
            problems=self.problems,
        )

    async def usage(self, namespace: str | None, since_ms: int, until_ms: int, *, by_action: bool = False) -> list[UsageRow]:
        """See `Control`."""
        self.asked.append((namespace, since_ms, until_ms))
        return [row for row in self.usages if namespace in (None, row.namespace) and bool(row.action) == by_action]

    async def bill(self, namespace: str | None, month: str) -> BillReply:
        """See `Control`."""
        rows = tuple(row for row in self.lines if namespace in (None, row.namespace))
        return BillReply(month=month, since_ms=0, until_ms=1, complete=False, rows=rows)

    async def correct(self, wanted: MakeCorrection) -> CorrectionReply:
        """See `Control`."""
        self.corrections.append(wanted)
        return CorrectionReply(subject=wanted.subject, namespace="alice", action="alice/find", at_ms=1_790_000_000_000)

    async def cancel(self, activation_id: ActivationId, namespace: str | None = None) -> CancelReply:
        """See `Control`."""
        owner, was = self.activations.get(activation_id, (None, ""))
        if owner is None or namespace not in (None, owner):
            raise EntityNotFound(f"No activation {activation_id} is under way.")
        del self.activations[activation_id]
        return CancelReply(activation_id=activation_id, was=was)

    async def drain(self) -> None:
        """See `Control`."""
        self.draining = True


@contextmanager
def serving(control: FakeControl, path: Path) -> Iterator[None]:
    """Serve a control socket from a thread with a loop of its own, while the block runs."""
    loop = asyncio.new_event_loop()
    ready, stop = threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with serve_control(control, path):
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), name="fake control")
    thread.start()
    try:
        if not ready.wait(10):
            raise TimeoutError(f"{path} was not served within 10 s")
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
