"""Installing Debian's packages, with care for what their installation starts.

As a program: debian.py [--keep-stopped SERVICE]... PACKAGE...
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

#: Debian asks this program whether a package may start its service; exit code 101 is no.
POLICY = Path("/usr/sbin/policy-rc.d")


class InstallFailed(Exception):
    """apt-get failed, or there is none; the message is for people."""


def is_debian() -> bool:
    """Whether this is Debian, Ubuntu, or made from them."""
    with contextlib.suppress(OSError):
        for line in Path("/etc/os-release").read_text().splitlines():
            name, _, value = line.partition("=")
            if name in {"ID", "ID_LIKE"} and {"debian", "ubuntu"} & set(value.strip('"').split()):
                return True
    return False


def install(*packages: str, keep_stopped: tuple[str, ...] = ()) -> None:
    """Install packages without their recommendations.

    Args:
        packages: names.
        keep_stopped: their services, which shall neither run now nor at the next boot.

    Raises:
        InstallFailed: no Debian, not root (the message has the one command to run), or apt-get failed, which has said why.
    """
    if not is_debian():
        raise InstallFailed(f"this is no Debian: install {', '.join(packages)}, or what is like them, by hand")
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *packages]
    if os.geteuid() != 0:
        raise InstallFailed(f"missing: {', '.join(packages)}. Run: sudo {' '.join(command)}")
    with _services_stopped(keep_stopped):
        _run(["apt-get", "update", "--quiet"])
        _run(command)


@contextlib.contextmanager
def _services_stopped(services: tuple[str, ...]) -> Iterator[None]:
    """Forbid service starts meanwhile, unless the site has a policy of its own."""
    is_ours = bool(services) and not POLICY.exists()
    if is_ours:
        POLICY.write_text("#!/bin/sh\nexit 101\n")
        POLICY.chmod(0o755)
    try:
        yield
        if services and Path("/run/systemd/system").exists():
            subprocess.run(["systemctl", "--quiet", "disable", *services], stdout=subprocess.DEVNULL, check=False)
    finally:
        if is_ours:
            POLICY.unlink(missing_ok=True)


def _run(command: list[str]) -> None:
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    result = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if result.returncode != 0:
        sys.stderr.buffer.write(result.stdout)
        raise InstallFailed(f"{' '.join(command)} failed with exit code {result.returncode}")


def main() -> int:
    """Install what the command line names."""
    parser = argparse.ArgumentParser(description="Install Debian packages without their recommendations.")
    parser.add_argument("--keep-stopped", action="append", default=[], metavar="SERVICE", help="that must not run")
    parser.add_argument("packages", nargs="+", metavar="PACKAGE")
    options = parser.parse_args()
    try:
        install(*options.packages, keep_stopped=tuple(options.keep_stopped))
    except InstallFailed as error:
        print(f"debian: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
