"""What operators may do: the daemon's side of the control socket."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from invoker import __version__
from invoker.config.model import Config
from invoker.control.messages import (
    BillReply,
    CancelReply,
    ChangeNamespace,
    CorrectionReply,
    MakeCorrection,
    PoolRow,
    StatusReply,
    UsageRow,
)
from invoker.errors import EntityExists, EntityNotFound, InvalidRequest
from invoker.health import Health
from invoker.http.auth import Authenticator
from invoker.http.parsing import check_namespace
from invoker.invoke import Invoker
from invoker.model import Collection, LimitOverrides, Namespace
from invoker.record.entities import EntityStore
from pool.books import Container
from pool.model import ActivationId
from pool.pool import Pool

#: Entities deleted at a time when their namespace goes.
PAGE = 200


class Operations:
    """Implements `control.Control` on the parts of the daemon."""

    def __init__(
        self,
        *,
        config: Callable[[], Config],
        entities: EntityStore,
        authenticator: Authenticator,
        pool: Pool,
        invoker: Invoker,
        usage: Callable[[str | None, int, int, bool], Awaitable[Sequence[UsageRow]]],
        bill: Callable[[str | None, str], Awaitable[BillReply]],
        correct: Callable[[MakeCorrection], Awaitable[CorrectionReply]],
        health: Callable[[], Health],
        drain: Callable[[], None],
        on_deleted: Callable[[str], None],
        on_changed: Callable[[], None],
        kinds: frozenset[str],
    ) -> None:
        """Use the parts.

        Args:
            config: gives the configuration of this moment.
            entities: holds the namespaces.
            authenticator: makes and hashes keys.
            pool: its containers are listed.
            invoker: cancels.
            usage: sums of the ledger, priced: (namespace, since, until, by action).
            bill: the bills of a month: (namespace, month).
            correct: writes a correction.
            health: whose failed checks and warnings are the daemon's problems.
            drain: makes the daemon refuse new work.
            on_deleted: told the name of each deleted namespace.
            on_changed: told when what a namespace may see has changed: no plan made before is good any more.
            kinds: those that an action may be of.
        """
        self._config = config
        self._entities = entities
        self._authenticator = authenticator
        self._pool = pool
        self._invoker = invoker
        self._usage = usage
        self._bill = bill
        self._correct = correct
        self._health = health
        self._drain = drain
        self._on_deleted = on_deleted
        self._on_changed = on_changed
        self._kinds = kinds
        self._started_ms = time.time_ns() // 1_000_000
        self._draining = False

    async def create_namespace(self, name: str, uid: int, gid: int, groups: Sequence[int], mounts: Sequence[str]) -> str:
        """See `Control`."""
        check_namespace(name)
        self._check(name, uid, gid, groups, mounts)
        if self._entities.get_namespace(name) is not None:
            raise EntityExists(f"namespace {name!r} exists already; rotate-key gives it a new key")
        uuid, key = self._authenticator.make_key()
        await self._entities.put_namespace(
            Namespace(
                name=name,
                uuid=uuid,
                key_hash=self._authenticator.hash_key(key),
                uid=uid,
                gid=gid,
                groups=tuple(groups),
                mounts=tuple(mounts),
                created_ms=time.time_ns() // 1_000_000,
            )
        )
        return f"{uuid}:{key}"

    def list_namespaces(self) -> Sequence[Namespace]:
        """See `Control`."""
        return sorted(self._entities.list_namespaces(), key=lambda namespace: namespace.name)

    async def delete_namespace(self, name: str) -> None:
        """See `Control`. Its entities go first, so that nothing is left without an owner."""
        self._namespace(name)
        for collection in Collection:
            while page := self._entities.list(name, collection, limit=PAGE, skip=0):
                for entity in page:
                    await self._entities.delete(entity)
        await self._entities.delete_namespace(name)
        self._on_deleted(name)
        self._retire(name)

    async def change_namespace(self, name: str, wanted: ChangeNamespace) -> None:
        """See `Control`. The uid and gid stay: they are who the namespace is."""
        namespace = self._namespace(name)
        groups = namespace.groups if wanted.groups is None else wanted.groups
        mounts = namespace.mounts if wanted.mounts is None else wanted.mounts
        self._check(name, namespace.uid, namespace.gid, groups, mounts)
        await self._entities.put_namespace(msgspec.structs.replace(namespace, groups=tuple(groups), mounts=tuple(mounts)))
        self._on_changed()
        self._retire(name)

    def _check(self, name: str, uid: int, gid: int, groups: Sequence[int], mounts: Sequence[str]) -> None:
        """See whether the site lets a namespace be this.

        Raises:
            InvalidRequest: with the reason.
        """
        isolation = self._config().isolation
        if reason := isolation.refuse_identity(uid, gid, groups):
            raise InvalidRequest(reason)
        try:
            isolation.mounts_for(name, mounts)
        except ValueError as error:
            raise InvalidRequest(str(error)) from error

    def _retire(self, name: str) -> None:
        """Let no container of a namespace serve another call, and keep no stem cell of it."""
        for container in self._pool.containers():
            if container.spec.namespace == name:
                self._pool.want_stems(container.spec, 0)
                if container.key is not None:
                    self._pool.retire(container.key.action, revision=None)

    async def rotate_key(self, name: str) -> str:
        """See `Control`. The uuid stays: it names the namespace to its clients."""
        namespace = self._namespace(name)
        _, key = self._authenticator.make_key()
        await self._entities.put_namespace(msgspec.structs.replace(namespace, key_hash=self._authenticator.hash_key(key)))
        return f"{namespace.uuid}:{key}"

    async def change_limits(self, name: str, limits: LimitOverrides) -> None:
        """See `Control`."""
        namespace = self._namespace(name)
        problems = limits.problems()
        present = namespace.limits.allowed_kinds or ()  # one that the manifest has lost since may stay
        problems += [
            f"allowed_kinds: there is no kind {kind!r} on this node; there are {', '.join(sorted(self._kinds))}"
            for kind in limits.allowed_kinds or ()
            if kind not in self._kinds and kind not in present
        ]
        if problems:
            raise InvalidRequest("; ".join(problems))
        await self._entities.put_namespace(msgspec.structs.replace(namespace, limits=limits))

    def pool_rows(self) -> Sequence[PoolRow]:
        """See `Control`."""
        now = self._pool.now()
        return [_row(container, now) for container in self._pool.containers()]

    def status(self) -> StatusReply:
        """See `Control`."""
        statistics = self._pool.statistics()
        health = self._health()
        problems = tuple(f"{check.name}: {check.detail}" for check in health.checks if check.warning or not check.ok)
        state = "draining" if self._draining else "ready" if health.ok else "degraded"
        return StatusReply(
            node=self._config().node,
            version=__version__,
            state=state,
            pid=os.getpid(),
            started_ms=self._started_ms,
            running=self._invoker.total_in_flight - statistics.waiting,
            waiting=statistics.waiting,
            containers={state.value: count for state, count in statistics.containers.items() if count},
            memory_used_mib=statistics.memory_used_mib,
            memory_budget_mib=statistics.memory_budget_mib,
            problems=problems,
        )

    async def usage(self, namespace: str | None, since_ms: int, until_ms: int, *, by_action: bool = False) -> Sequence[UsageRow]:
        """See `Control`."""
        return await self._usage(namespace, since_ms, until_ms, by_action)

    async def bill(self, namespace: str | None, month: str) -> BillReply:
        """See `Control`."""
        return await self._bill(namespace, month)

    async def correct(self, wanted: MakeCorrection) -> CorrectionReply:
        """See `Control`."""
        return await self._correct(wanted)

    async def cancel(self, activation_id: ActivationId, namespace: str | None = None) -> CancelReply:
        """See `Control`."""
        was = self._invoker.cancel(activation_id, namespace=namespace)
        if was is None:
            raise EntityNotFound(f"no activation {activation_id} is in flight: it is unknown, or has ended already")
        await self._invoker.wait_recorded(activation_id)
        return CancelReply(activation_id=activation_id, was=was)

    async def drain(self) -> None:
        """See `Control`."""
        self._draining = True
        self._drain()

    def _namespace(self, name: str) -> Namespace:
        namespace = self._entities.get_namespace(name)
        if namespace is None:
            raise EntityNotFound(f"there is no namespace {name!r}")
        return namespace


def _row(container: Container, now: float) -> PoolRow:
    return PoolRow(
        container=container.container_id,
        action=container.key.action if container.key else f"stem {container.spec.kind}",
        namespace=container.spec.namespace,
        uid=container.spec.uid,
        state=container.state.value,
        age_s=round(container.older_s + now - container.born, 3),
        memory_mib=container.held_mib,
        leases=len(container.leases),
    )
