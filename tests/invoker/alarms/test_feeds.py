"""The feed actions, spoken to as clients do; alarms that fire triggers of a real store."""

import itertools
from base64 import b64decode

import msgspec
import pytest
from api_site import Site

from invoker.alarms.alarm import Disabled
from invoker.alarms.engine import AlarmEngine, Later
from invoker.alarms.feeds import AlarmFeeds, FeedRefused
from invoker.alarms.firing import AlarmFirer
from invoker.alarms.schedule import Progress, Tick
from invoker.alarms.store import AlarmStore
from invoker.model import Action, Exec, Identity, Rule, Trigger
from invoker.record.entries import TickEntry

NOW = 1_700_000_000_000


class Provider:
    """Feeds, engine and firer on one site, and the key of its user."""

    def __init__(self, site, store):
        self.site = site
        self.forgotten = []
        site.services()
        numbers = itertools.count(1)
        self.firer = AlarmFirer(
            entities=site.entities,
            admission=site.triggers._admission,
            triggers=site.triggers,
            derived_key=site.authenticator.derived_key,
            wall_clock=lambda: site.now,
        )
        self.engine = AlarmEngine(
            store,
            progress={},
            fire=self.firer.fire,
            finish=self.firer.finish,
            forget=self.forgotten.append,
            wall_ms=lambda: int(site.now * 1000),
        )
        self.feeds = AlarmFeeds(
            self.engine,
            find=site.entities.get,
            authenticator=site.authenticator,
            new_id=lambda: f"alarm{next(numbers)}",
            wall_ms=lambda: int(site.now * 1000),
        ).builtins()
        self.key = b64decode(site.auth.partition(" ")[2]).decode()

    async def ask(self, feed, event, **arguments):
        sent = {"lifecycleEvent": event, "triggerName": "/_/t", "authKey": self.key, **arguments}
        text = msgspec.Raw(msgspec.json.encode({name: value for name, value in sent.items() if value is not None}))
        caller = Identity(namespace=self.site.entities.get_namespace("guest"), api_key="")
        return msgspec.json.decode(await self.feeds[f"whisk.system/alarms/{feed}"](caller, text))

    def alarm(self):
        return self.engine.get("guest", "t")

    async def fire(self, at_ms=NOW, fired=1, **tick):
        return await self.firer.fire(self.alarm(), Tick(at_ms=at_ms, **tick), Progress(at_ms, fired))


@pytest.fixture
async def provider(tmp_path):
    store = await AlarmStore.open(tmp_path / "alarms.db")
    site = Site()
    site.entities.add(Trigger(namespace="guest", path="t", revision="r", updated=0, birth="b"))
    yield Provider(site, store)
    await store.close()


def link(provider, name="r"):
    provider.site.entities.add(Action(namespace="guest", path="a", revision="r", updated=0, exec=Exec(kind="python:3")))
    provider.site.entities.add(
        Rule(namespace="guest", path=name, revision=name, updated=0, trigger="guest/t", action="guest/a", link="b")
    )


# ---- the life of an alarm


async def test_create_read_update_delete(provider):
    assert await provider.ask("alarm", "CREATE", cron="0 * * * *", trigger_payload="hi") == {"status": "success"}
    told = await provider.ask("alarm", "READ")
    assert told["config"]["cron"] == "0 * * * *"
    assert told["config"]["payload"] == {"payload": "hi"}
    assert told["status"]["active"] is True
    assert await provider.ask("alarm", "UPDATE", cron="*/5 * * * *") == {"status": "success"}
    told = await provider.ask("alarm", "READ")
    assert (told["config"]["cron"], told["config"]["payload"]) == ("*/5 * * * *", {"payload": "hi"})
    assert await provider.ask("alarm", "DELETE") == {"status": "success"}
    assert provider.alarm() is None
    assert provider.forgotten == ["alarm1", "alarm2"]


async def test_each_feed_makes_its_own_kind_of_alarm(provider):
    await provider.ask("interval", "CREATE", minutes=5)
    assert (await provider.ask("interval", "READ"))["config"]["startDate"] == NOW + 30_000
    await provider.ask("once", "CREATE", date=NOW + 5)
    assert (await provider.ask("once", "READ"))["config"]["date"] == NOW + 5
    with pytest.raises(FeedRefused, match="no alarm of the feed interval"):
        await provider.ask("interval", "READ")


@pytest.mark.parametrize(
    ("event", "arguments", "sentence"),
    [
        ("CREATE", {"cron": "nonsense"}, "cron"),
        ("CREATE", {"cron": "* * * * *", "triggerName": "/_/missing"}, "'guest/missing' does not exist"),
        ("CREATE", {"cron": "* * * * *", "triggerName": "/whisk.system/t"}, "not one of the namespace 'whisk.system'"),
        ("CREATE", {"cron": "* * * * *", "triggerName": "/a/b/c"}, "must be /namespace/name"),
        ("CREATE", {"cron": "* * * * *", "triggerName": None}, "triggerName is required"),
        ("CREATE", {"cron": "* * * * *", "authKey": "nobody:nothing"}, "authentication is invalid"),
        ("CREATE", {"cron": "* * * * *", "authKey": None}, "authKey is required"),
        ("READ", {}, "no alarm"),
        ("UPDATE", {"cron": "* * * * *"}, "no alarm"),
        ("DELETE", {}, "no alarm"),
        ("PAUSE", {}, "unsupported lifecycleEvent"),
        ("CREATE", {"lifecycleEvent": None}, "lifecycleEvent is required"),
    ],
)
async def test_what_is_refused_changes_nothing(provider, event, arguments, sentence):
    with pytest.raises(FeedRefused, match=sentence):
        await provider.ask("alarm", event, **arguments)
    assert provider.alarm() is None


async def test_an_update_with_nothing_to_update_says_what_could_be(provider):
    await provider.ask("once", "CREATE", date=NOW + 5000)
    with pytest.raises(FeedRefused, match="deleteAfterFire"):
        await provider.ask("once", "UPDATE")


async def test_delete_works_when_the_trigger_has_gone_already(provider):
    await provider.ask("alarm", "CREATE", cron="* * * * *")
    await provider.site.entities.delete(provider.site.entities.get("guest", "t"))
    assert await provider.ask("alarm", "DELETE") == {"status": "success"}


# ---- firing


async def test_a_tick_fires_the_trigger_and_tells_which_tick_it_was(provider):
    link(provider)
    await provider.ask("alarm", "CREATE", cron="* * * * *", trigger_payload={"a": 1})
    assert await provider.fire(missed=2) is None
    ((_, call),) = provider.site.invoker.promised
    assert msgspec.json.decode(call.payload) == {"a": 1, "__ow_alarm": {"scheduled": NOW, "missed": 2}}
    assert call.identity.namespace.name == "guest"
    assert provider.site.activations.ticks == [TickEntry("alarm1", NOW, 1)]


async def test_a_tick_that_no_rule_listens_to_counts_too(provider):
    await provider.ask("alarm", "CREATE", cron="* * * * *")
    assert await provider.fire() is None
    assert provider.site.activations.records == []
    assert provider.site.activations.ticks == [TickEntry("alarm1", NOW, 1)]


async def test_a_tick_over_the_limit_of_fires_waits_for_the_next_minute(provider):
    link(provider)
    provider.site.grant(fires_per_minute=1)
    await provider.ask("alarm", "CREATE", cron="* * * * *")
    assert await provider.fire() is None
    later = await provider.fire(fired=2)
    assert isinstance(later, Later)
    assert 0 < later.after_s <= 60
    assert len(provider.site.invoker.promised) == 1


async def test_without_its_trigger_or_its_namespace_an_alarm_is_disabled(provider):
    await provider.ask("alarm", "CREATE", cron="* * * * *")
    await provider.site.entities.delete(provider.site.entities.get("guest", "t"))
    assert (await provider.fire()).status_code == 404
    provider.site.entities._forget_namespace(provider.site.entities.get_namespace("guest"))
    assert (await provider.fire()).status_code == 401


async def test_an_alarm_whose_trigger_or_namespace_cannot_be_read_waits_until_it_can_and_stays(provider):
    entities = provider.site.entities
    await provider.ask("alarm", "CREATE", cron="* * * * *")
    link(provider)
    trigger, namespace = entities.get("guest", "t"), entities.get_namespace("guest")
    entities._replace(trigger, None)
    entities._damaged.add(("guest", "t"))
    assert isinstance(await provider.fire(), Later)
    await entities.put(trigger, expected_revision=None)
    assert await provider.fire() is None
    entities._forget_namespace(namespace)
    entities._damaged.add(("guest", ""))
    assert isinstance(await provider.fire(), Later)
    await entities.put_namespace(namespace)
    assert await provider.fire() is None
    assert len(provider.site.invoker.promised) == 2


async def test_a_trigger_deleted_and_made_again_is_not_fired_by_the_old_ones_alarm(provider):
    await provider.ask("alarm", "CREATE", cron="* * * * *")
    link(provider)
    provider.site.entities.add(Trigger(namespace="guest", path="t", revision="r2", updated=1, birth="another"))
    assert (await provider.fire()).status_code == 404
    assert provider.site.invoker.promised == []


@pytest.mark.parametrize(
    ("delete", "left"), [("false", {"guest/t", "guest/r", "guest/a"}), ("true", {"guest/r", "guest/a"}), ("rules", {"guest/a"})]
)
async def test_what_goes_with_the_last_tick(provider, delete, left):
    link(provider)
    await provider.ask("once", "CREATE", date=NOW + 5, deleteAfterFire=delete)
    why = await provider.firer.finish(provider.alarm())
    assert (why is None) == (delete != "false")
    assert isinstance(why, Disabled | None)
    assert set(provider.site.entities.everything()) == left
