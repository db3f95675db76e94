"""Real daemons on a real engine."""

from __future__ import annotations

import io
import os
import sys
import tarfile
from pathlib import Path

import pytest
from real_daemon import client, daemon, make_user

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "lib"))

import engine_api

__all__ = ["client", "daemon", "make_user"]


@pytest.fixture(scope="session")
def engine_url() -> str:
    return os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")


@pytest.fixture(scope="module", autouse=True)
def _clean_up_after_each_module(leave_no_containers: None) -> None:
    """All of these start daemons."""


@pytest.fixture(scope="session")
def small_images(engine_url: str) -> None:
    """Two images that serve nothing: one ends at once, one only sleeps."""
    engine = engine_api.Engine(engine_url)
    for name, entry_point in (("exits", '["/bin/false"]'), ("silent", '["/bin/sleep", "3600"]')):
        dockerfile = f"FROM invokerd/blackbox:latest\nENTRYPOINT {entry_point}\nCMD []\n".encode()
        context = io.BytesIO()
        with tarfile.open(fileobj=context, mode="w") as archive:
            entry = tarfile.TarInfo("Dockerfile")
            entry.size = len(dockerfile)
            archive.addfile(entry, io.BytesIO(dockerfile))
        for _ in engine.stream("/build", query=[("t", f"invokerd-test/{name}:latest"), ("rm", "1")], body=context.getvalue()):
            pass
