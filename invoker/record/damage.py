"""Rows of the databases that cannot be read, and a database of records whose file is corrupt: they stop nothing, and all is kept.

Each is copied into a file of its own, `damaged/STORE-DIGEST.json` in the state directory, told in the log once a start, counted
in `invokerd_damaged_rows` and named by `/health` and `invokerd doctor` until somebody removes the file.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import itertools
import logging
import os
import time
from collections import Counter
from pathlib import Path

import msgspec

log = logging.getLogger(__name__)

DIRECTORY = "damaged"
#: Stands for the key where it is not a row that is damaged, but the file.
WHOLE = "the whole database"


class DamagedRow(msgspec.Struct, frozen=True, kw_only=True):
    """One row that cannot be read.

    Attributes:
        store: name of its database, without `.db`.
        key: what it is the row of, for the reader: `guest/hello`; `WHOLE` of a database that was moved beside the note.
        reason: why it cannot be read.
        value: the row's bytes, base64.
        text: the same for the eye; what is no UTF-8 is replaced.
    """

    store: str
    key: str
    reason: str
    value: str
    text: str

    @property
    def content(self) -> bytes:
        """The row's bytes, as they were found."""
        return base64.b64decode(self.value)


class Damage:
    """The damaged rows of one state directory."""

    def __init__(self, state_dir: Path) -> None:
        """Know what earlier daemons have found."""
        self._directory = state_dir / DIRECTORY
        #: By file name, all and only those whose file was there when last looked, or was written since.
        self._rows = read_damage(state_dir)
        self._told: set[str] = set()
        #: When the directory was changed last, as far as that was looked at.
        self._looked = 0

    def found(self, store: str, key: str, value: bytes, reason: object, *, then: str) -> None:
        """Set a row aside: keep a copy, and say so. Finding it again changes nothing. Waits for the disk.

        Args:
            store: name of the database.
            key: what it is the row of.
            value: its bytes.
            reason: why it cannot be read.
            then: what to do, for the log.
        """
        digest = hashlib.sha256(key.encode("utf-8", "replace") + b"\0" + value).hexdigest()[:16]
        path = self._directory / f"{store}-{digest}.json"
        row = DamagedRow(
            store=store,
            key=key,
            reason=str(reason),
            value=base64.b64encode(value).decode(),
            text=value.decode("utf-8", "replace"),
        )
        kept = self._keep(path, row)
        if path.name not in self._told:
            self._told.add(path.name)
            log.error("%s.db: the row of %s cannot be read (%s) and is left out; %s; %s", store, key, reason, kept, then)

    def set_database_aside(self, path: Path, reason: object, *, then: str) -> Path:
        """Move a database that is corrupt here, with its log, and keep a note of it as of a row. Waits for the disk.

        Args:
            path: of the database; nobody writes it any more.
            reason: what SQLite says.
            then: what becomes of it, for the log.

        Returns:
            Where it is now.

        Raises:
            OSError: it cannot be moved; it is where it was.
        """
        self._directory.mkdir(mode=0o700, exist_ok=True)
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        aside = next(
            each
            for number in itertools.count()
            if not (each := self._directory / f"{path.stem}-{stamp}{f'-{number}' if number else ''}.db").exists()
        )
        path.replace(aside)
        for suffix in ("-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                path.with_name(path.name + suffix).replace(aside.with_name(aside.name + suffix))
        self._keep(aside.with_suffix(".json"), DamagedRow(store=path.stem, key=WHOLE, reason=str(reason), value="", text=""))
        log.error("%s is corrupt (%s) and was moved to %s; %s", path, reason, aside, then)
        return aside

    def look(self) -> None:
        """Take in what another process has found meanwhile."""
        try:
            changed = self._directory.stat().st_mtime_ns
        except FileNotFoundError:
            return
        if changed != self._looked:
            self._rows |= read_damage(self._directory.parent)
            self._looked = changed

    def counts(self) -> dict[str, int]:
        """Count them by store."""
        return dict(Counter(row.store for row in self._rows.values()))

    def summary(self) -> str:
        """Name them, as many as fit on a line; empty when there are none."""
        return summarise(list(self._rows.values()), self._directory)

    def _keep(self, path: Path, row: DamagedRow) -> str:
        """Write a row unless it is there; says where."""
        kept = f"a copy is in {path}"
        if path.name not in self._rows:
            try:
                self._write(path, row)
            except OSError as error:
                kept = f"no copy could be made: {path}: {error.strerror}"
        self._rows[path.name] = row
        return kept

    def _write(self, path: Path, row: DamagedRow) -> None:
        self._directory.mkdir(mode=0o700, exist_ok=True)
        scratch = path.with_suffix(".tmp")
        fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:  # noqa: PTH123 - by descriptor
            file.write(msgspec.json.format(msgspec.json.encode(row), indent=2))
            file.flush()
            os.fsync(fd)
        scratch.replace(path)


def read_damage(state_dir: Path) -> dict[str, DamagedRow]:
    """Read what was set aside, by file name. A file that is none of ours is left out.

    Raises:
        OSError: the directory may not be read.
    """
    rows = {}
    for path in sorted((state_dir / DIRECTORY).glob("*.json")):
        try:
            row = msgspec.json.decode(path.read_bytes(), type=DamagedRow)
            row.content  # noqa: B018 - must be base64
        except (msgspec.MsgspecError, binascii.Error) as error:
            log.warning("%s is no copy of a damaged row: %s", path, error)
        else:
            rows[path.name] = row
    return rows


def summarise(rows: list[DamagedRow], directory: Path) -> str:
    """Say in one line how many there are, which, and where the copies are; nothing of none."""
    if not rows:
        return ""
    named = ", ".join(f"{row.store} {row.key}" for row in rows[:3])
    more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
    what = "rows or databases" if any(row.key == WHOLE for row in rows) else "rows"
    return f"{len(rows)} damaged {what} are left out ({named}{more}); copies are in {directory}"
