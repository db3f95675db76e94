"""Checks of what the configuration asks of this node: memory, the state directory, ports, mounts, another daemon."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import socket
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from invoker.commands.ctl_client import Client, Failure
from invoker.commands.doctor import Check, Finding, Node, bad, ok, warning
from invoker.config.keys import Address
from invoker.containers import parent_of
from invoker.control import messages
from invoker.record.damage import DIRECTORY, read_damage, summarise
from invoker.record.ledger import months
from invoker.record.store import read_only
from pool.parent import NoParentCgroup, limit_bytes, read_limit
from pool.sources import look_command

_MIB = 1024 * 1024
_GIB = 1024 * _MIB
#: File systems on which neither SQLite's WAL nor a lock can be trusted, or which forget at a reboot.
_REMOTE = ("nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "lustre", "gpfs", "beegfs", "ceph", "fuse.ceph", "afs", "9p")
_VOLATILE = ("tmpfs", "ramfs", "overlay")
_NEEDED_BYTES = _GIB
_WAL_RESET_FIXED = (3, 51, 3)
_MOUNT_DEADLINE_S = 3.0
#: Of all databases together: what is looked through in a few seconds.
_EXAMINED_BYTES = 2 * _GIB


def check_memory(node: Node) -> Iterator[Finding]:
    """Compare the pool's budget with the machine's memory."""
    total_mib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // _MIB
    budget = node.config.pool.memory_mib
    text = f"pool.memory_mib = {budget} of the machine's {total_mib}"
    if budget > total_mib:
        yield bad("memory", text, f"lower pool.memory_mib to {total_mib * 3 // 4} or less")
    elif budget > total_mib * 9 // 10:
        yield warning("memory", text, "leave a tenth to the system, or the kernel kills processes of its own choice")
    else:
        yield ok("memory", text)


def check_state_dir(node: Node) -> Iterator[Finding]:
    """Write to the state directory, and see what it stands on."""
    state = node.config.state_dir
    existing = next(path for path in (state, *state.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing) as scratch:
            allocates = _allocates(scratch.fileno())
    except OSError as error:
        yield bad("state-dir", f"{existing} cannot be written: {error.strerror}", "run as root, or choose another state_dir")
        return
    if not state.exists():
        yield ok("state-dir", f"{state} does not exist yet; it will be created in {existing}")
    elif not state.is_dir():
        yield bad("state-dir", f"{state} is no directory", "choose another state_dir")
    elif state.stat().st_mode & 0o066:
        yield warning("state-dir", f"{state} is open to other users; keys' hashes and results are in it", f"chmod 700 {state}")
    else:
        yield ok("state-dir", f"{state} is writable, and others cannot look into it")
    yield _judge_file_system(node, existing, allocates)
    yield _judge_space(existing)


def _allocates(fd: int) -> bool:
    """Ask for space by fallocate itself: `posix_fallocate` would write zeros where the file system cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(fd, 0, ctypes.c_long(0), ctypes.c_long(_MIB)) == 0:
        return True
    if ctypes.get_errno() in (errno.EOPNOTSUPP, errno.ENOSYS):
        return False
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _judge_file_system(node: Node, path: Path, allocates: bool) -> Finding:
    kind = file_system_of(path, node.read(node.proc / "self" / "mountinfo") or "")
    if kind in _REMOTE:
        return bad("state-fs", f"{path} is on {kind}: SQLite's WAL and the lock need a local disk", "choose a local state_dir")
    if not allocates:
        advice = "use ext4, XFS or btrfs: there, a finished call can be written even when the disk is full"
        return warning("state-fs", f"{path} is on {kind}, which cannot allocate space beforehand", advice)
    if kind in _VOLATILE:
        return warning("state-fs", f"{path} is on {kind}: a reboot forgets it", "choose a state_dir on a disk, except for a test")
    return ok("state-fs", f"{kind}, allocates space beforehand")


def file_system_of(path: Path, mountinfo: str) -> str:
    """Find the type of the file system that holds a path: the mount with the longest matching point, the latest of equals."""
    best, kind = "", "unknown"
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        point = before.split(" ")[4].replace("\\040", " ")
        if len(point) >= len(best) and path.resolve().is_relative_to(point):
            best, kind = point, after.split(" ", 1)[0]
    return kind


def _judge_space(path: Path) -> Finding:
    free = shutil.disk_usage(path).free
    text = f"{free / _GIB:.1f} GiB free on {path}"
    if free < _NEEDED_BYTES:
        return bad("state-space", text, f"free {_NEEDED_BYTES // _GIB} GiB: the daemon refuses new work when it cannot record it")
    if free < 10 * _NEEDED_BYTES:
        return warning("state-space", text, "10 GiB are enough for a month's records; [store] says how much is kept")
    return ok("state-space", text)


def check_damage(node: Node) -> Iterator[Finding]:
    """Tell of rows that a daemon could not read and has set aside."""
    rows = list(read_damage(node.config.state_dir).values())
    directory = node.config.state_dir / DIRECTORY
    if rows:
        advice = f"write anew what is named there, or mend it from the copies; then delete the files in {directory}"
        yield warning("databases", summarise(rows, directory), advice)
    else:
        yield ok("databases", "no daemon has found a row that cannot be read")


def check_files(node: Node) -> Iterator[Finding]:
    """Have SQLite look through the databases for damaged pages; one that is larger than the rest of a bound is left out."""
    state, left = node.config.state_dir, _EXAMINED_BYTES
    for path in [*sorted(state.glob("*.db")), *months(state / "ledger")]:
        size = path.stat().st_size
        if size > left:
            advice = f"stop the daemon, then: sqlite3 {path} 'PRAGMA quick_check'"
            yield warning("database-files", f"{path} has {size / _GIB:.1f} GiB and was not examined", advice)
            continue
        left -= size
        if reason := _damage_of(path):
            advice = "see docs/faults.md, 'A database that is corrupt'"
            yield bad("database-files", f"{path}: {reason}", advice)
        else:
            yield ok("database-files", f"{path} is whole")


def _damage_of(path: Path) -> str:
    """Say what is wrong with the pages of a database; nothing when they are sound."""
    try:
        with contextlib.closing(sqlite3.connect(read_only(path), uri=True, timeout=5.0)) as connection:
            (result,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        return str(error)
    return "" if result == "ok" else str(result)


def check_sqlite(_: Node) -> Iterator[Finding]:
    """Tell of the WAL-reset bug, and why it does not matter here."""
    text = f"SQLite {sqlite3.sqlite_version}"
    if sqlite3.sqlite_version_info < _WAL_RESET_FIXED:
        text += " has the WAL-reset bug (fixed in 3.51.3): avoided, since one connection alone writes and checkpoints"
    yield ok("sqlite", text)


def check_daemon_and_ports(node: Node) -> Iterator[Finding]:
    """See whether a daemon runs on this state directory; if not, whether its ports are free."""
    client = Client(f"unix://{node.config.control_socket}", timeout_s=2.0)
    try:
        reply = client.ask("GET", messages.STATUS)
        status: messages.StatusReply = messages.decode(reply.body, messages.StatusReply)
    except (Failure, ValueError):
        yield ok("daemon", "none runs on this state_dir")
    else:
        yield ok("daemon", f"runs, pid {status.pid}, {status.state}; a second one on this state_dir would be refused")
        return
    for name, address in (("http.listen", node.config.http.listen), ("metrics.listen", node.config.metrics.listen)):
        yield _judge_port(name, address)


def _judge_port(name: str, address: Address) -> Finding:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As the daemon binds: a port in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
        except OSError as error:
            advice = f"find who has it: ss -ltnp 'sport = :{address.port}'; or choose another {name}"
            return bad("ports", f"{name} = {address}: {error.strerror}", advice)
    return ok("ports", f"{name} = {address} is free")


def check_second_wall(node: Node) -> Iterator[Finding]:
    """See whether the kernel itself keeps the containers within the pool's memory."""
    name, expected = parent_of(node.config), limit_bytes(node.config.pool.memory_mib)
    try:
        limit = read_limit(name, proc=node.proc)
    except NoParentCgroup as error:
        text = f"{name} cannot be limited, only each container has a limit of its own: {error}"
        verdict = bad if node.config.pool.cgroup_parent else warning
        yield verdict("memory-wall", text, "enable the memory controller")
        return
    if limit is None:
        yield ok("memory-wall", f"{name} is limited when the daemon starts, or by systemd")
    elif limit > expected:
        text = f"{name} is limited to {limit // _MIB} MiB, more than the {expected // _MIB} MiB that go with pool.memory_mib"
        yield warning("memory-wall", text, "restart the daemon, which sets the limit anew; if it cannot, /health says why")
    else:
        yield ok("memory-wall", f"{name} is limited to {limit // _MIB} MiB")


def check_mounts(node: Node) -> Iterator[Finding]:
    """Look at the source of each site mount, from a child with a deadline: a dead file server must not hang us too."""
    for mount in node.config.isolation.mounts:
        name = f"mount {mount.name}"
        reason = _why_not(mount.source)
        if reason is None:
            advice = "mend or unmount it: until then calls that need it are answered mount-unavailable, or meet their time limit"
            yield bad("mounts", f"{name}: {mount.source} does not answer within {_MOUNT_DEADLINE_S:g} s", advice)
        elif not reason:
            yield ok("mounts", f"{name}: {mount.source} -> {mount.target}{', read-only' if mount.read_only else ''}")
        elif os.strerror(errno.EACCES) in reason:
            advice = "does NFS squash root? Offer a directory above it that everybody may enter; users reach theirs as themselves"
            yield bad("mounts", f"{name}: root may not reach {mount.source}", advice)
        else:
            advice = "create or mount it, or remove it from the file"
            yield bad("mounts", f"{name}: {mount.source} cannot be used: {reason}", advice)


def _why_not(source: Path) -> str | None:
    """Say why a directory cannot be mounted: nothing where it can, None where it does not answer."""
    child = subprocess.Popen(look_command(str(source)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    with child.stderr:
        try:
            child.wait(_MOUNT_DEADLINE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            # A process that waits for a dead file server may not end even so: it is not waited for long.
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(0.1)
            return None
        return child.stderr.read().strip()


CHECKS: tuple[Check, ...] = (
    check_memory,
    check_state_dir,
    check_sqlite,
    check_damage,
    check_files,
    check_daemon_and_ports,
    check_second_wall,
    check_mounts,
)
