"""Checks of the container engine: reachable, of a version and a make that is known to work, with the images of the manifest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlsplit

from invoker.commands.ctl_client import Client, Failure
from invoker.commands.doctor import Check, Finding, Node, bad, ok, warning
from invoker.images import LOW_WATER
from pool import courtesy
from pool.disk import ADVICE, directory_of, room_on

_DEADLINE_S = 5.0
#: API 1.40 is what `pool/docker.py` speaks at least.
_LEAST_API = (1, 40)


def check_engine(node: Node) -> Iterator[Finding]:
    """Ask the engine what it is, then judge each part of the answer."""
    client = _client(node)
    try:
        version, info = client.ask("GET", "/version").json(), client.ask("GET", "/info").json()
    except Failure as failure:
        advice = failure.hint or "start it: systemctl start docker; or name its socket: [engine] url, or DOCKER_HOST"
        yield bad("engine", failure.message, advice)
        return
    if not isinstance(version, dict) or not isinstance(info, dict):
        yield bad(
            "engine", f"{node.config.engine.url} does not answer as a Docker engine", "name the engine's socket: [engine] url"
        )
        return
    yield _judge_version(version)
    yield _judge_driver(info)
    yield from _judge_limits(info)
    yield _judge_storage(info)
    yield from _judge_space(directory_of(info))
    yield from _judge_security(info)
    if info.get("LiveRestoreEnabled"):
        yield ok("engine-live-restore", "on: containers survive a restart of the engine")
    else:
        yield warning(
            "engine-live-restore",
            "off: a restart of the engine ends every container, and the calls in them",
            'set {"live-restore": true} in /etc/docker/daemon.json, then systemctl reload docker',
        )


def _client(node: Node) -> Client:
    url = node.config.engine.url
    return Client(url.replace("tcp://", "http://", 1), timeout_s=_DEADLINE_S)


def _judge_version(version: dict[str, Any]) -> Finding:
    api = str(version.get("ApiVersion") or "0.0")
    text = f"{version.get('Version')}, API {api}"
    if tuple(int(part) for part in api.split(".")[:2]) < _LEAST_API:
        return bad("engine", f"{text} is too old", "upgrade to Docker 19.03 or later")
    return ok("engine", text)


def _judge_driver(info: dict[str, Any]) -> Finding:
    driver, version = info.get("CgroupDriver"), info.get("CgroupVersion", "1")
    text = f"cgroup driver {driver}, cgroup v{version}"
    if driver not in ("cgroupfs", "systemd"):
        return bad("engine-cgroup-driver", text, "set native.cgroupdriver to systemd or cgroupfs in /etc/docker/daemon.json")
    if driver == "cgroupfs" and version == "2":
        advice = "set native.cgroupdriver=systemd: with cgroupfs, systemd may take a container's limits away at daemon-reload"
        return warning("engine-cgroup-driver", text, advice)
    return ok("engine-cgroup-driver", text)


def _judge_limits(info: dict[str, Any]) -> Iterator[Finding]:
    needed = {"MemoryLimit": "memory", "PidsLimit": "processes", "CpuCfsQuota": "CPU"}
    missing = [what for name, what in needed.items() if not info.get(name)]
    if missing:
        yield bad(
            "engine-limits", f"cannot limit {', '.join(missing)}", "enable the cgroup controllers; docker info warns of them too"
        )
    elif not info.get("SwapLimit"):
        advice = "boot with swapaccount=1, or have no swap: functions could use it beyond their memory limit"
        yield warning("engine-limits", "cannot limit swap", advice)
    else:
        yield ok("engine-limits", "memory, swap, CPU and processes can be limited")


def _judge_storage(info: dict[str, Any]) -> Finding:
    driver = info.get("Driver")
    if driver in ("overlay2", "overlayfs", "btrfs", "zfs"):
        return ok("engine-storage", f"{driver}")
    advice = "use overlay2: others copy the image for each container and make each cold start slow"
    return warning("engine-storage", f"{driver}", advice)


def _judge_space(directory: str) -> Iterator[Finding]:
    """Look at the disk of the engine, where it is one of this machine's."""
    room = room_on(directory)
    if room is None:
        return
    if shortage := room.shortage():
        yield bad("engine-space", f"{directory} has {shortage}: new containers and images are refused", ADVICE)
    elif room.is_below(LOW_WATER):
        text = f"{room.free >> 20} MiB and {room.inodes} inodes free on {directory}: pulled images that nobody uses are removed"
        yield warning("engine-space", text, ADVICE)
    else:
        yield ok("engine-space", f"{room.free >> 20} MiB free on {directory}")


def _judge_security(info: dict[str, Any]) -> Iterator[Finding]:
    options = " ".join(info.get("SecurityOptions") or [])
    if "rootless" in options:
        yield bad("engine-security", "rootless: a function could not run as its user's real uid", "use the system's engine")
    elif "userns" in options:
        yield bad(
            "engine-security",
            "remaps user namespaces: a function would run as another uid than its user's",
            "remove userns-remap from /etc/docker/daemon.json",
        )
    elif "apparmor" in options and shutil.which("apparmor_parser") is None:
        yield bad(
            "engine-security",
            "AppArmor is on, and apparmor_parser is not installed: the engine can start no container",
            "apt-get install apparmor",
        )
    elif "seccomp" not in options:
        yield warning(
            "engine-security", "no seccomp: functions may make any system call", "use an engine and kernel with seccomp"
        )
    else:
        yield ok("engine-security", "seccomp, no remapping of users")


def check_images(node: Node) -> Iterator[Finding]:
    """See which images of the runtimes manifest the engine has."""
    from invoker.manifest import PACKAGED, Manifest, ManifestError

    path = node.config.runtimes.manifest or PACKAGED
    try:
        manifest = Manifest.load(path)
    except ManifestError as error:
        yield bad("runtimes", str(error), "name a manifest that can be read: [runtimes] manifest")
        return
    images = sorted({runtime.image for runtime in manifest.runtimes.values() if not runtime.deprecated})
    client = _client(node)
    try:
        absent = [image for image in images if client.request("GET", f"/images/{quote(image)}/json").status != 200]
    except Failure:
        return  # `check_engine` has told of it
    if absent:
        yield warning(
            "runtimes",
            f"not in the engine: {', '.join(absent)}",
            "build those named invokerd/...: scripts/images of the checkout; pull others before the first call waits for it",
        )
    else:
        yield ok("runtimes", f"{len(manifest.runtimes)} kinds, {len(images)} images, all in the engine")


def check_courtesy(node: Node) -> Iterator[Finding]:
    """See whether the engine gives way to calls while containers start or are removed."""
    check, engine = "engine-courtesy", node.config.engine
    found = courtesy.find_groups(urlsplit(engine.url).path, node.proc)
    try:
        absent = [group for group in engine.cgroups if not courtesy.idle_file(group, node.proc).exists()]
    except courtesy.NoIdleCgroup as error:
        yield warning(check, f"engine.cgroups: {error}", "mount it, or leave the key out")
        return
    named = {f"/{group.strip('/')}" for group in engine.cgroups}
    setting = f"set [engine] cgroups = {json.dumps(found)}"
    if absent:
        advice = setting if found else "is the engine running? Linux 5.15 or later has cpu.idle; docs/neighbours.md"
        yield warning(check, f"engine.cgroups: {', '.join(absent)} cannot be made idle", advice)
    elif missing := [group for group in found if group not in named]:
        what = f"{', '.join(missing)} is not in engine.cgroups" if named else "does not give way to calls"
        yield warning(check, f"{what}: while containers start or are removed, all calls take longer", setting)
    elif named:
        yield ok(check, f"gives way to calls: {', '.join(sorted(named))}")
    else:
        yield ok(check, "has no CPU cgroup of its own, and so cannot give way to calls (docs/neighbours.md)")


CHECKS: tuple[Check, ...] = (check_engine, check_images, check_courtesy)
