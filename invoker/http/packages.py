"""The packages of the API: folders of actions, and bindings, which stand for a folder. Each handler parses, calls, renders."""

from __future__ import annotations

import msgspec

from invoker.entitlement import Resource, Right, authorise
from invoker.errors import EntityConflict, EntityNotFound, InvalidRequest, WrongCollection
from invoker.http.bodies import PackageBody, parse_package
from invoker.http.documents import package_contents, package_document, package_entry
from invoker.http.entities import (
    check_put,
    check_shown,
    find,
    find_replaced,
    list_page,
    now_ms,
    seal,
    shown,
    written_fields,
)
from invoker.http.exchange import Exchange, Reply
from invoker.http.limits import REQUEST_BYTES
from invoker.http.parsing import boolean, check_name, check_namespace
from invoker.http.rendering import render
from invoker.http.services import Services
from invoker.http.sizes import check_sizes
from invoker.model import PUBLISHED, Action, Annotation, Binding, Collection, Package
from invoker.resolve import resolve_package

#: In paths of web actions it means the actions that are in no package.
_RESERVED = "default"


async def list_packages(services: Services, exchange: Exchange) -> Reply:
    """GET of the collection: one's own packages and bindings; of another namespace the published packages."""
    own = exchange.namespace == exchange.identity.namespace.name
    return list_page(services, exchange, Collection.PACKAGES, package_entry, package=None if own else PUBLISHED)


async def get_package(services: Services, exchange: Exchange) -> Reply:
    """GET: a package with what is in it; a binding with the provider's actions, and parameters over the provider's."""
    try:
        package = find(services, exchange, Package)
    except EntityNotFound:
        raise EntityNotFound.named(f"{exchange.namespace}/{exchange.path}") from None
    resolved = resolve_package(services.entities, exchange.namespace, exchange.path)
    check_shown(services, exchange, resolved.package.namespace)
    parameters = services.vault.show(exchange.identity.namespace.name, resolved.parameters)
    document = package_document(package, parameters=parameters)
    return Reply(render(document | package_contents(_actions_of(services, resolved.package))))


async def put_package(services: Services, exchange: Exchange) -> Reply:
    """PUT: create a package or a binding, or with `?overwrite=true` write it anew."""
    check_put(exchange)
    if exchange.path == _RESERVED:
        raise InvalidRequest(f"Package name '{_RESERVED}' is reserved.")
    body = await services.apart.read(parse_package, check_sizes, await exchange.read_json(REQUEST_BYTES, required=True))
    binding = None if body.binding is None else _resolve(body.binding, exchange)
    if binding is not None:
        authorise(services.entities, exchange.identity, Right.READ, Resource(binding.namespace, "packages", binding.name))
    old = find_replaced(services, exchange, Package)
    if old is not None and binding is not None and old.binding is None:
        raise EntityConflict("Resource is a package and cannot be converted into a binding.")
    if binding is not None:
        _check_target(services, binding)
    body = seal(services, exchange, body, old)
    package = write_package(old, body, binding=binding, namespace=exchange.namespace, name=exchange.path, now=now_ms(services))
    await services.entities.put(package, expected_revision=None if old is None else old.revision)
    return Reply(render(package_document(shown(services, exchange, package))))


async def delete_package(services: Services, exchange: Exchange) -> Reply:
    """DELETE: answers with the package as it was. With `?force=true` what is in it goes first."""
    force = boolean(exchange.query, "force")
    package = find(services, exchange, Package)
    while contents := _actions_of(services, package):
        if not force:
            entities = "1 entity" if len(contents) == 1 else f"{len(contents)} entities"
            raise EntityConflict(f"Package not empty (contains {entities}). Set force param or delete package contents.")
        for action in contents:
            await services.entities.delete(action)
    await services.entities.delete(package)  # at once after it was seen to be empty: nothing comes in between
    return Reply(render(package_document(shown(services, exchange, package))))


def write_package(
    old: Package | None, body: PackageBody, *, binding: Binding | None, namespace: str, name: str, now: int
) -> Package:
    """Make a new package, or the next version of one. A binding stays one; it may be pointed elsewhere.

    Args:
        old: what is replaced; None for a new one.
        body: what the client sent, sizes checked.
        binding: resolved and checked; None where the body has none.
        namespace: the owner.
        name: within it.
        now: wall clock, milliseconds.
    """
    if binding is None and old is not None:
        binding = old.binding
    fields = written_fields(old, body, now)
    # What a binding stands for is told by an annotation too: always the truth, whatever the client says.
    annotations = tuple(entry for entry in fields.pop("annotations") if entry.key != "binding")
    if binding is not None:
        annotations += (Annotation(key="binding", value=msgspec.Raw(msgspec.json.encode(binding))),)
    return Package(namespace=namespace, path=name, binding=binding, annotations=annotations, **fields)


def _resolve(binding: Binding, exchange: Exchange) -> Binding:
    namespace = exchange.namespace if binding.namespace == "_" else check_namespace(binding.namespace)
    return Binding(namespace=namespace, name=check_name(binding.name))


def _check_target(services: Services, binding: Binding) -> None:
    """Refuse to bind to what is no real package.

    Raises:
        InvalidRequest: nothing is there, or a binding.
        WrongCollection: something else.
    """
    target = services.entities.get(binding.namespace, binding.name)
    if target is None:
        raise InvalidRequest("Binding references a package that does not exist.")
    if not isinstance(target, Package):
        raise WrongCollection
    if target.binding is not None:
        raise InvalidRequest("Cannot bind to another package binding.")


def _actions_of(services: Services, package: Package) -> list[Action]:
    """List what is in a package; in a binding there is nothing."""
    count = services.entities.count(package.namespace, Collection.ACTIONS, package.path)
    found = services.entities.list(package.namespace, Collection.ACTIONS, limit=count, skip=0, package=package.path)
    return [action for action in found if isinstance(action, Action)]
