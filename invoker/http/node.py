"""What the API tells of the node and of the caller's namespace."""

from __future__ import annotations

import functools

from invoker.errors import InvalidRequest
from invoker.health import Health
from invoker.http.description.openapi import build_openapi
from invoker.http.description.page import build_page
from invoker.http.description.swagger import build_swagger
from invoker.http.exchange import TEXT, Exchange, Reply
from invoker.http.rendering import render, render_api_info, render_health, render_limits, render_root
from invoker.http.services import Services

# --- without credentials ----------------------------------------------------------------------------------------------


def get_root(services: Services) -> Reply:
    """`GET /`: limits, and kinds with their defaults."""
    return Reply(render_root(services.manifest, services.limits(), services.support), cors=False)


def get_api_info(services: Services) -> Reply:
    """`GET /api/v1`: what is served here."""
    return Reply(render_api_info(services.build, services.build_number))


def get_swagger(services: Services) -> Reply:
    """`GET /api/v1/api-docs`: the API's description as Swagger 2.0."""
    return Reply(_swagger(services.build_number))


def get_openapi(services: Services) -> Reply:
    """`GET /api/v1/openapi.json`: the API's description as OpenAPI 3.1."""
    return Reply(_openapi(services.public_url, services.build_number))


def get_docs(_: Services) -> Reply:
    """`GET /api/v1/docs`: to the page."""
    return Reply(b"", 308, content_type="", headers={"Location": "docs/index.html?url=/api/v1/api-docs"})


def get_docs_page(services: Services) -> Reply:
    """`GET /api/v1/docs/index.html`: the API's description for people."""
    return Reply(_page(services.build_number), content_type="text/html; charset=UTF-8")


@functools.cache
def _swagger(version: str) -> bytes:
    return render(build_swagger(version))


@functools.cache
def _openapi(public_url: str, version: str) -> bytes:
    return render(build_openapi(public_url, version))


@functools.cache
def _page(version: str) -> bytes:
    return build_page(version).encode()


def get_ping(_: Services) -> Reply:
    """`GET /ping`: the process answers."""
    return Reply(b"pong", content_type=TEXT, cors=False)


def get_health(services: Services) -> Reply:
    """`GET /health`: 200 while nothing needs an operator, else 503 and what it is."""
    return _tell(services.health())


def get_ready(services: Services) -> Reply:
    """`GET /ready`: 200 while calls are accepted, else 503 and why not."""
    return _tell(services.ready())


def get_invokers(services: Services) -> Reply:
    """`GET /invokers`: OpenWhisk's operators look here; this node is its only invoker."""
    return Reply(render({"invoker0/0": "up" if services.ready().ok else "unhealthy"}), cors=False)


def get_healthy_count(services: Services) -> Reply:
    """`GET /invokers/healthy/count`: 1, or 0 while no calls are accepted."""
    return Reply(render(int(services.ready().ok)), cors=False)


def get_invokers_ready(services: Services) -> Reply:
    """`GET /invokers/ready`: 200 while calls are accepted, else 500, as OpenWhisk has it."""
    if services.ready().ok:
        return Reply(render({"healthy": "1/1"}), cors=False)
    return Reply(render({"unhealthy": "0/1"}), 500, cors=False)


def _tell(health: Health) -> Reply:
    return Reply(render_health(health), 200 if health.ok else 503, cors=False)


# --- of the caller's namespace ----------------------------------------------------------------------------------------


async def list_namespaces(_: Services, exchange: Exchange) -> Reply:
    """`GET /namespaces`: the one that the credentials open."""
    return Reply(render([exchange.identity.namespace.name]))


async def get_limits(services: Services, exchange: Exchange) -> Reply:
    """`GET NS/limits`: what its actions may ask for, and how often it may call."""
    namespace, admission = exchange.identity.namespace, services.admission
    return Reply(
        render_limits(
            services.limits(),
            namespace.limits,
            invocations=admission.invocations_per_minute(namespace),
            concurrent=admission.concurrent_invocations(namespace),
            fires=admission.fires_per_minute(namespace),
            cpu_s=admission.cpu_seconds_per_window(namespace),
        )
    )


async def refuse_limit(_: Services, exchange: Exchange) -> Reply:
    """`GET NS/limits/NAME`: limits are one document."""
    raise InvalidRequest(f"Limits have no entities: '{exchange.path}' cannot be read on its own.")
