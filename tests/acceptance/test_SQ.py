"""Rows SQ: sequences, run on real containers. SQ-05 is with the throttles, in test_TH.py."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

pytestmark = pytest.mark.docker

ADD = "def main(args):\n    return {**args, 'trail': args.get('trail', []) + ['%s']}\n"
FAIL = "def main(args):\n    return {'error': 'no more', 'but': 1}\n"
CRASH = "import os\ndef main(args):\n    os._exit(1)\n"
LISTS = "def main(args):\n    return [args, 2]\n"
TAKES_LISTS = "def main(args):\n    return {'got': args}\n"


@pytest.fixture(scope="module", autouse=True)
def _actions(client):
    for name in ("a", "b", "c"):
        client.deploy(name, ADD % name, memory=128)
    client.deploy("fails", FAIL)
    client.deploy("crashes", CRASH)


def put_sequence(client: Any, name: str, *components: str, **fields: Any) -> Any:
    names = [each if each.startswith("/") else f"/_/{each}" for each in components]
    answer = client.ask("PUT", f"actions/{name}?overwrite=true", {"exec": {"kind": "sequence", "components": names}, **fields})
    assert answer.status == 200, answer.text
    return answer


def result(answer: Any) -> Any:
    return answer.json["response"]["result"]


def test_SQ_01_each_result_is_the_next_payload_over_the_components_own_parameters(client):
    answer = client.ask("PUT", "actions/b?overwrite=true", {"parameters": [{"key": "own", "value": 1}]})
    assert answer.status == 200
    put_sequence(client, "abc", "a", "b", "c")
    done = client.invoke("abc", {"n": 1})
    assert done.status == 200, done.text
    assert result(done) == {"n": 1, "own": 1, "trail": ["a", "b", "c"]}


def test_SQ_01_an_array_is_passed_on_as_it_is(client):
    client.deploy("lists", LISTS)
    client.deploy("takes", TAKES_LISTS, kind="python:3")
    put_sequence(client, "lt", "lists", "takes")
    done = client.invoke("lt", {"n": 1}, "blocking=true&result=true")
    assert (done.status, done.json) == (200, {"got": [{"n": 1}, 2]}), done.text


def test_SQ_01_without_waiting_it_is_accepted_and_recorded(client):
    put_sequence(client, "ab", "a", "b")
    accepted = client.invoke("ab", {}, "blocking=false")
    assert (accepted.status, list(accepted.json)) == (202, ["activationId"])
    assert result(client.record(accepted.json["activationId"]))["trail"] == ["a", "b"]


def test_SQ_01_a_trigger_runs_it_by_its_rule_with_what_it_was_fired_with(client):
    put_sequence(client, "by-rule", "a", "c")
    for path, body in (
        ("triggers/go", {"parameters": [{"key": "of", "value": "the trigger"}, {"key": "n", "value": 0}]}),
        ("rules/go-by-rule", {"trigger": "/_/go", "action": "/_/by-rule"}),
    ):
        assert client.ask("PUT", f"{path}?overwrite=true", body).status == 200
    fired = client.ask("POST", "triggers/go", {"n": 1})
    assert fired.status == 202, fired.text
    (line,) = client.record(fired.json["activationId"]).json["logs"]
    told = json.loads(line)
    assert (told["success"], told["rule"], told["action"]) == (True, "anna/go-by-rule", "anna/by-rule")
    whole = client.record(told["activationId"])
    got = result(whole)
    assert (got["of"], got["n"], got["trail"]) == ("the trigger", 1, ["a", "c"])
    assert "__ow_headers" in got
    assert (whole.annotations["kind"], whole.annotations["topmost"]) == ("sequence", True)
    assert "cause" not in whole.json, "the trigger's log alone links them"
    assert [client.record(part).json["cause"] for part in whole.json["logs"]] == [told["activationId"]] * 2


def test_SQ_02_updated_components_run_and_deleted_ones_end_it_until_they_are_made_again(client):
    for name in ("x", "y"):
        client.deploy(name, ADD % name)
    put_sequence(client, "xy", "x", "y")
    assert result(client.invoke("xy"))["trail"] == ["x", "y"]
    client.deploy("x", ADD % "new-x")
    assert result(client.invoke("xy"))["trail"] == ["new-x", "y"]
    assert client.ask("DELETE", "actions/x").status == 200
    gone = client.invoke("xy")
    assert gone.status == 502
    assert gone.json["response"]["status"] == "application error"
    assert "Sequence component does not exist" in gone.error
    assert gone.json["logs"] == []
    client.deploy("x", ADD % "again")
    assert result(client.invoke("xy"))["trail"] == ["again", "y"]
    put_sequence(client, "xy", "y", "x")
    assert result(client.invoke("xy"))["trail"] == ["y", "again"]


def test_SQ_02_one_that_grew_too_long_after_it_was_written_ends_at_the_limit(client):
    put_sequence(client, "part", *["a"] * 10)
    put_sequence(client, "whole", *["part"] * 5)
    put_sequence(client, "part", *["a"] * 11)
    done = client.invoke("whole")
    assert done.status == 502
    assert "Too many actions in the sequence" in done.error


@pytest.mark.parametrize(
    ("bad", "status", "error"),
    [("fails", "application error", "no more"), ("crashes", "action developer error", "exited unexpectedly")],
)
def test_SQ_03_an_error_ends_it_with_the_components_status_and_result(client, bad, status, error):
    put_sequence(client, "inner-bad", "a", bad)
    put_sequence(client, "bad", "b", "inner-bad", "c")
    done = client.invoke("bad")
    assert (done.status, done.json["response"]["status"]) == (502, status)
    assert error in done.error
    assert set(result(done)) == {"error"}
    first, inner = done.json["logs"]
    assert client.record(first).json["name"] == "b"
    nested = client.record(inner).json
    assert nested["response"]["status"] == status
    assert [client.record(part).json["name"] for part in nested["logs"]] == ["a", bad]


def test_SQ_03_through_a_binding_components_have_its_parameters_and_say_so(client):
    package = {"parameters": [{"key": "k", "value": "package"}]}
    assert client.ask("PUT", "packages/pkg?overwrite=true", package).status == 200
    client.deploy("pkg/p", ADD % "p")
    bound = {"binding": {"namespace": "_", "name": "pkg"}, "parameters": [{"key": "k", "value": "bound"}]}
    assert client.ask("PUT", "packages/bound?overwrite=true", bound).status == 200
    put_sequence(client, "pkg/s", "pkg/p", "bound/p")
    done = client.invoke("bound/s")
    assert (done.status, result(done)) == (200, {"k": "package", "trail": ["p", "p"]}), done.text
    assert done.annotations["path"] == "anna/pkg/s"
    assert done.annotations["binding"] == "anna/bound"
    plain, through = (client.record(part).annotations for part in done.json["logs"])
    assert (plain.get("binding"), through["binding"], through["path"]) == (None, "anna/bound", "anna/pkg/p")


def test_SQ_03_its_parameters_are_its_components_and_nothing_else(client):
    put_sequence(client, "ab", "a", "b", parameters=[{"key": "mine", "value": 1}])
    got = client.ask("GET", "actions/ab").json
    assert got["parameters"] == [{"key": "_actions", "value": ["/anna/a", "/anna/b"]}]
    assert got["exec"] == {"kind": "sequence", "components": ["/anna/a", "/anna/b"]}
    assert set(result(client.invoke("ab", {}))) == {"trail", "own"}


def test_SQ_03_whoever_runs_it_needs_the_right_to_run_each_component(client, daemon, make_user):
    other = make_user(daemon, "bob", uid=20_002, gid=20_002)
    assert client.ask("PUT", "packages/shared?overwrite=true", {"publish": True}).status == 200
    client.deploy("shared/p", ADD % "p")
    put_sequence(client, "shared/private", "a")
    put_sequence(client, "shared/public", "shared/p")
    refused = other.ask("POST", "/api/v1/namespaces/anna/actions/shared/private?blocking=true", {})
    assert (refused.status, set(refused.json)) == (403, {"error", "code"})
    done = other.ask("POST", "/api/v1/namespaces/anna/actions/shared/public?blocking=true", {})
    assert (done.status, done.json["namespace"]) == (200, "bob")
    assert other.record(done.json["logs"][0]).json["namespace"] == "bob"


def test_SQ_04_records_tell_who_caused_what(client):
    client.deploy("big", ADD % "big", memory=300)
    put_sequence(client, "inside", "big")
    put_sequence(client, "outside", "a", "inside", limits={"timeout": 12_345})
    done = client.invoke("outside")
    whole = client.record(done.json["activationId"])
    assert done.json["logs"] == whole.json["logs"]
    annotations = whole.annotations
    assert (annotations["kind"], annotations["topmost"], annotations["path"]) == ("sequence", True, "anna/outside")
    assert (annotations["limits"]["memory"], annotations["limits"]["timeout"]) == (300, 12_345)
    assert not {"causedBy", "timeout", "initTime", "conductor", "billed", "cost"} & set(annotations)
    assert "cause" not in whole.json
    first, inside = (client.record(part) for part in whole.json["logs"])
    assert inside.annotations["topmost"] is False
    for part in (first, inside):
        assert part.json["cause"] == whole.json["activationId"]
        assert part.annotations["causedBy"] == "sequence"
        assert part.json["namespace"] == "anna"
    (deep,) = (client.record(part) for part in inside.json["logs"])
    assert deep.json["cause"] == inside.json["activationId"]
    assert whole.json["duration"] == first.json["duration"] + deep.json["duration"]
    assert (whole.json["response"]["success"], whole.json["response"]["size"]) == (True, deep.json["response"]["size"])
    logs = client.ask("GET", f"activations/{whole.json['activationId']}/logs")
    assert logs.json == {"logs": whole.json["logs"]}


def test_SQ_04_the_bill_of_a_sequence_is_that_of_its_parts(client, daemon, make_user):
    carl = make_user(daemon, "carl", uid=20_003, gid=20_003)
    carl.deploy("a", ADD % "a")
    put_sequence(carl, "twice", "a", "a")
    done = carl.invoke("twice")
    parts = [carl.record(part).annotations["billed"] for part in done.json["logs"]]
    (row,) = json.loads(daemon.control("usage", "--namespace", "carl", "--json"))["rows"]
    assert row["billed_us"] == sum(part["us"] for part in parts) > 0
    assert row["memory_byte_us"] == sum(part["us"] * part["memoryMiB"] for part in parts) * 2**20


def test_SQ_04_killed_with_the_daemon_it_is_lost_once_and_its_parts_are_never_run_again(client, daemon):
    client.deploy("waits", "import time\ndef main(args):\n    time.sleep(30)\n    return args\n")
    put_sequence(client, "aw", "a", "waits", "b")
    accepted = client.invoke("aw", {}, "blocking=false").json["activationId"]
    deadline = time.monotonic() + 30
    while client.ask("GET", "activations?name=a&limit=1").json[0].get("cause") != accepted:
        assert time.monotonic() < deadline, "the first part did not end"
        time.sleep(0.05)
    daemon.kill()
    daemon.start()
    whole = client.record(accepted)
    assert whole.json["response"]["status"] == "whisk internal error"
    assert whole.annotations["outcome"] == "lost"
    caused = [each for each in client.ask("GET", "activations?limit=50").json if each.get("cause") == accepted]
    assert [each["name"] for each in caused if each["name"] == "a"] == ["a"]
    assert "b" not in {each["name"] for each in caused}
