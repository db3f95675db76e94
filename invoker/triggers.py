"""A trigger fires: its rules run their actions, and one record tells what became of each.

The record, and the promise to run every action, are one entry of the journal: after a crash all of it has happened, or
nothing. What was promised and had not begun is run by the next daemon; nothing runs twice.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from invoker.activation import Accepted, Activation, Meter, Status
from invoker.arguments import refuse_final
from invoker.entitlement import resolve_entitled
from invoker.errors import answer_of
from invoker.http.admission import Admission
from invoker.invocation import Call
from invoker.manifest import Manifest
from invoker.model import TRIGGER_KIND, Entity, Identity, Limits, Parameter, Rule, RuleStatus, Trigger
from invoker.record.entries import TickEntry
from invoker.vault import Vault
from pool.errors import InvokerError, PoolOverloaded
from pool.model import ActivationId

#: Headers of a fire request that its actions are not told. The body's are its own business; the key is for those alone that
#: may have it (`provide-api-key`), and one that answers with what it got would write it into its record.
_HIDDEN_HEADERS = frozenset({"authorization", "content-type", "content-length"})

_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.encode


class Rules(Protocol):
    """What is needed of the entity store."""

    def get(self, namespace: str, path: str) -> Entity | None:
        """Find an entity of any collection by its path."""

    def rules_of(self, trigger: Trigger) -> Sequence[Rule]:
        """List the rules that are linked to a trigger, inactive ones too, in the order in which they run."""


class Promising(Protocol):
    """What is needed of the invoker."""

    def new_id(self) -> ActivationId:
        """Make an id."""

    def in_flight(self, namespace: str) -> int:
        """Count the activations of a namespace that have not ended."""

    def check_queue(self, call: Call) -> None:
        """Raise PoolOverloaded where a call would find a queue in which it may not wait."""

    async def run_promised(
        self, calls: Sequence[tuple[ActivationId, Call]], promise: Callable[[Sequence[Accepted]], Awaitable[None]]
    ) -> None:
        """Have calls promised, then run them."""


class Firing(Protocol):
    """What is needed of the recorder."""

    async def fired(
        self,
        activation: Activation,
        *,
        lines: Sequence[str],
        promised: Sequence[Accepted],
        payload: msgspec.Raw,
        tick: TickEntry | None,
        stored: bool,
    ) -> None:
        """Write a trigger's record and what it promises."""

    async def ticked(self, tick: TickEntry) -> None:
        """Write how far an alarm has come."""


class Triggers:
    """Fires triggers. Owns none of its parts."""

    def __init__(
        self,
        *,
        entities: Rules,
        admission: Admission,
        manifest: Manifest,
        invoker: Promising,
        recorder: Firing,
        vault: Vault,
        node: str,
        wall_clock: Callable[[], float],
    ) -> None:
        """Use the parts.

        Args:
            entities: has the rules and their actions.
            admission: what rules run counts like any other invocation.
            manifest: the kinds.
            invoker: runs actions.
            recorder: writes.
            vault: opens sealed parameters, and seals what is written of them.
            node: in every record.
            wall_clock: seconds since the epoch.
        """
        self._entities = entities
        self._admission = admission
        self._manifest = manifest
        self._invoker = invoker
        self._recorder = recorder
        self._vault = vault
        self._node = node
        self._wall_clock = wall_clock

    async def fire(
        self,
        identity: Identity,
        trigger: Trigger,
        payload: msgspec.Raw,
        *,
        headers: Mapping[str, str] | None,
        transaction: str,
        tick: TickEntry | None = None,
    ) -> ActivationId | None:
        """Fire a trigger. When this returns, it has happened, also over a power cut; the actions run meanwhile.

        Args:
            identity: who fires, and is billed for what the rules run. The fire itself was admitted.
            trigger: of the caller.
            payload: JSON text of an object.
            headers: of the request; None when the clock fires.
            transaction: id of the request.
            tick: of the alarm, to be remembered in the same breath.

        Returns:
            Id of the trigger's record; None, and no record, when none of its rules is active.

        Raises:
            PoolClosed, JournalFull, ParameterUnreadable: nothing was done.
        """
        rules = self._entities.rules_of(trigger)
        if all(rule.status_under(trigger) is not RuleStatus.ACTIVE for rule in rules):
            if tick is not None:
                await self._recorder.ticked(tick)
            return None
        arguments = merge_fire_arguments(self._vault.open(trigger.parameters), headers, payload)
        fire = _Fire(identity, trigger, arguments, transaction)
        verdicts: list[_Verdict] = []
        for rule in rules:
            begun = sum(verdict.call is not None for verdict in verdicts)
            verdicts.append(self._judge(fire, rule, begun))
        record = self._record(fire, payload)
        lines = [verdict.line() for verdict in verdicts]

        async def promise(promised: Sequence[Accepted]) -> None:
            stored = identity.namespace.limits.store_activations is not False
            written = self._vault.seal_payload(identity.namespace.name, arguments)
            await self._recorder.fired(record, lines=lines, promised=promised, payload=written, tick=tick, stored=stored)

        calls = [(verdict.activation_id, verdict.call) for verdict in verdicts if verdict.call is not None]
        await self._invoker.run_promised(calls, promise)
        return record.activation_id

    def _judge(self, fire: _Fire, rule: Rule, begun: int) -> _Verdict:
        """Find what a rule runs, or why it runs nothing. `begun`: how many others this fire has begun before."""
        activation_id = self._invoker.new_id()
        if rule.status_under(fire.trigger) is not RuleStatus.ACTIVE:
            sentence = f"Rule '{rule.full_path}' is inactive, action '{rule.action}' was not run."
            return _Verdict(rule, activation_id, error=sentence)
        caller = fire.identity.namespace
        try:
            self._admission.admit(caller, self._wall_clock(), self._invoker.in_flight(caller.name) + begun)
            found = resolve_entitled(self._entities, fire.identity, rule.action)
            self._manifest.check(found.action.exec.kind)
            refuse_final(found.action, fire.arguments)
        except InvokerError as error:
            return _Verdict(rule, activation_id, error=str(error), server=answer_of(error).status >= 500)
        call = Call(
            identity=fire.identity,
            action=found.action,
            payload=fire.arguments,
            payload_bytes=len(fire.arguments),
            transaction=fire.transaction,
            blocking=False,
            wait_s=0.0,
            received=time.monotonic(),
            authenticate_us=0,
            authorise_us=0,
            binding=found.binding_path,
        )
        try:
            self._invoker.check_queue(call)
        except PoolOverloaded as error:
            return _Verdict(rule, activation_id, error=str(error), server=answer_of(error).status >= 500)
        return _Verdict(rule, activation_id, call=call)

    def _record(self, fire: _Fire, payload: msgspec.Raw) -> Activation:
        now_ms = int(self._wall_clock() * 1000)
        return Activation(
            activation_id=self._invoker.new_id(),
            node=self._node,
            namespace=fire.identity.namespace.name,
            subject=fire.identity.namespace.name,
            path=fire.trigger.full_path,
            version=fire.trigger.version,
            kind=TRIGGER_KIND,
            limits=Limits(),
            start_ms=now_ms,
            end_ms=now_ms,
            status=Status.SUCCESS,
            result=payload,
            transaction=fire.transaction,
            meter=Meter(),
        )


class _Fire(NamedTuple):
    """One fire: who, what, and what every action is called with."""

    identity: Identity
    trigger: Trigger
    arguments: msgspec.Raw
    transaction: str


class _Verdict(NamedTuple):
    """What becomes of one rule: a call, or an error."""

    rule: Rule
    activation_id: ActivationId
    call: Call | None = None
    error: str = ""
    server: bool = False

    def line(self) -> str:
        """Write it as a line of the trigger's log."""
        told: dict[str, Any] = {"rule": self.rule.full_path, "action": self.rule.action}
        if self.call is not None:
            told = {"statusCode": Status.SUCCESS, "success": True, **told, "activationId": self.activation_id}
        else:
            status = Status.INTERNAL_ERROR if self.server else Status.APPLICATION_ERROR
            told = {"statusCode": status, "success": False, **told, "error": self.error}
        return _encode(told).decode()


def merge_fire_arguments(parameters: Sequence[Parameter], headers: Mapping[str, str] | None, payload: msgspec.Raw) -> msgspec.Raw:
    """Lay the payload over `__ow_headers` over the trigger's parameters."""
    merged = {parameter.key: parameter.value for parameter in parameters}
    if headers is not None:
        told = {name.lower(): value for name, value in headers.items() if name.lower() not in _HIDDEN_HEADERS}
        merged["__ow_headers"] = msgspec.Raw(_encode(told))
    if not merged:
        return payload
    return msgspec.Raw(_encode(merged | _decode_object(payload)))
