"""Alarms on the disk."""

import contextlib

import msgspec

from invoker.alarms.alarm import make_alarm
from invoker.alarms.store import AlarmStore
from invoker.model import Trigger
from invoker.record.damage import read_damage

NOW = 1_790_000_000_000


def an_alarm(trigger="t", **changes):
    raw = {"cron": msgspec.Raw(b'"* * * * *"'), "trigger_payload": msgspec.Raw(b'{"n": 1.10}')}
    target = Trigger(namespace="guest", path=trigger, revision="r", updated=0, birth="b")
    alarm = make_alarm("alarm", raw, trigger=target, alarm_id="a" * 32, now_ms=NOW)
    return msgspec.structs.replace(alarm, **changes)


@contextlib.asynccontextmanager
async def opened(path):
    store = await AlarmStore.open(path)
    try:
        yield store
    finally:
        await store.close()


async def test_what_was_written_is_there_after_a_restart_byte_for_byte(tmp_path):
    async with opened(tmp_path / "alarms.db") as store:
        await store.put(an_alarm())
        await store.put(an_alarm(alarm_id="b" * 32))
        await store.put(an_alarm("u"))
        await store.delete(an_alarm("u"))
    async with opened(tmp_path / "alarms.db") as store:
        assert store.all() == [an_alarm(alarm_id="b" * 32)]
        assert bytes(store.get("guest", "t").payload) == b'{"n": 1.10}'
        assert store.get("guest", "u") is None


async def test_an_alarm_that_cannot_be_read_is_set_aside_and_the_others_tick(tmp_path):
    path = tmp_path / "alarms.db"
    async with opened(path) as store:
        await store.put(an_alarm("good"))
        parameters = {"namespace": "guest", "trigger": "t", "value": "{}"}
        await store._writer.execute(store._queries["put_alarm"], parameters)
    async with opened(path) as store:
        assert [each.trigger for each in store.all()] == ["good"]
    assert [(row.store, row.key) for row in read_damage(tmp_path).values()] == [("alarms", "guest/t")]
