"""Directories that a test's site offers to functions, added to the configuration of a daemon that has not started yet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.daemon import Daemon


def at_mount(daemon: Daemon, **tables: dict[str, Any]) -> None:
    """Offer each directory under its name, with these keys."""
    with daemon._file.open("a") as file:
        for name, keys in tables.items():
            lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in {"name": name, **keys}.items())
            file.write(f"[[isolation.mounts]]\n{lines}")


def shared_data(daemon: Daemon, root: Path) -> Path:
    """Make a directory in which everybody may write, and offer it as `data`, at `/data`."""
    data = root / "data"
    data.mkdir()
    data.chmod(0o1777)
    at_mount(daemon, data={"source": str(data), "target": "/data", "read_only": False})
    return data
