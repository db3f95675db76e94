"""Large code, unpacked once on the host and mounted read-only: a container's own `/tmp` would count as its user's memory."""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import os
import shutil
import stat
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import IO

from invoker.model import MIB, Exec
from pool.errors import ActionError

#: Binary code longer than this, as sent, is mounted; shorter code goes inline with /init.
MOUNT_FROM_BYTES = MIB
#: What an archive may unpack to, and of how many files.
UNPACKED_BYTES = 1024 * MIB
UNPACKED_FILES = 50_000
#: Bytes of base64, a multiple of four: about a millisecond.
_DECODED_AT_ONCE = 256 * 1024
#: Where it appears in the container.
MOUNT_TARGET = "/mnt/code"


class CodeNotUnpackable(ActionError):
    """The action's code is not a zip, a gzipped tar, or an executable file."""

    code = "code-not-unpackable"


class CodeStore:
    """Directories of unpacked code, named by the digest of what was sent."""

    def __init__(self, directory: Path, read: Callable[[str], bytes]) -> None:
        """Use a directory.

        Args:
            directory: made when missing.
            read: gives the code string of a digest, as UTF-8; called on another thread.
        """
        self._directory = directory
        self._read = read
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="unpack")
        self._locks: dict[str, asyncio.Lock] = {}
        directory.mkdir(mode=0o711, parents=True, exist_ok=True)

    @staticmethod
    def is_mounted(executable: Exec) -> bool:
        """Whether this code is mounted and not sent."""
        return executable.binary and executable.code_bytes > MOUNT_FROM_BYTES

    def path(self, digest: str) -> Path:
        """Where the unpacked code is, or will be."""
        return self._directory / digest

    async def ensure(self, digest: str) -> None:
        """Unpack it unless it is there. All who wait for the same code share the work.

        Raises:
            CodeNotUnpackable: it cannot be; the message says why.
        """
        if self.path(digest).is_dir():
            return
        # The lock spans the hop to the thread: a second caller must not unpack the same code meanwhile.
        async with self._locks.setdefault(digest, asyncio.Lock()):
            if not self.path(digest).is_dir():
                await asyncio.get_running_loop().run_in_executor(self._thread, self._unpack, digest)
        self._locks.pop(digest, None)

    def sweep(self, wanted: set[str]) -> None:
        """Delete what no action uses any more. Called at start, when no container runs on it."""
        for entry in self._directory.iterdir():
            if entry.name not in wanted:
                shutil.rmtree(entry, ignore_errors=True)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()

    def _unpack(self, digest: str) -> None:
        try:
            data = decode(self._read(digest))
        except binascii.Error as error:
            raise CodeNotUnpackable(f"the code is not base64: {error}") from error
        scratch = Path(tempfile.mkdtemp(prefix="new-", dir=self._directory))
        try:
            unpack(data, scratch)
            scratch.chmod(0o755)
            scratch.rename(self.path(digest))
        except (OSError, zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
            raise CodeNotUnpackable(f"the code cannot be unpacked: {error}") from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def decode(code: bytes) -> bytes:
    """Decode base64, strictly, piece by piece: decoding holds the interpreter's lock, and 48 MB would hold it for 0.2 s.

    Raises:
        binascii.Error: it is none.
    """
    starts = range(0, len(code), _DECODED_AT_ONCE)
    if code and code.find(b"=", 0, starts[-1]) >= 0:  # it ends before its last piece: said of the whole
        return base64.b64decode(code, validate=True)
    pieces = []
    for start in starts:
        pieces.append(base64.b64decode(code[start : start + _DECODED_AT_ONCE], validate=True))
        time.sleep(0)  # lets the others have the lock
    return b"".join(pieces)


def unpack(data: bytes, directory: Path) -> None:
    """Unpack a zip or a gzipped tar; anything else is one executable file, `exec`.

    Only plain files and directories, only below `directory`, bounded in number and size; world-readable, nobody's to write.

    Raises:
        CodeNotUnpackable: an entry would leave the directory, or there is too much.
        OSError, zipfile.BadZipFile, tarfile.TarError: it is broken.
    """
    if data[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            _refuse_too_much(len(infos), sum(info.file_size for info in infos))
            for info in infos:
                target = _inside(directory, info.filename)
                if info.is_dir():
                    target.mkdir(parents=True, exist_ok=True)
                elif not stat.S_ISLNK(info.external_attr >> 16):
                    with archive.open(info) as source:
                        _write(target, source, executable=bool(info.external_attr >> 16 & 0o111))
    elif data[:2] == b"\x1f\x8b":
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
            members = archive.getmembers()
            _refuse_too_much(len(members), sum(member.size for member in members))
            for member in members:
                target = _inside(directory, member.name)
                content = archive.extractfile(member) if member.isreg() else None
                if member.isdir():
                    target.mkdir(parents=True, exist_ok=True)
                elif content is not None:
                    _write(target, content, executable=bool(member.mode & 0o111))
    else:
        _write(directory / "exec", io.BytesIO(data), executable=True)


def _inside(directory: Path, name: str) -> Path:
    parts = PurePosixPath(name).parts
    if not parts or parts[0] == "/" or ".." in parts:
        if PurePosixPath(name) == PurePosixPath("."):
            return directory
        raise CodeNotUnpackable(f"the archive holds {name!r}, which is not below its own directory")
    return directory.joinpath(*parts)


def _write(target: Path, source: IO[bytes], *, executable: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    with open(os.open(target, flags, 0o755 if executable or target.name == "exec" else 0o644), "wb") as file:  # noqa: PTH123
        shutil.copyfileobj(source, file)


def _refuse_too_much(files: int, size: int) -> None:
    if files > UNPACKED_FILES or size > UNPACKED_BYTES:
        raise CodeNotUnpackable(
            f"the archive unpacks to {files} files and {size} bytes; "
            f"at most {UNPACKED_FILES} files and {UNPACKED_BYTES} bytes are allowed"
        )
