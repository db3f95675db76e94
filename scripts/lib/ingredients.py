"""What images and tests are made from and is not in the repository: a root file system, Node's binary, npm, Python wheels.

All of it is kept under `.state/cache` of the checkout. Each function says beforehand what takes more than two seconds.

    ingredients.py node    prints the path of the program that goes into the image nodejs20
    ingredients.py npm     prints the directory of npm's own package
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import importlib.util
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import debian
from engine_api import Engine, EngineFailed

ROOT = Path(__file__).resolve().parent.parent.parent
CACHE = ROOT / ".state" / "cache"

#: What `runtimes/base/Dockerfile` is FROM.
PULLED_BASE = "python:3.11-slim-bookworm"
SUITE = "bookworm"
PACKAGES = ("ca-certificates", "python3")
LEFT_OUT = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/lintian/*")

NODE_VERSION = "20.20.2"
#: In the image for every action to `require`, as in OpenWhisk's: its client, with all that it needs. Conductors that the composer
#: makes begin with it.
NODE_MODULES = {
    "openwhisk": "3.21.9",
    "async-retry": "1.3.3",
    "retry": "0.13.1",
    "needle": "3.5.0",
    "iconv-lite": "0.6.3",
    "safer-buffer": "2.1.2",
    "sax": "1.6.1",
    # Compositions with `parallel` or `map` begin with these.
    "redis": "2.8.0",
    "redis-commands": "1.7.0",
    "redis-parser": "2.6.0",
    "double-ended-queue": "2.1.0-0",
    "uuid": "8.3.2",
}
NPM_VERSION = "10.8.2"
DEFAULT_NPM_REGISTRY = "https://registry.npmjs.org/"

PROBE_S = 8
#: Docker's name of an architecture: npm's, and the wheels'.
NPM_ARCHITECTURES = {"amd64": "x64", "arm64": "arm64"}
WHEEL_ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}
#: What Debian 12's libc, 2.36, can load.
WHEEL_PLATFORMS = ("manylinux_2_34", "manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")


class CannotMake(Exception):
    """An ingredient cannot be had here; the message says what to do."""


def say(text: str) -> None:
    """Tell the user what goes on."""
    print(f"images: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Let one build at a time use the cache; another waits, and then finds everything made."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another build to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def base_recipe() -> str:
    """Describe how the base is made, both ways; a change of it makes a new base."""
    return repr((PULLED_BASE, SUITE, PACKAGES, LEFT_OUT))


def can_pull(engine: Engine) -> bool:
    """Pull the base, if a registry answers soon. Else say so and return False."""
    say(f"asking the registry for {PULLED_BASE}, for {PROBE_S} s at most")
    name, _, tag = PULLED_BASE.partition(":")
    try:
        for message in engine.stream("/images/create", query=[("fromImage", name), ("tag", tag)], timeout_s=PROBE_S):
            if message.get("status", "").startswith(("Download complete", "Status:")):
                say(str(message["status"]))
    except EngineFailed as error:
        say(f"no registry: {str(error).splitlines()[0]}")
        return False
    return True


@contextlib.contextmanager
def root_file_system(architecture: str) -> Iterator[IO[bytes]]:
    """Open a tar of a Debian system with Python, built from Debian's packages alone."""
    digest = hashlib.sha256(f"{base_recipe()} {architecture}".encode()).hexdigest()[:16]
    path = CACHE / f"base-{architecture}-{digest}.tar"
    if not path.exists():
        _require_mmdebstrap()
        say(f"building a Debian {SUITE} system with mmdebstrap: half a minute, and some 60 MB to download")
        partial = path.with_suffix(".partial.tar")
        command = [
            "mmdebstrap",
            "--quiet",
            "--variant=minbase",
            f"--architectures={architecture}",
            f"--include={','.join(PACKAGES)}",
        ]
        command += [f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT]
        _run([*command, SUITE, str(partial)])
        partial.rename(path)
    with path.open("rb") as archive:
        yield archive


def _require_mmdebstrap() -> None:
    if shutil.which("mmdebstrap"):
        return
    if not debian.is_debian():
        raise CannotMake("no registry answers, and without Debian's mmdebstrap there is no other way to a base image")
    say("installing mmdebstrap with apt-get")
    try:
        debian.install("mmdebstrap", "debian-archive-keyring")
    except debian.InstallFailed as error:
        raise CannotMake(f"no registry answers, and {error}") from error


def node_binary(architecture: str) -> Path:
    """Return the `node` program out of npm's own package of it."""
    if architecture not in NPM_ARCHITECTURES:
        raise CannotMake(f"npm has no package of Node's binary for {architecture}")
    package = f"node-linux-{NPM_ARCHITECTURES[architecture]}"
    node = CACHE / f"{package}-{NODE_VERSION}"
    if not node.exists():
        say(f"fetching {package}@{NODE_VERSION} from the npm registry: 43 MB")
        with tempfile.TemporaryDirectory(dir=CACHE) as directory:
            archive = Path(directory) / f"{package}-{NODE_VERSION}.tgz"
            if shutil.which("npm"):
                # Node has a list of authorities of its own; behind a site's proxy the machine's is the right one.
                environment = {"NODE_EXTRA_CA_CERTS": "/etc/ssl/certs/ca-certificates.crt"} | os.environ
                _run(["npm", "pack", "--silent", f"--pack-destination={directory}", f"{package}@{NODE_VERSION}"], environment)
            else:
                archive.write_bytes(_fetch_npm(package, NODE_VERSION))
            with tarfile.open(archive) as tar:
                member = tar.extractfile("package/bin/node")
                assert member is not None
                partial = Path(directory) / "node"
                partial.write_bytes(member.read())
            partial.chmod(0o755)
            partial.rename(node)  # in one step: it is whole, or not there
    return node


def node_modules() -> Path:
    """Return a directory with the packages of NODE_MODULES, as they lie in `node_modules`."""
    names = [f"{package}@{version}" for package, version in NODE_MODULES.items()]
    directory = CACHE / f"node-modules-{hashlib.sha256(' '.join(names).encode()).hexdigest()[:16]}"
    if not directory.exists():
        say(f"fetching {', '.join(names)} from the npm registry: 1 MB")
        with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
            for package, version in NODE_MODULES.items():
                unpacked = Path(temporary) / "unpacked" / package
                with io.BytesIO(_fetch_npm(package, version)) as archive, tarfile.open(fileobj=archive) as tar:
                    tar.extractall(unpacked)  # its hash was compared
                (unpacked / "package").rename(Path(temporary) / package)
            shutil.rmtree(Path(temporary) / "unpacked")
            shutil.copytree(temporary, f"{directory}.part", dirs_exist_ok=True)
        Path(f"{directory}.part").rename(directory)  # in one step: it is whole, or not there
    return directory


def npm_package() -> Path:
    """Return the directory of npm itself, for machines without it; `bin/npm-cli.js` is the program."""
    directory = CACHE / f"npm-{NPM_VERSION}"
    if not directory.exists():
        say(f"fetching npm@{NPM_VERSION} from the npm registry: 3 MB")
        with tempfile.TemporaryDirectory(dir=CACHE) as temporary, io.BytesIO(_fetch_npm("npm", NPM_VERSION)) as archive:
            with tarfile.open(fileobj=archive) as tar:
                tar.extractall(temporary)  # its hash was compared
            (Path(temporary) / "package").rename(directory)
    return directory


def _fetch_npm(package: str, version: str) -> bytes:
    """Fetch a package without npm, checked against the registry's own hash."""
    registry = _npm_registry()
    try:
        with urllib.request.urlopen(f"{registry}{package}/{version}", timeout=60) as response:
            about = json.load(response)["dist"]
        with urllib.request.urlopen(about["tarball"], timeout=60) as response:
            data: bytes = response.read()
    except (urllib.error.URLError, TimeoutError, ValueError, KeyError) as error:
        raise CannotMake(f"the npm registry at {registry} does not give {package}@{version}: {error}") from error
    algorithm, _, expected = str(about["integrity"]).partition("-")
    if base64.b64encode(hashlib.new(algorithm, data).digest()).decode() != expected:
        raise CannotMake(f"{package}@{version} is not what the npm registry says it is: its hash differs")
    return data


def _npm_registry() -> str:
    """Find the registry that npm would use."""
    registry = os.environ.get("npm_config_registry", "")  # noqa: SIM112 - npm's own spelling
    settings = Path.home() / ".npmrc"
    if not registry and settings.is_file():
        for line in settings.read_text().splitlines():
            name, _, value = line.partition("=")
            if name.strip() == "registry":
                registry = value.strip().strip('"')
    return (registry or DEFAULT_NPM_REGISTRY).rstrip("/") + "/"


def wheels(requirements: Path, architecture: str) -> Path:
    """Return a directory with the packages of a requirements file, for the image's Python, not for this one."""
    if architecture not in WHEEL_ARCHITECTURES:
        raise CannotMake(f"there are no wheels for {architecture}")
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()[:16]
    directory = CACHE / f"wheels-{architecture}-{digest}"
    if directory.exists():
        return directory
    say(f"fetching {', '.join(requirements.read_text().split())} with pip: half a minute, some 70 MB")
    partial = Path(tempfile.mkdtemp(dir=CACHE))
    try:
        command = [
            _python_with_pip(),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--root-user-action=ignore",
        ]
        command += ["--only-binary=:all:", "--no-compile", "--implementation=cp", "--python-version=3.11"]
        command += [f"--abi={abi}" for abi in ("cp311", "abi3", "none")]
        command += [f"--platform={tag}_{WHEEL_ARCHITECTURES[architecture]}" for tag in WHEEL_PLATFORMS]
        _run([*command, f"--target={partial}", f"--requirement={requirements}"])
        partial.rename(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return directory


def _python_with_pip() -> str:
    """Find a Python that has pip: the checkout's, this one, or a fresh environment."""
    own = ROOT / ".venv" / "bin" / "python"
    if own.exists() and subprocess.run([own, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0:
        return str(own)
    if importlib.util.find_spec("pip"):
        return sys.executable
    environment = CACHE / "pip"
    if not (environment / "bin" / "pip").exists():
        _run([sys.executable, "-m", "venv", "--clear", str(environment)])
    return str(environment / "bin" / "python")


def _run(command: list[str], env: dict[str, str] | None = None) -> None:
    """Run a command quietly; its output is shown only when it fails."""
    result = subprocess.run(
        command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if result.returncode != 0:
        sys.stderr.buffer.write(result.stdout)
        raise CannotMake(f"{' '.join(command)} failed with exit code {result.returncode}")


def main() -> int:
    """Print where one ingredient is, fetching it first if need be; exit code 1 with the reason when it cannot be had."""
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    makers = {"node": lambda: node_binary(architecture), "npm": npm_package}
    if len(sys.argv) != 2 or sys.argv[1] not in makers:
        print(f"usage: ingredients.py {'|'.join(makers)}", file=sys.stderr)
        return 2
    try:
        with locked():
            print(makers[sys.argv[1]]())
    except CannotMake as error:
        print(f"images: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
