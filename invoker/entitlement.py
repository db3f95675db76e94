"""Who may do what: functions of values.

The owner of a namespace may do everything in it. Others may list the packages of a namespace (the published ones are shown), and
read and run what is in a published one; everything else of another's is forbidden, and whether it exists is not told.
A binding is its owner's alone, and good for nothing once the package behind it is another's and not published any more.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import NamedTuple

from invoker.errors import NotAuthorised
from invoker.model import Action, Identity, Package
from invoker.resolve import Lookup, ResolvedAction, resolve_action


class Right(enum.Enum):
    """What a request wants of a resource; the value is the HTTP method that asks for it."""

    READ = "GET"
    PUT = "PUT"
    DELETE = "DELETE"
    ACTIVATE = "POST"


class Resource(NamedTuple):
    """What a right is wanted on.

    Attributes:
        namespace: whose it is; `_` is resolved already.
        collection: `actions`, `packages`, `triggers`, `rules`, `activations`, `limits`.
        path: of the entity within the namespace; empty for the whole collection, `package/` for the actions of a package.
    """

    namespace: str
    collection: str
    path: str = ""

    @property
    def name(self) -> str:
        """What a refusal calls it."""
        return f"{self.namespace}/{self.path or self.collection}"


def authorise(entities: Lookup, identity: Identity, right: Right, resource: Resource) -> None:
    """Let pass, or refuse.

    Args:
        entities: where packages are looked up.
        identity: the caller.
        right: what it wants.
        resource: on what.

    Raises:
        NotAuthorised: naming the resource.
    """
    if not _may(entities, identity.namespace.name, right, resource):
        raise NotAuthorised.for_resource(resource.name)


def authorise_all(entities: Lookup, identity: Identity, right: Right, resources: Iterable[Resource]) -> None:
    """Let pass who has the right on each of several resources, or refuse.

    Raises:
        NotAuthorised: naming all on which it is missing, each once, in order.
    """
    refused = [each for each in resources if not _may(entities, identity.namespace.name, right, each)]
    if refused:
        raise NotAuthorised.for_resource(", ".join(dict.fromkeys(each.name for each in refused)))


def resolve_entitled(entities: Lookup, identity: Identity, path: str) -> ResolvedAction:
    """Find the action of a full path, `ns/[package/]name`, for a caller who wants to run it.

    Raises:
        NotAuthorised: not for this caller.
        EntityNotFound, WrongCollection: there is none.
    """
    namespace, _, rest = path.partition("/")
    authorise(entities, identity, Right.ACTIVATE, Resource(namespace, "actions", rest))
    return resolve_action(entities, namespace, rest)


def authorise_components(entities: Lookup, identity: Identity, sequence: Action) -> None:
    """Let pass who may run each action of a sequence, or refuse.

    Raises:
        NotAuthorised: naming those that may not be run.
    """
    parts = (component.partition("/") for component in sequence.exec.components)
    authorise_all(entities, identity, Right.ACTIVATE, [Resource(owner, "actions", path) for owner, _, path in parts])


def may_read_package(entities: Lookup, caller: str, namespace: str, name: str) -> bool:
    """Tell whether a caller may read a package, and read and run the actions in it.

    What does not exist may be read by its owner alone, who is told so by the look-up that follows.
    """
    own = caller == namespace
    package = entities.get(namespace, name)
    if not isinstance(package, Package):
        return own
    if package.binding is None:
        return own or package.publish
    if not own:
        return False
    bound = package.binding
    provider = entities.get(bound.namespace, bound.name)
    return bound.namespace == caller or not isinstance(provider, Package) or provider.publish


def _may(entities: Lookup, caller: str, right: Right, resource: Resource) -> bool:
    namespace, collection, path = resource
    own = caller == namespace
    if right in {Right.READ, Right.ACTIVATE}:
        if collection == "packages":
            return may_read_package(entities, caller, namespace, path) if path else True
        package, slash, _ = path.rpartition("/")
        if collection == "actions" and slash:
            return may_read_package(entities, caller, namespace, package)
    return own
