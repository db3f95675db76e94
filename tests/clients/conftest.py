"""Clients are run against a real daemon: its fixtures, and what npm has installed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from api_site import make_activation, site
from real_daemon import client, daemon, make_user

__all__ = ["client", "daemon", "make_activation", "make_user", "modules", "node", "site"]

MODULES = Path(__file__).parents[2] / ".state/npm/node_modules"


@pytest.fixture(scope="session")
def modules() -> Path:
    """Where npm's clients of OpenWhisk are: scripts/test puts them there (`NPM_CLIENTS` in scripts/lib/setup.sh)."""
    missing = [name for name in ("openwhisk", "@adobe/aio-cli", "openwhisk-composer") if not (MODULES / name).is_dir()]
    if shutil.which("node") is None:
        missing.append("node")
    if missing:
        if os.environ.get("INVOKERD_TEST_NODE") == "1":
            pytest.fail(f"INVOKERD_TEST_NODE=1 promises {', '.join(missing)}; {MODULES} lacks it", pytrace=False)
        pytest.skip(f"not installed: {', '.join(missing)}; scripts/test does it")
    return MODULES


@pytest.fixture(scope="session")
def node(modules: Path) -> str:
    """The program that runs them."""
    found = shutil.which("node")
    assert found is not None
    return found
