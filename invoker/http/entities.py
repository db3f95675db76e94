"""What the handlers of all collections share: finding, listing, the fields that every entity has."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from invoker.errors import EntityCorrupted, EntityExists, EntityNotFound, NotAuthorised, WrongCollection
from invoker.http.bodies import EntityBody, next_patch
from invoker.http.exchange import Exchange, Reply
from invoker.http.parsing import boolean, check_name, parse_page
from invoker.http.rendering import render, render_count
from invoker.http.services import Services
from invoker.model import Collection, Entity

E = TypeVar("E", bound=Entity)
B = TypeVar("B", bound=EntityBody)


def find(services: Services, exchange: Exchange, kind: type[E]) -> E:
    """Find the entity that the path names.

    Raises:
        InvalidName: it could not exist.
        EntityNotFound, WrongCollection: it does not.
    """
    entity = services.entities.get(exchange.namespace, exchange.path)
    if isinstance(entity, kind):
        return entity
    for segment in exchange.path.split("/"):
        check_name(segment)
    raise EntityNotFound if entity is None else WrongCollection


def find_replaced(services: Services, exchange: Exchange, kind: type[E]) -> E | None:
    """Find what a PUT would replace; None when it would create.

    Raises:
        WrongCollection: the name belongs to something else.
        EntityExists: it is there, and `overwrite` was not said.
        EntityCorrupted: it is there, cannot be read, and `overwrite` was not said.
    """
    try:
        entity = services.entities.get(exchange.namespace, exchange.path)
    except EntityCorrupted:  # its row is kept aside: it may be written anew
        if not boolean(exchange.query, "overwrite"):
            raise
        return None
    if entity is None:
        return None
    if not isinstance(entity, kind):
        raise WrongCollection
    if not boolean(exchange.query, "overwrite"):
        raise EntityExists
    return entity


def check_shown(services: Services, exchange: Exchange, owner: str) -> None:
    """Refuse to show what is another namespace's, where the site has shared packages only run.

    Args:
        services: the parts.
        exchange: the request.
        owner: of what would be shown, wherever the path leads through.

    Raises:
        NotAuthorised: naming the resource.
    """
    if services.limits().shared_packages_execute_only and owner != exchange.identity.namespace.name:
        raise NotAuthorised.for_resource(f"{exchange.namespace}/{exchange.path}")


def check_put(exchange: Exchange) -> None:
    """Refuse a PUT that could mean nothing, before its body is read.

    Raises:
        InvalidName: of an entity that could not exist.
        MalformedQuery: `overwrite` is no boolean.
    """
    boolean(exchange.query, "overwrite")
    for segment in exchange.path.split("/"):
        check_name(segment)


def list_page(
    services: Services,
    exchange: Exchange,
    collection: Collection,
    document: Callable[[Any], dict[str, Any]],
    *,
    namespace: str | None = None,
    package: str | None = None,
) -> Reply:
    """Answer with a page of a list, last written first, or with its length. Nothing is scanned.

    Args:
        services: the parts.
        exchange: the request.
        collection: what is listed.
        document: makes the entry of an entity.
        namespace: whose; None is the path's.
        package: as `Entities.list`.

    Raises:
        MalformedQuery: limit, skip or count.
    """
    page = parse_page(exchange.query, collection.value)
    namespace = namespace or exchange.namespace
    if page.count:
        total = services.entities.count(namespace, collection, package)
        return Reply(render_count(collection.value, max(total - page.skip, 0)))
    found = services.entities.list(namespace, collection, limit=page.limit, skip=page.skip, package=package)
    return Reply(render([document(entity) for entity in found]))


def seal(services: Services, exchange: Exchange, body: B, old: Entity | None) -> B:
    """Encrypt the parameters of a body, where they, the site, or what is replaced want that.

    Args:
        services: the parts.
        exchange: the request.
        body: as sent.
        old: what it is written over; None for a new entity.

    Raises:
        SealedElsewhere: one is encrypted already, and not here.
    """
    if not body.parameters:
        return body
    replaced = () if old is None else old.parameters
    return dataclasses.replace(body, parameters=services.vault.seal(exchange.namespace, body.parameters, replaced=replaced))


def shown(services: Services, exchange: Exchange, entity: E) -> E:
    """Make of an entity what its document shows the caller: his own encrypted parameters are opened, others' stay as they are."""
    parameters = services.vault.show(exchange.identity.namespace.name, entity.parameters)
    return entity if parameters is entity.parameters else msgspec.structs.replace(entity, parameters=parameters)


def written_fields(old: Entity | None, body: EntityBody, now_ms: int) -> dict[str, Any]:
    """Make what a write sets on any entity: identity, version, time, and parameters and annotations replaced as a whole.

    Args:
        old: what is replaced; None for a new one.
        body: what is not given in it stays.
        now_ms: wall clock; `updated` grows with each write, though the clock go back.
    """
    fields: dict[str, Any] = {"revision": new_revision()}
    if old is None:
        fields |= {
            "version": body.version or "0.0.1",
            "publish": bool(body.publish),
            "updated": now_ms,
            "parameters": body.parameters or (),
            "annotations": body.annotations or (),
        }
    else:
        fields |= {
            "version": body.version or next_patch(old.version),
            "publish": old.publish if body.publish is None else body.publish,
            "updated": max(now_ms, old.updated + 1),
            "parameters": old.parameters if body.parameters is None else body.parameters,
            "annotations": old.annotations if body.annotations is None else body.annotations,
        }
    return fields


def new_revision() -> str:
    """Make the revision of a write."""
    return os.urandom(16).hex()


def now_ms(services: Services) -> int:
    """Wall clock, milliseconds."""
    return int(services.wall_clock() * 1000)
