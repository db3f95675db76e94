"""The engine: one timer; each tick fired once, over restarts, failures and clocks that are set."""

import asyncio
import contextlib

import msgspec
import pytest

from invoker.alarms.alarm import Disabled, make_alarm
from invoker.alarms.engine import AlarmEngine, Later
from invoker.alarms.schedule import SET_BACK_MS, Progress
from invoker.alarms.store import AlarmStore
from invoker.model import Trigger
from invoker.record.store import StoreBroken

NOW = 1_790_000_000_000


class Engine:
    """An engine on a clock that the test sets, and what it fired."""

    def __init__(self, store, progress=()):
        self.now_ms = NOW
        self.fired = []
        self.finished = []
        self.answers = []
        self.forgotten = []
        self.end = Disabled(status_code=0, message="done")
        self.engine = AlarmEngine(
            store,
            progress=dict(progress),
            fire=self.fire,
            finish=self.finish,
            forget=self.forgotten.append,
            wall_ms=lambda: self.now_ms,
        )

    async def fire(self, alarm, tick, progress):
        answer = self.answers.pop(0) if self.answers else None
        if answer is None:
            self.fired.append((alarm.trigger, (tick.at_ms - NOW) / 1000, progress.fired))
        return answer

    async def finish(self, alarm):
        self.finished.append(alarm.trigger)
        return self.end

    async def look(self):
        """Do what the engine does when its timer wakes it."""
        due = self.engine._take_due()
        for alarm in due:
            await self.engine._tick_safely(alarm)
        return len(due)

    async def pass_s(self, seconds):
        self.now_ms += round(seconds * 1000)
        while await self.look():
            pass


def an_alarm(trigger="t", feed="alarm", alarm_id="a", **arguments):
    raw = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in arguments.items()}
    target = Trigger(namespace="guest", path=trigger, revision="r", updated=0, birth="b")
    return make_alarm(feed, raw, trigger=target, alarm_id=alarm_id, now_ms=NOW)


def every_second(**changes):
    return an_alarm(cron="* * * * * *", **changes)


@pytest.fixture
async def store(tmp_path):
    store = await AlarmStore.open(tmp_path / "alarms.db")
    yield store
    await store.close()


async def test_each_tick_fires_once_in_order(store):
    engine = Engine(store)
    await engine.engine.put(every_second())
    await engine.pass_s(0.5)
    assert engine.fired == []
    await engine.pass_s(0.5)
    await engine.pass_s(2.0)
    assert engine.fired == [("t", 1, 1), ("t", 2, 2), ("t", 3, 3)]


async def test_a_successor_goes_on_where_the_journal_says_the_last_tick_was(store):
    await store.put(every_second())
    engine = Engine(store, {"a": Progress(NOW + 2000, 2)})
    engine.engine._enter(store.get("guest", "t"))
    await engine.pass_s(4.0)
    assert engine.fired == [("t", 3, 3), ("t", 4, 4)]


async def test_what_cannot_be_fired_now_is_fired_later_and_nothing_overtakes_it(store):
    engine = Engine(store)
    await engine.engine.put(every_second())
    engine.answers = [Later(5.0)]
    await engine.pass_s(1.0)
    await engine.pass_s(2.0)
    assert engine.fired == []
    await engine.pass_s(3.0)
    assert engine.fired == [("t", each, each) for each in range(1, 7)]


async def test_an_alarm_whose_trigger_is_gone_is_disabled_and_says_why(store):
    engine = Engine(store)
    await engine.engine.put(every_second())
    engine.answers = [Disabled(status_code=404, message="gone")]
    await engine.pass_s(1.0)
    await engine.pass_s(60.0)
    assert engine.fired == []
    assert store.get("guest", "t").disabled == Disabled(status_code=404, message="gone")


async def test_a_deleted_alarm_fires_no_more_and_a_rewritten_one_only_as_it_is_now(store):
    engine = Engine(store)
    await engine.engine.put(every_second())
    await engine.engine.put(an_alarm("u", alarm_id="b", cron="* * * * * *"))
    await engine.engine.put(an_alarm(alarm_id="c", cron="*/4 * * * * *"))
    await engine.engine.delete(store.get("guest", "u"))
    await engine.pass_s(4.0)
    assert engine.fired == [("t", 4, 1)]
    assert engine.forgotten == ["a", "b"]


async def test_the_last_tick_ends_an_alarm(store):
    engine = Engine(store)
    await engine.engine.put(every_second(maxTriggers=2))
    await engine.pass_s(5.0)
    assert engine.fired == [("t", 1, 1), ("t", 2, 2)]
    assert engine.finished == ["t"]
    assert store.get("guest", "t").disabled.message == "done"


async def test_an_alarm_whose_trigger_went_with_the_last_tick_goes_too(store):
    engine = Engine(store)
    engine.end = None
    await engine.engine.put(an_alarm(feed="once", date=NOW + 1000, deleteAfterFire="true"))
    await engine.pass_s(1.0)
    assert engine.fired == [("t", 1, 1)]
    assert store.all() == []
    assert engine.forgotten == ["a"]


async def test_a_clock_set_back_by_hours_does_not_silence_an_alarm(store):
    engine = Engine(store)
    await engine.engine.put(every_second())
    await engine.pass_s(2.0)
    await engine.pass_s(-2 * SET_BACK_MS / 1000)
    engine.fired.clear()
    await engine.pass_s(1.0)
    assert [fired for _, _, fired in engine.fired] == [3]


async def test_a_clock_set_back_a_little_repeats_no_tick(store):
    engine = Engine(store)
    await engine.engine.put(every_second())
    await engine.pass_s(10.0)
    engine.fired.clear()
    await engine.pass_s(-5.0)
    await engine.pass_s(5.0)
    assert engine.fired == []
    await engine.pass_s(1.0)
    assert engine.fired == [("t", 11, 11)]


async def test_a_database_that_cannot_be_written_is_tried_again(store, monkeypatch):
    engine = Engine(store)
    await engine.engine.put(every_second(maxTriggers=1))

    async def refuse(_alarm):
        raise StoreBroken("full")

    with monkeypatch.context() as patched:
        patched.setattr(store, "put", refuse)
        await engine.pass_s(1.0)
    assert store.get("guest", "t").disabled is None
    await engine.pass_s(1.0)
    assert store.get("guest", "t").disabled.message == "done"
    assert engine.fired == [("t", 1, 1)]


async def test_it_wakes_for_the_earliest_and_for_one_that_comes_earlier(store):
    engine = Engine(store)
    fired = asyncio.Event()

    async def fire(alarm, tick, progress):
        engine.fired.append(alarm.trigger)
        fired.set()

    engine.engine._fire = fire
    await store.put(an_alarm("hourly", alarm_id="h", cron="0 * * * *"))
    async with asyncio.TaskGroup() as group:
        running = group.create_task(engine.engine.run())
        await asyncio.sleep(0)  # it sleeps until the hour
        await engine.engine.put(an_alarm("soon", feed="once", date=NOW + 1))
        engine.now_ms += 1
        await fired.wait()
        running.cancel()
    assert engine.fired == ["soon"]


async def test_an_alarm_that_had_ended_when_the_last_daemon_was_killed_is_ended_now(store):
    await store.put(every_second(maxTriggers=2))
    engine = Engine(store, {"a": Progress(NOW + 2000, 2)})
    ended = asyncio.Event()

    async def finish(alarm):
        ended.set()
        return engine.end

    engine.engine._finish = finish
    with contextlib.suppress(asyncio.CancelledError):
        async with asyncio.TaskGroup() as group:
            running = group.create_task(engine.engine.run())
            await ended.wait()
            running.cancel()
    assert engine.fired == []
