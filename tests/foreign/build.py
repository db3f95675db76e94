"""Builds the image of the foreign runtime, unless it is there.

    python tests/foreign/build.py [--engine URL]

Prints the image's name, alone on standard output. Exit code 1 with the reason on standard error where it cannot be built.
"""

import argparse
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "scripts" / "lib"))

import debian  # noqa: E402
from engine_api import Engine, EngineFailed  # noqa: E402

IMAGE = "invokerd-test/foreign:latest"
LABEL_INPUTS = "invokerd.inputs"
CACHE = ROOT / ".state" / "cache"


def build(engine: Engine) -> str:
    """Build the image; raises EngineFailed, debian.InstallFailed or CalledProcessError."""
    digest = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in ("main.go", "Dockerfile", "go.mod"))).hexdigest()
    for image in engine.request("GET", "/images/json"):
        if IMAGE in (image["RepoTags"] or ()) and (image["Labels"] or {}).get(LABEL_INPUTS) == digest:
            return IMAGE
    program = CACHE / f"foreign-{digest[:16]}"
    if not program.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        go = _go()
        say("building the Go program: 20 s the first time")
        # Static, for an image with nothing else in it; the toolchain that is here, and no network.
        settings = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOCACHE": str(CACHE / "go"), "GOPROXY": "off", "GOFLAGS": ""}
        command = [go, "build", "-trimpath", "-ldflags=-s -w", "-o", str(program), "."]
        subprocess.run(command, cwd=HERE, env={**os.environ, **settings}, check=True)
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        for name, path, mode in (("Dockerfile", HERE / "Dockerfile", 0o644), ("foreign", program, 0o755)):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = path.stat().st_size, mode
            with path.open("rb") as file:
                archive.addfile(entry, file)
    query = [("t", IMAGE), ("labels", json.dumps({LABEL_INPUTS: digest})), ("rm", "1"), ("forcerm", "1")]
    for _ in engine.stream("/build", query=query, body=context.getvalue()):
        pass
    return IMAGE


def say(text: str) -> None:
    """Tell the user what goes on; standard output is for the image's name."""
    sys.stderr.write(f"foreign: {text}\n")


def _go() -> str:
    """Find the Go compiler; install Debian's where there is none."""
    usual = "/usr/local/go/bin"
    go = shutil.which("go", path=f"{os.environ.get('PATH', '')}:{usual}")
    if go is None:
        say("installing golang-go with apt-get")
        debian.install("golang-go")
        go = "/usr/bin/go"
    return go


def main() -> int:
    """Build, and print the name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", metavar="URL")
    try:
        sys.stdout.write(build(Engine(parser.parse_args().engine)) + "\n")
    except (EngineFailed, debian.InstallFailed, subprocess.CalledProcessError) as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
