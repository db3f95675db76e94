"""What the API is built on: every part is an argument, and only this much of it is used."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from invoker.activation import Activation
from invoker.config.model import LimitsConfig
from invoker.gateway.model import Api
from invoker.health import Health
from invoker.http.admission import Admission
from invoker.http.apart import Apart
from invoker.http.auth import Authenticator
from invoker.http.rendering import Price
from invoker.invocation import Accepted202, Call
from invoker.manifest import Manifest
from invoker.model import Action, Collection, Entity, Identity, Namespace, Rule, Trigger
from invoker.short import ShortPlan
from invoker.ticket import Ticket
from invoker.vault import Vault
from pool.model import ActivationId


class CodeStore(Protocol):
    """Code as content-addressed text."""

    async def put(self, text: str | bytes) -> str:
        """Store a text, or the UTF-8 of one, and return its SHA-256, hexadecimal."""

    async def read(self, digest: str) -> str:
        """Return a text that was stored."""

    async def read_utf8(self, digest: str) -> bytes:
        """Return it as UTF-8."""


class Entities(Protocol):
    """The entity store: metadata in memory, written through."""

    @property
    def code(self) -> CodeStore:
        """Where the code is."""

    def get_namespace(self, name: str) -> Namespace | None:
        """Find a namespace by its name."""

    def get(self, namespace: str, path: str) -> Entity | None:
        """Find an entity of any collection by its path."""

    def list(
        self, namespace: str, collection: Collection, *, limit: int, skip: int, package: str | None = None
    ) -> Sequence[Entity]:
        """List entities, last written first. Without `package` the packaged ones are among them; see also `PUBLISHED`."""

    def count(self, namespace: str, collection: Collection, package: str | None = None) -> int:
        """Count what `list` would list without limit."""

    def rules_of(self, trigger: Trigger) -> Sequence[Rule]:
        """List the rules that are linked to a trigger, inactive ones too, in the order in which they run."""

    async def put(self, entity: Entity, *, expected_revision: str | None) -> None:
        """Write an entity over the one of this revision, or as a new one (None).

        Raises:
            ConcurrentModification: what is there is something else.
        """

    async def delete(self, entity: Entity) -> None:
        """Delete an entity, at the revision given.

        Raises:
            ConcurrentModification: as `put`.
        """


class Apis(Protocol):
    """The APIs of the gateway."""

    def get(self, namespace_uuid: str, base_path: str) -> Api | None:
        """Find an API."""

    def list(self, namespace_uuid: str) -> Sequence[Api]:
        """List the APIs of a namespace, by base path."""

    async def put(self, api: Api) -> None:
        """Write an API over the one of its base path. It is visible before this first waits."""

    async def delete(self, api: Api) -> None:
        """Delete an API; one that is not there is no failure."""


class Activations(Protocol):
    """The activation records."""

    async def get(self, namespace: str, activation_id: ActivationId) -> Activation | None:
        """Find a record."""

    async def get_logs(self, namespace: str, activation_id: ActivationId) -> Sequence[str] | None:
        """Find the log lines of a record."""

    async def list(
        self, namespace: str, *, name: str | None, since_ms: int | None, upto_ms: int | None, limit: int, skip: int
    ) -> Sequence[Activation]:
        """List records, latest start first."""

    async def count(self, namespace: str, *, name: str | None, since_ms: int | None, upto_ms: int | None, skip: int) -> int:
        """Count what `list` would list without limit, after `skip` of them."""


class Invoking(Protocol):
    """What runs actions."""

    async def invoke(self, call: Call) -> Activation | Accepted202:
        """Run an action. It is in flight before this first waits."""

    def find_short(self, identity: Identity, action: Action, payload: msgspec.Raw, wait_s: float) -> ShortPlan | None:
        """Tell how a call could go the short way now; None when `invoke` is to be called."""

    def start_short(self, call: Call, found: ShortPlan, on_end: Callable[[Ticket], None]) -> None:
        """Run an action on the short way, as was found in the same breath; `on_end` is told once. Raises PoolOverloaded."""

    def in_flight(self, namespace: str) -> int:
        """Count the activations of a namespace that have not ended."""

    def ids_in_flight(self) -> Sequence[ActivationId]:
        """List the activations of all namespaces that have not ended, the parts of composed ones too."""

    def cancel(self, activation_id: ActivationId, *, namespace: str | None = None) -> str | None:
        """End an activation of a namespace now: `queued` or `running` is what it was, None that there is none."""

    async def wait_recorded(self, activation_id: ActivationId) -> None:
        """Wait until an activation in flight has its record."""


class Firing(Protocol):
    """What fires triggers."""

    async def fire(
        self,
        identity: Identity,
        trigger: Trigger,
        payload: msgspec.Raw,
        *,
        headers: Mapping[str, str] | None,
        transaction: str,
    ) -> ActivationId | None:
        """Fire a trigger: the id of its record, None when no rule of it is active."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The parts.

    Attributes:
        limits: gives the site's limits of this moment: they may be reloaded.
        vault: seals parameters that are written, and opens those that are shown to their owner.
        price: what an activation costs.
        health, ready: what `/health` and `/ready` tell.
        wall_clock: seconds since the epoch.
        public_url: under which clients reach this server, without a slash at its end.
        build, build_number: for people, in `GET /api/v1`.
        support: where to ask, in `GET /`: `github` and `slack`.
        operator_credentials: `user:password` of `POST /disable`; None lets nobody in.
        disable: refuses all calls from now on.
        on_refused: told the code of each error of the node's own state that is answered 503. May not raise.
        apart: reads bodies, and long ones in a process of their own.
    """

    authenticator: Authenticator
    admission: Admission
    manifest: Manifest
    entities: Entities
    vault: Vault
    activations: Activations
    apis: Apis
    invoker: Invoking
    triggers: Firing
    limits: Callable[[], LimitsConfig]
    price: Price
    health: Callable[[], Health]
    ready: Callable[[], Health]
    wall_clock: Callable[[], float]
    public_url: str
    build: str
    build_number: str
    support: Mapping[str, str] = field(default_factory=lambda: {"github": "", "slack": ""})
    operator_credentials: str | None = None
    disable: Callable[[], Awaitable[None]]
    on_refused: Callable[[str], None] = lambda _code: None
    apart: Apart = field(default_factory=Apart)
