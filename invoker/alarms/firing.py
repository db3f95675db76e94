"""What an alarm does when it ticks: it fires its trigger, as a client would; and what becomes of it after its last tick.

The trigger's namespace fires, and is billed and throttled for it. No key is kept: who made the alarm proved then that the
trigger is his.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

import msgspec

from invoker.alarms.alarm import Alarm, Disabled
from invoker.alarms.engine import Later
from invoker.alarms.schedule import Progress, Tick
from invoker.errors import ConcurrentModification, EntityCorrupted, Throttled, retry_after_s
from invoker.http.admission import Admission
from invoker.model import Entity, Identity, Namespace, Rule, Trigger
from invoker.record.entries import TickEntry
from invoker.triggers import Triggers
from pool.errors import PlatformError

log = logging.getLogger(__name__)

#: How long a tick waits that the node could not take, where the error does not say, s.
_AGAIN_S = 1.0
#: How long one waits whose trigger or namespace cannot be read: until somebody has written it anew, s.
_DAMAGED_S = 60.0

_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.encode


class Owners(Protocol):
    """What is needed of the entity store."""

    def get_namespace(self, name: str) -> Namespace | None:
        """Find a namespace by its name."""

    @property
    def lacks_namespaces(self) -> bool:
        """Whether there is a namespace whose row cannot be read."""

    def get(self, namespace: str, path: str) -> Entity | None:
        """Find an entity of any collection by its path.

        Raises:
            EntityCorrupted: its row cannot be read.
        """

    def rules_of(self, trigger: Trigger) -> list[Rule]:
        """List the rules that are linked to a trigger."""

    async def delete(self, entity: Entity) -> None:
        """Delete an entity, at the revision given."""


class AlarmFirer:
    """Fires alarms. Owns none of its parts."""

    def __init__(
        self,
        *,
        entities: Owners,
        admission: Admission,
        triggers: Triggers,
        derived_key: Callable[[Namespace], str],
        wall_clock: Callable[[], float],
    ) -> None:
        """Use the parts.

        Args:
            entities: has the triggers.
            admission: an alarm's fires count like any other.
            triggers: fires.
            derived_key: gives a key of a namespace, for the actions that may have it.
            wall_clock: seconds since the epoch.
        """
        self._entities = entities
        self._admission = admission
        self._triggers = triggers
        self._derived_key = derived_key
        self._wall_clock = wall_clock

    async def fire(self, alarm: Alarm, tick: Tick, progress: Progress) -> Later | Disabled | None:
        """Fire one tick: see `engine.Fire`."""
        namespace = self._entities.get_namespace(alarm.namespace)
        if namespace is None and self._entities.lacks_namespaces:
            return Later(_DAMAGED_S)
        if namespace is None or namespace.blocked:
            sentence = f"Automatically disabled: the namespace '{alarm.namespace}' is gone or blocked."
            return Disabled(status_code=401, message=sentence)
        try:
            trigger = self._entities.get(alarm.namespace, alarm.trigger)
        except EntityCorrupted as error:
            log.error("the alarm of %s/%s waits: %s", alarm.namespace, alarm.trigger, error)  # noqa: TRY400
            return Later(_DAMAGED_S)
        if not isinstance(trigger, Trigger) or trigger.birth != alarm.birth:
            sentence = f"Automatically disabled: the trigger '{alarm.namespace}/{alarm.trigger}' does not exist."
            return Disabled(status_code=404, message=sentence)
        try:
            self._admission.admit_fire(namespace, self._wall_clock())
            await self._triggers.fire(
                Identity(namespace=namespace, api_key=self._derived_key(namespace)),
                trigger,
                fire_payload(alarm, tick),
                headers=None,
                transaction=f"alarm-{alarm.alarm_id[:12]}-{tick.at_ms}",
                tick=TickEntry(alarm.alarm_id, progress.at_ms, progress.fired),
            )
        except (Throttled, PlatformError) as error:
            after_s = retry_after_s(error) or _AGAIN_S
            log.info("a tick of %s/%s waits %.0f s: %s", alarm.namespace, alarm.trigger, after_s, error)
            return Later(after_s)
        return None

    async def finish(self, alarm: Alarm) -> Disabled | None:
        """Do what an alarm wants done after its last tick.

        Returns:
            Why it is disabled; None when its trigger was deleted, and the alarm is to go with it.
        """
        if alarm.delete_after_fire == "false":
            return Disabled(status_code=0, message="Automatically disabled: the last tick has fired.")
        try:
            trigger = self._entities.get(alarm.namespace, alarm.trigger)
        except EntityCorrupted:
            trigger = None
        if isinstance(trigger, Trigger):
            rules = self._entities.rules_of(trigger) if alarm.delete_after_fire == "rules" else []
            for entity in (trigger, *rules):
                try:
                    await self._entities.delete(entity)
                except ConcurrentModification:
                    log.info("%s was written meanwhile and stays", entity.full_path)
        return None


def fire_payload(alarm: Alarm, tick: Tick) -> msgspec.Raw:
    """Lay what the tick is over the alarm's payload: `__ow_alarm`, where a client's fire has `__ow_headers`."""
    told: dict[str, object] = {"scheduled": tick.at_ms, "missed": tick.missed}
    if tick.at_least:
        told["missedAtLeast"] = True
    return msgspec.Raw(_encode(_decode_object(alarm.payload) | {"__ow_alarm": msgspec.Raw(_encode(told))}))
