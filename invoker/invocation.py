"""What the API hands to the invoker, and what it may get back at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from invoker.conductor import Counts
from invoker.model import Action, Identity
from invoker.sequence import Length
from pool.model import ActivationId, ContainerId


class Within(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """The sequence or composition that an invocation is a part of.

    Attributes:
        cause: its id.
        counts: what it has run so far, where this one goes on counting.
        depth: how many sequences and compositions are around it.
        plain: run the action itself: it is the conductor.
    """

    cause: ActivationId
    counts: Counts | Length | None = None
    depth: int = 1
    plain: bool = False


class Call(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One authenticated, authorised invocation of an action that exists. A struct: one is made for each.

    Attributes:
        identity: who calls, and is billed.
        action: what is called, with the parameters that it inherits.
        payload: JSON text of an object, valid UTF-8; `{}` when the request had no body. The caller's own bytes. Of a part of a
            sequence it may be an array.
        payload_bytes: length of the request's body.
        transaction: id of the request.
        blocking: whether the caller waits for the end.
        wait_s: for how long, seconds; then it gets the id alone, and the activation goes on.
        received: `time.monotonic()` at the request's last byte. What was done while bytes were still on their way
            (authentication, authorisation) is added in front, so that now minus `received` is work, never waiting for the client.
        authenticate_us: spent on finding out who calls, parsing included, microseconds.
        authorise_us: spent on rights and limits, microseconds.
        idempotency_key: from the header `Idempotency-Key`.
        binding: full path of the package binding that the action was called through.
        within: what it is a part of; None when a caller asked for it.
        origin: the container that called it, through its door; None when it came from outside.
    """

    identity: Identity
    action: Action
    payload: msgspec.Raw
    payload_bytes: int
    transaction: str
    blocking: bool
    wait_s: float
    received: float
    authenticate_us: int
    authorise_us: int
    idempotency_key: str | None = None
    binding: str | None = None
    within: Within | None = None
    origin: ContainerId | None = None


#: What the daemon carries out itself: the caller and the arguments, JSON text of an object; to a result, likewise. Raises
#: `ActionError` with the sentence of an application error.
Builtin = Callable[[Identity, msgspec.Raw], Awaitable[msgspec.Raw]]


class Accepted202(msgspec.Struct, frozen=True, kw_only=True):
    """The activation was accepted, or still runs: here is its id."""

    activation_id: ActivationId
