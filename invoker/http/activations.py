"""The activations of the API: list, read, logs, result."""

from __future__ import annotations

from collections.abc import Sequence

from invoker.activation import Activation
from invoker.errors import EntityNotFound, NoRoute
from invoker.http.exchange import Exchange, Reply
from invoker.http.parsing import check_activation_id, parse_activation_filter, parse_page
from invoker.http.rendering import (
    activation_document,
    activation_summary,
    render,
    render_activation,
    render_count,
    render_logs,
    render_response,
)
from invoker.http.services import Services
from invoker.model import Identity


async def list_activations(services: Services, exchange: Exchange) -> Reply:
    """GET of the collection: summaries, whole records with `?docs=true`, or their number."""
    page = parse_page(exchange.query, "activations")
    wanted = parse_activation_filter(exchange.query)
    records = services.activations
    if page.count:
        count = await records.count(
            exchange.namespace, name=wanted.name, since_ms=wanted.since_ms, upto_ms=wanted.upto_ms, skip=page.skip
        )
        return Reply(render_count("activations", count))
    found = await records.list(
        exchange.namespace,
        name=wanted.name,
        since_ms=wanted.since_ms,
        upto_ms=wanted.upto_ms,
        limit=page.limit,
        skip=page.skip,
    )
    if not wanted.docs:
        return Reply(render([activation_summary(each, services.price) for each in found]))
    return Reply(render([activation_document(each, await _logs(services, each), services.price) for each in found]))


async def get_activation(services: Services, exchange: Exchange) -> Reply:
    """GET: the whole record."""
    activation = await _find(services, exchange, exchange.path.removesuffix("/"))
    return Reply(render_activation(activation, await _logs(services, activation), services.price))


async def cancel_activation(services: Services, identity: Identity, activation_id: str) -> Reply:
    """`POST /invokerd/v1/activations/ID/cancel`: what is queued never runs, what runs is killed and billed to this moment.

    Raises:
        EntityNotFound: unknown, another namespace's, or ended already.
    """
    name = check_activation_id(activation_id)
    was = services.invoker.cancel(name, namespace=identity.namespace.name)
    if was is None:
        raise EntityNotFound(f"No activation {name} is in flight: it is unknown, or has ended already.")
    await services.invoker.wait_recorded(name)
    return Reply(render({"activation_id": name, "was": was}))


async def get_activation_part(services: Services, exchange: Exchange) -> Reply:
    """GET of `ID/logs` or `ID/result`."""
    activation_id, _, part = exchange.path.partition("/")
    if part not in ("logs", "result"):
        raise NoRoute
    activation = await _find(services, exchange, activation_id)
    if part == "result":
        return Reply(render_response(activation))
    return Reply(render_logs(await _logs(services, activation)))


async def _find(services: Services, exchange: Exchange, text: str) -> Activation:
    """Find a record of the caller.

    Raises:
        InvalidRequest: the id could not be one.
        EntityNotFound: no record has it, or not yet: clients ask again.
    """
    activation = await services.activations.get(exchange.namespace, check_activation_id(text))
    if activation is None:
        raise EntityNotFound
    return activation


async def _logs(services: Services, activation: Activation) -> Sequence[str]:
    if activation.composition is not None:
        return activation.composition.parts
    return await services.activations.get_logs(activation.namespace, activation.activation_id) or ()
