"""Alarms from the parameters of a feed, and back."""

import msgspec
import pytest

from invoker.alarms.alarm import Disabled, arguments_of, describe, make_alarm
from invoker.alarms.schedule import BadSchedule, Cron, Interval, Once
from invoker.model import Trigger

NOW = 1_790_000_000_000
HOUR = 3_600_000
TRIGGER = Trigger(namespace="guest", path="t", revision="r", updated=0, birth="b")


def make(feed="alarm", *, stored=None, now_ms=NOW, **arguments):
    raw = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in arguments.items()}
    return make_alarm(feed, raw, stored=stored, trigger=TRIGGER, alarm_id="a" * 32, now_ms=now_ms)


def test_an_alarm_has_its_schedule_its_zone_and_its_bounds():
    alarm = make(cron="*/2 * * * * *", timezone="Europe/Berlin", startDate=NOW + 1, stopDate=NOW + HOUR)
    assert alarm.schedule == Cron("*/2 * * * * *", "Europe/Berlin")
    assert (alarm.bounds.since_ms, alarm.bounds.start_ms, alarm.bounds.stop_ms) == (NOW, NOW + 1, NOW + HOUR)
    assert make(cron="* * * * *", maxTriggers=-1).bounds.most is None
    assert make(cron="* * * * *", maxTriggers=3).bounds.most == 3


def test_an_interval_begins_at_its_start_or_in_thirty_seconds():
    assert make("interval", minutes=5, startDate=NOW + HOUR).schedule == Interval(5, NOW + HOUR)
    assert make("interval", minutes="5").schedule == Interval(5, NOW + 30_000)


@pytest.mark.parametrize("date", [NOW + HOUR, str(NOW + HOUR), "2026-09-21T16:13:20+01:00", "2026-09-21T15:13:20.000Z"])
def test_a_date_is_milliseconds_or_iso_8601(date):
    assert make("once", date=date).schedule == Once(NOW + HOUR)


@pytest.mark.parametrize(
    ("given", "payload"),
    [
        (None, b"{}"),
        ("", b"{}"),
        ("hello", b'{"payload":"hello"}'),
        ({"a": 1}, b'{"a":1}'),
        ([1], b'{"payload":[1]}'),
        (7, b'{"payload":7}'),
    ],
)
def test_the_payload_becomes_an_object(given, payload):
    assert bytes(make(cron="* * * * *", trigger_payload=given).payload) == payload


def test_a_payloads_numbers_stay_as_they_were_written():
    raw = {"cron": msgspec.Raw(b'"* * * * *"'), "trigger_payload": msgspec.Raw(b'{"n": 12345678901234567890.10}')}
    alarm = make_alarm("alarm", raw, trigger=TRIGGER, alarm_id="a", now_ms=NOW)
    assert bytes(alarm.payload) == b'{"n": 12345678901234567890.10}'


@pytest.mark.parametrize(
    ("feed", "arguments", "sentence"),
    [
        ("alarm", {}, "parameter cron is required"),
        ("alarm", {"cron": 5}, "cron must be a string"),
        ("alarm", {"cron": "* * *"}, "not valid"),
        ("alarm", {"cron": "* * * * *", "timezone": "Mars/Base"}, "Mars/Base"),
        ("alarm", {"cron": "* * * * *", "startDate": NOW}, "startDate must be in the future"),
        ("alarm", {"cron": "* * * * *", "stopDate": "yesterday"}, "stopDate is not a date"),
        ("alarm", {"cron": "* * * * *", "startDate": NOW + 9, "stopDate": NOW + 8}, "stopDate must be later than startDate"),
        ("alarm", {"cron": "* * * * *", "maxTriggers": 2, "stopDate": NOW + HOUR}, "cannot both be given"),
        ("alarm", {"cron": "* * * * *", "maxTriggers": 0}, "maxTriggers"),
        ("alarm", {"cron": "* * * * *", "maxTriggers": True}, "maxTriggers"),
        ("alarm", {"cron": "* * * * *", "strict": "perhaps"}, "strict must be true or false"),
        ("alarm", {"cron": "0 0 1 1 *", "stopDate": NOW + 1}, "would never fire"),
        ("interval", {}, "minutes is required"),
        ("interval", {"minutes": 0}, "minutes is required"),
        ("interval", {"minutes": 2.5}, "minutes is required"),
        ("interval", {"minutes": 1, "maxTriggers": 2, "stopDate": NOW + HOUR}, "cannot both be given"),
        ("once", {}, "date is required"),
        ("once", {"date": NOW - 1}, "date must be in the future"),
        ("once", {"date": 10**18}, "date is not a date"),
        ("once", {"date": NOW + 1, "deleteAfterFire": "maybe"}, "deleteAfterFire"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_the_name_of_the_parameter(feed, arguments, sentence):
    with pytest.raises(BadSchedule, match=sentence):
        make(feed, **arguments)


def test_an_update_keeps_what_is_not_given_also_dates_that_have_passed():
    first = make("interval", minutes=5, startDate=NOW + 1000, trigger_payload={"a": 1})
    later = make("interval", stored=first, now_ms=NOW + HOUR, minutes=10)
    assert later.schedule == Interval(10, NOW + 1000)
    assert bytes(later.payload) == b'{"a":1}'
    assert later.bounds.since_ms == NOW + HOUR


def test_an_update_that_leaves_nothing_to_fire_is_refused():
    first = make("once", date=NOW + 1000)
    with pytest.raises(BadSchedule, match="would never fire"):
        make("once", stored=first, now_ms=NOW + HOUR, trigger_payload="late")


@pytest.mark.parametrize(
    ("feed", "arguments"),
    [
        ("alarm", {"cron": "1 2 3 4 *", "timezone": "Asia/Tokyo", "maxTriggers": 4, "strict": True}),
        ("interval", {"minutes": 7, "startDate": NOW + 5, "stopDate": NOW + HOUR}),
        ("once", {"date": NOW + 5, "deleteAfterFire": "rules", "trigger_payload": {"x": None}}),
    ],
)
def test_an_alarm_written_as_arguments_makes_the_same_alarm(feed, arguments):
    alarm = make(feed, **arguments)
    assert make_alarm(feed, arguments_of(alarm), trigger=TRIGGER, alarm_id="a" * 32, now_ms=NOW) == alarm


def test_read_tells_the_configuration_and_why_it_stands():
    alarm = make(cron="* * * * *", trigger_payload={"a": 1}, stopDate=NOW + HOUR)
    told = msgspec.json.decode(msgspec.json.encode(describe(alarm)))
    assert told["config"] == {
        "name": "t",
        "namespace": "guest",
        "payload": {"a": 1},
        "cron": "* * * * *",
        "timezone": "UTC",
        "strict": False,
        "stopDate": NOW + HOUR,
    }
    assert told["status"] == {"active": True, "dateChanged": NOW, "dateChangedISO": "2026-09-21T14:13:20.000Z"}
    gone = msgspec.structs.replace(alarm, disabled=Disabled(status_code=404, message="no trigger"))
    assert describe(gone)["status"]["reason"] == {"kind": "AUTO", "statusCode": 404, "message": "no trigger"}
