"""From the path of an action to the action that is meant: through packages and bindings, with the parameters it inherits.

One way for all who call actions: the API, web actions, sequences, rules. Pure; look-ups in memory. Rights are not looked at
here: ask `invoker.entitlement.authorise` first.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import msgspec

from invoker.errors import EntityNotFound, WrongCollection
from invoker.model import Action, Entity, Package, Parameter


class Lookup(Protocol):
    """What is needed of the entity store."""

    def get(self, namespace: str, path: str) -> Entity | None:
        """Find an entity of any collection by its path."""


class ResolvedPackage(NamedTuple):
    """A package, and through which binding it was found."""

    package: Package
    binding: Package | None

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Parameters that its actions inherit: the package's, overridden by the binding's."""
        if self.binding is None:
            return self.package.parameters
        return merge_parameters(self.package.parameters, self.binding.parameters)


class ResolvedAction(NamedTuple):
    """An action, ready to be called.

    Attributes:
        action: with its path, its revision and, under its own parameters, those that it inherits.
        package: the real package that it is in; None in the default package.
        binding: through which that was found; None when it was named itself.
    """

    action: Action
    package: Package | None = None
    binding: Package | None = None

    @property
    def binding_path(self) -> str | None:
        """Full path of the binding, for the activation record."""
        return None if self.binding is None else self.binding.full_path


def resolve_package(entities: Lookup, namespace: str, name: str) -> ResolvedPackage:
    """Find the package that a name means.

    Raises:
        EntityNotFound: there is none, or what it is bound to is gone.
        WrongCollection: the name, or what it is bound to, is no package.
    """
    named = _package(entities, namespace, name)
    if named.binding is None:
        return ResolvedPackage(named, None)
    provider = _package(entities, named.binding.namespace, named.binding.name)
    if provider.binding is not None:  # it was a package when it was bound, and was deleted and made anew as a binding
        raise EntityNotFound
    return ResolvedPackage(provider, named)


def resolve_action(entities: Lookup, namespace: str, path: str) -> ResolvedAction:
    """Find the action that a path means.

    Args:
        entities: where to look.
        namespace: of the path; `_` is resolved already.
        path: within it, `[package/]name`.

    Raises:
        EntityNotFound: the action, its package, or what that is bound to, is not there.
        WrongCollection: something else has that name.
    """
    package_name, slash, name = path.rpartition("/")
    if not slash:
        return ResolvedAction(_action(entities, namespace, path))
    package, binding = resolved = resolve_package(entities, namespace, package_name)
    action = _action(entities, package.namespace, f"{package.path}/{name}")
    inherited = resolved.parameters
    if not inherited:
        return ResolvedAction(action, package, binding)
    return ResolvedAction(_inherit(action, resolved, inherited), package, binding)


def merge_parameters(under: tuple[Parameter, ...], over: tuple[Parameter, ...]) -> tuple[Parameter, ...]:
    """Lay parameters over others: of those with the same key the upper one counts, whole, with its `init`."""
    if not under or not over:
        return under or over
    return tuple(({entry.key: entry for entry in under} | {entry.key: entry for entry in over}).values())


def _inherit(action: Action, resolved: ResolvedPackage, inherited: tuple[Parameter, ...]) -> Action:
    """Lay an action's parameters over those it inherits.

    Where one of these goes to the environment at /init, a container that was initialised with an older value must not be used
    again: the revision is then that of all the entities together.
    """
    revision = action.revision
    if any(parameter.init for parameter in inherited):
        origins = (action, resolved.package, resolved.binding)
        revision = ".".join(origin.revision for origin in origins if origin is not None)
    return msgspec.structs.replace(action, parameters=merge_parameters(inherited, action.parameters), revision=revision)


def _package(entities: Lookup, namespace: str, name: str) -> Package:
    entity = entities.get(namespace, name)
    if isinstance(entity, Package):
        return entity
    raise EntityNotFound if entity is None else WrongCollection


def _action(entities: Lookup, namespace: str, path: str) -> Action:
    entity = entities.get(namespace, path)
    if isinstance(entity, Action):
        return entity
    raise EntityNotFound if entity is None else WrongCollection
