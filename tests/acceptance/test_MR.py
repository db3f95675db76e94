"""Rows MR: every kind that the root document names, through upstream's test of unicode."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.docker

#: Upstream's `winter`, and the snowman it expects around it.
CODE = {
    "python": """def main(args):
    winter = "❄ " + args["delimiter"] + " ☃ " + args["delimiter"] + " ❄"
    print(winter)
    return {"winter": winter}
""",
    "nodejs": """function main(args) {
    const winter = "❄ " + args.delimiter + " ☃ " + args.delimiter + " ❄";
    console.log(winter);
    return { winter };
}
""",
}
HELLO = {
    "python": "def main(args):\n    return {'payload': 'Hello, ' + args['name'] + '!'}\n",
    "nodejs": "const main = ({ name }) => ({ payload: `Hello, ${name}!` });",
}


def kinds(client: Any) -> list[tuple[str, str]]:
    """(family, kind) of each that is not deprecated."""
    families = client.ask("GET", "/", key=None).json["runtimes"]
    assert {"python", "nodejs"} <= set(families)
    return [(family, each["kind"]) for family, members in families.items() for each in members if not each["deprecated"]]


def test_MR_01_each_family_says_hello_and_a_change_of_kind_keeps_the_parameters(client):
    for family, kind in kinds(client):
        body = {"exec": {"kind": kind, "code": HELLO[family]}, "parameters": [{"key": "name", "value": "☃"}]}
        assert client.ask("PUT", "actions/hello?overwrite=true", body).status == 200
        answer = client.invoke("hello", {}, "blocking=true&result=true")
        assert (answer.status, answer.json) == (200, {"payload": "Hello, ☃!"}), kind
    changed = client.ask("PUT", "actions/hello?overwrite=true", {"exec": {"kind": "python:default", "code": HELLO["python"]}})
    assert changed.json["parameters"] == [{"key": "name", "value": "☃"}]
    assert client.invoke("hello", {}, "blocking=true&result=true").json == {"payload": "Hello, ☃!"}


def test_MR_01_python_brings_a_virtual_environment_of_its_own_in_a_zip(client: Any, tmp_path: Path):
    """As upstream's guide has it: `virtualenv` beside `__main__.py`, its packages found before all others."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "virtualenv")], check=True)
    packages = next((tmp_path / "virtualenv/lib").iterdir()) / "site-packages"
    (packages / "greeter").mkdir()
    (packages / "greeter/__init__.py").write_text("from greeter_words import WORD\n")
    (packages / "words").mkdir()
    (packages / "words/greeter_words.py").write_text("WORD = 'Servus'\n")
    (packages / "words.pth").write_text("words\n")
    (tmp_path / "__main__.py").write_text(
        "import greeter\nfrom own import end\ndef main(args):\n    return {'said': greeter.WORD + end}\n"
    )
    (tmp_path / "own.py").write_text("end = '!'\n")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(tmp_path.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(tmp_path))
    client.deploy("environment", buffer.getvalue(), kind="python:3.11")
    assert client.invoke("environment", {}, "blocking=true&result=true").json == {"said": "Servus!"}


def test_MR_02_each_kind_passes_the_test_of_unicode(client):
    found = kinds(client)
    assert {family for family, _ in found} == set(CODE)
    for family, kind in found:
        client.deploy("unicode", CODE[family], kind=kind)
        answer = client.invoke("unicode", {"delimiter": "❄"})
        assert answer.json["response"]["result"] == {"winter": "❄ ❄ ☃ ❄ ❄"}, kind
        assert answer.annotations["kind"] == kind
        lines = client.record(answer.json["activationId"]).json["logs"]
        assert [line.partition(": ")[2] for line in lines] == ["❄ ❄ ☃ ❄ ❄"]


def test_MR_02_the_kinds_of_the_root_document_have_just_the_six_keys_and_one_default_a_family(client):
    families = client.ask("GET", "/", key=None).json["runtimes"]
    assert {"python", "nodejs"} <= set(families)
    for members in families.values():
        assert [each["default"] for each in members].count(True) == 1
        for each in members:
            assert set(each) == {"kind", "image", "deprecated", "default", "attached", "requireMain"}
