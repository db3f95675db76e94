import base64
import io
import zipfile
from pathlib import Path
from typing import Any

import pytest

from invoker.commands.ctl_client import Exit, Failure
from invoker.commands.ctl_code import (
    NATIVE_IMAGE,
    action_path,
    make_exec,
    make_parameters,
    make_sequence,
    web_annotations,
    zip_directory,
)


def build(file: Path | None, **options: Any) -> dict[str, Any]:
    return make_exec(file, **({"kind": None, "native": False, "docker": None, "main": None} | options))


def archive_of(code: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(base64.b64decode(code)))


@pytest.mark.parametrize(("name", "kind"), [("a.py", "python:default"), ("a.js", "nodejs:default"), ("a.mjs", "nodejs:default")])
def test_source_text_goes_as_it_is_with_the_kind_of_its_extension(tmp_path: Path, name: str, kind: str) -> None:
    file = tmp_path / name
    file.write_text("größe = 1\n")
    assert build(file, main="run") == {"kind": kind, "code": "größe = 1\n", "main": "run"}


def test_a_zip_goes_in_base64_and_needs_a_kind(tmp_path: Path) -> None:
    file = tmp_path / "a.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("__main__.py", "x")
    assert build(file, kind="python:3") == {"kind": "python:3", "code": base64.b64encode(file.read_bytes()).decode()}
    with pytest.raises(Failure, match="cannot be told") as failed:
        build(file)
    assert failed.value.exit_code is Exit.USAGE


def test_a_native_script_goes_as_text_and_a_binary_as_an_executable_exec_in_a_zip(tmp_path: Path) -> None:
    script, binary = tmp_path / "s.sh", tmp_path / "b"
    script.write_text("#!/bin/sh\n")
    binary.write_bytes(b"\x7fELF\0\xff")
    assert build(script, native=True) == {"kind": "blackbox", "image": NATIVE_IMAGE, "code": "#!/bin/sh\n"}
    made = build(binary, docker="mine:1")
    assert (made["kind"], made["image"]) == ("blackbox", "mine:1")
    with archive_of(made["code"]) as archive:
        assert archive.read("exec") == b"\x7fELF\0\xff"
        assert archive.getinfo("exec").external_attr >> 16 == 0o100755
    with pytest.raises(Failure, match="neither text"):
        build(binary, kind="python:3")


def test_a_directory_is_zipped_with_modes_and_without_caches_the_same_each_time(tmp_path: Path) -> None:
    (tmp_path / "pkg").mkdir()
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / ".git").mkdir()
    for name in ("exec", "pkg/m.py", "__pycache__/m.pyc", ".git/config", ".hidden"):
        (tmp_path / name).write_text(name)
    (tmp_path / "exec").chmod(0o755)
    with archive_of(build(tmp_path, native=True)["code"]) as archive:
        assert sorted(archive.namelist()) == ["exec", "pkg/m.py"]
        assert archive.getinfo("exec").external_attr >> 16 & 0o777 == 0o755
    before = zip_directory(tmp_path)
    (tmp_path / "exec").touch()
    assert zip_directory(tmp_path) == before


def test_an_image_may_bring_its_code_and_nothing_else_can(tmp_path: Path) -> None:
    assert build(None, docker="mine:1") == {"kind": "blackbox", "image": "mine:1"}
    with pytest.raises(Failure, match="a file is missing"):
        build(None, kind="python:3")
    with pytest.raises(Failure, match="exclude each other"):
        build(tmp_path, kind="python:3", native=True)


def test_parameters_are_json_where_they_can_be_and_pairs_go_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    file.write_text('{"a": 1, "b": 2}')
    assert make_parameters((("b", "text"), ("c", "[1, null]"), ("d", '"5"')), file) == {
        "a": 1,
        "b": "text",
        "c": [1, None],
        "d": "5",
    }
    for bad in ("[1]", "{", "\xff"):
        file.write_text(bad, "latin-1")
        with pytest.raises(Failure) as failed:
            make_parameters((), file)
        assert failed.value.exit_code is Exit.USAGE


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("a", "_/actions/a"),
        ("p/a", "_/actions/p/a"),
        ("/ns/a", "ns/actions/a"),
        ("/ns/p/a b", "ns/actions/p/a%20b"),
        ("/_/a", "_/actions/a"),
    ],
)
def test_the_path_of_an_action(name: str, path: str) -> None:
    assert action_path(name) == "/api/v1/namespaces/" + path


@pytest.mark.parametrize("name", ["", "/", "/ns", "a/b/c", "/ns/a/b/c", "a//b", "a/"])
def test_what_is_no_name_of_an_action_is_refused(name: str) -> None:
    with pytest.raises(Failure, match="is no name of an action"):
        action_path(name)


def test_a_sequence_names_ones_own_actions_unless_it_says_whose():
    assert make_sequence("a, p/b,/alice/p/c") == {"kind": "sequence", "components": ["/_/a", "/_/p/b", "/alice/p/c"]}
    with pytest.raises(Failure, match="empty name"):
        make_sequence("a,,b")


@pytest.mark.parametrize(
    ("web", "secure", "annotations"),
    [
        (None, None, {}),
        ("yes", None, {"web-export": True, "raw-http": False, "final": True}),
        ("raw", "word", {"web-export": True, "raw-http": True, "final": True, "require-whisk-auth": "word"}),
        ("no", None, {"web-export": False, "raw-http": False, "final": False}),
        (None, "word", {"require-whisk-auth": "word"}),
    ],
)
def test_web_actions_have_the_annotations_that_wsk_sets(web, secure, annotations):
    assert web_annotations(web, secure) == annotations
