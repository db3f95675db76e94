"""What is on the disk: the state directory is locked, its stores are opened, and the journal is replayed."""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from invoker.alarms.store import AlarmStore
from invoker.code import CodeStore
from invoker.config.keys import ConfigError
from invoker.config.model import Config
from invoker.health import Check
from invoker.record.activations import Retention
from invoker.record.apis import ApiStore
from invoker.record.damage import Damage
from invoker.record.entities import EntityStore
from invoker.record.recorder import Recorder
from pool.errors import PlatformError
from pool.table import ContainerTable

log = logging.getLogger("invokerd")

#: How long records gather before they are committed to the databases, s. The journal has them at once, and who lists records
#: waits for a commit of what there is; the fewer commits, the less each record costs.
COMMIT_EVERY_S = 0.05
#: A ledger that is further behind the journal is not well, s.
LEDGER_BEHIND_S = 30.0

#: Length of the node's secrets.
SECRET_BYTES = 32


class SecretUnreadable(PlatformError):
    """A secret of the node cannot be read."""

    code = "secret-unreadable"


class StateDirectoryInUse(PlatformError):
    """Another daemon uses this state directory."""

    code = "state-directory-in-use"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """What is on the disk."""

    #: What of it cannot be read.
    damage: Damage
    entities: EntityStore
    apis: ApiStore
    alarms: AlarmStore
    recorder: Recorder
    table: ContainerTable
    code: CodeStore
    #: That keys are hashed with: without it no key is any good.
    pepper: bytes
    #: That parameters are encrypted with: without it they are lost.
    parameter_key: bytes

    def checks(self) -> list[Check]:
        """Tell how they fare, for `/health`."""
        lag, room, failure = self.recorder.lag(), self.recorder.room(), self.recorder.failure
        full = "" if room or failure else "no room: new work is refused; free space on the disk of state_dir"
        behind = f"{lag.rows} records, {lag.seconds:.1f} s behind"
        stopped = f"nothing more is written and new work is refused; the journal keeps what was recorded: {failure}"
        refusal = self.recorder.refusal
        tight = f"{refusal}; calls go on while the journal has room: free space on the disk of state_dir"
        self.damage.look()  # the writer's process finds some
        damaged = self.damage.summary()
        return [
            Check(name="journal", ok=not full, detail=full),
            Check(name="state-disk", ok=not refusal, detail=tight if refusal else ""),
            Check(name="ledger", ok=lag.seconds < LEDGER_BEHIND_S and not failure, detail=stopped if failure else behind),
            Check(name="databases", ok=True, detail=damaged or "every row can be read", warning=bool(damaged)),
        ]


@asynccontextmanager
async def open_stores(config: Config) -> AsyncIterator[Stores]:
    """Lock the state directory and open all that is in it; the journal is replayed.

    Raises:
        ConfigError: the directory can be neither found nor made.
        StateDirectoryInUse, StoreTooNew, StoreBroken, ...: likewise at the start.
    """
    directory = config.state_dir
    try:
        directory.mkdir(mode=0o711, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError([f"state_dir = {directory}: {error.strerror}; run as root, or choose another directory"]) from error
    async with AsyncExitStack() as stack:
        stack.callback(os.close, lock_state(directory))
        log.info("SQLite %s", sqlite3.sqlite_version)
        store = config.store
        damage = Damage(directory)
        entities = await EntityStore.open(directory / "entities.db", directory / "code", damage)
        stack.push_async_callback(entities.close)
        uuids = None if entities.lacks_namespaces else [each.uuid for each in entities.list_namespaces()]
        apis = await ApiStore.open(directory / "apis.db", namespaces=uuids, damage=damage)
        stack.push_async_callback(apis.close)
        alarms = await AlarmStore.open(directory / "alarms.db", damage)
        stack.push_async_callback(alarms.close)
        recorder = await Recorder.open(
            directory,
            node=config.node,
            damage=damage,
            apart=True,
            linger_s=COMMIT_EVERY_S,
            segment_bytes=store.journal_segment_bytes,
            retention=Retention(
                records_s=store.keep_activations_s,
                records_bytes=store.keep_activations_bytes,
                results_s=store.keep_results_s,
                results_bytes=store.keep_results_bytes,
                logs_s=store.keep_logs_s,
                logs_bytes=store.keep_logs_bytes,
            ),
        )
        stack.push_async_callback(recorder.close)
        damage.look()  # the writer's process has read the promises
        table = ContainerTable.open(directory / "containers.table", boot_id())
        stack.callback(table.close)
        if table.emptied_because:
            log.info("container table: %s", table.emptied_because)
        code = CodeStore(directory / "unpacked", entities.code.read_blocking_utf8)
        stack.callback(code.close)
        yield Stores(
            damage=damage,
            entities=entities,
            apis=apis,
            alarms=alarms,
            recorder=recorder,
            table=table,
            code=code,
            pepper=_secret(directory / "pepper"),
            parameter_key=_secret(store.parameter_key_file or directory / "parameters.key"),
        )


def lock_state(directory: Path) -> int:
    """Lock the state directory for this process's life; the kernel unlocks it, however the process ends.

    Returns:
        A descriptor that holds the lock.

    Raises:
        StateDirectoryInUse: another process has it.
    """
    path = directory / "lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        owner = os.read(fd, 32).decode(errors="replace").strip()
        os.close(fd)
        raise StateDirectoryInUse(
            f"another daemon (process {owner or 'unknown'}) uses {path.parent}; stop it, or choose another state_dir"
        ) from None
    os.ftruncate(fd, 0)
    os.write(fd, f"{os.getpid()}\n".encode())
    return fd


def _secret(path: Path) -> bytes:
    """Read a secret of the node, or make it.

    Raises:
        SecretUnreadable: it is not there, cannot be made, or is something else.
    """
    try:
        secret = _read_or_make(path)
    except OSError as error:
        raise SecretUnreadable(f"{path}: {error.strerror}") from error
    if len(secret) != SECRET_BYTES:
        raise SecretUnreadable(f"{path} has {len(secret)} bytes, not {SECRET_BYTES}: restore it from a copy")
    return secret


def _read_or_make(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(fd, "wb") as file:  # noqa: PTH123 - by descriptor
            file.write(secrets.token_bytes(SECRET_BYTES))
            file.flush()
            os.fsync(fd)
        return path.read_bytes()


def boot_id() -> str:
    """Name the running kernel's boot: containers of another boot are gone."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
