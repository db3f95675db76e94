"""What a sequence is made of: checked when it is written. Pure; look-ups in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from invoker.entitlement import Resource, Right, authorise_all
from invoker.errors import EntityNotFound, InvalidRequest, MalformedContent, WrongCollection
from invoker.http.references import Reference
from invoker.manifest import SEQUENCE
from invoker.model import Action, Exec, Identity
from invoker.resolve import Lookup, resolve_action, resolve_package
from invoker.sequence import SEQUENCE_LENGTH


def sequence_exec(entities: Lookup, identity: Identity, sent: Sequence[str] | None, *, own_path: str) -> Exec:
    """Make what a sequence executes.

    Args:
        entities: where its components are looked up.
        identity: who writes it; `_` is this caller's namespace.
        sent: the components as the client wrote them; None when it wrote none.
        own_path: full path of the sequence, which is not to be among its own components, however deep.

    Raises:
        MalformedContent, InvalidName: a component is no reference.
        NotAuthorised: a component may not be read by the caller.
        EntityNotFound: a component's package does not exist.
        InvalidRequest: no component, too many, one that does not exist, or the sequence itself.
    """
    if sent is None:
        raise MalformedContent.because("'components' must be an array of fully qualified action names for 'sequence' actions")
    if not sent:
        raise InvalidRequest("No component specified for the sequence.")
    references = [Reference.parse(text, own=identity.namespace.name) for text in sent]
    authorise_all(entities, identity, Right.READ, [Resource(namespace, "actions", path) for namespace, path in references])
    for namespace, path in references:
        package = path.rpartition("/")[0]
        if package:
            resolve_package(entities, namespace, package)
    components = tuple(reference.full_path for reference in references)
    _check(entities, components, own_path)
    return Exec(kind=SEQUENCE, components=components)


def _check(entities: Lookup, components: Sequence[str], own_path: str) -> None:
    """Refuse a sequence that contains itself, or more than so many actions once nested sequences are taken apart.

    Iterative: sequences nest as deep as users like.
    """
    atomic = 0
    #: Sequences that are being taken apart, outermost first, each with what is left of it.
    open_sequences: dict[str, Iterator[str]] = {own_path: iter(components)}
    while open_sequences:
        path = next(reversed(open_sequences))
        component = next(open_sequences[path], None)
        if component is None:
            del open_sequences[path]
            continue
        if component == own_path:  # also where it does not exist yet
            raise InvalidRequest("Sequence may not refer to itself.")
        action = _component(entities, component)
        if action.full_path in open_sequences:
            raise InvalidRequest("Sequence may not refer to itself.")
        if action.exec.kind == SEQUENCE:
            open_sequences[action.full_path] = iter(action.exec.components)
            continue
        atomic += 1
        if atomic > SEQUENCE_LENGTH:
            raise InvalidRequest(f"Too many actions in the sequence: the limit is {SEQUENCE_LENGTH}.")


def _component(entities: Lookup, full_path: str) -> Action:
    try:
        return resolve_action(entities, *Reference.of_path(full_path)).action
    except (EntityNotFound, WrongCollection):
        raise InvalidRequest(f"Sequence component does not exist: /{full_path}.") from None
