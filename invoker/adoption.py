"""At start: which containers of an earlier daemon go on serving, which go, and which activations were lost with it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import msgspec

from invoker.model import Action
from invoker.plan import Facts, Planner
from invoker.record.entities import EntityStore
from pool.backend import ContainerBackend, FoundContainer
from pool.errors import InvokerError
from pool.model import ActivationId, ContainerSpec, ReuseKey
from pool.pool import Pool
from pool.recipe import LABEL_SPEC
from pool.table import ContainerTable, Entry

log = logging.getLogger(__name__)


def lost_activations(table: ContainerTable) -> list[tuple[ActivationId, Facts, int]]:
    """Read from the table what was running when the earlier daemon ended: (id, facts, start in ms) each."""
    lost = []
    for entry in table.entries():
        for activation_id, start_ms in entry.activations:
            try:
                lost.append((activation_id, msgspec.json.decode(entry.facts, type=Facts), start_ms))
            except msgspec.MsgspecError:
                log.error("activation %s was lost, and the container table does not say whose it was", activation_id)  # noqa: TRY400
    return lost


async def adopt_or_remove(
    found: Sequence[FoundContainer],
    *,
    table: ContainerTable,
    backend: ContainerBackend,
    entities: EntityStore,
    planner: Planner,
    pool: Pool,
) -> tuple[int, int]:
    """Give idle containers that still match to the pool, and remove the others.

    A container that ran an activation is never adopted: nobody knows what it does now.

    Returns:
        How many were (adopted, removed).
    """
    entries = {entry.container_id: entry for entry in table.entries()}
    adopted = 0
    unwanted: list[FoundContainer] = []
    for container in found:
        entry = entries.pop(container.container_id, None)
        if await _adopt(container, entry, backend=backend, entities=entities, planner=planner, pool=pool):
            adopted += 1
        else:
            unwanted.append(container)
    for gone in entries:
        if slot := table.find(gone):
            slot.release()
    async with asyncio.TaskGroup() as removals:
        for container in unwanted:
            removals.create_task(_remove(container, table, backend), name=f"remove {container.container_id}")
    return adopted, len(unwanted)


async def _adopt(
    container: FoundContainer,
    entry: Entry | None,
    *,
    backend: ContainerBackend,
    entities: EntityStore,
    planner: Planner,
    pool: Pool,
) -> bool:
    if entry is None or entry.activations or not container.running:
        return False
    try:
        spec = msgspec.json.decode(container.labels.get(LABEL_SPEC, ""), type=ContainerSpec)
        key = await _key_of(entry, spec, entities, planner)
        handle = await backend.adopt(container)
    except (msgspec.MsgspecError, InvokerError, LookupError) as error:
        log.info("%s is not adopted: %s", container.container_id, error)
        return False
    pool.found(container, handle, spec, key, takes_one=entry.takes_one)
    return True


async def _key_of(entry: Entry, spec: ContainerSpec, entities: EntityStore, planner: Planner) -> ReuseKey | None:
    """Find the reuse key that a container was specialised for, as it would be made now; None for a stem cell.

    Raises:
        LookupError: nothing makes this key any more.
        InvokerError: the action's image is gone.
    """
    namespace = entities.get_namespace(spec.namespace)
    if namespace is None:
        raise LookupError("it was the self-test's, or its namespace is gone")
    if (namespace.uid, namespace.gid, namespace.groups) != (spec.uid, spec.gid, spec.groups):
        raise LookupError("its namespace has another uid, gid or other groups by now")
    if entry.key_digest is None:
        return None
    owner, _, path = msgspec.json.decode(entry.facts, type=Facts).path.partition("/")
    action = entities.get(owner, path)
    if not isinstance(action, Action):
        raise LookupError("its action is gone")  # noqa: TRY004 - missing, or another entity by now: both are no action
    plan = await planner.make(namespace, action, pull=False)
    if plan.key.digest != entry.key_digest:
        raise LookupError("its action was rewritten, or the configuration has changed")
    return plan.key


async def _remove(container: FoundContainer, table: ContainerTable, backend: ContainerBackend) -> None:
    try:
        await backend.remove(container.container_id, None)
    except InvokerError as error:
        log.warning("%s could not be removed; the next look at the engine tries again: %s", container.container_id, error)
    if slot := table.find(container.container_id):
        slot.release()
