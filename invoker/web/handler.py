"""A request to a web action, from its URL to its response. Runs as the owner of the namespace in the URL, who is billed."""

from __future__ import annotations

import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
from multidict import CIMultiDict

from invoker.activation import Activation, Status
from invoker.entitlement import Resource, Right, authorise, authorise_components
from invoker.errors import (
    EntityNotFound,
    MethodNotAllowed,
    Unauthenticated,
    WebActionFailed,
    WebAuthRequired,
    WrongCollection,
)
from invoker.http.auth import Authenticator
from invoker.http.exchange import CORS, Reply, Request, microseconds_since, read_body
from invoker.http.limits import BLOCKING_WAIT_MS
from invoker.http.rendering import clean_text
from invoker.http.services import Services
from invoker.invocation import Accepted202, Call
from invoker.model import Action, Identity
from invoker.resolve import ResolvedAction, resolve_action
from invoker.web.arguments import WebRequest, build_arguments
from invoker.web.response import WebResponse, application_error, transcode
from invoker.web.target import WebTarget
from pool.errors import InvokerError

METHODS = ("GET", "DELETE", "POST", "PUT", "HEAD", "OPTIONS", "PATCH")

#: The header that opens an action annotated `require-whisk-auth` with a text or a number.
SECRET_HEADER = "x-require-whisk-auth"  # noqa: S105 - a header's name


@dataclass(frozen=True, slots=True, kw_only=True)
class WebCall:
    """A request to a web action.

    Attributes:
        http: as it came.
        target: which action, and what of the URL is for it.
        transaction: id of the request.
        started: `time.monotonic()` when the request's head was there.
        secret: value for `X-Require-Whisk-Auth` in place of the client's; the API gateway knows it. None: the client's own.
        cors: headers that the API gateway sends where the action does not; None: those that web actions have by themselves.
    """

    http: Request
    target: WebTarget
    transaction: str
    started: float
    secret: str | None = None
    cors: Mapping[str, str] | None = None


async def serve_web_action(services: Services, call: WebCall) -> Reply:
    """Answer a request to a web action. Failures are answered too, in the API's form, indented.

    The order is OpenWhisk's: the owner, the action and whether it is exported, the owner's limits, CORS, `require-whisk-auth`,
    the body's size, its form, reserved names; then the action runs.
    """
    cors: Mapping[str, str] = call.cors or {}
    is_preflight = False
    try:
        owner, found = _find(services, call)
        if call.cors is None and found.action.annotation("web-custom-options") is not True:
            cors = cors_headers(call.http.headers)
            is_preflight = call.http.method == "OPTIONS"
        services.admission.admit(owner.namespace, services.wall_clock(), services.invoker.in_flight(owner.namespace.name))
        reply = await _answer(services, call, owner, found, is_preflight=is_preflight)
    except InvokerError as error:
        reply = Reply.of_error(error, call.transaction)
        reply.cors = False
        reply.body = msgspec.json.format(reply.body, indent=2)
        if reply.status == 503:
            services.on_refused(error.code)
    if cors:
        headers = CIMultiDict(reply.headers)
        headers.extend({name: value for name, value in cors.items() if call.cors is None or name not in headers})
        reply.headers = headers
    return reply


async def _answer(services: Services, call: WebCall, owner: Identity, found: ResolvedAction, *, is_preflight: bool) -> Reply:
    http, limits, action = call.http, services.limits(), found.action
    if is_preflight:
        return Reply(b"", content_type="", cors=False)
    user = caller_of(services.authenticator, http.headers.get("authorization"))
    has_custom_options = http.method == "OPTIONS"
    if not has_custom_options and not _may_call(action, user, call.secret or http.headers.get(SECRET_HEADER)):
        raise WebAuthRequired
    authorised_us = microseconds_since(call.started)
    waited = time.monotonic()
    body = await read_body(http, limits.payload_bytes)
    received = time.monotonic()
    request = WebRequest(
        method=http.method,
        headers=http.headers,
        path=call.target.path,
        query=call.target.query,
        body=body,
        user=None if user is None else user.namespace.name,
    )
    payload = build_arguments(request, action)
    services.manifest.check(action.exec.kind)
    services.admission.check_concurrency(owner.namespace, services.invoker.in_flight(owner.namespace.name))
    outcome = await services.invoker.invoke(
        Call(
            identity=owner,
            action=action,
            payload=payload,
            payload_bytes=len(body),
            transaction=call.transaction,
            blocking=True,
            wait_s=BLOCKING_WAIT_MS / 1000,
            received=call.started + (received - waited),
            authenticate_us=microseconds_since(received),
            authorise_us=authorised_us,
            origin=call.http.origin,
            binding=found.binding_path,
        )
    )
    return _render(call, outcome)


def _render(call: WebCall, outcome: Activation | Accepted202) -> Reply:
    """Make the reply of how the activation ended; whatever it is, it bears the activation's id."""
    activation = ("x-openwhisk-activation-id", str(outcome.activation_id))
    try:
        if isinstance(outcome, Accepted202):
            body = {"error": "Response not yet ready.", "code": call.transaction}
            return Reply(
                msgspec.json.format(msgspec.json.encode(body), indent=2), 202, headers=CIMultiDict([activation]), cors=False
            )
        if outcome.status in {Status.DEVELOPER_ERROR, Status.INTERNAL_ERROR}:
            raise WebActionFailed
        result = application_error(outcome.result) if outcome.status is Status.APPLICATION_ERROR else outcome.result
        response = transcode(call.target.extension, result, call.http.headers.get("accept"))
    except InvokerError as error:
        error.activation_id = outcome.activation_id  # type: ignore[attr-defined] # `Reply.of_error` looks for it on any error
        raise
    return _reply_of(response, activation)


def _reply_of(response: WebResponse, activation: tuple[str, str]) -> Reply:
    return Reply(
        response.body,
        response.status,
        content_type=response.content_type or "",
        headers=CIMultiDict([*response.headers, activation]),
        cors=False,
    )


def _find(services: Services, call: WebCall) -> tuple[Identity, ResolvedAction]:
    """Find the owner, as whom the action runs, and the action.

    Raises:
        EntityNotFound: no such namespace, package or action, or it is not exported; which, is not told.
        NotAuthorised: it is behind a binding, or a sequence, and a package is not published any more.
        MethodNotAllowed: no web action has this method.
    """
    target, entities = call.target, services.entities
    if call.http.method not in METHODS:
        raise MethodNotAllowed(METHODS)
    namespace = entities.get_namespace(target.namespace)
    if namespace is None or namespace.blocked or "/" in target.action or "/" in target.package:
        raise EntityNotFound
    try:
        found = resolve_action(entities, namespace.name, target.entity_path)
    except WrongCollection:
        raise EntityNotFound from None
    if found.action.annotation("web-export") is not True:
        raise EntityNotFound
    owner = Identity(namespace=namespace, api_key=services.authenticator.derived_key(namespace))
    authorise(entities, owner, Right.ACTIVATE, Resource(namespace.name, "actions", target.entity_path))
    authorise_components(entities, owner, found.action)
    return owner, found


def caller_of(authenticator: Authenticator, authorization: str | None) -> Identity | None:
    """Find who calls; None for anybody, as which bad credentials count too."""
    if authorization is None:
        return None
    try:
        return authenticator.identify(authorization)
    except Unauthenticated:
        return None


def _may_call(action: Action, user: Identity | None, secret: str | None) -> bool:
    """Decide by the annotation `require-whisk-auth`: a text or number is a secret, true asks for credentials."""
    if all(entry.key != "require-whisk-auth" for entry in action.annotations):
        return True
    wanted = action.annotation("require-whisk-auth")
    if isinstance(wanted, bool):
        return not wanted or user is not None
    if isinstance(wanted, (str, int, float)):
        return secret is not None and _same(secret, str(wanted))
    return False


def _same(given: str, wanted: str) -> bool:
    """Compare two secrets in a time that does not tell how much of them is the same."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode("utf-8", "replace"))


def cors_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Make the CORS headers that web actions have by themselves: any page may call them, with the headers it asks for."""
    asked = headers.get("access-control-request-headers")
    return {
        "Access-Control-Allow-Origin": "*",
        "Access-Control-Allow-Methods": "OPTIONS, GET, DELETE, POST, PUT, HEAD, PATCH",
        "Access-Control-Allow-Headers": clean_text(asked) if asked else CORS["Access-Control-Allow-Headers"],
    }
