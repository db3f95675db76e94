"""What OpenWhisk's operators ask a controller for beside its invokers: what is in flight, and to be taken out of service."""

from __future__ import annotations

import hmac

from invoker.errors import BadCredentials
from invoker.http.auth import basic_credentials
from invoker.http.exchange import TEXT, Reply, Request
from invoker.http.rendering import render
from invoker.http.services import Services

DISABLE = ("disable",)


def get_in_flight(services: Services) -> Reply:
    """`GET /activation`: ids of all activations that have not ended, parts of sequences too. What they are is not told."""
    return Reply(render(list(services.invoker.ids_in_flight())), cors=False)


def count_in_flight(services: Services) -> Reply:
    """`GET /activation/count`: how many these are."""
    return Reply(render(len(services.invoker.ids_in_flight())), cors=False)


async def disable(services: Services, request: Request) -> Reply:
    """`POST /disable`: refuse all calls from now on, until the daemon is started anew; what is in flight ends.

    Raises:
        Unauthenticated: no credentials.
        BadCredentials: others than the configuration's, or it has none.
    """
    given = basic_credentials(request.headers.get("authorization", ""))
    if services.operator_credentials is None or not hmac.compare_digest(given, services.operator_credentials.encode()):
        raise BadCredentials("The username or password is wrong.")
    await services.disable()
    return Reply(b"controller is disabled", content_type=TEXT, cors=False)
