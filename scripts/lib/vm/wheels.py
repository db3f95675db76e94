"""Fetch what invokerd is installed from, for another version of Python than this one: wheels.py VERSION DIRECTORY."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

#: What a Debian of our days has: a C library of at least 2.28.
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
PROJECT = Path(__file__).resolve().parents[3] / "pyproject.toml"


def main(version: str, directory: str) -> int:
    """Fetch the wheels of all that the package and its build need; pip's exit code."""
    project = tomllib.loads(PROJECT.read_text())
    wanted = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--dest", directory]
    target = ["--only-binary=:all:", "--python-version", version, *(f"--platform={each}" for each in PLATFORMS)]
    return subprocess.run([*pip, *target, *wanted], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
