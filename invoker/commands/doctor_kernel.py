"""Checks of the kernel: version, cgroups, freezing, network namespaces, limits on processes and files."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import platform
import re
import resource
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from invoker.commands.doctor import Check, Finding, Node, bad, ok, warning
from pool import cgroup, netns
from pool.backend import Descriptors
from pool.model import ContainerId

#: A pidfd enters the network namespace of its process; older kernels know only paths, whose pid may be recycled.
_LEAST_KERNEL = (5, 8)
_V1_CONTROLLERS = ("freezer", "memory", "cpu", "cpuacct", "pids")
_V2_CONTROLLERS = ("memory", "cpu", "pids")
#: Freezing one idle process takes 0.2 ms; a kernel that needs a second does not freeze.
_FREEZE_DEADLINE_S = 1.0
#: Descriptors that the daemon holds for one container, with its connection.
_FILES_PER_CONTAINER = 12


def check_kernel(_: Node) -> Iterator[Finding]:
    """Compare the kernel's version with the features that are used."""
    release = platform.release()
    match = re.match(r"(\d+)\.(\d+)", release)
    version = (int(match[1]), int(match[2])) if match else (0, 0)
    if version < _LEAST_KERNEL:
        advice = "upgrade to Linux 5.8 or later; 5.14 is a good choice"
        yield bad("kernel", f"Linux {release} cannot enter a namespace by a pidfd", advice)
    elif version < (5, 14):
        yield warning("kernel", f"Linux {release} cannot kill a whole cgroup at once", "5.14 or later can; ours kills by pidfd")
    else:
        peak = (
            "peak memory of each call is exact" if version >= (6, 12) else "peak memory is exact with cgroup v1 only (v2: 6.12)"
        )
        yield ok("kernel", f"Linux {release}; {peak}")


def check_user(_: Node) -> Iterator[Finding]:
    """See whether this user may do what the daemon does."""
    if os.geteuid() == 0:
        yield ok("user", "root")
    else:
        yield bad(
            "user",
            f"uid {os.geteuid()} is not root: cgroup files and namespaces of containers are closed to it",
            "run invokerd as root; systemd/invokerd.service takes away what it does not need",
        )


def check_cgroups(node: Node) -> Iterator[Finding]:
    """Tell which version of cgroups containers will be in, and whether its controllers are there."""
    mounts = node.read(node.proc / "self" / "mountinfo") or ""
    kinds = [line.partition(" - ")[2] for line in mounts.splitlines()]
    v1 = {name for kind in kinds if kind.startswith("cgroup ") for name in kind.rsplit(" ", 1)[-1].split(",")}
    has_v2 = any(kind.startswith("cgroup2 ") for kind in kinds)
    if "freezer" in v1:
        missing = [name for name in _V1_CONTROLLERS if name not in v1]
        mode = "v1, hybrid" if has_v2 else "v1"
        advice = "mount them, or boot with systemd.unified_cgroup_hierarchy=1"
    elif has_v2:
        controllers = (node.read(node.sys / "fs/cgroup/cgroup.controllers") or "").split()
        missing = [name for name in _V2_CONTROLLERS if name not in controllers]
        mode = "v2"
        advice = "enable them: boot with cgroup_enable=memory, and look at cgroup.subtree_control"
    else:
        yield bad("cgroups", "no cgroups are mounted", "mount cgroup2 on /sys/fs/cgroup, or boot with systemd")
        return
    if missing:
        yield bad("cgroups", f"{mode}, without {', '.join(missing)}", advice)
    else:
        yield ok("cgroups", mode)


@contextmanager
def _scratch_process() -> Iterator[int]:
    """Start a process that does nothing, in a network namespace of its own where that can be had; yield its pid."""
    sleep = ["sleep", "30"]
    process = subprocess.Popen(["unshare", "--net", *sleep] if os.geteuid() == 0 and shutil.which("unshare") else sleep)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


@contextmanager
def _scratch_cgroup(pid: int) -> Iterator[None]:
    """Put a process into a cgroup of its own beside ours; kill it there and remove the cgroup at the end."""
    ours = cgroup.find_directories(os.getpid())
    parent = ours.path["freezer"] if ours.version == 1 else ours.path[""]
    scratch = parent / f"invokerd-doctor-{os.getpid()}"
    scratch.mkdir()
    try:
        (scratch / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        with contextlib.suppress(OSError):
            cgroup.thaw_process(pid)
        # A cgroup with a process in it cannot be removed; the parent's is where it came from.
        with contextlib.suppress(OSError):
            (parent / "cgroup.procs").write_text(str(pid))
        scratch.rmdir()


def check_freezer(_: Node) -> Iterator[Finding]:
    """Freeze and thaw a process in a scratch cgroup with the code that the pool uses."""
    try:
        with _scratch_process() as pid, _scratch_cgroup(pid):
            yield _freeze_once(pid)
    except OSError as error:
        yield bad(
            "freezer",
            f"a process cannot be frozen: {error}",
            "run as root, on a host whose /sys/fs/cgroup is writable; without it containers stay warm but use CPU while idle",
        )


def _freeze_once(pid: int) -> Finding:
    files = cgroup.open_files(cgroup.find_directories(pid))
    descriptors = Descriptors(
        pid=pid,
        pidfd=os.pidfd_open(pid),
        log=-1,
        **{name: getattr(files, name) for name in files.__dataclass_fields__},
    )
    handle = cgroup.KernelHandle(ContainerId("invokerd-doctor"), "", descriptors)
    try:
        began = time.perf_counter()
        handle.freeze()
        if not _wait_frozen(handle):
            return bad(
                "freezer",
                f"a process was not frozen within {_FREEZE_DEADLINE_S:g} s",
                "look at the kernel's log; without it containers stay warm but use CPU while idle",
            )
        froze = time.perf_counter()
        handle.thaw()
        thawed = time.perf_counter()
        return ok("freezer", f"works: freeze {(froze - began) * 1e3:.2f} ms, thaw {(thawed - froze) * 1e3:.2f} ms")
    finally:
        handle.close()


def _wait_frozen(handle: cgroup.KernelHandle) -> bool:
    deadline = time.monotonic() + _FREEZE_DEADLINE_S
    poll = select.poll()
    while not handle.is_frozen():
        if time.monotonic() > deadline:
            return False
        poll.poll(1)  # registers nothing: a pause of a millisecond between two looks
    return True


def check_namespaces(_: Node) -> Iterator[Finding]:
    """Enter a process's network namespace with the code that the pool uses."""
    with _scratch_process() as pid:
        try:
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            yield bad("network-namespaces", f"pidfd_open: {error}", "upgrade to Linux 5.8 or later")
            return
        try:
            asyncio.run(_dial(pidfd))
        except PermissionError as error:
            yield bad(
                "network-namespaces",
                f"cannot enter a container's network namespace: {error}",
                "run as root, with CAP_SYS_ADMIN and CAP_SYS_PTRACE",
            )
            return
        except OSError as error:
            yield bad("network-namespaces", f"cannot enter one by a pidfd: {error}", "upgrade to Linux 5.8 or later")
            return
        finally:
            os.close(pidfd)
    yield ok("network-namespaces", "can be entered")


async def _dial(pidfd: int) -> None:
    """Try the way in.

    Raises:
        OSError: there is no way in.
    """
    dialer = netns.Dialer()
    try:
        (await dialer.dial(pidfd)).close()
    except OSError as error:  # nobody listens in there, and its loopback is down
        if error.errno in {errno.EPERM, errno.EACCES, errno.EINVAL}:
            raise
    finally:
        dialer.close()


def check_processes(node: Node) -> Iterator[Finding]:
    """Compare the host's bounds on processes with what the containers may have."""
    containers = max(1, node.config.pool.memory_mib // node.config.limits.memory_default_mib)
    wanted = containers * 64
    for name in ("kernel/pid_max", "kernel/threads-max"):
        text = node.read(node.proc / "sys" / name)
        if text is None or not text.isdigit():
            continue
        sysctl = name.replace("/", ".")
        if int(text) < wanted:
            yield warning(
                "processes",
                f"{sysctl} = {text} is little for {containers} containers",
                f"sysctl -w {sysctl}={max(4194304 if 'pid' in name else wanted, wanted)}, and write it to /etc/sysctl.d",
            )
        else:
            yield ok("processes", f"{sysctl} = {text}")


def check_open_files(node: Node) -> Iterator[Finding]:
    """Compare the limit on open files with what the containers and clients need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    containers = max(1, node.config.pool.memory_mib // node.config.limits.memory_min_mib)
    wanted = containers * _FILES_PER_CONTAINER + 4096
    if hard < wanted:
        advice = f"LimitNOFILE={wanted} in the unit, or ulimit -Hn {wanted} in the shell that starts it"
        yield warning("open-files", f"{hard} at most; {containers} of the least containers would need {wanted}", advice)
    else:
        yield ok("open-files", f"{soft}, up to {hard}")


def check_security_modules(node: Node) -> Iterator[Finding]:
    """Tell of SELinux, which judges bind mounts by their labels."""
    if node.read(node.sys / "fs/selinux/enforce") == "1":
        code = Path(node.config.state_dir) / "code"
        yield warning(
            "selinux",
            "SELinux enforces: containers may not read bind mounts without the label container_file_t",
            f"semanage fcontext -a -t container_file_t '{code}(/.*)?'; the same for the site's mounts; then restorecon -R",
        )


CHECKS: tuple[Check, ...] = (
    check_kernel,
    check_user,
    check_cgroups,
    check_freezer,
    check_namespaces,
    check_processes,
    check_open_files,
    check_security_modules,
)
