"""scripts/engine: what it finds, what it starts, and that nothing of it is left."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "engine"
sys.path.insert(0, str(ROOT / "scripts" / "lib"))

from engine_api import DEFAULT_URL, Engine, EngineFailed  # noqa: E402

DEAD = "unix:///no/such/engine.sock"


def default_answers() -> bool:
    try:
        return bool(Engine(DEFAULT_URL).request("GET", "/version", timeout_s=5))
    except EngineFailed:
        return False


private = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("dockerd", path="/usr/sbin:/usr/bin:/usr/local/bin") or default_answers(),
    reason="a private engine needs root and dockerd, and is started only where no other answers",
)


def engine(*arguments, url=DEAD, **options):
    environment = {**os.environ, "DOCKER_HOST": url}
    command = [SCRIPT, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120, **options)


def build_foreign(url):
    """Any image will do; this one takes no time."""
    command = [sys.executable, ROOT / "tests" / "foreign" / "build.py", "--engine", url]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout.strip()


@pytest.mark.docker
def test_engine_that_answers_is_used_as_it_is(engine_url, tmp_path):
    for command in ("start", "status"):
        result = engine(command, "--state", tmp_path / "state", url=engine_url)
        assert (result.returncode, result.stdout) == (0, engine_url + "\n")
    engine("stop", "--state", tmp_path / "state", url=engine_url)
    assert engine("status", url=engine_url).returncode == 0
    assert not (tmp_path / "state").exists()


@pytest.mark.skipif(
    os.geteuid() != 0 or default_answers(), reason="needs to become another user, and no engine at the default socket"
)
def test_without_root_it_says_the_one_command_and_changes_nothing(tmp_path):
    # As a copy, for a checkout may lie where other users cannot read.
    copy = tmp_path / "checkout"
    shutil.copytree(ROOT / "scripts", copy / "scripts")
    for path in (tmp_path, *copy.rglob("*")):
        path.chmod(0o755)
    for parent in tmp_path.parents:
        if tempfile.gettempdir() in map(str, parent.parents):
            parent.chmod(0o755)
    command = ["/usr/bin/env", "python3", copy / "scripts" / "engine", "start", "--state", tmp_path / "state"]
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "DOCKER_HOST": DEAD}
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, user=65534, group=65534, cwd="/"
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert "sudo scripts/engine start" in result.stderr
    assert not (tmp_path / "state").exists()


@private
def test_private_engine_starts_once_keeps_images_and_leaves_nothing(tmp_path):
    state = tmp_path / "state"
    first = engine("start", "--state", state)
    try:
        assert first.returncode == 0, first.stderr
        url = first.stdout.strip()
        assert engine("start", "--state", state).stdout.strip() == url
        assert engine("status", "--state", state).stdout.strip() == url
        made = Engine(url)
        networks = {network["Driver"] for network in made.request("GET", "/networks")}
        assert "bridge" not in networks
        build_foreign(url)
        assert engine("stop", "--state", state).returncode == 0
        assert engine("status", "--state", state).returncode == 1
        assert not [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(state) in line]
        assert engine("stop", "--state", state).returncode == 0
        again = engine("start", "--state", state)
        assert [image["RepoTags"] for image in Engine(again.stdout.strip()).request("GET", "/images/json")] == [
            ["invokerd-test/foreign:latest"]
        ]
    finally:
        engine("stop", "--state", state, "--purge")
    assert not state.exists()


@private
def test_private_engine_in_a_directory_with_a_long_name_stops_in_spite_of_a_frozen_container(tmp_path):
    state = tmp_path / ("long" * 25)
    there = set(Path("/run").glob("invokerd-engine-*"))  # of others, who may work beside this
    started = engine("start", "--state", state)
    try:
        assert started.returncode == 0, started.stderr
        made = Engine(started.stdout.strip())
        body = {"Image": build_foreign(made.url), "HostConfig": {"NetworkMode": "none"}}
        name = made.request("POST", "/containers/create", body=json.dumps(body).encode())["Id"]
        made.request("POST", f"/containers/{name}/start")
        made.request("POST", f"/containers/{name}/pause")
        began = time.monotonic()
        assert engine("stop", "--state", state).returncode == 0
        assert time.monotonic() - began < 25, "without it, it would be killed after 30 s"
    finally:
        engine("stop", "--state", state, "--purge")
    assert set(Path("/run").glob("invokerd-engine-*")) <= there
