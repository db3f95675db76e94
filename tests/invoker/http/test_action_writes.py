import json

import pytest

from invoker.config.model import LimitsConfig
from invoker.errors import (
    InvalidRequest,
    LimitOutOfRange,
    MalformedContent,
    RuntimeDeprecated,
    RuntimeNotSupported,
)
from invoker.http.action_writes import create_action, resolve_exec, update_action
from invoker.http.bodies import parse_action
from invoker.manifest import Manifest

SITE = LimitsConfig.of_profile("openwhisk")
MANIFEST = Manifest.parse(
    json.dumps(
        {
            "runtimes": {
                "python": [
                    {"kind": "python:3", "image": "p3", "default": True},
                    {"kind": "python:2", "image": "p2", "deprecated": True},
                ],
                "java": [{"kind": "java:8", "image": "j8", "requireMain": True}],
            }
        }
    ).encode()
)
PYTHON = {"kind": "python:3", "code": "x"}


def body(**fields):
    return parse_action(json.dumps(fields).encode())


def resolve(**execution):
    sent = body(exec=execution)
    return resolve_exec(sent.exec, sent.code, MANIFEST)


def create(now_ms=1000, **fields):
    sent = body(**({"exec": PYTHON} | fields))
    execution = resolve_exec(sent.exec, sent.code, MANIFEST).exec if sent.exec else None
    return create_action("guest", "hello", sent, execution=execution, site=SITE, concurrent=30, now_ms=now_ms)


def update(old, now_ms=2000, **fields):
    sent = body(**fields)
    execution = resolve_exec(sent.exec, sent.code, MANIFEST).exec if sent.exec else None
    return update_action(old, sent, execution=execution, site=SITE, concurrent=30, now_ms=now_ms)


def annotations(action):
    return {each.key: json.loads(bytes(each.value)) for each in action.annotations}


def pairs(**values):
    return [{"key": key.replace("_", "-"), "value": value} for key, value in values.items()]


def test_family_default_is_stored_resolved():
    assert resolve(kind="Python:default", code="x").exec.kind == "python:3"


def test_code_may_be_empty_but_not_missing():
    assert resolve(kind="python:3", code="").code.utf8 == b""
    with pytest.raises(MalformedContent, match="'code'"):
        resolve(kind="python:3")


def test_jar_is_an_old_name_of_code():
    assert resolve(kind="java:8", jar="AAAA", main="Main").code.utf8 == b"AAAA"


def test_a_kind_that_needs_main_is_refused_without():
    with pytest.raises(MalformedContent, match=r"'main'.*'java:8'"):
        resolve(kind="java:8", code="AAAA")


def test_binary_is_computed_and_code_is_measured():
    assert resolve(kind="python:3", code="UEsDBA==").exec.binary
    text = resolve(kind="python:3", code="é = 1").exec
    assert (text.binary, text.code_bytes) == (False, 6)


def test_a_black_box_needs_an_image_and_no_code():
    with pytest.raises(MalformedContent, match="'image'"):
        resolve(kind="blackbox")
    written = resolve(kind="blackbox", image="example/none", code=" ")
    assert (written.code, written.exec.image, written.exec.binary) == (None, "example/none", False)
    with pytest.raises(InvalidRequest, match="could not parse image name"):
        resolve(kind="blackbox", image="Example/None")


def test_native_is_a_black_box_with_an_image_of_a_known_name():
    written = resolve(kind="blackbox", image="openwhisk/dockerskeleton", code="UEsDBA==")
    assert (written.exec.image, written.exec.binary) == ("openwhisk/dockerskeleton", True)


@pytest.mark.parametrize(("kind", "error"), [("cobol:1", RuntimeNotSupported), ("python:2", RuntimeDeprecated)])
def test_kinds_that_cannot_be_written(kind, error):
    with pytest.raises(error):
        resolve(kind=kind, code="x")


def test_a_new_action_has_the_defaults():
    action = create()
    assert (action.version, action.publish, action.updated) == ("0.0.1", False, 1000)
    assert (action.limits.timeout, action.limits.memory, action.limits.logs, action.limits.concurrency) == (60_000, 256, 10, 1)
    assert annotations(action) == {"provide-api-key": False, "exec": "python:3"}
    assert len(action.revision) == 32


def test_a_new_action_needs_exec():
    with pytest.raises(InvalidRequest, match="exec undefined"):
        create(exec=None)


def test_the_annotation_exec_is_the_servers_and_provide_api_key_the_clients():
    action = create(annotations=pairs(exec="mine", provide_api_key=True))
    assert annotations(action) == {"provide-api-key": True, "exec": "python:3"}


def test_an_update_merges_annotations_and_deletes_the_named_ones():
    old = create(annotations=pairs(a=1, b=2, c=3))
    new = update(old, annotations=pairs(b=4, d=5), delAnnotations=["a", "provide-api-key"])
    assert annotations(new) == {"b": 4, "c": 3, "d": 5, "exec": "python:3"}


def test_an_update_replaces_parameters_as_a_whole_or_keeps_them():
    old = create(parameters=pairs(a=1, b=2))
    assert update(old).parameters == old.parameters
    assert [each.key for each in update(old, parameters=pairs(c=3)).parameters] == ["c"]
    assert update(old, parameters=[]).parameters == ()


def test_an_update_merges_limits_by_field():
    old = create(limits={"memory": 128, "timeout": 1000})
    assert update(old, limits={"memory": 512}).limits == old.limits.__class__(memory=512, timeout=1000)


def test_an_update_bumps_the_patch_or_takes_the_version_given():
    assert update(create()).version == "0.0.2"
    assert update(create(), version="3").version == "3.0.0"


def test_an_update_keeps_publish_when_it_is_not_given():
    assert update(create(publish=True)).publish
    assert not update(create(publish=True), publish=False).publish


def test_updated_grows_though_the_clock_goes_back():
    old = create(now_ms=5000)
    assert update(old, now_ms=4000).updated == 5001


def test_a_new_revision_is_made_by_each_write_and_the_resolved_image_goes_with_exec():
    import msgspec

    old = msgspec.structs.replace(create(), image_id="sha256:abc")
    assert update(old).revision != old.revision
    assert update(old).image_id == "sha256:abc"
    assert update(old, exec=PYTHON).image_id is None


def test_limits_out_of_range_are_refused_on_create_and_update():
    with pytest.raises(LimitOutOfRange):
        create(limits={"memory": 513})
    with pytest.raises(LimitOutOfRange):
        update(create(), limits={"timeout": 99})


def test_stored_limits_above_a_lowered_ceiling_do_not_stop_an_update_of_something_else():
    old = create(limits={"memory": 512})
    lower = LimitsConfig.of_profile("openwhisk", memory_max_mib=256)
    new = update_action(old, body(publish=True), execution=None, site=lower, concurrent=30, now_ms=1)
    assert new.publish


@pytest.mark.parametrize(
    ("value", "is_composed"), [(True, True), (1, True), ({}, True), ("yes", True), (False, False), (0, False), ("", False)]
)
def test_a_conductor_is_an_action_whose_annotation_is_truthy(value, is_composed):
    assert create(annotations=pairs(conductor=value)).is_composed is is_composed
