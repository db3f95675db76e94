"""Rows PK-01, EN-02 and AV-05 as they run: what an action in a package gets, and whose the record is."""

from __future__ import annotations

from typing import Any

import pytest
from rows import pairs

pytestmark = pytest.mark.docker

#: Tells whether it got the password, but not which.
CODE = """
import os
def main(args):
    opened = args.pop("password") == "hush"
    return {"args": args, "opened": opened, "env": os.environ.get("TOKEN")}
"""
SECRET = {"key": "password", "value": "hush", "encryption": "aes-256"}
TOKEN = {"key": "TOKEN", "value": "first", "init": True}


def put(client: Any, path: str, **body: Any) -> Any:
    answer = client.ask("PUT", f"{path}?overwrite=true", body)
    assert answer.status == 200, answer.text
    return answer.json


@pytest.fixture(scope="module")
def shared(daemon: Any, make_user: Any) -> Any:
    """A published package `tools` of `lib` with an action `x`, both with parameters."""
    lib = make_user(daemon, "lib", uid=20_002, gid=20_002)
    put(lib, "packages/tools", publish=True, parameters=[*pairs(a="package", b="package", c="package"), SECRET, TOKEN])
    put(lib, "actions/tools/x", exec={"kind": "python:3", "code": CODE}, parameters=pairs(c="action"))
    return lib


@pytest.fixture(scope="module")
def bound(shared: Any, client: Any) -> Any:
    """The user `anna`, who has bound it as `mine`."""
    put(client, "packages/mine", binding={"namespace": "lib", "name": "tools"}, parameters=pairs(b="binding"))
    return client


def test_PK_01_the_action_gets_package_binding_action_payload_in_this_order(bound):
    result = bound.invoke("mine/x", {"d": "payload"}, "blocking=true&result=true").json
    assert result["args"] == {"a": "package", "b": "binding", "c": "action", "d": "payload"}
    assert (result["env"], result["opened"]) == ("first", True)


def test_PK_01_an_inherited_variable_of_the_environment_changes_with_the_package(shared, bound):
    put(shared, "packages/tools", parameters=[SECRET, TOKEN | {"value": "second"}])
    assert bound.invoke("mine/x", {}, "blocking=true&result=true").json["env"] == "second"
    put(shared, "packages/tools", parameters=[*pairs(a="package", b="package", c="package"), SECRET, TOKEN])
    assert bound.invoke("mine/x", {}, "blocking=true&result=true").json["env"] == "first"


@pytest.mark.parametrize(
    ("path", "annotations"),
    [
        ("actions/mine/x", {"path": "lib/tools/x", "binding": "anna/mine"}),
        ("/api/v1/namespaces/lib/actions/tools/x", {"path": "lib/tools/x"}),
    ],
)
@pytest.mark.parametrize("query", ["blocking=true", ""])
def test_AV_05_the_record_is_the_callers_and_tells_path_and_binding(bound, path, annotations, query):
    answer = bound.ask("POST", f"{path}?{query}", {})
    assert answer.status == (200 if query else 202)
    record = bound.record(answer.headers["x-openwhisk-activation-id"])
    assert (record.json["namespace"], record.json["subject"], record.json["name"]) == ("anna", "anna", "x")
    assert {key: value for key, value in record.annotations.items() if key in {"path", "binding"}} == annotations
    assert "hush" not in record.text


def test_AV_05_the_owner_of_a_shared_action_does_not_see_who_runs_it(shared, bound):
    answer = bound.invoke("mine/x", {})
    activation_id = answer.headers["x-openwhisk-activation-id"]
    assert shared.ask("GET", f"activations/{activation_id}").status == 404
    assert shared.ask("GET", f"/api/v1/namespaces/anna/activations/{activation_id}").status == 403


def test_EN_02_a_package_that_is_not_published_any_more_runs_for_its_owner_only(shared, bound):
    put(shared, "packages/tools", publish=False)
    assert bound.invoke("mine/x", {}).status == 403
    assert shared.invoke("tools/x", {}).status == 200
    put(shared, "packages/tools", publish=True)
    assert bound.invoke("mine/x", {}).status == 200


def test_PK_01_an_encrypted_parameter_is_on_the_disk_only_sealed(daemon, bound):
    stored = b"".join(path.read_bytes() for path in daemon.state_dir.glob("entities.db*"))
    assert b"password" in stored
    assert b"hush" not in stored
