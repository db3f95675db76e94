"""A site adds kinds without code: a manifest of its own names images, and clients find them as any other kind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.daemon import Daemon
from invoker.manifest import PACKAGED

pytestmark = pytest.mark.docker

BUILD = Path(__file__).parents[1] / "foreign/build.py"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, engine_url: str, leave_no_containers: None) -> Iterator[Daemon]:
    """One whose manifest has a family more: the foreign image, with a stem cell."""
    done = subprocess.run(
        [sys.executable, str(BUILD), "--engine", engine_url], stdout=subprocess.PIPE, text=True, check=True, env=os.environ
    )
    root = tmp_path_factory.mktemp("kinds")
    manifest = json.loads(PACKAGED.read_text())
    stems = [{"initialCount": 1, "memory": "128 MB"}]
    manifest["runtimes"]["site"] = [
        {"kind": "site:1", "default": False, "deprecated": True, "image": "site/retired:1"},
        {"kind": "site:2", "default": True, "image": done.stdout.strip(), "stemCells": stems},
    ]
    (root / "runtimes.json").write_text(json.dumps(manifest))
    running = Daemon(root, engine_url, {"pool.memory_mib": 2048, "runtimes.manifest": str(root / "runtimes.json")})
    running.start()
    yield running
    running.stop()


def test_the_kind_is_listed_written_run_and_recorded_as_any_other(client: Any):
    listed = client.ask("GET", "/", key=None).json["runtimes"]
    assert {family: [each["kind"] for each in kinds] for family, kinds in listed.items()}["site"] == ["site:1", "site:2"]
    client.deploy("mine", "whatever", kind="site:default", memory=128)
    assert client.ask("GET", "actions/mine").json["exec"]["kind"] == "site:2"
    answer = client.invoke("mine", {"n": 1})
    assert (answer.status, answer.json["response"]["result"]) == (200, {"echo": {"n": 1}})
    assert answer.annotations["kind"] == "site:2"


def test_its_stem_cells_serve_the_next_action(client: Any, daemon: Daemon):
    client.deploy("first", "whatever", kind="site:2", memory=128)
    assert client.invoke("first").status == 200
    daemon.wait(
        lambda: any(each["state"] == "stem_frozen" for each in json.loads(daemon.control("pool", "--json"))["containers"]),
        "to have a stem cell",
    )
    client.deploy("second", "whatever", kind="site:2", memory=128)
    answer = client.invoke("second", {"n": 2})
    assert answer.json["response"]["result"] == {"echo": {"n": 2}}
    assert answer.annotations["startKind"] == "stem"


def test_a_kind_that_the_site_has_retired_is_not_written_any_more(client: Any):
    answer = client.ask("PUT", "actions/old", {"exec": {"kind": "site:1", "code": "x"}})
    assert (answer.status, "runtime is no longer supported" in answer.error) == (400, True)
    assert client.ask("GET", "actions/old").status == 404
