"""The feed actions `/whisk.system/alarms/{alarm,interval,once}`: carried out by the daemon itself, in upstream's words.

Clients call them with `lifecycleEvent`, `triggerName` and `authKey` beside the parameters of the alarm. What is refused is
an application error.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable
from typing import Any

import msgspec

from invoker.alarms.alarm import PARAMETERS, Alarm, Arguments, describe, make_alarm
from invoker.alarms.engine import AlarmEngine
from invoker.alarms.schedule import BadSchedule
from invoker.errors import EntityNotFound, InvalidName
from invoker.http.auth import Authenticator
from invoker.http.parsing import check_name
from invoker.invocation import Builtin
from invoker.model import Entity, Identity, Trigger
from pool.errors import ActionError, RequestError

#: Where the feeds are.
PACKAGE = "whisk.system/alarms"

_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.encode
_SUCCESS = {"status": "success"}


class FeedRefused(ActionError):
    """The feed does not do what it was asked to."""

    code = "feed-refused"


class AlarmFeeds:
    """The provider behind the three feeds."""

    def __init__(
        self,
        engine: AlarmEngine,
        *,
        find: Callable[[str, str], Entity | None],
        authenticator: Authenticator,
        new_id: Callable[[], str],
        wall_ms: Callable[[], int],
    ) -> None:
        """Use the parts.

        Args:
            engine: has the alarms tick.
            find: looks an entity up: namespace, path.
            authenticator: knows whose an `authKey` is.
            new_id: makes ids of alarms.
            wall_ms: wall clock.
        """
        self._engine = engine
        self._find = find
        self._authenticator = authenticator
        self._new_id = new_id
        self._wall_ms = wall_ms

    def builtins(self) -> dict[str, Builtin]:
        """List the actions by their full path."""
        return {f"{PACKAGE}/{feed}": functools.partial(self._serve, feed) for feed in PARAMETERS}

    async def _serve(self, feed: str, _caller: Identity, text: msgspec.Raw) -> msgspec.Raw:
        arguments = _decode_object(text)
        if bytes(arguments.get("trigger_payload", b"")) == b'""':
            del arguments["trigger_payload"]  # what the package is bound to: not given
        event = _text(arguments, "lifecycleEvent")
        try:
            identity = self._identity(arguments)
            namespace, name = self._name(arguments, identity)
            match event:
                case "CREATE":
                    return _raw(await self._create(feed, arguments, self._trigger(namespace, name)))
                case "READ":
                    return _raw(describe(self._alarm(feed, self._trigger(namespace, name))))
                case "UPDATE":
                    return _raw(await self._update(feed, arguments, self._trigger(namespace, name)))
                case "DELETE":
                    return _raw(await self._delete(namespace, name))
        except (RequestError, BadSchedule) as error:
            raise FeedRefused(str(error)) from error
        raise FeedRefused(f"unsupported lifecycleEvent {event!r}: it is CREATE, READ, UPDATE or DELETE")

    async def _create(self, feed: str, arguments: Arguments, trigger: Trigger) -> dict[str, Any]:
        await self._engine.put(self._make(feed, arguments, trigger, stored=None))
        return _SUCCESS

    async def _update(self, feed: str, arguments: Arguments, trigger: Trigger) -> dict[str, Any]:
        stored = self._alarm(feed, trigger)
        given = {name: value for name, value in arguments.items() if name in PARAMETERS[feed]}
        if not given:
            raise FeedRefused(f"no updatable parameter was given: {', '.join(sorted(PARAMETERS[feed]))}")
        await self._engine.put(self._make(feed, given, trigger, stored=stored))
        return _SUCCESS

    async def _delete(self, namespace: str, trigger: str) -> dict[str, Any]:
        alarm = self._engine.get(namespace, trigger)
        if alarm is None:
            raise FeedRefused(f"the trigger '{namespace}/{trigger}' has no alarm")
        await self._engine.delete(alarm)
        return _SUCCESS

    def _make(self, feed: str, arguments: Arguments, trigger: Trigger, *, stored: Alarm | None) -> Alarm:
        return make_alarm(feed, arguments, stored=stored, trigger=trigger, alarm_id=self._new_id(), now_ms=self._wall_ms())

    def _alarm(self, feed: str, trigger: Trigger) -> Alarm:
        alarm = self._engine.get(trigger.namespace, trigger.path)
        if alarm is None or alarm.feed != feed:
            raise EntityNotFound(f"the trigger '{trigger.full_path}' has no alarm of the feed {feed}")
        return alarm

    def _identity(self, arguments: Arguments) -> Identity:
        """Find out whose the `authKey` is."""
        key = _text(arguments, "authKey")
        try:
            return self._authenticator.identify("Basic " + base64.b64encode(key.encode()).decode())
        except RequestError as error:
            raise FeedRefused(f"trigger authentication failed: {error}") from error

    def _name(self, arguments: Arguments, identity: Identity) -> tuple[str, str]:
        """Read `triggerName`, `/ns/name` or `name`: (namespace, name) of a trigger of this caller."""
        segments = _text(arguments, "triggerName").removeprefix("/").split("/")
        own = identity.namespace.name
        if len(segments) == 1:
            segments = [own, *segments]
        namespace = own if segments[0] == "_" else segments[0]
        if len(segments) != 2:
            raise InvalidName("triggerName must be /namespace/name")
        name = check_name(segments[1])
        if namespace != own:
            raise FeedRefused(f"trigger authentication failed: the authKey is not one of the namespace '{namespace}'")
        return namespace, name

    def _trigger(self, namespace: str, name: str) -> Trigger:
        trigger = self._find(namespace, name)
        if not isinstance(trigger, Trigger):
            raise EntityNotFound(f"trigger authentication failed: the trigger '{namespace}/{name}' does not exist")
        return trigger


def _text(arguments: Arguments, name: str) -> str:
    value = msgspec.json.decode(arguments[name]) if name in arguments else None
    if not isinstance(value, str) or not value:
        raise FeedRefused(f"the parameter {name} is required, a string")
    return value


def _raw(value: dict[str, Any]) -> msgspec.Raw:
    return msgspec.Raw(_encode(value))
