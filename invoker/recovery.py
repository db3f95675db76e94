"""What an earlier daemon left is settled: its lost activations, its containers, and what it had accepted."""

from __future__ import annotations

import logging
import math
import time

import msgspec

from invoker.activation import Accepted, Status
from invoker.adoption import adopt_or_remove, lost_activations
from invoker.cpu_window import CpuWindows
from invoker.errors import EntityCorrupted, EntityNotFound, WrongCollection
from invoker.http.auth import Authenticator
from invoker.invocation import Call
from invoker.invoke import Invoker
from invoker.lost import Lost
from invoker.model import Action, Identity
from invoker.plan import Facts, Planner, facts_of
from invoker.record.entities import EntityStore
from invoker.record.records import Records
from invoker.resolve import resolve_action
from invoker.stores import Stores
from invoker.vault import ParameterUnreadable, Vault
from pool.backend import ContainerBackend
from pool.errors import InvokerError, PlatformError
from pool.pool import Pool

log = logging.getLogger("invokerd")


#: Told of what was accepted, never began, and cannot any more.
GONE = "The action could not be run by the next daemon: it may have been deleted."


async def restore_cpu_windows(windows: CpuWindows, records: Records, *, namespaces: EntityStore, longest_ms: int) -> None:
    """Have the windows begin with what the ledger says that was used within them, up to now.

    Of a namespace that was deleted and made anew counts what the new one has used. What cannot be read counts nothing, and is
    told of.

    Args:
        windows: to be filled; what is counted meanwhile stays in them.
        records: of the ledger.
        namespaces: who there is.
        longest_ms: no activation took longer.
    """
    upto_ms, step_ms = time.time_ns() // 1_000_000, windows.step_ms
    since_ms = upto_ms // step_ms * step_ms - windows.length_s * 1000
    try:
        uses = await records.cpu_used(since_ms=since_ms, upto_ms=upto_ms, step_ms=step_ms, longest_ms=longest_ms)
    except PlatformError as error:
        log.error("what was used of the CPU before cannot be read, and is not counted by its limits: %s", error)  # noqa: TRY400
        return
    created_ms = {each.name: each.created_ms for each in namespaces.list_namespaces()}
    windows.restore((use for use in uses if created_ms.get(use.namespace, math.inf) < (use.step + 1) * step_ms), step_ms)


async def take_over(
    stores: Stores,
    *,
    backend: ContainerBackend,
    planner: Planner,
    pool: Pool,
    invoker: Invoker,
    authenticator: Authenticator,
    vault: Vault,
) -> None:
    """Settle what an earlier daemon left: its lost activations, its containers, what it had accepted."""
    entities, recorder = stores.entities, stores.recorder
    lost = {
        activation_id: Lost(activation_id=activation_id, facts=facts, start_ms=start_ms, stored=_is_stored(facts, entities))
        for activation_id, facts, start_ms in lost_activations(stores.table)
    }
    for accepted in recorder.recovery.begun:
        known = lost.get(accepted.activation_id)
        lost[accepted.activation_id] = _lost_promise(accepted, entities) if known is None else known.with_promise(accepted)
    count = await invoker.record_lost(lost.values())
    if count:
        log.warning("%d activations were running when the last daemon ended: recorded as lost unless they had finished", count)
    try:
        found = await backend.list_containers()
        adopted, removed = await adopt_or_remove(
            found, table=stores.table, backend=backend, entities=entities, planner=planner, pool=pool
        )
        log.info("containers of the last daemon: %d adopted, %d removed", adopted, removed)
    except InvokerError as error:
        log.error("the containers of the last daemon cannot be seen, and stay until they can: %s", error)  # noqa: TRY400
    for accepted in recorder.recovery.unbegun:
        namespace, action = entities.get_namespace(accepted.namespace), _action_of(accepted, entities)
        if namespace is None or action is None:
            gone = msgspec.structs.replace(
                _lost_promise(accepted, entities), status=Status.APPLICATION_ERROR, reason="action-gone", sentence=GONE
            )
            await invoker.record_lost([gone])
            continue
        try:
            payload = vault.open_payload(accepted.payload)
        except ParameterUnreadable as error:
            log.error("activation %s of %s is not run: %s", accepted.activation_id, accepted.path, error)  # noqa: TRY400
            lost_promise = _lost_promise(accepted, entities)
            await invoker.record_lost([msgspec.structs.replace(lost_promise, reason=error.code, sentence=str(error))])
            continue
        call = Call(
            identity=Identity(namespace=namespace, api_key=authenticator.derived_key(namespace)),
            action=action,
            payload=payload,
            payload_bytes=len(payload),
            transaction=accepted.transaction,
            blocking=False,
            wait_s=0.0,
            received=time.monotonic(),
            authenticate_us=0,
            authorise_us=0,
            binding=accepted.binding,
        )
        invoker.resume(accepted, call)
    if recorder.recovery.unbegun:
        log.info("%d accepted activations that had not begun are run now", len(recorder.recovery.unbegun))


def _action_of(accepted: Accepted, entities: EntityStore) -> Action | None:
    """Find the action again by the way it was called: its package's parameters may come from a binding."""
    owner, _, path = accepted.path.partition("/")
    if accepted.binding is not None:
        owner, _, package = accepted.binding.partition("/")
        path = f"{package}/{path.rpartition('/')[2]}"
    try:
        return resolve_action(entities, owner, path).action
    except (EntityNotFound, WrongCollection, EntityCorrupted):
        return None


def _lost_promise(accepted: Accepted, entities: EntityStore) -> Lost:
    """Gather what the journal, and the action where it is still there, tell of what had begun."""
    facts = _facts_of_accepted(accepted, entities)
    known = Lost(
        activation_id=accepted.activation_id, facts=facts, start_ms=accepted.accepted_ms, stored=_is_stored(facts, entities)
    )
    return known.with_promise(accepted)


def _is_stored(facts: Facts, entities: EntityStore) -> bool | None:
    """Tell whether the namespace keeps records; None leaves it to the site."""
    namespace = entities.get_namespace(facts.namespace)
    return None if namespace is None else namespace.limits.store_activations


def _facts_of_accepted(accepted: Accepted, entities: EntityStore) -> Facts:
    namespace, action = entities.get_namespace(accepted.namespace), _action_of(accepted, entities)
    if namespace is not None and action is not None:
        return facts_of(namespace, action)
    return Facts(
        namespace=accepted.namespace,
        path=accepted.path,
        version="0.0.1",
        kind="unknown",
        timeout=0,
        memory=0,
        logs=0,
        concurrency=1,
    )
