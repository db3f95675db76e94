"""The HTTP API of OpenWhisk: from a request to a handler, and from its reply or its failure to a response.

It is an aiohttp low-level server, not an application: one envelope around one table of routes, because the answers of a
framework to what it does not know (404, 405, 500, ...) are not those of the API, and a warm call should not pay for them.
A client that hangs up changes nothing: handlers are not cancelled.
"""

from __future__ import annotations

import functools
import logging
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler

from invoker.entitlement import Resource, Right, authorise
from invoker.errors import BadHttp, InvalidName, MethodNotAllowed, NoRoute, NotAcceptable
from invoker.gateway.management import is_management, manage_apis
from invoker.gateway.serve import find_apis, serve_api
from invoker.http import node as api_node
from invoker.http.actions import delete_action, get_action, invoke_action, list_actions, put_action
from invoker.http.activations import cancel_activation, get_activation, get_activation_part, list_activations
from invoker.http.exchange import TEXT, AiohttpRequest, Exchange, Reply, Request
from invoker.http.fire import fire_trigger
from invoker.http.forwarding import answer_forwarding, is_forwarding
from invoker.http.limits import KEY_LENGTH
from invoker.http.operators import DISABLE, count_in_flight, disable, get_in_flight
from invoker.http.packages import delete_package, get_package, list_packages, put_package
from invoker.http.parsing import accepts_json, check_namespace, split_target
from invoker.http.rules import delete_rule, get_rule, list_rules, put_rule, set_rule_status
from invoker.http.sdk import get_docker_kit
from invoker.http.services import Services
from invoker.http.short import PlainHead, read_plain_head, start_invocation
from invoker.http.triggers import delete_trigger, get_trigger, list_triggers, put_trigger
from invoker.web.handler import WebCall, serve_web_action
from invoker.web.target import parse_web_target
from pool.errors import InvokerError, PoolOverloaded
from pool.model import ContainerId

_log = logging.getLogger(__name__)
#: Ids of requests are unique, not secret: no system call for each.
_random_bits = random.Random(secrets.token_bytes(32)).getrandbits  # noqa: S311

Handler = Callable[[Services, Exchange], Awaitable[Reply]]
_Public = Callable[[Services], Reply]

#: Without credentials, GET only. The segments of a path are its key.
PUBLIC: dict[tuple[str, ...], _Public] = {
    ("",): api_node.get_root,
    ("ping",): api_node.get_ping,
    ("health",): api_node.get_health,
    ("ready",): api_node.get_ready,
    ("invokers",): api_node.get_invokers,
    ("invokers", "healthy", "count"): api_node.get_healthy_count,
    ("invokers", "ready"): api_node.get_invokers_ready,
    ("activation",): get_in_flight,
    ("activation", ""): get_in_flight,
    ("activation", "count"): count_in_flight,
    ("blackbox.tar.gz",): get_docker_kit,
    ("api", "v1"): api_node.get_api_info,
    ("api", "v1", ""): api_node.get_api_info,
    ("api", "v1", "api-docs"): api_node.get_swagger,
    ("api", "v1", "openapi.json"): api_node.get_openapi,
    ("api", "v1", "docs"): api_node.get_docs,
    ("api", "v1", "docs", "index.html"): api_node.get_docs_page,
}

_LONGEST_PUBLIC = max(map(len, PUBLIC))
#: How paths begin that are no part of the API which containers reach through their doors.
_FOR_OPERATORS = (("activation",), DISABLE)

#: Below `/api/v1/namespaces/NS`: (collection, shape of what follows it, method). See `_shape_of`.
ROUTES: dict[tuple[str, str, str], Handler] = {
    ("actions", "", "GET"): list_actions,
    ("actions", "name/", "GET"): list_actions,
    **{
        ("actions", shape, method): handler
        for shape in ("name", "name/name")
        for method, handler in {
            "GET": get_action,
            "PUT": put_action,
            "DELETE": delete_action,
            "POST": invoke_action,
        }.items()
    },
    ("activations", "", "GET"): list_activations,
    ("activations", "name", "GET"): get_activation,
    ("activations", "name/", "GET"): get_activation,
    ("activations", "name/name", "GET"): get_activation_part,
    ("triggers", "name", "POST"): fire_trigger,
    ("limits", "", "GET"): api_node.get_limits,
    ("limits", "name", "GET"): api_node.refuse_limit,
    ("packages", "", "GET"): list_packages,
    ("packages", "name", "GET"): get_package,
    ("packages", "name", "PUT"): put_package,
    ("packages", "name", "DELETE"): delete_package,
    ("triggers", "", "GET"): list_triggers,
    ("triggers", "name", "GET"): get_trigger,
    ("triggers", "name", "PUT"): put_trigger,
    ("triggers", "name", "DELETE"): delete_trigger,
    ("rules", "", "GET"): list_rules,
    ("rules", "name", "GET"): get_rule,
    ("rules", "name", "PUT"): put_rule,
    ("rules", "name", "DELETE"): delete_rule,
    ("rules", "name", "POST"): set_rule_status,
}

#: What OpenWhisk's API has no place for: `POST /invokerd/v1/activations/ID/cancel`.
OWN_ACTIVATIONS = ("invokerd", "v1", "activations")

_OPTIONS_REST = Reply(b"OK", content_type=TEXT)
_OPTIONS_ROOT = Reply(
    b"OK",
    content_type=TEXT,
    headers={
        "Access-Control-Allow-Origin": "*",
        "Access-Control-Allow-Headers": "Authorization, Origin, X-Requested-With, Content-Type, Accept, User-Agent",
        "Access-Control-Allow-Methods": "OPTIONS, GET, POST",
    },
    cors=False,
)


def build_server(services: Services, *, keep_alive_s: float = 75.0) -> web.Server:
    """Build aiohttp's lane alone; `web.ServerRunner` with TCP, Unix or passed sockets runs it. Call within a running loop.

    Args:
        services: all that it stands on.
        keep_alive_s: after how long an idle connection is closed.
    """
    return AiohttpLane(Api(services), keep_alive_s=keep_alive_s)


class Api:
    """The envelope and the router."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def serve(self, http: web.BaseRequest) -> web.Response:
        """Answer one request that came through aiohttp."""
        reply, transaction = await self.answer(AiohttpRequest(http))
        return reply.to_response(transaction)

    async def answer(self, request: Request) -> tuple[Reply, str]:
        """Answer one request, whatever happens: the reply, and the id of the request."""
        started = time.monotonic()
        transaction = _transaction_of(request)
        try:
            reply = await self._route(request, transaction, started)
        except InvokerError as error:
            reply = self.refuse(request, error, transaction)
        except Exception:  # noqa: BLE001 - a bug in one request must not touch the others: it is logged, and answered
            _log.exception("%s %s failed [%s]", request.method, request.target, transaction)
            reply = Reply.of_error(InvokerError("There was an internal server error."), transaction)
        return reply, transaction

    def start_short(self, request: Request, head: PlainHead, send: Callable[[Reply, str], None]) -> bool:
        """Begin an invocation on the short way, whole body included.

        Args:
            request: it stays in flight until `send` was called.
            head: of the request.
            send: gets the reply and the id of the request, once.

        Returns:
            Whether it has begun; else it is for `answer`.
        """

        def fail(error: InvokerError, transaction: str) -> None:
            send(self.refuse(request, error, transaction), transaction)

        return start_invocation(
            self._services,
            head,
            request.take_body(),
            transaction=_transaction_of(request),
            started=time.monotonic(),
            send=send,
            fail=fail,
        )

    def refuse(self, request: Request, error: InvokerError, transaction: str) -> Reply:
        """Answer a failure, and let the operator know of those that are ours."""
        reply = Reply.of_error(error, transaction)
        if reply.status >= 500 and not isinstance(error, PoolOverloaded):  # those come in thousands
            _log.warning("%s %s: %s (%s) [%s]", request.method, request.target, error, error.code, transaction)
        if reply.status == 503:
            self._services.on_refused(error.code)
        return reply

    async def _route(self, request: Request, transaction: str, started: float) -> Reply:
        services, method = self._services, request.method
        segments, query = split_target(request.target)
        route = _usual_route(segments, method)
        if route is None:
            if segments[2:3] != ("namespaces",) and (answering := self._elsewhere(request, segments, transaction, started)):
                return await answering
            if (reply := await self._outside_of_namespaces(request, segments)) is not None:
                return reply
        identity = services.authenticator.identify(request.headers.get("authorization"))
        own = identity.namespace.name
        if route is None:
            listing = segments[2:] in (("namespaces",), ("namespaces", "")) and method == "GET"
            route = _Route(api_node.list_namespaces, own, "namespaces", "") if listing else _match(segments, method)
        handler, namespace, collection, path = route
        if namespace == "_":
            namespace = own
        exchange = Exchange(
            http=request,
            transaction=transaction,
            identity=identity,
            namespace=namespace,
            collection=collection,
            path=path,
            query=query,
            started=started,
        )
        authenticated = time.monotonic()
        exchange.authenticate_us = int((authenticated - started) * 1e6)
        if handler is invoke_action:
            services.admission.admit(identity.namespace, services.wall_clock(), services.invoker.in_flight(own))
        elif handler is fire_trigger:
            services.admission.admit_fire(identity.namespace, services.wall_clock())
        if namespace != own or "/" in path or collection == "packages":  # else it is the caller's own, and needs no look-up
            authorise(services.entities, identity, Right(method), Resource(check_namespace(namespace), collection, path))
        if not accepts_json(request.headers.get("accept")):
            raise NotAcceptable
        exchange.authorised = time.monotonic()
        exchange.authorise_us = int((exchange.authorised - authenticated) * 1e6)
        return await handler(services, exchange)

    def _elsewhere(self, request: Request, segments: Sequence[str], transaction: str, started: float) -> Awaitable[Reply] | None:
        """Let a web action, or an API of the gateway, answer; None where the path is of neither."""
        services = self._services
        if segments[:3] == ("api", "v1", "web") and (target := parse_web_target(request.target)) is not None:
            call = WebCall(http=request, target=target, transaction=transaction, started=started)
            return manage_apis(services, call) if is_management(target) else serve_web_action(services, call)
        if apis := find_apis(services, segments):
            return serve_api(services, request, apis, transaction=transaction, started=started)
        return None

    async def _outside_of_namespaces(self, request: Request, segments: Sequence[str]) -> Reply | None:
        """Answer what is no resource of a namespace; None for what is one.

        Raises:
            MethodNotAllowed: nothing of ours.
        """
        services, method = self._services, request.method
        if request.origin is not None and tuple(segments[:1]) in _FOR_OPERATORS:
            raise MethodNotAllowed(["OPTIONS"])
        public = PUBLIC.get(tuple(segments)) if len(segments) <= _LONGEST_PUBLIC else None
        in_api = tuple(segments[:2]) == ("api", "v1")
        if method == "OPTIONS":
            return _OPTIONS_REST if in_api else _OPTIONS_ROOT
        if public is not None and method == "GET":
            return public(services)
        if (tuple(segments[:3]), tuple(segments[4:]), method) == (OWN_ACTIVATIONS, ("cancel",), "POST"):
            identity = services.authenticator.identify(request.headers.get("authorization"))
            return await cancel_activation(services, identity, segments[3])
        if tuple(segments) == DISABLE and method == "POST":
            return await disable(services, request)
        if is_forwarding(segments, method):
            return await answer_forwarding(services, request, segments)
        if not in_api or method == "TRACE":
            raise MethodNotAllowed(["OPTIONS"] if public is None else ["OPTIONS", "GET"])
        return None


class _Route(NamedTuple):
    """Where a request goes.

    Attributes:
        namespace: as in the path.
        path: within the collection; `package/` for the actions of a package.
    """

    handler: Handler
    namespace: str
    collection: str
    path: str


@functools.lru_cache(maxsize=1024)
def _match(segments: tuple[str, ...], method: str) -> _Route:
    """Find the route of a path below `/api/v1`. Calls repeat themselves: results are kept.

    Raises:
        NoRoute: none; a method that a path does not have is no route either.
        InvalidName: a slash in a name.
    """
    if len(segments) < 5 or segments[2] != "namespaces" or not segments[3]:
        raise NoRoute
    namespace, collection, rest = segments[3], segments[4], segments[5:]
    if collection == "actions" and len(rest) == 1 and namespace.count("/") == 1:
        # `/namespaces/ns%2Fpackage/actions/name`: what clients send who take an entry of a list for the name of the action.
        namespace, _, package = namespace.partition("/")
        rest = (package, *rest)
    handler = ROUTES.get((collection, _shape_of(rest), method))
    if handler is None:
        raise NoRoute
    if any("/" in segment for segment in rest):
        raise InvalidName  # a slash that came encoded divides nothing
    path = "/".join(segment for segment in rest if segment)
    return _Route(handler, namespace, collection, f"{path}/" if handler is list_actions and path else path)


@functools.lru_cache(maxsize=1024)
def _usual_route(segments: tuple[str, ...], method: str) -> _Route | None:
    """Find the route of what is certainly a resource of a namespace; None means: look closer."""
    if segments[:3] != ("api", "v1", "namespaces") or method in {"OPTIONS", "TRACE"}:
        return None
    try:
        return _match(segments, method)
    except (NoRoute, InvalidName):
        return None


def _shape_of(rest: Sequence[str]) -> str:
    """Shape of what follows a collection: nothing (or a slash), `name`, `name/`, `name/name`; else none that is routed."""
    match rest:
        case [] | [""]:
            return ""
        case [name] if name:
            return "name"
        case [name, ""] if name:
            return "name/"
        case [name, other] if name and other:
            return "name/name"
    return "none"


def _transaction_of(request: Request) -> str:
    """Take over the client's id of a request where it gave one that can be used, else make one of 32 characters."""
    given = request.headers.get("x-request-id")
    if given and not given.startswith("sid_") and len(given) <= KEY_LENGTH and given.isascii() and given.isprintable():
        return given
    return f"{_random_bits(128):032x}"


def plain_head_of(target: str, headers: Mapping[str, str]) -> PlainHead | None:
    """Understand the head of a POST that may go the short way; None where it is none."""
    segments, query = split_target(target)
    route = _usual_route(segments, "POST")
    if route is None or route.handler is not invoke_action:
        return None
    return read_plain_head(route.namespace, route.path, query, headers)


class _Protocol(RequestHandler):
    """aiohttp's connection, but what is no HTTP is answered in the API's form too.

    Attributes:
        origin: the container whose door it came through; None when it came from outside.
    """

    __slots__ = ("origin",)

    def __init__(self, *arguments: Any, origin: ContainerId | None = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.origin = origin

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Answer what never reached the envelope, and close the connection."""
        if request.writer.output_size > 0:
            raise ConnectionError("part of a response is sent already: no other one can be")
        if status >= 500:
            _log.error("the connection failed: %s", message, exc_info=exc)
        if isinstance(exc, LineTooLong):  # its message quotes the line
            message = "its first line, or one of its headers, is longer than 8190 bytes"
        error: InvokerError = BadHttp(f"The request is not well-formed HTTP: {message}") if status < 500 else InvokerError()
        transaction = f"{_random_bits(128):032x}"
        response = Reply.of_error(error, transaction).to_response(transaction)
        response.force_close()
        return response


class AiohttpLane(web.Server):
    """aiohttp's server, making connections of our own kind."""

    def __init__(self, api: Api, *, keep_alive_s: float) -> None:
        self._options: dict[str, Any] = {"keepalive_timeout": keep_alive_s, "access_log": None}
        super().__init__(api.serve, **self._options)

    def __call__(self, origin: ContainerId | None = None) -> RequestHandler:
        """Make the protocol of one connection."""
        return _Protocol(self, origin=origin, loop=self._loop, **self._options)
