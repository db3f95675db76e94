from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from invoker.registry import HUB, CredentialsUnreadable, credentials_for, registry_of


@pytest.mark.parametrize(
    ("reference", "registry"),
    [
        ("python:3.11", HUB),
        ("library/python", HUB),
        ("gitlab.desy.de:5555/group/image:1", "gitlab.desy.de:5555"),
        ("localhost/image", "localhost"),
        ("localhost:5000/image@sha256:00", "localhost:5000"),
        ("registry.example.org/a/b/c", "registry.example.org"),
    ],
)
def test_registry_of_a_reference(reference: str, registry: str):
    assert registry_of(reference) == registry


def test_credentials_are_found_by_registry_in_both_forms(tmp_path: Path):
    file = tmp_path / "config.json"
    packed = base64.b64encode(b"anna:pass:word").decode()
    file.write_text(
        json.dumps({"auths": {"one.example:5000": {"auth": packed}, "https://two.example": {"username": "b", "password": "p"}}})
    )
    assert credentials_for("one.example:5000/x", file) == {
        "username": "anna",
        "password": "pass:word",
        "serveraddress": "one.example:5000",
    }
    assert credentials_for("two.example/x", file) == {"username": "b", "password": "p", "serveraddress": "two.example"}
    assert credentials_for("three.example/x", file) is None
    assert credentials_for("one.example:5000/x", None) is None


@pytest.mark.parametrize("text", ["not json", '{"auths": {"one.example": {"auth": "%%%"}}}', '{"auths": [1]}'])
def test_bad_file_is_named_and_what_it_holds_is_not(tmp_path: Path, text: str):
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises(CredentialsUnreadable, match=r"config\.json is not of the form") as caught:
        credentials_for("one.example/x", file)
    assert "%%%" not in str(caught.value)


def test_missing_file_is_named(tmp_path: Path):
    with pytest.raises(CredentialsUnreadable, match="No such file"):
        credentials_for("one.example/x", tmp_path / "none.json")
