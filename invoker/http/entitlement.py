"""Who may do what: functions of values.

The owner of a namespace may do everything in it. Others may list the packages of a namespace (the published ones are shown) and,
once packages are there, read and run what is in a published one; everything else of another's is forbidden, and whether
it exists is not told.
"""

from __future__ import annotations

import enum

from invoker.errors import NotAuthorised
from invoker.model import Identity


class Right(enum.Enum):
    """What a request wants of a resource; the value is the HTTP method that asks for it."""

    READ = "GET"
    PUT = "PUT"
    DELETE = "DELETE"
    ACTIVATE = "POST"


def authorise(identity: Identity, right: Right, namespace: str, collection: str, path: str = "") -> None:
    """Let pass, or refuse.

    Args:
        identity: the caller.
        right: what it wants.
        namespace: whose resource it is; `_` is resolved already.
        collection: `actions`, `packages`, `triggers`, `rules`, `activations`, `limits`.
        path: of the entity within the namespace; empty for the whole collection.

    Raises:
        NotAuthorised: naming the resource.
    """
    if namespace == identity.namespace.name:
        return
    if right is Right.READ and collection == "packages" and not path:
        return
    raise NotAuthorised.for_resource(f"{namespace}/{path or collection}")
