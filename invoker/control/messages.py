"""What the operators' command and the daemon say to each other: paths, requests and replies.

`ctl_operator.py` and `operations.py` both import this and nothing else of each other, so that they cannot drift. Only
msgspec is needed here: the command starts quickly.
"""

from __future__ import annotations

from typing import Any

import msgspec

#: Collections of the control socket; `{name}` and `{id}` are one path segment.
NAMESPACES = "/v1/namespaces"
NAMESPACE = "/v1/namespaces/{name}"
NAMESPACE_KEY = "/v1/namespaces/{name}/key"
NAMESPACE_LIMITS = "/v1/namespaces/{name}/limits"
POOL = "/v1/pool"
STATUS = "/v1/status"
USAGE = "/v1/usage"
BILL = "/v1/bills/{month}"
CORRECTIONS = "/v1/corrections"
CANCEL = "/v1/activations/{id}/cancel"
DRAIN = "/v1/drain"
#: The only one of these on the public API, for users with their key.
USER_CANCEL = "/invokerd/v1/activations/{id}/cancel"


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """A request or a reply. Unknown fields are ignored, so that a newer command may talk to an older daemon."""


class CreateNamespace(Message, frozen=True, kw_only=True):
    """Create a namespace with its Unix identity and the names of its mounts."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    mounts: tuple[str, ...] = ()


class ChangeNamespace(Message, frozen=True, kw_only=True):
    """Change what a namespace's functions may see from their next container on; null leaves it as it is."""

    groups: tuple[int, ...] | None = None
    mounts: tuple[str, ...] | None = None


class NamespaceLimits(Message, frozen=True, kw_only=True):
    """What one namespace may do beside the site's defaults; null is the site's. A request and its reply."""

    invocations_per_minute: int | None = None
    concurrent_invocations: int | None = None
    fires_per_minute: int | None = None
    cpu_seconds_per_window: int | None = None
    allowed_kinds: tuple[str, ...] | None = None
    store_activations: bool | None = None


class KeyReply(Message, frozen=True, kw_only=True):
    """A key, `uuid:key`; shown once, since only its keyed hash is kept."""

    key: str


class NamespaceRow(Message, frozen=True, kw_only=True):
    """A namespace, as operators see it."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    mounts: tuple[str, ...] = ()
    created_ms: int = 0
    blocked: bool = False


class NamespacesReply(Message, frozen=True, kw_only=True):
    """All namespaces, by name."""

    namespaces: tuple[NamespaceRow, ...]


class PoolRow(Message, frozen=True, kw_only=True):
    """One container.

    Attributes:
        action: path of the action, or `stem KIND`.
        state: `ContainerState`'s value.
        age_s: since this daemon made it or took it over.
        memory_mib: what is reserved for it: its limit, or while it is frozen and memory is short what it holds.
        leases: activations that run in it.
    """

    container: str
    action: str
    namespace: str
    uid: int
    state: str
    age_s: float
    memory_mib: int
    leases: int = 0


class PoolReply(Message, frozen=True, kw_only=True):
    """Every container, and the pool's memory."""

    containers: tuple[PoolRow, ...]
    waiting: int = 0
    memory_used_mib: int = 0
    memory_budget_mib: int = 0


class StatusReply(Message, frozen=True, kw_only=True):
    """How the daemon fares.

    Attributes:
        state: `ready`, `draining`, or `degraded`: some check of `/health` fails.
        started_ms: wall clock.
        running: activations under way.
        waiting: activations that wait for a container.
        problems: what is not as it should be, a sentence each, with what to do.
    """

    node: str
    version: str
    state: str
    pid: int
    started_ms: int
    running: int = 0
    waiting: int = 0
    containers: dict[str, int] = {}
    memory_used_mib: int = 0
    memory_budget_mib: int = 0
    problems: tuple[str, ...] = ()


class UsageRow(Message, frozen=True, kw_only=True):
    """What one namespace, or one action of it, used and what that costs. Facts are integers, the cost is exact decimal text.

    The last five are what the plan prices: with them `cost` can be computed by hand (docs/billing.md).

    Attributes:
        action: `ns/[package/]name` where it was asked for; idle containers without an action have none.
        failed: those of `activations` that did not succeed.
        billed_us: init plus run.
        memory_byte_us: declared memory times that time.
        cost: exact, in `currency`.
        plan: `id@version` of the price plan; empty for what no plan rates, which costs nothing.
        charged_invocations: those of `activations` that are charged.
        charged_memory_mib_us: declared memory times rounded time of those, MiB-microseconds; corrections in it.
        charged_cpu_us: CPU time of those, and what was used after the reply; corrections in it.
        idle_byte_us: memory of idle containers, byte-microseconds.
        corrections: how many are in it.
    """

    namespace: str
    action: str = ""
    activations: int
    failed: int
    billed_us: int
    cpu_us: int
    memory_byte_us: int
    cost: str
    currency: str
    plan: str = ""
    charged_invocations: int = 0
    charged_memory_mib_us: int = 0
    charged_cpu_us: int = 0
    idle_byte_us: int = 0
    corrections: int = 0


class UsageReply(Message, frozen=True, kw_only=True):
    """Usage within a span of wall clock, its end excluded."""

    since_ms: int
    until_ms: int
    rows: tuple[UsageRow, ...]


class BillRow(Message, frozen=True, kw_only=True):
    """One line of a month's bill: what one namespace owes under one plan.

    Attributes:
        invocations, memory_mib_us, cpu_us, idle_byte_us: what is charged, as in `UsageRow`, less what is free.
        free_invocations, free_memory_mib_us, free_cpu_us: what the plan's free quantities took off.
        exact: price of it, before the one rounding.
        amount: the line, rounded as the plan says.
    """

    namespace: str
    plan: str
    currency: str
    invocations: int
    memory_mib_us: int
    cpu_us: int
    idle_byte_us: int
    free_invocations: int
    free_memory_mib_us: int
    free_cpu_us: int
    exact: str
    amount: str


class BillReply(Message, frozen=True, kw_only=True):
    """The bills of a calendar month, UTC; not the last word while `complete` is false: the month is not over."""

    month: str
    since_ms: int
    until_ms: int
    complete: bool
    rows: tuple[BillRow, ...]


class MakeCorrection(Message, frozen=True, kw_only=True):
    """Correct what an activation, or an idle container, is charged: differences, with their signs.

    Attributes:
        subject: activation or container.
        key: tells corrections of one subject apart; the same one again changes nothing.
        cpu_us: of charged CPU time.
        memory_mib_us: of charged memory times time, MiB-microseconds.
    """

    subject: str
    key: int = 1
    reason: str
    author: str
    cpu_us: int = 0
    memory_mib_us: int = 0


class CorrectionReply(Message, frozen=True, kw_only=True):
    """A correction is in the ledger, for this namespace and with this time."""

    subject: str
    namespace: str
    action: str
    at_ms: int


class CancelReply(Message, frozen=True, kw_only=True):
    """What a cancelled activation was doing: `queued` (it never runs) or `running` (killed; billed to that moment)."""

    activation_id: str
    was: str


class DrainReply(Message, frozen=True, kw_only=True):
    """New work is refused from now on; `running` activations, those that wait for a container too, may still end."""

    running: int


class ErrorReply(Message, frozen=True, kw_only=True):
    """A refusal: what was wrong, and its stable code."""

    error: str
    code: str


def path_to(template: str, **segments: str) -> str:
    """Fill a path, each segment percent-encoded."""
    from urllib.parse import quote

    return template.format(**{name: quote(value, safe="") for name, value in segments.items()})


def decode(body: bytes, kind: type[Any]) -> Any:
    """Decode a body; raise msgspec.MsgspecError (a ValueError) with the field at fault."""
    return msgspec.json.decode(body, type=kind)


def encode(message: Message) -> bytes:
    """Encode a message as JSON."""
    return msgspec.json.encode(message)


def to_builtins(message: Message) -> Any:
    """Turn a message into dictionaries, lists and texts."""
    return msgspec.to_builtins(message)


def limits_of(values: dict[str, Any]) -> NamespaceLimits:
    """Make the limits of a namespace from their names and values."""
    return msgspec.convert(values, NamespaceLimits)
