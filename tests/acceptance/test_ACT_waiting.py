"""Rows ACT-17 and ACT-18: actions that run for longer than their caller waits, and what they are called with."""

from __future__ import annotations

import time
from typing import Any

import pytest

pytestmark = pytest.mark.docker

SLEEPS = "import time\ndef main(args):\n    time.sleep(args['seconds'])\n    return {'slept': args['seconds']}\n"
ECHO = "def main(args):\n    return args\n"


def parameters(**values: Any) -> list[dict[str, Any]]:
    return [{"key": key, "value": value} for key, value in values.items()]


def test_ACT_17_whoever_stops_waiting_gets_the_id_and_later_the_record(client):
    client.deploy("sleeps", SLEEPS, timeout=120_000)
    client.invoke("sleeps", {"seconds": 0})
    began = time.monotonic()
    early = client.invoke("sleeps", {"seconds": 3}, "blocking=true&timeout=500")
    waited = time.monotonic() - began
    assert (early.status, list(early.json)) == (202, ["activationId"])
    assert early.headers["x-openwhisk-activation-id"] == early.json["activationId"]
    assert waited >= 0.5
    assert client.ask("GET", f"activations/{early.json['activationId']}").status == 404
    record = client.record(early.json["activationId"])
    assert record.json["response"]["result"] == {"slept": 3}
    phases = next(each["value"] for each in record.json["annotations"] if each["key"] == "phases")
    assert phases["thaw"] + phases["run"] >= 3_000_000, "it may sleep already while the write that thaws it has not returned"


def test_ACT_17_a_sequence_goes_on_too(client):
    client.deploy("sleeps", SLEEPS, timeout=120_000)
    client.deploy("echo", ECHO)
    body = {"exec": {"kind": "sequence", "components": ["/_/sleeps", "/_/echo"]}}
    assert client.ask("PUT", "actions/both?overwrite=true", body).status == 200
    early = client.invoke("both", {"seconds": 2}, "blocking=true&timeout=500&result=true")
    assert (early.status, list(early.json)) == (202, ["activationId"])
    record = client.record(early.json["activationId"])
    assert record.json["response"]["result"] == {"slept": 2}
    assert len(record.json["logs"]) == 2


@pytest.mark.long
def test_ACT_17_the_longest_wait_is_a_minute(client):
    client.deploy("sleeps", SLEEPS, timeout=120_000)
    began = time.monotonic()
    early = client.invoke("sleeps", {"seconds": 65})
    assert 60 <= time.monotonic() - began < 65
    assert (early.status, list(early.json)) == (202, ["activationId"])
    record = client.record(early.json["activationId"], deadline_s=60)
    assert record.json["response"]["result"] == {"slept": 65}
    assert record.annotations["timeout"] is False


def test_ACT_18_the_callers_arguments_go_over_the_actions_over_the_bindings_over_the_packages(client):
    of_package = {"parameters": parameters(a="package", b="package", c="package", d="package")}
    assert client.ask("PUT", "packages/merges?overwrite=true", of_package).status == 200
    bound = {"binding": {"namespace": "_", "name": "merges"}, "parameters": parameters(b="binding", c="binding", d="binding")}
    assert client.ask("PUT", "packages/bound-merges?overwrite=true", bound).status == 200
    action = {"exec": {"kind": "python:3", "code": ECHO}, "parameters": parameters(c="action", d="action", empty=None)}
    assert client.ask("PUT", "actions/merges/echo?overwrite=true", action).status == 200
    direct = client.invoke("merges/echo", {"d": "payload"})
    assert direct.json["response"]["result"] == {"a": "package", "b": "package", "c": "action", "d": "payload", "empty": None}
    through = client.invoke("bound-merges/echo", {"d": "payload", "empty": 0})
    assert through.json["response"]["result"] == {"a": "package", "b": "binding", "c": "action", "d": "payload", "empty": 0}


def test_ACT_18_what_is_final_cannot_be_overridden_and_what_is_declared_only_can(client):
    action = {
        "exec": {"kind": "python:3", "code": ECHO},
        "parameters": parameters(fixed=1, open=None),
        "annotations": parameters(final=True),
    }
    assert client.ask("PUT", "actions/final?overwrite=true", action).status == 200
    before = client.ask("GET", "activations?name=final&count=true").json
    refused = client.invoke("final", {"fixed": 2})
    assert refused.status == 400
    assert "parameters that are not allowed" in refused.error
    assert "x-openwhisk-activation-id" not in refused.headers
    assert client.ask("GET", "activations?name=final&count=true").json == before
    assert client.invoke("final", {"open": 2}).json["response"]["result"] == {"fixed": 1, "open": 2}
