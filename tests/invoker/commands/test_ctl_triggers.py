"""Triggers, feeds and rules by `invokerctl`: the requests that `wsk` sends, in its order."""

import json

import pytest
from ctl_api import api, ctl

__all__ = ["api", "ctl"]

TRIGGER = {"namespace": "alice", "name": "t", "version": "0.0.1", "annotations": [], "updated": 1_700_000_000_000}
FED = TRIGGER | {"annotations": [{"key": "feed", "value": "/whisk.system/alarms/alarm"}]}
RULE = {
    "namespace": "alice",
    "name": "r",
    "trigger": {"path": "alice", "name": "t"},
    "action": {"path": "alice/p", "name": "a"},
    "status": "active",
    "version": "0.0.1",
    "updated": 1_700_000_000_000,
}
ID = "0123456789abcdef" * 2
ALARM = "POST /api/v1/namespaces/whisk.system/actions/alarms/alarm"


def what(api):
    return [asked["what"].replace("/api/v1/namespaces/_/", "") for asked in api.asked]


def record(result):
    return {"activationId": ID, "response": {"success": "error" not in result, "result": result}}


def test_a_trigger_is_created_with_its_parameters(ctl, api):
    api.lay_down(TRIGGER)
    assert ctl.run("trigger", "create", "t", "-p", "n", "5", "-a", "k", "v").stdout == "created /alice/t\n"
    (asked,) = api.asked
    assert asked["query"] == {"overwrite": "false"}
    assert asked["body"] == {"parameters": [{"key": "n", "value": 5}], "annotations": [{"key": "k", "value": "v"}]}


def test_a_fed_trigger_is_put_first_then_its_feed_is_told(ctl, api):
    api.lay_down(FED)
    api.lay_down(record({"status": "success"}))
    ctl.run("trigger", "create", "t", "--feed", "/whisk.system/alarms/alarm", "-p", "cron", "* * * * *")
    assert what(api) == ["PUT triggers/t", ALARM]
    put, feed = api.asked
    assert put["body"] == {"annotations": [{"key": "feed", "value": "/whisk.system/alarms/alarm"}], "parameters": []}
    assert feed["query"] == {"blocking": "true"}
    assert feed["body"] == {"cron": "* * * * *", "lifecycleEvent": "CREATE", "triggerName": "/_/t", "authKey": "u:k"}


@pytest.mark.parametrize(
    ("status", "body", "code", "told"),
    [
        (502, record({"error": "cron is not valid"}), 4, "cron is not valid"),
        (404, {"error": "The requested resource does not exist.", "code": "x"}, 1, "does not exist"),
        (202, {"activationId": ID}, 5, "has not answered in time"),
    ],
)
def test_what_a_feed_refuses_is_taken_back(ctl, api, status, body, code, told):
    api.lay_down(FED)
    api.lay_down(body, status)
    api.lay_down(record({"error": "unknown"}), 502)
    api.lay_down(FED)
    result = ctl.run("trigger", "create", "t", "--feed", "/whisk.system/alarms/alarm", code=code)
    assert told in result.stderr
    assert what(api) == ["PUT triggers/t", ALARM, ALARM, "DELETE triggers/t"]
    assert [asked["body"]["lifecycleEvent"] for asked in api.asked[1:3]] == ["CREATE", "DELETE"]


def test_parameters_of_a_fed_trigger_are_updated_at_its_feed_alone(ctl, api):
    api.lay_down(FED)
    api.lay_down(record({"status": "success"}))
    ctl.run("trigger", "update", "t", "-p", "cron", "0 * * * *")
    assert what(api) == ["GET triggers/t", ALARM]
    assert api.asked[1]["body"]["lifecycleEvent"] == "UPDATE"


def test_an_update_without_a_feed_puts_what_is_given_and_annotations_keep_the_feed(ctl, api):
    api.lay_down(TRIGGER)
    api.lay_down(TRIGGER)
    ctl.run("trigger", "update", "t", "-p", "n", "6")
    assert api.asked[1]["body"] == {"parameters": [{"key": "n", "value": 6}]}
    assert api.asked[1]["query"] == {"overwrite": "true"}
    api.lay_down(FED)
    api.lay_down(FED)
    ctl.run("trigger", "update", "t", "-a", "k", "v")
    assert api.asked[3]["body"] == {"annotations": [*FED["annotations"], {"key": "k", "value": "v"}]}


def test_get_shows_what_the_feed_says(ctl, api):
    api.lay_down(FED)
    api.lay_down(record({"config": {"cron": "* * * * *"}}))
    assert json.loads(ctl.run("trigger", "get", "t").stdout)["feed"] == {"config": {"cron": "* * * * *"}}


def test_fire_prints_the_id_or_that_nothing_runs(ctl, api):
    api.lay_down({"activationId": ID}, 202)
    assert ctl.run("trigger", "fire", "t", "-p", "x", "1").stdout == f"{ID}\n"
    assert api.asked[0]["body"] == {"x": 1}
    api.lay_down(None, 204)
    result = ctl.run("trigger", "fire", "my trigger")
    assert (result.stdout, "no active rule" in result.stderr) == ("", True)
    assert api.asked[1]["what"].endswith("/triggers/my%20trigger")


def test_delete_tells_the_feed_first_and_deletes_whatever_it_says(ctl, api):
    api.lay_down(FED)
    api.lay_down(record({"error": "unknown"}), 502)
    api.lay_down(FED)
    result = ctl.run("trigger", "delete", "t")
    assert what(api) == ["GET triggers/t", ALARM, "DELETE triggers/t"]
    assert result.stdout == "deleted /alice/t\n"
    assert "unknown" in result.stderr


def test_triggers_are_listed_with_their_feeds(ctl, api):
    api.lay_down([FED, TRIGGER])
    lines = ctl.run("trigger", "list", "--limit", "2").stdout.splitlines()
    assert lines[0].split() == ["TRIGGER", "VERSION", "FEED", "UPDATED"]
    assert lines[1].split()[:3] == ["/alice/t", "0.0.1", "/whisk.system/alarms/alarm"]
    assert api.asked[0]["query"] == {"limit": "2", "skip": "0"}


def test_a_rule_links_a_trigger_to_an_action(ctl, api):
    api.lay_down(RULE)
    assert ctl.run("rule", "create", "r", "t", "p/a").stdout == "created /alice/r\n"
    (asked,) = api.asked
    assert (asked["what"], asked["query"]) == ("PUT /api/v1/namespaces/_/rules/r", {"overwrite": "false"})
    assert asked["body"] == {"trigger": "/_/t", "action": "/_/p/a"}


def test_a_rule_is_updated_disabled_enabled_and_deleted(ctl, api):
    for _ in range(5):
        api.lay_down(RULE)
    ctl.run("rule", "update", "r", "t", "/other/p/a")
    assert ctl.run("rule", "disable", "r").stdout == "r is inactive\n"
    assert ctl.run("rule", "enable", "r").stdout == "r is active\n"
    assert json.loads(ctl.run("rule", "get", "r").stdout) == RULE
    assert ctl.run("rule", "delete", "r").stdout == "deleted /alice/r\n"
    assert what(api) == ["PUT rules/r", "POST rules/r", "POST rules/r", "GET rules/r", "DELETE rules/r"]
    assert api.asked[0]["body"]["action"] == "/other/p/a"
    assert [asked["body"] for asked in api.asked[1:3]] == [{"status": "inactive"}, {"status": "active"}]


def test_rules_are_listed_with_the_status_that_each_is_asked_for(ctl, api):
    api.lay_down([RULE])
    api.lay_down(RULE)
    lines = ctl.run("rule", "list").stdout.splitlines()
    assert lines[1].split()[:4] == ["/alice/r", "active", "/alice/t", "/alice/p/a"]


@pytest.mark.parametrize("name", ["a/b", "/", "/ns", "/ns/a/b"])
def test_what_is_no_name_is_refused_before_anybody_is_asked(ctl, api, name):
    assert "is no name" in ctl.run("rule", "get", name, code=2).stderr
    assert api.asked == []
