"""Rows FE-01, FE-02 and CL-03 of the checklist on a real daemon: requests as the clients send them (§2.11, §7.2, §7.5)."""

import json
import time
from datetime import UTC, datetime

import pytest

pytestmark = pytest.mark.docker

#: A provider of somebody's own: it returns what it was told, and refuses what it is told to refuse.
FEED = """
def main(args):
    if args.get("refuse") == args["lifecycleEvent"]:
        return {"error": "no " + args["lifecycleEvent"]}
    if args["lifecycleEvent"] == "READ":
        return {"config": {"topic": args.get("topic", "")}, "status": {"active": True}}
    return {"told": args}
"""
ECHO = "def main(args):\n    return args\n"


class Wsk:
    """Sends what `wsk` sends, in its order."""

    def __init__(self, user):
        self.user = user

    def put(self, path, body, overwrite="false"):
        return self.user.ask("PUT", f"{path}?overwrite={overwrite}", body)

    def feed(self, feed, event, trigger, parameters=None):
        told = {"lifecycleEvent": event, "triggerName": f"/_/{trigger}", "authKey": self.user.key}
        namespace, _, path = feed.strip("/").partition("/")
        path = f"/api/v1/namespaces/{namespace}/actions/{path}?blocking=true"
        return self.user.ask("POST", path, {**(parameters or {}), **told})

    def trigger_create(self, trigger, feed, parameters=None):
        """Create a trigger with a feed; what cannot be fed is deleted again."""
        answer = self.put(f"triggers/{trigger}", {"annotations": [{"key": "feed", "value": feed}]})
        assert answer.status == 200, answer.text
        created = self.feed(feed, "CREATE", trigger, parameters)
        if created.status >= 400 or created.status == 202:
            self.trigger_delete(trigger)
        return created

    def trigger_delete(self, trigger):
        annotations = self.user.ask("GET", f"triggers/{trigger}").json["annotations"]
        for annotation in annotations:
            if annotation["key"] == "feed":
                self.feed(annotation["value"], "DELETE", trigger)
        return self.user.ask("DELETE", f"triggers/{trigger}")


@pytest.fixture(scope="module")
def wsk(client):
    client.deploy("echo", ECHO)
    wsk = Wsk(client)
    assert wsk.put("packages/events", {"publish": True}).status == 200
    body = {"exec": {"kind": "python:3", "code": FEED}, "annotations": [{"key": "feed", "value": True}]}
    assert wsk.put("actions/events/changes", body).status == 200
    return wsk


def wait_for(look, deadline_s=30.0):
    """Look until there is something."""
    deadline = time.monotonic() + deadline_s
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)
    return found


# ---- somebody's own feed


def test_FE_01_a_feed_is_told_of_each_event_with_the_trigger_and_the_key(wsk):
    user = wsk.user
    created = wsk.trigger_create("fe01", "/_/events/changes", {"topic": "frames"})
    assert created.status == 200
    assert created.json["response"]["result"]["told"] == {
        "topic": "frames",
        "lifecycleEvent": "CREATE",
        "triggerName": "/_/fe01",
        "authKey": user.key,
    }
    read = wsk.feed("/_/events/changes", "READ", "fe01", {"topic": "frames"})
    assert read.json["response"]["result"] == {"config": {"topic": "frames"}, "status": {"active": True}}
    updated = wsk.feed("/_/events/changes", "UPDATE", "fe01", {"topic": "peaks"})
    assert updated.json["response"]["result"]["told"]["topic"] == "peaks"
    assert wsk.trigger_delete("fe01").status == 200
    assert user.ask("GET", "triggers/fe01").status == 404


def test_FE_01_what_a_feed_refuses_leaves_no_trigger(wsk):
    created = wsk.trigger_create("fe01b", "/_/events/changes", {"refuse": "CREATE"})
    assert (created.status, created.error) == (502, "no CREATE")
    assert wsk.user.ask("GET", "triggers/fe01b").status == 404


def test_FE_01_a_feed_is_listed_with_its_package(wsk):
    package = wsk.user.ask("GET", "packages/events").json
    assert [each["name"] for each in package["feeds"]] == ["changes"]
    system = wsk.user.ask("GET", "/api/v1/namespaces/whisk.system/packages/alarms").json
    assert {each["name"] for each in system["feeds"]} == {"alarm", "interval", "once"}


def test_FE_02_a_feed_that_does_not_exist_is_404_and_leaves_no_trigger(wsk):
    for feed in ("/_/nothing", "/_/events/nothing", "/whisk.system/alarms/nothing"):
        assert wsk.trigger_create("fe02", feed).status == 404
        assert wsk.user.ask("GET", "triggers/fe02").status == 404


# ---- alarms


def test_FE_01_an_alarm_fires_its_trigger_until_it_is_deleted(wsk):
    user = wsk.user
    created = wsk.trigger_create(
        "ticks", "/whisk.system/alarms/alarm", {"cron": "* * * * * *", "trigger_payload": {"from": "alarm"}}
    )
    assert (created.status, created.json["response"]["result"]) == (200, {"status": "success"})
    assert wsk.put("rules/r-ticks", {"trigger": "/_/ticks", "action": "/_/echo"}).status == 200
    fired = wait_for(lambda: [each for each in user.ask("GET", "activations?name=ticks&docs=true").json if each["logs"]])
    line = json.loads(fired[-1]["logs"][0])
    told = user.record(line["activationId"]).json["response"]["result"]
    assert told["from"] == "alarm"
    assert told["__ow_alarm"]["scheduled"] % 1000 == 0
    read = wsk.feed("/whisk.system/alarms/alarm", "READ", "ticks").json["response"]["result"]
    assert (read["config"]["cron"], read["config"]["timezone"], read["status"]["active"]) == ("* * * * * *", "UTC", True)
    assert wsk.feed("/whisk.system/alarms/alarm", "UPDATE", "ticks", {"cron": "0 0 1 1 *"}).status == 200
    read = wsk.feed("/whisk.system/alarms/alarm", "READ", "ticks").json["response"]["result"]
    assert (read["config"]["cron"], read["config"]["payload"]) == ("0 0 1 1 *", {"from": "alarm"})
    assert wsk.trigger_delete("ticks").status == 200
    gone = wsk.feed("/whisk.system/alarms/alarm", "READ", "ticks")
    assert (gone.status, "does not exist" in gone.error) == (502, True)


def test_FE_01_an_alarm_that_cannot_be_kept_leaves_no_trigger(wsk):
    created = wsk.trigger_create("never", "/whisk.system/alarms/alarm", {"cron": "not a cron"})
    assert created.status == 502
    assert "cron" in created.error
    assert wsk.user.ask("GET", "triggers/never").status == 404


def test_FE_01_an_alarm_through_a_binding_once_takes_its_trigger_and_rules_with_it(wsk):
    user = wsk.user
    bound = {"binding": {"namespace": "whisk.system", "name": "alarms"}}
    assert wsk.put("packages/clock", bound).status == 200
    soon = int(time.time() * 1000) + 1500
    created = wsk.trigger_create("soon", "/_/clock/once", {"date": soon, "deleteAfterFire": "rules"})
    assert created.status == 200, created.text
    assert wsk.put("rules/r-soon", {"trigger": "/_/soon", "action": "/_/echo"}).status == 200
    (fired,) = wait_for(lambda: user.ask("GET", "activations?name=soon").json)
    assert fired["start"] >= soon
    wait_for(lambda: user.ask("GET", "rules/r-soon").status == 404)
    assert user.ask("GET", "triggers/soon").status == 404


def test_FE_01_an_alarm_ticks_on_after_a_kill_and_no_tick_fires_twice(wsk, daemon):
    user = wsk.user
    assert wsk.trigger_create("steady", "/whisk.system/alarms/alarm", {"cron": "* * * * * *"}).status == 200
    assert wsk.put("rules/r-steady", {"trigger": "/_/steady", "action": "/_/echo"}).status == 200

    def ticks():
        records = user.ask("GET", "activations?name=steady&docs=true&limit=200").json
        return sorted(each["response"]["result"]["__ow_alarm"]["scheduled"] for each in records)

    wait_for(ticks)
    for _ in range(2):
        daemon.kill()
        daemon.start()
        before = len(ticks())
        wait_for(lambda before=before: len(ticks()) > before)
    assert wsk.trigger_delete("steady").status == 200
    seen = ticks()
    assert seen == list(range(seen[0], seen[-1] + 1, 1000)), "each second once"


# ---- the catalog


@pytest.mark.parametrize(
    ("action", "payload", "result"),
    [
        ("utils/echo", {"a": [1, None]}, {"a": [1, None]}),
        ("utils/cat", {"lines": ["a", "b"]}, {"lines": ["a", "b"], "payload": "a\nb"}),
        ("utils/head", {"lines": ["a", "b", "c"], "num": 2}, {"lines": ["a", "b"], "num": 2}),
        ("utils/split", {"payload": "a,b", "separator": ","}, {"lines": ["a", "b"], "payload": "a,b"}),
        ("utils/sort", {"lines": ["b", "a"]}, {"lines": ["a", "b"], "length": 2}),
        ("utils/namespace", {}, {"namespace": "anna"}),
        ("utils/smash", {"$fieldName": "all", "x": 1}, {"all": {"x": 1}}),
        ("samples/greeting", {"name": "Ada"}, {"payload": "Hello, Ada from somewhere!"}),
        ("samples/wordCount", {"payload": "one two"}, {"count": 2}),
        ("samples/helloWorld", {}, {}),
        ("samples/curl", {"payload": "ftp://x"}, {"error": "ftp://x is neither http nor https"}),
    ],
)
def test_the_catalogs_actions_do_what_they_say(client, action, payload, result):
    answer = client.ask("POST", f"/api/v1/namespaces/whisk.system/actions/{action}?blocking=true&result=true", payload)
    assert answer.json == result


def test_the_catalog_tells_the_time_and_the_url_that_clients_use(client, daemon):
    def ask(action, payload):
        return client.ask("POST", f"/api/v1/namespaces/whisk.system/actions/{action}?blocking=true&result=true", payload).json

    assert ask("utils/hosturl", {"path": "p/a", "ext": "json"}) == {
        "url": f"http://127.0.0.1:{daemon.port}/api/v1/web/anna/p/a.json"
    }
    told = datetime.fromisoformat(ask("utils/date", {})["date"])
    assert abs((datetime.now(UTC) - told).total_seconds()) < 600
    assert ask("samples/helloPromises", {}) == {"done": True}
    assert ask("samples/wordCountAsync", {"payload": "one two three"}) == {"count": 3}


def test_the_catalog_is_public_and_not_to_be_written(client):
    listed = client.ask("GET", "/api/v1/namespaces/whisk.system/packages").json
    assert {each["name"] for each in listed} == {"alarms", "samples", "utils"}
    answer = client.ask(
        "PUT", "/api/v1/namespaces/whisk.system/actions/utils/echo?overwrite=true", {"exec": {"kind": "python:3"}}
    )
    assert answer.status == 403


# ---- wskdeploy


def test_CL_03_a_project_with_feeds_rules_and_bindings_is_deployed_and_deployed_again(wsk):
    """Packages, actions and sequences, triggers, rules: everything by PUT with overwrite; feeds are deleted and made again."""
    user = wsk.user
    managed = [{"key": "whisk-managed", "value": {"projectName": "demo", "projectHash": "h", "file": "manifest.yaml"}}]

    def deploy():
        root = user.ask("GET", "/", key=None)
        assert root.headers["content-type"] in "application/json; charset=UTF-8"
        assert "python:3" in [each["kind"] for each in root.json["runtimes"]["python"]]
        done = [
            wsk.put("packages/demo", {"annotations": managed, "publish": False}, "true"),
            wsk.put("packages/demo-utils", {"binding": {"namespace": "whisk.system", "name": "utils"}}, "true"),
            wsk.put(
                "actions/demo/hello",
                {"exec": {"kind": "python:3", "code": ECHO}, "annotations": managed, "limits": {"timeout": 30000}},
                "true",
            ),
        ]
        trigger = user.ask("GET", "triggers/demo-tick")
        if trigger.status == 200:
            assert wsk.feed("/whisk.system/alarms/interval", "DELETE", "demo-tick").status == 200
            assert user.ask("DELETE", "triggers/demo-tick").status == 200
        annotations = [*managed, {"key": "feed", "value": "/whisk.system/alarms/interval"}]
        done += [
            wsk.put("triggers/demo-tick", {"annotations": annotations}, "true"),
            wsk.feed("/whisk.system/alarms/interval", "CREATE", "demo-tick", {"minutes": 5}),
            wsk.put("triggers/demo-event", {"annotations": managed}, "true"),
        ]
        for trigger, action in (("tick", "demo/hello"), ("event", "demo/hello"), ("event", "demo-utils/echo")):
            name = f"demo-{trigger}-{action.rpartition('/')[2]}"
            body = {"trigger": f"/_/demo-{trigger}", "action": f"/_/{action}", "annotations": managed}
            done += [wsk.put(f"rules/{name}", body, "true"), user.ask("POST", f"rules/{name}", {"status": "active"})]
        assert [answer.status for answer in done] == [200] * len(done), [answer.text for answer in done]

    deploy()
    deploy()
    assert user.ask("GET", "actions/demo/hello").json["version"] == "0.0.2"
    fired = user.ask("POST", "triggers/demo-event", {"x": 1})
    assert fired.status == 202
    lines = [json.loads(line) for line in user.record(fired.json["activationId"]).json["logs"]]
    assert [line["action"] for line in lines] == ["anna/demo/hello", "anna/demo-utils/echo"]
    for line in lines:
        assert user.record(line["activationId"]).json["response"]["result"]["x"] == 1
    tick = wsk.feed("/whisk.system/alarms/interval", "READ", "demo-tick").json["response"]["result"]
    assert (tick["config"]["minutes"], tick["status"]["active"]) == (5, True)
    # `wsk project undeploy` lists the collections, compares the annotation, and deletes.
    for collection in ("rules", "triggers", "actions", "packages"):
        for each in user.ask("GET", f"{collection}?limit=0&skip=0").json:
            if any(annotation["key"] == "whisk-managed" for annotation in each["annotations"]):
                name = each["name"] if each["namespace"] == "anna" else f"{each['namespace'].partition('/')[2]}/{each['name']}"
                assert user.ask("DELETE", f"{collection}/{name}").status == 200
    assert user.ask("GET", "triggers/demo-tick").status == 404
