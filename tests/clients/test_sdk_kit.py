"""`wsk sdk install docker`: the kit is fetched as wsk does it, followed as its README says, and what it makes is invoked."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import urllib.request
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "lib"))

from engine_api import Engine

pytestmark = pytest.mark.docker

IMAGE = "invokerd-test/kit:1"


@pytest.fixture(scope="module")
def kit(client: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kit, fetched without credentials and unpacked into the working directory."""
    with urllib.request.urlopen(f"http://127.0.0.1:{client.port}/blackbox.tar.gz", timeout=60) as answer:
        assert answer.status == 200
        content = answer.read()
    place = tmp_path_factory.mktemp("sdk")
    subprocess.run(["tar", "-xzf", "-"], input=content, cwd=place, check=True)
    return place / "dockerSkeleton"


def build(engine_url: str, kit: Path) -> None:
    """Do what `docker build -t IMAGE .` does."""
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        archive.add(kit, arcname=".")
    query = [("t", IMAGE), ("networkmode", "none"), ("rm", "1"), ("forcerm", "1")]
    for _ in Engine(engine_url).stream("/build", query=query, body=context.getvalue()):
        pass


def test_CL_08_the_kit_makes_an_action_image_that_runs(client: Any, kit: Path, engine_url: str):
    build(engine_url, kit)
    client.deploy("greeting", image=IMAGE)
    answer = client.invoke("greeting", {"name": "Ada"})
    assert answer.status == 200, answer.text
    assert answer.json["response"]["result"] == {"greeting": "Hello, Ada!", "uid": 20_001}
    (line,) = client.record(answer.json["activationId"]).json["logs"]
    assert line.endswith(" stdout: called as /anna/greeting")


def test_CL_08_a_program_of_ones_own_takes_the_place_of_the_example(client: Any, kit: Path, engine_url: str):
    (kit / "exec").write_text('#!/bin/sh\nread -r line\necho "{\\"mine\\": $line}"\n')
    build(engine_url, kit)
    # The tag is the same, and the daemon remembers what it stood for: the README says to change it.
    Engine(engine_url).request("POST", f"/images/{IMAGE}/tag", query=[("repo", "invokerd-test/kit"), ("tag", "2")])
    client.deploy("own", image="invokerd-test/kit:2")
    answer = client.invoke("own", {"n": 1}, "blocking=true&result=true")
    assert (answer.status, answer.json) == (200, {"mine": {"n": 1}})


def test_CL_08_the_readme_names_every_file_and_the_script_the_image_it_builds(kit: Path):
    readme = (kit / "README.md").read_text()
    files = {path.name for path in kit.iterdir()} - {"README.md"}
    assert files == {"Dockerfile", "build.sh", "exec"}
    assert all(f"`{name}`" in readme for name in files)
    assert 'docker build -t "$1" .' in (kit / "build.sh").read_text()
