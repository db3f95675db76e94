"""Requests to the APIs of the gateway: `/api/NAMESPACE/BASE-PATH/PATH` to the web action behind it.

The web action runs as it does behind its own URL: the owner of its namespace is billed, `require-whisk-auth` is asked for, which
the API knows. CORS is the API's: where it is enabled any page may call it, else only what the action itself sends counts.
"""

from __future__ import annotations

from collections.abc import Sequence

from invoker.errors import MethodNotAllowed, NoApi
from invoker.gateway.model import PREFIX, UNSERVABLE_NAMESPACES, Api, Backend
from invoker.http.exchange import Reply, Request
from invoker.http.services import Services
from invoker.web.handler import WebCall, cors_headers, serve_web_action
from invoker.web.target import WebTarget
from pool.errors import InvokerError


def find_apis(services: Services, segments: Sequence[str]) -> Sequence[Api]:
    """Find the APIs of the namespace that a path names; none where it names none, or that has none."""
    if len(segments) < 3 or segments[0] != PREFIX or segments[1] in UNSERVABLE_NAMESPACES:
        return ()
    namespace = services.entities.get_namespace(segments[1])
    return () if namespace is None or namespace.blocked else services.apis.list(namespace.uuid)


async def serve_api(services: Services, request: Request, apis: Sequence[Api], *, transaction: str, started: float) -> Reply:
    """Answer a request to one of a namespace's APIs; of several that its path is in, to the one with the longest base path."""
    path, _, query = request.target.partition("?")
    below = "/" + "/".join(path.split("/")[3:])
    found = [(api, within) for api in apis if (within := api.within(below)) is not None]
    if not found:
        return _refusal(NoApi(), transaction, {})
    api, within = max(found, key=lambda each: len(each[0].base_path.strip("/")))
    cors = cors_headers(request.headers) if api.cors else {}
    template = api.find(within)
    if template is None:
        return _refusal(NoApi(f"The API '{api.name}' has no path '{within}'."), transaction, cors)
    methods = sorted(template.operations)
    if api.cors:
        cors["Access-Control-Allow-Methods"] = ", ".join(sorted({*methods, "OPTIONS"}))
    backend = template.operations.get(request.method)
    if backend is None:
        if request.method == "OPTIONS" and api.cors:
            return Reply(b"", content_type="", headers=cors, cors=False)
        return _refusal(MethodNotAllowed(methods), transaction, cors)
    call = WebCall(
        http=request,
        target=_target(backend, within, query),
        transaction=transaction,
        started=started,
        secret=backend.secret,
        cors=cors,
    )
    return await serve_web_action(services, call)


def _target(backend: Backend, within: str, query: str) -> WebTarget:
    return WebTarget(
        namespace=backend.namespace,
        package=backend.package,
        action=backend.action,
        extension=backend.extension,
        path=within if backend.passes_path else "",
        query=query,
    )


def _refusal(error: InvokerError, transaction: str, cors: dict[str, str]) -> Reply:
    reply = Reply.of_error(error, transaction)
    reply.headers = {**reply.headers, **cors}
    reply.cors = False
    return reply
