"""The actions of the API: create, read, update, delete, list, invoke. Each handler parses, calls and renders."""

from __future__ import annotations

import functools
import time

import msgspec

from invoker.activation import Activation, Status
from invoker.entitlement import authorise_components
from invoker.errors import EntityNotFound, InvalidRequest, KindNotAllowed, WrongCollection
from invoker.http.action_writes import (
    WrittenExec,
    create_action,
    normalise_kind,
    resolve_exec,
    update_action,
)
from invoker.http.bodies import ActionBody, ExecBody, SentCode, parse_action
from invoker.http.code_answers import render_action
from invoker.http.components import sequence_exec
from invoker.http.documents import action_entry
from invoker.http.entities import check_put, check_shown, find, find_replaced, list_page, now_ms, seal, shown
from invoker.http.exchange import REASON, Exchange, Reply
from invoker.http.limits import KEY_LENGTH, REQUEST_BYTES
from invoker.http.parsing import boolean, check_name, parse_invoke_options, parse_payload
from invoker.http.rendering import is_array, render_accepted, render_activation, render_result
from invoker.http.services import Services
from invoker.http.sizes import check_action_sizes
from invoker.invocation import Accepted202, Call
from invoker.manifest import SEQUENCE
from invoker.model import Action, Collection, Exec
from invoker.resolve import ResolvedAction, resolve_action, resolve_package

#: Status of the answer to a blocking invocation, by how the activation ended.
_ANSWERS = {Status.SUCCESS: 200, Status.APPLICATION_ERROR: 502, Status.DEVELOPER_ERROR: 502, Status.INTERNAL_ERROR: 500}


async def invoke_action(services: Services, exchange: Exchange) -> Reply:
    """POST: run an action. The warm path: nothing here is done twice, and the result is not looked into."""
    options = parse_invoke_options(exchange.query)
    idempotency_key = exchange.http.headers.get("idempotency-key")
    if idempotency_key is not None and not 1 <= len(idempotency_key) <= KEY_LENGTH:
        raise InvalidRequest(f"The Idempotency-Key must have 1 to {KEY_LENGTH} characters.")
    limit_bytes = services.limits().payload_bytes
    body_is_here = exchange.http.body_is_here()
    body = exchange.take_json(limit_bytes) if body_is_here else await exchange.read_json(limit_bytes, required=False)
    arrived = exchange.authorised if body_is_here else time.monotonic()
    payload = parse_payload(body)
    parsed = time.monotonic()
    found = _find(services, exchange)
    action = found.action
    services.manifest.check(action.exec.kind)
    if action.exec.kind == SEQUENCE:
        authorise_components(services.entities, exchange.identity, action)
    if not body_is_here:  # others may have begun meanwhile
        caller = exchange.identity.namespace
        services.admission.check_concurrency(caller, services.invoker.in_flight(caller.name))
    outcome = await services.invoker.invoke(
        Call(
            identity=exchange.identity,
            action=action,
            payload=payload,
            payload_bytes=len(body),
            transaction=exchange.transaction,
            blocking=options.blocking,
            wait_s=options.wait_s,
            received=exchange.started + (arrived - exchange.authorised),
            authenticate_us=exchange.authenticate_us + int((parsed - arrived) * 1e6),
            authorise_us=exchange.authorise_us,
            idempotency_key=idempotency_key,
            origin=exchange.http.origin,
            binding=found.binding_path,
        )
    )
    return answer_invocation(services, outcome, result_only=options.result_only)


def answer_invocation(services: Services, outcome: Activation | Accepted202, *, result_only: bool) -> Reply:
    """Answer with the id alone, the bare result, or the whole record.

    Logs are collected after the answer, so the record has none here, but that of a sequence names its parts. An array is
    always answered bare, as upstream does.
    """
    headers: dict[str, str] = {"x-openwhisk-activation-id": outcome.activation_id}
    if isinstance(outcome, Accepted202):
        return Reply(render_accepted(outcome.activation_id), 202, headers=headers)
    if outcome.status is not Status.SUCCESS:
        headers[REASON] = outcome.meter.outcome
    bare = result_only or is_array(outcome.result)
    parts = () if outcome.composition is None else outcome.composition.parts
    body = render_result(outcome) if bare else render_activation(outcome, parts, services.price)
    return Reply(body, _ANSWERS[outcome.status], headers=headers)


async def get_action(services: Services, exchange: Exchange) -> Reply:
    """GET: the whole action, with the parameters it inherits; `?code=false` leaves its code out."""
    with_code = boolean(exchange.query, "code", default=True)
    found = _find(services, exchange)
    check_shown(services, exchange, found.action.namespace)
    code = await _read_code(services, found.action) if with_code else None
    return Reply(await render_action(shown(services, exchange, found.action), code, binding=found.binding_path))


async def put_action(services: Services, exchange: Exchange) -> Reply:
    """PUT: create an action, or with `?overwrite=true` write it anew."""
    check_put(exchange)
    check = functools.partial(check_action_sizes, code_bytes=services.limits().code_bytes)
    body = await services.apart.read(parse_action, check, await exchange.read_json(REQUEST_BYTES, required=True))
    _refuse_binding(services, exchange)
    old = find_replaced(services, exchange, Action)
    body = seal(services, exchange, body, old)
    written = None if body.exec is None else _resolve_exec(services, exchange, body.exec, body.code)
    execution, sent_code = written or (None, None)
    action = _write(services, exchange, old, body, execution)
    if sent_code is not None:
        digest = await services.entities.code.put(sent_code.utf8)
        _refuse_binding(services, exchange)  # the package may have gone meanwhile
        action = msgspec.structs.replace(action, exec=msgspec.structs.replace(action.exec, code=digest))
    await services.entities.put(action, expected_revision=old.revision if old is not None else None)
    code = sent_code.utf8 if sent_code is not None else await _read_code(services, action)
    return Reply(await render_action(shown(services, exchange, action), code))


async def delete_action(services: Services, exchange: Exchange) -> Reply:
    """DELETE: answers with the action as it was."""
    _refuse_binding(services, exchange)
    action = find(services, exchange, Action)
    code = await _read_code(services, action)
    await services.entities.delete(action)
    return Reply(await render_action(shown(services, exchange, action), code))


async def list_actions(services: Services, exchange: Exchange) -> Reply:
    """GET of the collection, or with `NAME/` of one package; through a binding, of the package behind it."""
    if not exchange.path:
        return list_page(services, exchange, Collection.ACTIONS, action_entry)
    name = check_name(exchange.path.removesuffix("/"))
    package = resolve_package(services.entities, exchange.namespace, name).package
    return list_page(services, exchange, Collection.ACTIONS, action_entry, namespace=package.namespace, package=package.path)


def _write(services: Services, exchange: Exchange, old: Action | None, body: ActionBody, execution: Exec | None) -> Action:
    """Make what a PUT leaves there.

    Raises:
        InvalidRequest, RuntimeNotSupported, RuntimeDeprecated: as `create_action`, `update_action`, `Manifest.check`.
    """
    site, now = services.limits(), now_ms(services)
    concurrent = services.admission.concurrent_invocations(exchange.identity.namespace)
    if old is None:
        return create_action(
            exchange.namespace, exchange.path, body, execution=execution, site=site, concurrent=concurrent, now_ms=now
        )
    if execution is None:
        services.manifest.check(old.exec.kind)
    return update_action(old, body, execution=execution, site=site, concurrent=concurrent, now_ms=now)


def _find(services: Services, exchange: Exchange) -> ResolvedAction:
    """Find the action that the path names.

    Raises:
        InvalidName: it could not exist.
        EntityNotFound, WrongCollection: it does not.
    """
    try:
        return resolve_action(services.entities, exchange.namespace, exchange.path)
    except (EntityNotFound, WrongCollection):
        for segment in exchange.path.split("/"):
            check_name(segment)
        raise


def _refuse_binding(services: Services, exchange: Exchange) -> None:
    """Let only a real package, or the default one, be written into.

    Raises:
        InvalidName, EntityNotFound, WrongCollection: there is no such package.
        InvalidRequest: it is a binding.
    """
    package = exchange.path.rpartition("/")[0]
    if package and resolve_package(services.entities, exchange.namespace, check_name(package)).binding is not None:
        raise InvalidRequest("Operation not permitted on package binding.")


def _resolve_exec(services: Services, exchange: Exchange, sent: ExecBody, code: SentCode | None) -> WrittenExec:
    """Find out what the `exec` object means, and whether the caller may have it.

    Raises:
        KindNotAllowed: the site does not grant the namespace this kind.
    """
    if normalise_kind(sent.kind) == SEQUENCE:
        own_path = f"{exchange.namespace}/{exchange.path}"
        written = WrittenExec(sequence_exec(services.entities, exchange.identity, sent.components, own_path=own_path), None)
    else:
        written = resolve_exec(sent, code, services.manifest)
    allowed = exchange.identity.namespace.limits.allowed_kinds
    if allowed is not None and written.exec.kind not in allowed:
        raise KindNotAllowed(f"The supplied authentication is not authorized to create actions of kind '{written.exec.kind}'.")
    return written


async def _read_code(services: Services, action: Action) -> bytes | None:
    return None if action.exec.code is None else await services.entities.code.read_utf8(action.exec.code)
