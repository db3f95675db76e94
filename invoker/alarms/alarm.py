"""An alarm: which trigger, when, with what payload; and what the parameters of a feed say of one. Pure values."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from invoker.alarms.schedule import BadSchedule, Bounds, Cron, Interval, Once, Schedule, next_tick
from invoker.model import Trigger

#: When the first tick of an interval comes that names no start, ms from now.
INTERVAL_BEGINS_MS = 30_000
_EMPTY = msgspec.Raw(b"{}")
#: What a `deleteAfterFire` may be: nothing, the trigger, the trigger and the rules that are linked to it.
DELETE_AFTER_FIRE = ("false", "true", "rules")
#: Parameters that each feed takes, and that its UPDATE may change. `strict` is accepted for clients of upstream's provider:
#: without it that one may delay a tick; here every alarm is strict.
PARAMETERS: dict[str, frozenset[str]] = {
    "alarm": frozenset({"cron", "timezone", "trigger_payload", "maxTriggers", "startDate", "stopDate", "strict"}),
    "interval": frozenset({"minutes", "trigger_payload", "maxTriggers", "startDate", "stopDate"}),
    "once": frozenset({"date", "trigger_payload", "deleteAfterFire"}),
}

Arguments = dict[str, msgspec.Raw]


class Disabled(msgspec.Struct, frozen=True, kw_only=True):
    """Why an alarm does not fire any more: `kind` is AUTO, the rest what firing it was answered."""

    kind: str = "AUTO"
    status_code: int
    message: str


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """An alarm. Each write makes a new one: with an id of its own it begins with no tick fired.

    Attributes:
        alarm_id: 32 hexadecimal digits.
        namespace, trigger: whose trigger it fires.
        birth: of that trigger: one that was deleted and made again is another one, which this alarm does not fire.
        feed: `alarm`, `interval` or `once`.
        payload: JSON text of an object.
        delete_after_fire: of `once`; see `DELETE_AFTER_FIRE`.
        disabled: None while it is active.
        changed_ms: wall clock of the last write or disabling.
    """

    alarm_id: str
    namespace: str
    trigger: str
    birth: str
    feed: str
    schedule: Schedule
    bounds: Bounds
    payload: msgspec.Raw = _EMPTY
    delete_after_fire: str = "false"
    strict: bool = False
    disabled: Disabled | None = None
    changed_ms: int

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and trigger: each trigger has one alarm at most."""
        return self.namespace, self.trigger


def make_alarm(
    feed: str,
    arguments: Arguments,
    *,
    stored: Alarm | None = None,
    trigger: Trigger,
    alarm_id: str,
    now_ms: int,
) -> Alarm:
    """Make an alarm of what a feed is called with.

    Args:
        feed: `alarm`, `interval` or `once`.
        arguments: JSON text by name; others than `PARAMETERS` are ignored.
        stored: the alarm that is updated: what is not given stays, also dates that have passed.
        trigger: what it is to fire.
        alarm_id: new.
        now_ms: wall clock.

    Raises:
        BadSchedule: a parameter is missing or wrong, or the alarm would never fire.
    """
    all_of_them = (arguments_of(stored) if stored else {}) | arguments
    given = {name: msgspec.json.decode(text) for name, text in all_of_them.items() if name in PARAMETERS[feed]}
    given = {name: value for name, value in given.items() if value is not None}
    start_ms = _date(given, "startDate", now_ms if "startDate" in arguments else None)
    stop_ms = _date(given, "stopDate", now_ms if "stopDate" in arguments else None)
    if stop_ms is not None and stop_ms <= (start_ms or now_ms):
        raise BadSchedule("stopDate must be later than startDate")
    most = _most(given, stop_ms)
    schedule: Schedule
    if feed == "alarm":
        schedule = Cron(_text(given, "cron", required=True), _text(given, "timezone") or "UTC")
    elif feed == "interval":
        schedule = Interval(_minutes(given), start_ms or now_ms + INTERVAL_BEGINS_MS)
    else:
        date_ms = _date(given, "date", now_ms if "date" in arguments else None)
        if date_ms is None:
            raise BadSchedule("the parameter date is required: milliseconds since the epoch, or ISO 8601")
        schedule = Once(date_ms)
    schedule.check()
    alarm = Alarm(
        alarm_id=alarm_id,
        namespace=trigger.namespace,
        trigger=trigger.path,
        birth=trigger.birth,
        feed=feed,
        schedule=schedule,
        bounds=Bounds(since_ms=now_ms, start_ms=start_ms, stop_ms=stop_ms, most=most),
        payload=_payload(all_of_them.get("trigger_payload")),
        delete_after_fire=_delete_after_fire(given),
        strict=_flag(given, "strict"),
        changed_ms=now_ms,
    )
    if next_tick(alarm.schedule, alarm.bounds, None) is None:
        raise BadSchedule("the alarm would never fire: no tick lies between its start and its stop")
    return alarm


def arguments_of(alarm: Alarm) -> Arguments:
    """Write an alarm as what its feed was called with, so that an UPDATE can be laid over it."""
    values: dict[str, Any] = {
        "startDate": alarm.bounds.start_ms,
        "stopDate": alarm.bounds.stop_ms,
        "maxTriggers": alarm.bounds.most,
    }
    match alarm.schedule:
        case Cron(expression, timezone):
            values |= {"cron": expression, "timezone": timezone, "strict": alarm.strict}
        case Interval(minutes, start_ms):
            values |= {"minutes": minutes, "startDate": start_ms}
        case Once(at_ms):
            values |= {"date": at_ms, "deleteAfterFire": alarm.delete_after_fire}
    arguments = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in values.items() if value is not None}
    return arguments | {"trigger_payload": alarm.payload}


def describe(alarm: Alarm) -> dict[str, Any]:
    """Write an alarm as the answer to READ."""
    config: dict[str, Any] = {"name": alarm.trigger, "namespace": alarm.namespace, "payload": alarm.payload}
    match alarm.schedule:
        case Cron(expression, timezone):
            config |= {"cron": expression, "timezone": timezone, "strict": alarm.strict}
        case Interval(minutes, start_ms):
            config |= {"minutes": minutes, "startDate": start_ms}
        case Once(at_ms):
            config |= {"date": at_ms, "deleteAfterFire": alarm.delete_after_fire}
    for name, value in (
        ("startDate", alarm.bounds.start_ms),
        ("stopDate", alarm.bounds.stop_ms),
        ("maxTriggers", alarm.bounds.most),
    ):
        if value is not None:
            config[name] = value
    changed = datetime.fromtimestamp(alarm.changed_ms / 1000, UTC)
    status: dict[str, Any] = {
        "active": alarm.disabled is None,
        "dateChanged": alarm.changed_ms,
        "dateChangedISO": changed.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }
    if alarm.disabled is not None:
        why = alarm.disabled
        status["reason"] = {"kind": why.kind, "statusCode": why.status_code, "message": why.message}
    return {"config": config, "status": status}


def _text(given: dict[str, Any], name: str, *, required: bool = False) -> str:
    value = given.get(name, "")
    if not isinstance(value, str):
        raise BadSchedule(f"{name} must be a string")
    if required and not value:
        raise BadSchedule(f"the parameter {name} is required")
    return value


def _minutes(given: dict[str, Any]) -> int:
    value = given.get("minutes")
    if isinstance(value, str) and value.isdecimal() and len(value) < 10:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 10**9:
        raise BadSchedule("the parameter minutes is required, an integer greater than 0")
    return value


def _most(given: dict[str, Any], stop_ms: int | None) -> int | None:
    value = given.get("maxTriggers")
    if value is None or value == -1:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise BadSchedule("maxTriggers must be an integer greater than 0, or -1 for any number")
    if stop_ms is not None:
        raise BadSchedule("maxTriggers and stopDate cannot both be given")
    return value


def _flag(given: dict[str, Any], name: str) -> bool:
    value = given.get(name, False)
    if value in (True, "true"):
        return True
    if value in (False, "false"):
        return False
    raise BadSchedule(f"{name} must be true or false")


def _delete_after_fire(given: dict[str, Any]) -> str:
    value = given.get("deleteAfterFire", "false")
    value = str(value).lower() if isinstance(value, bool) else value
    if value not in DELETE_AFTER_FIRE:
        raise BadSchedule("deleteAfterFire must be false, true or rules")
    return str(value)


def _date(given: dict[str, Any], name: str, later_than_ms: int | None) -> int | None:
    """Read a date: integer milliseconds, also as text, or ISO 8601 (UTC where it names no zone)."""
    value = given.get(name)
    if value is None:
        return None
    at_ms = _milliseconds(value)
    if at_ms is None:
        raise BadSchedule(f"{name} is not a date: give milliseconds since the epoch, or ISO 8601")
    if later_than_ms is not None and at_ms <= later_than_ms:
        raise BadSchedule(f"{name} must be in the future")
    return at_ms


def _milliseconds(value: object) -> int | None:
    if isinstance(value, str) and value.isdecimal() and len(value) <= 15:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value if 0 <= value < 250_000_000_000_000 else None
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def _payload(text: msgspec.Raw | None) -> msgspec.Raw:
    """Make the object that the trigger is fired with: an object is it, nothing and "" are none, all else is its `payload`."""
    if text is None or bytes(text) in {b'""', b"null"}:
        return _EMPTY
    # A copy, so that the request's body, into which it points, is let go.
    copied = msgspec.Raw(bytes(text))
    return copied if bytes(text).lstrip()[:1] == b"{" else msgspec.Raw(b'{"payload":' + bytes(copied) + b"}")
