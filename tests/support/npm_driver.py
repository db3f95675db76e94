"""Runs a driver of npm's clients: tests/clients/*.js, each with its cases, each case one test."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

#: For all cases of one driver, s.
DEADLINE_S = 300


def cases_of(driver: Path) -> list[str]:
    """Names of the cases, as they stand in the file: two blanks, `async name() {`."""
    return re.findall(r"^  async (\w+)\(\) \{$", driver.read_text(), re.MULTILINE)


def run_driver(driver: Path, *, node: str, modules: Path, port: int, key: str, **environment: str) -> dict[str, dict[str, Any]]:
    """Run all cases in one process of Node; by name, how each ended: `ok`, and else `detail`.

    Args:
        driver: the script.
        node: the program.
        modules: where the clients are.
        port: of the API on this machine.
        key: of the user, `uuid:key`.
        environment: what else the driver asks for.
    """
    given = {
        "PATH": os.environ["PATH"],
        "APIHOST": f"http://127.0.0.1:{port}",
        "AUTH": key,
        "MODULES": str(modules),
        **environment,
    }
    done = subprocess.run([node, str(driver)], env=given, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 0, done.stderr
    return {answer["name"]: answer for answer in map(json.loads, done.stdout.splitlines())}
