"""An invocation on the short way: from a request to the invoker, and from its end to the reply, without a task.

What is not plain goes the way of every request, `Api.answer`, as if this had not been tried: so each error, and whatever is
rare, has one implementation. Only that the node is busy is told from here, because most requests hear that when it is.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from invoker.entitlement import Resource, Right, authorise
from invoker.http.actions import answer_invocation
from invoker.http.exchange import Reply
from invoker.http.parsing import (
    InvokeOptions,
    accepts_json,
    check_json_type,
    check_namespace,
    parse_invoke_options,
    parse_payload,
)
from invoker.http.services import Services
from invoker.invocation import Accepted202, Call
from invoker.resolve import resolve_action
from invoker.ticket import Ticket
from pool.errors import InvokerError, PoolOverloaded

_log = logging.getLogger(__name__)


class PlainHead(NamedTuple):
    """What the head of a blocking invocation says, where it says nothing unusual. Shared by all requests that begin alike.

    Attributes:
        authorization: the header's value.
        namespace, path: of the action, as in the path of the URL.
        options: how the caller wants to be answered.
        takes_body: whether it may have a body: its type is JSON.
    """

    authorization: str | None
    namespace: str
    path: str
    options: InvokeOptions
    takes_body: bool


def read_plain_head(namespace: str, path: str, query: Mapping[str, str], headers: Mapping[str, str]) -> PlainHead | None:
    """Understand the head of an invocation; None where it is not plain.

    Args:
        namespace: as in the path of the URL.
        path: of the action in it, likewise.
        query: of the URL.
        headers: by name in lower case.
    """
    if "idempotency-key" in headers or not accepts_json(headers.get("accept")):
        return None
    try:
        options = parse_invoke_options(query)
    except InvokerError:
        return None
    if not options.blocking:
        return None
    try:
        check_json_type(headers.get("content-type"))
    except InvokerError:
        return PlainHead(headers.get("authorization"), namespace, path, options, takes_body=False)
    return PlainHead(headers.get("authorization"), namespace, path, options, takes_body=True)


def start_invocation(
    services: Services,
    head: PlainHead,
    body: bytes,
    *,
    transaction: str,
    started: float,
    send: Callable[[Reply, str], None],
    fail: Callable[[InvokerError, str], None],
) -> bool:
    """Begin an invocation.

    Args:
        services: what the API stands on.
        head: of the request.
        body: whole.
        transaction: id of the request.
        started: `time.monotonic()` when the request was there.
        send: gets the reply, with the id of the request, once.
        fail: gets an error instead of it, where the platform failed or has no place for it.

    Returns:
        Whether it has begun; else it is for `Api.answer`.
    """
    if body and not head.takes_body:
        return False
    try:
        identity = services.authenticator.identify(head.authorization)
        payload = parse_payload(body)
        authenticated = time.monotonic()
        caller = identity.namespace
        namespace = caller.name if head.namespace == "_" else head.namespace
        if namespace != caller.name or "/" in head.path:
            authorise(services.entities, identity, Right.ACTIVATE, Resource(check_namespace(namespace), "actions", head.path))
        action, _, binding = resolve_action(services.entities, namespace, head.path)
        services.manifest.check(action.exec.kind)
    except InvokerError:
        return False
    found = services.invoker.find_short(identity, action, payload, head.options.wait_s)
    if found is None:
        return False
    resolved = time.monotonic()
    if not services.admission.admits(caller, services.wall_clock(), services.invoker.in_flight(caller.name)):
        return False
    admitted = time.monotonic()
    call = Call(
        identity=identity,
        action=action,
        payload=payload,
        payload_bytes=len(body),
        transaction=transaction,
        blocking=True,
        wait_s=head.options.wait_s,
        received=started,
        authenticate_us=int((authenticated - started) * 1e6),
        authorise_us=int((admitted - resolved) * 1e6),
        binding=None if binding is None else binding.full_path,
    )

    def answer(ticket: Ticket) -> None:
        if ticket.error is not None:
            fail(ticket.error, transaction)
            return
        outcome = ticket.done or Accepted202(activation_id=ticket.activation_id)
        try:
            reply = answer_invocation(services, outcome, result_only=head.options.result_only)
        except Exception:  # noqa: BLE001 - a bug in one answer must not touch the others: it is logged, and answered
            _log.exception("the answer of activation %s failed [%s]", ticket.activation_id, transaction)
            fail(InvokerError("There was an internal server error."), transaction)
            return
        send(reply, transaction)

    try:
        services.invoker.start_short(call, found, answer)
    except PoolOverloaded as error:
        fail(error, transaction)
    return True
