import json

import msgspec
import pytest

from invoker.http.documents import (
    action_document,
    action_entry,
    package_contents,
    package_document,
    package_entry,
    rule_document,
    rule_entry,
    trigger_document,
    trigger_entry,
)
from invoker.model import (
    Action,
    Annotation,
    Binding,
    Exec,
    Limits,
    Package,
    Parameter,
    Rule,
    RuleStatus,
    Trigger,
)

HEAD = {"namespace", "name", "version", "publish", "annotations", "updated"}


def plain(document):
    return json.loads(msgspec.json.encode(document))


@pytest.fixture
def action():
    return Action(
        namespace="guest",
        path="p/hello",
        revision="r",
        updated=5,
        annotations=(Annotation(key="exec", value=msgspec.Raw(b'"python:3"')),),
        parameters=(
            Parameter(key="a", value=msgspec.Raw(b"1.10e5")),
            Parameter(key="b", value=msgspec.Raw(b"null"), init=True, encryption="noop"),
        ),
        exec=Exec(kind="python:3", code="digest", code_bytes=1, main="run"),
    )


def test_an_action_has_exactly_these_fields(action):
    assert plain(action_document(action, "code")) == {
        "namespace": "guest/p",
        "name": "hello",
        "exec": {"kind": "python:3", "code": "code", "main": "run", "binary": False},
        "parameters": [{"key": "a", "value": 1.1e5}, {"key": "b", "value": None, "init": True, "encryption": "noop"}],
        "limits": {"timeout": 60000, "memory": 256, "logs": 10, "concurrency": 1},
        "version": "0.0.1",
        "publish": False,
        "annotations": [{"key": "exec", "value": "python:3"}],
        "updated": 5,
    }


def test_values_are_put_in_as_they_came(action):
    assert b'"value":1.10e5' in msgspec.json.encode(action_document(action, None))


def test_without_code_only_the_code_is_missing(action):
    assert "code" not in plain(action_document(action, None))["exec"]


def test_a_black_box_shows_its_image_without_the_digest(action):
    box = msgspec.structs.replace(action, exec=Exec(kind="blackbox", image="example/none@sha256:abc"))
    assert plain(action_document(box, None))["exec"] == {"kind": "blackbox", "image": "example/none", "binary": False}


def test_instances_are_shown_only_when_set(action):
    some = msgspec.structs.replace(action, limits=Limits(instances=0))
    assert plain(action_document(some, None))["limits"]["instances"] == 0


def test_an_entry_of_a_list_tells_of_exec_only_whether_it_is_binary(action):
    entry = plain(action_entry(action))
    assert entry["exec"] == {"binary": False}
    assert set(entry) == {"namespace", "name", "version", "publish", "annotations", "limits", "exec", "updated"}


def test_a_sequence_shows_its_components_and_nothing_else_of_exec(action):
    sequence = msgspec.structs.replace(action, exec=Exec(kind="sequence", components=("guest/a", "guest/p/b")))
    assert plain(action_document(sequence, None))["exec"] == {"kind": "sequence", "components": ["/guest/a", "/guest/p/b"]}
    assert plain(action_entry(sequence))["exec"] == {"binary": False}


def test_an_action_found_through_a_binding_says_so(action):
    assert plain(action_document(action, None, binding="guest/b"))["binding"] == "guest/b"
    assert "binding" not in plain(action_document(action, None))


def test_binding_is_an_object_in_a_document_and_false_in_a_list():
    real = Package(namespace="guest", path="p", revision="r", updated=5)
    bound = msgspec.structs.replace(real, binding=Binding(namespace="lib", name="q"))
    assert set(plain(package_document(real))) == HEAD | {"binding", "parameters"}
    assert set(plain(package_entry(real))) == HEAD | {"binding"}
    assert (plain(package_document(real))["binding"], plain(package_entry(real))["binding"]) == ({}, False)
    assert (
        plain(package_document(bound))["binding"] == plain(package_entry(bound))["binding"] == {"namespace": "lib", "name": "q"}
    )


def test_feeds_are_listed_apart_from_actions(action):
    feed = msgspec.structs.replace(action, path="p/feed", annotations=(Annotation(key="feed", value=msgspec.Raw(b"true")),))
    contents = plain(package_contents([action, feed]))
    assert contents == {
        "actions": [{"name": "hello", "version": "0.0.1", "annotations": [{"key": "exec", "value": "python:3"}]}],
        "feeds": [{"name": "feed", "version": "0.0.1", "annotations": [{"key": "feed", "value": True}]}],
    }


def test_a_trigger_has_its_rules_when_there_are_any_and_a_list_tells_neither():
    trigger = Trigger(namespace="guest", path="t", revision="r", updated=5, birth="b")
    rule = Rule(namespace="guest", path="r", revision="r", updated=6, trigger="guest/t", action="guest/p/a")
    assert set(plain(trigger_document(trigger, []))) == HEAD | {"parameters", "limits"}
    assert plain(trigger_document(trigger, [rule]))["rules"] == {
        "guest/r": {"action": {"path": "guest/p", "name": "a"}, "status": "active"}
    }
    assert set(plain(trigger_entry(trigger))) == HEAD


def test_the_status_of_a_rule_is_told_by_the_rule_alone():
    rule = Rule(namespace="guest", path="r", revision="r", updated=6, trigger="guest/t", action="guest/a")
    document = plain(rule_document(rule, RuleStatus.INACTIVE))
    assert document["status"] == "inactive"
    assert (document["trigger"], document["action"]) == ({"path": "guest", "name": "t"}, {"path": "guest", "name": "a"})
    assert set(plain(rule_entry(rule))) == HEAD | {"trigger", "action"}
