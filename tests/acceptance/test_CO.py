"""Rows CO: compositions, run on real containers by a conductor that does as its payload says."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.docker

#: Plays the list `script` of answers, one a run; keeps what it was called with.
PLAYER = """
def main(args):
    said = args.pop("script", [])
    seen = args.pop("seen", [])
    seen.append(dict(args))
    if not said:
        return {"params": {"seen": seen}}
    answer = said.pop(0)
    if answer.pop("ends", False):
        return answer
    return {**answer, "state": {**answer.get("state", {}), "script": said, "seen": seen}}
"""
#: Names an action that is not there, for ever.
STUBBORN = "def main(args):\n    return {'action': 'not-there'}\n"
#: Calls `echo` until it is told of an error.
GREEDY = """
def main(args):
    if "error" in args:
        return {"error": args["error"], "count": args["count"]}
    count = args.get("count", 0)
    return {"action": "echo", "params": {}, "state": {"count": count + 1}}
"""
ECHO = "def main(args):\n    return args\n"


def put_conductor(client: Any, name: str, code: str, value: Any = True) -> None:
    annotations = [{"key": "conductor", "value": value}]
    body = {"exec": {"kind": "python:3", "code": code}, "annotations": annotations, "limits": {"memory": 128}}
    assert client.ask("PUT", f"actions/{name}?overwrite=true", body).status == 200


@pytest.fixture(scope="module", autouse=True)
def _actions(client):
    client.deploy("echo", ECHO, memory=128)
    client.deploy("fails", "def main(args):\n    return {'error': 'no more'}\n", memory=128)
    put_conductor(client, "player", PLAYER)


def play(client: Any, *script: Any, **payload: Any) -> tuple[Any, list[Any]]:
    """Run the player; the answer, and what its runs were called with."""
    done = client.invoke("player", {"script": list(script), **payload})
    assert done.status == 200, done.text
    result = done.json["response"]["result"]
    return done, result.get("seen", [])


def test_CO_01_what_the_conductor_sends_comes_back_to_it(client):
    _, seen = play(client, {"action": "echo", "params": {"n": 1}}, {"action": "/_/echo", "params": {"m": 2}}, first=True)
    assert seen == [{"first": True}, {"n": 1}, {"m": 2}]


def test_CO_01_params_and_results_that_are_no_objects_are_boxed_and_state_wins(client):
    _, seen = play(
        client, {"action": "echo", "params": 7}, {"action": "echo", "params": {"x": "result"}, "state": {"x": "state"}}
    )
    assert seen[1:] == [{"value": 7}, {"x": "state"}]
    done = client.invoke("player", {"script": [{"ends": True, "params": 5}]})
    assert done.json["response"]["result"] == {"value": 5}
    done = client.invoke("player", {"script": [{"ends": True, "plain": 5}]})
    assert done.json["response"]["result"] == {"plain": 5}


def test_CO_01_an_error_of_a_component_is_the_conductors_to_judge(client):
    _, seen = play(client, {"action": "fails"}, {"action": "echo", "params": {"went": "on"}})
    assert seen[1:] == [{"error": "no more"}, {"went": "on"}]


def test_CO_01_names_that_lead_nowhere_are_told_to_the_conductor(client, daemon, make_user):
    other = make_user(daemon, "bob", uid=20_002, gid=20_002)
    other.deploy("private", ECHO)
    names = ("missing", 5, "a//b", "/bob/private", "nowhere/a")
    _, seen = play(client, *({"action": name} for name in names))
    errors = [each["error"] for each in seen[1:]]
    assert "resolve action with name 'anna/missing'" in errors[0]
    assert "parse action name from json value 5" in errors[1]
    assert 'parse action name from json value "a//b"' in errors[2]
    assert "entitlement check for action with name 'bob/private'" in errors[3]
    assert "resolve action with name 'anna/nowhere/a'" in errors[4], "a package of the caller's"


def test_CO_01_a_conductor_that_never_ends_is_ended(client):
    put_conductor(client, "stubborn", STUBBORN)
    done = client.invoke("stubborn")
    assert (done.status, done.json["response"]["status"]) == (502, "application error")
    assert "Too many actions in the composition" in done.error
    assert len(done.json["logs"]) == 101


def test_CO_01_after_50_actions_it_is_told_that_they_are_too_many(client):
    put_conductor(client, "greedy", GREEDY)
    done = client.invoke("greedy")
    assert done.status == 502
    assert "Too many actions in the composition" in done.error
    assert len(done.json["logs"]) == 50 + 52
    assert done.json["response"]["status"] == "application error"


def test_CO_01_compositions_and_sequences_nest(client):
    put_conductor(client, "inner", PLAYER, {"type": "let"})
    sequence = {"exec": {"kind": "sequence", "components": ["/_/echo", "/_/inner"]}}
    assert client.ask("PUT", "actions/s?overwrite=true", sequence).status == 200
    inner = {"script": [{"action": "echo", "params": {"deep": 1}}, {"ends": True, "params": {"from": "inner"}}]}
    done, seen = play(client, {"action": "inner", "params": inner}, {"action": "s", "params": inner})
    assert seen[1:] == [{"from": "inner"}, {"from": "inner"}]
    names = [client.record(part).json["name"] for part in done.json["logs"]]
    assert names == ["player", "inner", "player", "s", "player"]


def test_CO_01_a_conductor_that_crashes_ends_it_as_its_developers_error(client):
    put_conductor(client, "crashes", "import os\ndef main(args):\n    os._exit(1)\n")
    done = client.invoke("crashes")
    assert (done.status, done.json["response"]["status"]) == (502, "action developer error")
    assert "exited unexpectedly" in done.error


def test_CO_02_the_record_of_the_whole_and_of_its_runs(client):
    done, _ = play(client, {"action": "echo", "params": {}})
    whole = client.record(done.json["activationId"])
    annotations = whole.annotations
    assert (annotations["kind"], annotations["conductor"], annotations["topmost"]) == ("sequence", True, True)
    assert annotations["path"] == "anna/player"
    assert annotations["limits"]["memory"] == 128
    assert whole.json["logs"] == done.json["logs"]
    runs = [client.record(part) for part in whole.json["logs"]]
    assert [run.json["name"] for run in runs] == ["player", "echo", "player"]
    for run in runs:
        assert (run.json["cause"], run.annotations["causedBy"]) == (whole.json["activationId"], "sequence")
        assert run.annotations["kind"] == "python:3"
        assert not {"conductor", "topmost"} & set(run.annotations)
    assert whole.json["duration"] == sum(run.json["duration"] for run in runs)
    assert "size" not in whole.json["response"]


def test_CO_02_an_annotation_that_is_false_makes_no_conductor(client):
    put_conductor(client, "plain", PLAYER, value=False)
    done = client.invoke("plain", {"script": [{"action": "echo"}]})
    assert done.json["response"]["result"]["action"] == "echo"
    assert "conductor" not in {entry["key"] for entry in done.json["annotations"]}
