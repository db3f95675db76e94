"""Rows TR-01 to TR-03, RU-03's firing and AV-06 of the checklist, on a real daemon; what was fired survives `kill -9`."""

import json
import time

import pytest

pytestmark = pytest.mark.docker

ECHO = "def main(args):\n    return args\n"


@pytest.fixture(scope="module")
def user(client):
    """A user with an action that returns what it was given."""
    client.deploy("echo", ECHO)
    return client


def put(user, path, body=None):
    answer = user.ask("PUT", f"{path}?overwrite=true", {} if body is None else body)
    assert answer.status == 200, answer.text
    return answer


def rule(user, name, trigger, action):
    put(user, f"rules/r-{name}", {"trigger": f"/_/{trigger}", "action": f"/_/{action}"})


def fire(user, trigger, payload=None, headers=None):
    answer = user.ask("POST", f"triggers/{trigger}", {} if payload is None else payload, headers=headers)
    assert answer.status == 202, answer.text
    assert answer.headers["x-openwhisk-activation-id"] == answer.json["activationId"]
    return answer.json["activationId"]


def lines(user, activation_id):
    return [json.loads(line) for line in user.record(activation_id).json["logs"]]


def result(user, line):
    return user.record(line["activationId"]).json["response"]["result"]


def test_TR_01_a_payload_goes_before_the_triggers_parameters(user):
    put(user, "triggers/tr01", {"parameters": [{"key": "x", "value": 1}, {"key": "y", "value": 2}]})
    rule(user, "tr01", "tr01", "echo")
    (line,) = lines(user, fire(user, "tr01", {"y": 3}))
    told = result(user, line)
    assert (told["x"], told["y"]) == (1, 3)


def test_TR_01_without_an_active_rule_the_answer_is_204_and_nothing_is_recorded(user):
    put(user, "triggers/tr01b")
    answer = user.ask("POST", "triggers/tr01b", {})
    assert (answer.status, answer.text) == (204, "")
    assert {"content-type", "content-length"}.isdisjoint(answer.headers), "an answer without a body describes none"
    assert "x-openwhisk-activation-id" not in answer.headers
    assert user.ask("GET", "activations?name=tr01b").json == []


def test_TR_02_the_headers_of_a_fire_are_forwarded_but_not_the_key(user):
    put(user, "triggers/tr02")
    rule(user, "tr02", "tr02", "echo")
    (line,) = lines(user, fire(user, "tr02", headers={"X-Event-Type": "push"}))
    headers = result(user, line)["__ow_headers"]
    assert headers["x-event-type"] == "push"
    assert {"authorization", "content-type", "content-length"}.isdisjoint(headers)


def test_TR_03_the_log_has_a_line_of_json_for_each_rule_in_order(user):
    put(user, "triggers/tr03")
    user.deploy("gone", ECHO)
    for name, action in (("first", "echo"), ("off", "echo"), ("missing", "gone")):
        rule(user, f"tr03{name}", "tr03", action)
    assert user.ask("POST", "rules/r-tr03off", {"status": "inactive"}).status == 200
    assert user.ask("DELETE", "actions/gone").status == 200
    first, off, missing = lines(user, fire(user, "tr03"))
    begun = first.pop("activationId")
    assert first == {"statusCode": 0, "success": True, "rule": "anna/r-tr03first", "action": "anna/echo"}
    assert user.record(begun).json["name"] == "echo"
    assert "cause" not in user.record(begun).json
    assert "Rule 'anna/r-tr03off' is inactive" in off["error"]
    assert "does not exist" in missing["error"]
    for line in (off, missing):
        assert (line["statusCode"], line["success"]) == (1, False)
        assert "activationId" not in line


def test_RU_01_names_with_spaces_packages_bindings_and_shared_actions_fire(user, daemon, make_user):
    """One trigger, one rule each; what an action inherits from its package and its binding is there as in any call."""
    lib = make_user(daemon, "lib", uid=20_002, gid=20_002)
    put(lib, "packages/shared", {"publish": True, "parameters": [{"key": "from", "value": "package"}]})
    lib.deploy("shared/echo", ECHO)
    user.deploy("an%20action", ECHO)
    put(user, "packages/own%20box")
    user.deploy("own%20box/echo", ECHO)
    put(
        user,
        "packages/bound",
        {"binding": {"namespace": "lib", "name": "shared"}, "parameters": [{"key": "from", "value": "binding"}]},
    )
    put(user, "triggers/a%20trigger")
    actions = ["anna/an action", "anna/own box/echo", "anna/bound/echo", "lib/shared/echo"]
    for number, action in enumerate(actions):
        put(user, f"rules/a%20rule%20{number}", {"trigger": "/_/a trigger", "action": f"/{action}"})
    told = lines(user, fire(user, "a%20trigger", {"x": 1}))
    assert [(line["rule"], line["action"], line["success"]) for line in told] == [
        (f"anna/a rule {number}", action, True) for number, action in enumerate(actions)
    ]
    records = [user.record(line["activationId"]) for line in told]
    assert [each.annotations["path"] for each in records] == [*actions[:2], "lib/shared/echo", "lib/shared/echo"]
    assert [each.annotations.get("binding") for each in records] == [None, None, "anna/bound", None]
    assert [each.json["response"]["result"].get("from") for each in records] == [None, None, "binding", "package"]
    assert {each.json["namespace"] for each in records} == {"anna"}


def test_RU_02_an_inactive_rule_runs_nothing_and_one_made_active_again_comes_last(user):
    put(user, "triggers/ru02")
    for name in ("one", "two"):
        rule(user, f"ru02{name}", "ru02", "echo")
    assert user.ask("POST", "rules/r-ru02one", {"status": "inactive"}).status == 200
    off, on = lines(user, fire(user, "ru02"))
    assert [(line["rule"], line["success"]) for line in (off, on)] == [("anna/r-ru02one", False), ("anna/r-ru02two", True)]
    assert user.ask("POST", "rules/r-ru02one", {"status": "active"}).status == 200
    assert [line["rule"] for line in lines(user, fire(user, "ru02"))] == ["anna/r-ru02two", "anna/r-ru02one"]


def test_RU_03_a_rule_deleted_or_made_again_fires_as_it_is_now(user):
    put(user, "triggers/ru03")
    rule(user, "ru03", "ru03", "echo")
    assert user.ask("DELETE", "rules/r-ru03").status == 200
    assert user.ask("POST", "triggers/ru03", {}).status == 204
    rule(user, "ru03", "ru03", "echo")
    assert len(lines(user, fire(user, "ru03"))) == 1


def test_RU_03_with_its_action_deleted_and_made_again_a_rule_fires_again(user):
    put(user, "triggers/ru03b")
    user.deploy("again", ECHO)
    rule(user, "ru03b", "ru03b", "again")
    assert user.ask("DELETE", "actions/again").status == 200
    assert not lines(user, fire(user, "ru03b"))[0]["success"]
    user.deploy("again", ECHO)
    (line,) = lines(user, fire(user, "ru03b", {"x": 1}))
    assert result(user, line)["x"] == 1


def test_RU_03_a_deleted_trigger_does_not_fire(user):
    put(user, "triggers/ru03c")
    rule(user, "ru03c", "ru03c", "echo")
    assert user.ask("DELETE", "triggers/ru03c").status == 200
    answer = user.ask("POST", "triggers/ru03c", {})
    assert (answer.status, answer.error) == (404, "The requested resource does not exist.")
    put(user, "triggers/ru03c")
    assert user.ask("POST", "triggers/ru03c", {}).status == 204
    assert user.ask("POST", "rules/r-ru03c", {"status": "active"}).status == 200
    assert len(lines(user, fire(user, "ru03c"))) == 1


def test_AV_06_a_triggers_record_has_no_end_no_annotations_and_its_namespace_for_subject(user):
    put(user, "triggers/av06", {"parameters": [{"key": "x", "value": 1}]})
    rule(user, "av06", "av06", "echo")
    record = user.record(fire(user, "av06", {"y": 2})).json
    assert record["annotations"] == []
    assert {"end", "duration", "cause"}.isdisjoint(record)
    assert (record["name"], record["namespace"], record["subject"], record["version"]) == ("av06", "anna", "anna", "0.0.1")
    assert record["response"] == {"status": "success", "success": True, "result": {"y": 2}}
    (summary,) = user.ask("GET", "activations?name=av06").json
    assert summary["statusCode"] == 0
    assert {"end", "duration"}.isdisjoint(summary)


def test_what_was_fired_when_the_daemon_is_killed_has_one_record_each(user, daemon):
    put(user, "triggers/killed")
    for number in range(4):
        rule(user, f"killed{number}", "killed", "echo")
    fired = [fire(user, "killed", {"n": number}) for number in range(5)]
    daemon.kill()
    daemon.start()
    began = [line["activationId"] for each in fired for line in lines(user, each)]
    assert len(set(began)) == 20
    outcomes = [user.record(each, deadline_s=60.0).annotations["outcome"] for each in began]
    # What may have begun is not run again: it is told as lost.
    assert set(outcomes) <= {"ok", "lost"}
    counted = user.ask("GET", f"activations?count=true&name=echo&since={int(time.time() * 1000) - 600_000}").json
    listed = user.ask("GET", "activations?name=echo&limit=200").json
    assert counted["activations"] == len({each["activationId"] for each in listed})
