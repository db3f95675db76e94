import json

import pytest

from invoker.errors import MalformedContent
from invoker.http.bodies import (
    entries_bytes,
    is_base64,
    next_patch,
    parse_action,
    parse_package,
    parse_rule,
    parse_status,
    parse_trigger,
    parse_version,
)
from invoker.model import Binding


def action_body(**fields):
    return parse_action(json.dumps(fields).encode())


def test_null_is_not_given_and_unknown_fields_are_ignored():
    nothing = dict.fromkeys(["exec", "parameters", "annotations", "limits", "version", "publish", "delAnnotations"])
    body = action_body(name="x", namespace="_", status="", updated=1, **nothing)
    assert (body.exec, body.parameters, body.annotations, body.version, body.publish) == (None,) * 5
    assert body.delete_annotations == ()


def test_values_of_any_json_survive_as_they_are():
    text = b'{"parameters": [{"key": "", "value": {"a": [1.10e5, "<&>", null]}}, {"key": "n", "value": null}]}'
    values = [bytes(each.value) for each in parse_action(text).parameters]
    assert values == [b'{"a":[1.10e5,"<&>",null]}', b"null"]


def test_of_a_key_given_twice_the_last_wins():
    body = action_body(parameters=[{"key": "a", "value": 1}, {"key": "b", "value": 2}, {"key": "a", "value": 3}])
    assert [(each.key, bytes(each.value)) for each in body.parameters] == [("a", b"3"), ("b", b"2")]


def test_init_and_encryption_of_a_parameter():
    body = action_body(parameters=[{"key": "a", "value": 1, "init": True, "encryption": None}, {"key": "b", "value": 1}])
    assert [(each.init, each.encryption) for each in body.parameters] == [(True, None), (False, None)]


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        ({"exec": {"code": "x"}}, "kind"),
        ({"exec": {"kind": 3}}, "exec.kind"),
        ({"exec": "x"}, "exec"),
        ({"parameters": {}}, "parameters malformed!"),
        ({"parameters": [{"key": "a"}]}, "parameters malformed!"),
        ({"parameters": [{"value": 1}]}, "parameters malformed!"),
        ({"parameters": [{"key": "a", "value": 1, "init": "yes"}]}, "parameters malformed!"),
        ({"annotations": [1]}, "malformed!"),
        ({"publish": "yes"}, "publish"),
        ({"version": 1}, "version"),
        ({"limits": {"timeout": 1.5}}, "timeout must be whole number"),
        ({"limits": {"memory": "256"}}, "memory must be whole number"),
        ({"limits": {"logs": -1}}, "logs"),
        ({"limits": []}, "limits"),
        ({"delAnnotations": "a"}, "delAnnotations"),
    ],
)
def test_a_wrong_type_is_malformed_and_named(fields, detail):
    with pytest.raises(MalformedContent, match="The request content was malformed:\n") as refused:
        action_body(**fields)
    assert detail in str(refused.value)


def test_a_value_that_is_not_utf8_is_malformed():
    with pytest.raises(MalformedContent):
        parse_action(b'{"parameters": [{"key": "a", "value": "\xff"}]}')


@pytest.mark.parametrize(
    ("text", "version"), [("1", "1.0.0"), ("0.1", "0.1.0"), ("1.2.3", "1.2.3"), ("1.2.3.4", "1.2.3"), ("01.2.3", "1.2.3")]
)
def test_a_version_is_normalised(text, version):
    assert parse_version(text) == version


@pytest.mark.parametrize("text", ["", "0.0.0", "a", "1.a", "1.", ".1", "1.-2", "1 "])
def test_what_is_no_version_is_malformed(text):
    with pytest.raises(MalformedContent):
        parse_version(text)


def test_the_next_version_differs_in_the_patch():
    assert next_patch("1.2.9") == "1.2.10"


@pytest.mark.parametrize("code", ["AAAA", " UEsDBA== \n", "abcd", "AAA="])
def test_base64_is_binary(code):
    assert is_base64(code)


@pytest.mark.parametrize("code", ["", "  ", "AAA", "AA=A", "====", "AA AA", "AAAA\nAAAA", "def f(): pass", "AAAA=", "ééé="])
def test_text_is_not(code):
    assert not is_base64(code)


def test_entries_are_measured_without_blanks():
    body = parse_action('{"parameters": [{"key": "é", "value": {"a" : 1}}]}'.encode())
    assert entries_bytes(body.parameters) == 2 + len('{"a":1}')


@pytest.mark.parametrize("sent", ['{"binding": {}}', '{"binding": null}', "{}"])
def test_an_empty_binding_is_none(sent):
    assert parse_package(sent.encode()).binding is None


def test_a_binding_is_kept_as_sent_and_half_of_one_is_malformed():
    body = parse_package(b'{"binding": {"namespace": "_", "name": "p"}, "publish": true}')
    assert (body.binding, body.publish) == (Binding(namespace="_", name="p"), True)
    for half in (b'{"binding": {"name": "p"}}', b'{"binding": {"namespace": "n"}}', b'{"binding": "n/p"}'):
        with pytest.raises(MalformedContent):
            parse_package(half)


def test_a_trigger_has_limits_that_are_an_object_and_forgotten():
    assert parse_trigger(b'{"limits": {"x": 1}, "parameters": []}').parameters == ()
    with pytest.raises(MalformedContent):
        parse_trigger(b'{"limits": 1}')


def test_a_rule_refers_by_text_or_by_path_and_name():
    body = parse_rule(b'{"trigger": "/_/t", "action": {"path": "ns/p", "name": "a", "version": "0.0.1"}, "status": ""}')
    assert (body.trigger, body.action) == ("/_/t", "/ns/p/a")
    assert parse_rule(b'{"trigger": null}').trigger is None
    with pytest.raises(MalformedContent):
        parse_rule(b'{"trigger": {"path": "ns"}}')


def test_a_status_is_text():
    assert parse_status(b'{"status": "active", "trigger": null, "action": null}') == "active"
    for body in (b"{}", b'{"status": 1}', b"[]", b'{"status": null}'):
        with pytest.raises(MalformedContent):
            parse_status(body)
