import json

import msgspec
import pytest

from invoker.activation import Composition, Meter, Phases, Status
from invoker.config.model import LimitsConfig
from invoker.health import Check, Health
from invoker.http.rendering import (
    activation_summary,
    is_array,
    render_activation,
    render_error,
    render_health,
    render_response,
    render_result,
    render_root,
)
from invoker.manifest import Manifest
from pool.model import PeakQuality


def free(_):
    return None


def annotations(document):
    return {each["key"]: each["value"] for each in document["annotations"]}


def test_a_record_has_exactly_these_fields(make_activation):
    record = json.loads(render_activation(make_activation(), ["line"], free))
    assert set(record) == {
        *("namespace", "name", "version", "subject", "activationId", "start", "end", "duration"),
        *("response", "logs", "annotations", "publish"),
    }
    assert record["duration"] == record["end"] - record["start"] == 42
    assert record["logs"] == ["line"]
    assert record["response"]["size"] == 33


def test_the_result_is_copied_in_byte_for_byte(make_activation):
    assert b'"result":{"big": 1.10e5, "text": "\\u00e9"}' in render_activation(make_activation(), (), free)


@pytest.mark.parametrize(
    ("status", "text", "success"),
    [
        (Status.SUCCESS, "success", True),
        (Status.APPLICATION_ERROR, "application error", False),
        (Status.DEVELOPER_ERROR, "action developer error", False),
        (Status.INTERNAL_ERROR, "whisk internal error", False),
    ],
)
def test_the_response_tells_how_it_ended(make_activation, status, text, success):
    response = json.loads(render_response(make_activation(status=status)))
    assert (response["status"], response["success"]) == (text, success)


def test_what_the_platform_does_not_have_is_left_out(make_activation):
    assert json.loads(render_response(make_activation(result=None, size=None))) == {"status": "success", "success": True}
    assert render_result(make_activation(result=None)) == b"{}"


def test_upstreams_annotations_are_there_and_init_time_tells_cold_from_warm(make_activation):
    warm = annotations(activation_summary_of(make_activation(path="guest/p/hello")))
    assert warm["path"] == "guest/p/hello"
    assert warm["kind"] == "python:3"
    assert warm["limits"] == {"timeout": 60000, "memory": 256, "logs": 10, "concurrency": 1}
    assert warm["timeout"] is False
    assert warm["waitTime"] == 3
    assert "initTime" not in warm
    assert annotations(activation_summary_of(make_activation(init_ms=17)))["initTime"] == 17


def activation_summary_of(activation, price=free):
    return json.loads(msgspec.json.encode(activation_summary(activation, price)))


def test_our_annotations_tell_what_is_billed_and_why(make_activation):
    cost = {"amount": "0.000001234", "currency": "EUR", "plan": "default-1"}
    ours = annotations(activation_summary_of(make_activation(), lambda _: cost))
    assert ours["startKind"] == "frozen"
    assert ours["phases"]["run"] == 42_000
    assert tuple(ours["phases"]) == Phases.__struct_fields__
    assert ours["billed"] == {"us": 42_000, "memoryMiB": 256}
    assert ours["cpuTime"] == {"us": 12_034, "quality": "exact", "throttledUs": 0}
    assert ours["memoryPeak"] == {"bytes": 9_000_000, "quality": PeakQuality.EXACT.value}
    assert ours["memory"] == {"anonymous": 0, "shared": 0, "cache": 0}
    assert ours["cost"] == cost
    assert ours["container"] == "invokerd-node1-0123456789ab"
    assert (ours["node"], ours["outcome"]) == ("node1", "ok")


def test_without_a_container_nothing_is_told_of_one(make_activation):
    ours = annotations(activation_summary_of(make_activation(meter=Meter(outcome="lost"), container=None)))
    assert not {"startKind", "cpuTime", "memoryPeak", "memory", "container", "cost"} & set(ours)
    assert ours["outcome"] == "lost"


def test_a_summary_has_exactly_these_fields(make_activation):
    summary = activation_summary_of(make_activation(status=Status.DEVELOPER_ERROR, cause="c" * 32))
    assert set(summary) == {
        *("namespace", "name", "version", "publish", "annotations", "activationId"),
        *("start", "end", "duration", "cause", "statusCode"),
    }
    assert summary["statusCode"] == 2
    assert annotations(summary)["causedBy"] == "sequence"


def test_a_summary_lasts_from_start_to_end_and_the_record_of_a_composed_one_as_long_as_its_parts(make_activation):
    whole = make_activation(kind="sequence", composition=Composition(parts=("a" * 32,), duration_ms=30))
    assert activation_summary_of(whole)["duration"] == 42
    assert msgspec.json.decode(render_activation(whole, (), lambda _: None))["duration"] == 30
    alone = make_activation()
    assert activation_summary_of(alone)["duration"] == 42


@pytest.mark.parametrize(
    ("text", "array"), [(b"[]", True), (b" " * 100 + b"[1]", True), (b"{}", False), (b' {"a":[1]}', False), (b'"["', False)]
)
def test_an_array_is_known_by_its_first_character(text, array):
    assert is_array(msgspec.Raw(text)) is array
    assert is_array(None) is False


def test_an_error_has_both_fields():
    assert render_error("No.", "tid") == b'{"error":"No.","code":"tid"}'


def test_health_is_the_sum_of_its_checks():
    bad = Health(checks=(Check(name="a", ok=True), Check(name="b", ok=False, detail="start it")))
    assert json.loads(render_health(bad)) == {
        "ok": False,
        "checks": [
            {"name": "a", "ok": True, "detail": "", "warning": False},
            {"name": "b", "ok": False, "detail": "start it", "warning": False},
        ],
    }


def test_the_root_document_has_the_kinds_and_limits_that_clients_read():
    manifest = Manifest.parse(b'{"runtimes": {"python": [{"kind": "python:3", "image": "p", "default": true}]}}')
    root = json.loads(render_root(manifest, LimitsConfig.of_profile("openwhisk"), {"github": "", "slack": ""}))
    assert root["runtimes"]["python"] == [
        {"kind": "python:3", "image": "p", "deprecated": False, "default": True, "attached": False, "requireMain": False}
    ]
    assert root["api_paths"] == ["/api/v1"]
    assert root["limits"] == {
        "actions_per_minute": 60,
        "triggers_per_minute": 60,
        "concurrent_actions": 30,
        "sequence_length": 50,
        "default_min_action_duration": 100,
        "default_max_action_duration": 300000,
        "default_min_action_memory": 134217728,
        "default_max_action_memory": 536870912,
        "default_min_action_logs": 0,
        "default_max_action_logs": 10485760,
        "min_action_duration": 100,
        "max_action_duration": 300000,
        "min_action_memory": 134217728,
        "max_action_memory": 536870912,
        "min_action_logs": 0,
        "max_action_logs": 10485760,
    }


def test_bytes_of_a_header_that_are_no_utf_8_do_not_spoil_the_answer():
    body = json.loads(render_error("a\udcff \N{SNOWMAN}", "id"))
    assert body == {"error": "a\N{REPLACEMENT CHARACTER} \N{SNOWMAN}", "code": "id"}
