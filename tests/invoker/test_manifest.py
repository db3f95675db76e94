import json

import pytest

from invoker.errors import InvalidRequest, RuntimeDeprecated, RuntimeNotSupported
from invoker.manifest import PACKAGED, Manifest, ManifestError, check_image, without_digest
from pool.model import Reactive


def manifest_of(*kinds, blackboxes=()):
    return Manifest.parse(json.dumps({"runtimes": {"python": list(kinds)}, "blackboxes": list(blackboxes)}).encode())


def kind(name, **fields):
    return {"kind": name, "image": {"prefix": "example", "name": "python", "tag": "1"}, **fields}


TWO = (kind("python:2", deprecated=True), kind("python:3", default=True))


def test_family_default_is_the_default_of_the_family():
    assert manifest_of(*TWO).resolve("python:default").kind == "python:3"


def test_the_only_kind_of_a_family_is_its_default():
    assert manifest_of(kind("python:3")).resolve("python:default").kind == "python:3"


def test_a_kind_is_taken_in_any_case_with_blanks_around_it():
    assert manifest_of(*TWO).resolve(" Python:3 ").kind == "python:3"


@pytest.mark.parametrize("name", ["cobol:1", "python", "default", "ruby:default", ""])
def test_an_unknown_kind_is_refused_with_the_kinds_there_are(name):
    with pytest.raises(RuntimeNotSupported, match=f"runtime '{name}' is not supported by this platform") as refused:
        manifest_of(*TWO).resolve(name)
    for valid in ("python:3", "blackbox", "sequence"):
        assert f"'{valid}'" in str(refused.value)


def test_a_deprecated_kind_is_neither_written_nor_run():
    manifest = manifest_of(*TWO)
    for refuse in (manifest.resolve, manifest.check):
        with pytest.raises(RuntimeDeprecated, match="runtime is no longer supported"):
            refuse("python:2")


def test_what_is_there_may_run():
    manifest = manifest_of(*TWO)
    manifest.check("python:3")
    manifest.check("blackbox")
    with pytest.raises(RuntimeNotSupported):
        manifest.check("gone:1")


def test_an_image_is_a_string_or_parts():
    parts = {"registry": "registry.example", "prefix": "a/b", "name": "c", "tag": "1"}
    manifest = manifest_of(kind("python:3", image=parts, default=True), kind("python:4", image="example/python:4"))
    assert manifest.runtimes["python:3"].image == "registry.example/a/b/c:1"
    assert manifest.runtimes["python:4"].image == "example/python:4"


def test_stem_cells_have_a_size_and_a_count():
    cells = [{"initialCount": 2, "memory": "256 MB"}, {"count": 1, "memory": "1 GB"}, {"initialCount": 0, "memory": "64MB"}]
    runtime = manifest_of(kind("python:3", stemCells=cells)).runtimes["python:3"]
    assert [(cell.memory_mib, cell.count) for cell in runtime.stem_cells] == [(256, 2), (1024, 1)]


def test_stem_cells_may_follow_demand():
    reactive = {"minCount": 1, "maxCount": 4, "ttl": "2 minutes", "threshold": 3, "increment": 2}
    cells = [{"initialCount": 2, "memory": "256 MB", "reactive": reactive}]
    (cell,) = manifest_of(kind("python:3", stemCells=cells)).runtimes["python:3"].stem_cells
    assert cell.reactive == Reactive(least=1, most=4, ttl_s=120.0, threshold=3, increment=2)


@pytest.mark.parametrize(
    "wrong", [{"maxCount": 1, "minCount": 2}, {"maxCount": 1, "ttl": "soon"}, {"maxCount": 1, "threshold": 0}]
)
def test_reactive_options_that_cannot_be_are_refused(wrong: dict[str, object]):
    cells = [{"initialCount": 2, "memory": "256 MB", "reactive": {"maxCount": 1, **wrong}}]
    with pytest.raises(ManifestError):
        manifest_of(kind("python:3", stemCells=cells))


def test_native_images_are_known_with_and_without_the_tag_latest():
    manifest = manifest_of(kind("python:3"), blackboxes=[{"prefix": "openwhisk", "name": "dockerskeleton", "tag": "latest"}])
    assert manifest.is_native("openwhisk/dockerskeleton")
    assert manifest.is_native("openwhisk/dockerskeleton:latest")
    assert not manifest.is_native("openwhisk/dockerskeleton:1")
    assert not manifest.is_native("example/dockerskeleton")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"{", "truncated"),
        (b'{"runtimes": {"a": [{"kind": "a:1"}]}}', "image"),
        (json.dumps({"runtimes": {"a": [kind("a:1"), kind("a:2")]}}).encode(), "exactly one of them must be the default"),
        (json.dumps({"runtimes": {"a": [kind("a:1")], "b": [kind("a:1")]}}).encode(), "must differ"),
        (json.dumps({"runtimes": {"a": [kind("blackbox")]}}).encode(), "must differ"),
        (json.dumps({"runtimes": {"a": [kind("builtin")]}}).encode(), "must differ"),
        (json.dumps({"runtimes": {"a": [kind("a:1", stemCells=[{"count": 1, "memory": "big"}])]}}).encode(), "size of memory"),
    ],
)
def test_a_manifest_that_cannot_be_is_refused(text, complaint):
    with pytest.raises(ManifestError, match=complaint):
        Manifest.parse(text)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ManifestError, match=r"none\.json"):
        Manifest.load(tmp_path / "none.json")


def test_the_manifest_that_comes_with_the_daemon_can_be_used():
    manifest = Manifest.load(PACKAGED)
    for default in ("python:default", "nodejs:default"):
        assert manifest.resolve(default).image
    assert manifest.is_native("openwhisk/dockerskeleton")


@pytest.mark.parametrize(
    "image",
    [
        "none",
        "example/none",
        "example/none:latest",
        "registry.example:5000/a/b-c_d.e:1.0",
        "localhost/a",
        "example/none@sha256:" + "0" * 64,
        " example/none ",
    ],
)
def test_an_image_reference_is_taken(image):
    assert check_image(image) == image.strip()


@pytest.mark.parametrize("image", ["", "Example/None", "a//b", "a:", "a b", "example/none:", "a/b@sha256:12", "-a", "a\n/b"])
def test_what_is_no_image_reference_is_refused(image):
    with pytest.raises(InvalidRequest, match="could not parse image name"):
        check_image(image)


def test_a_digest_is_not_shown():
    assert without_digest("example/none@sha256:abc") == "example/none"
