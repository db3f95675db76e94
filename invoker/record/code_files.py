"""The `code` strings of actions as content-addressed files: named by their SHA-256, written once, never changed."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import secrets
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from invoker.errors import EntityCorrupted
from invoker.record.disk import sync

_DIGEST = re.compile(r"[0-9a-f]{64}")
_UNFINISHED = re.compile(r"\.[0-9a-f]{64}\.[0-9a-f]+")


class CodeFiles:
    """A directory of code. The awaited methods work in a thread: code has up to 48 MB."""

    def __init__(self, directory: Path) -> None:
        """Use a directory; made, mode 0700, when missing."""
        self._directory = directory
        #: Stored, and not yet in an entity: not to be deleted with the last entity that used it before.
        self._pinned: Counter[str] = Counter()
        #: How many activations may still read it.
        self._held: Counter[str] = Counter()
        #: No entity uses it any more: it goes with the last that holds it.
        self._condemned: set[str] = set()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        """Where the code of this digest is.

        Raises:
            EntityCorrupted: it is not a digest.
        """
        if _DIGEST.fullmatch(digest) is None:
            raise EntityCorrupted
        return self._directory / digest

    async def put(self, text: str | bytes) -> str:
        """Store a string, durably; bytes are its UTF-8.

        It stays until an entity that names it was written and deleted again, or until the daemon ends.

        Returns:
            Its SHA-256, hexadecimal.
        """
        data = text.encode() if isinstance(text, str) else text
        digest = await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())
        self._pinned[digest] += 1
        self._condemned.discard(digest)
        await asyncio.to_thread(self._write, digest, data)
        return digest

    async def read(self, digest: str) -> str:
        """Return a string that was stored.

        Raises:
            EntityCorrupted: it is not there, or not what its name says.
        """
        return (await self.read_utf8(digest)).decode()

    async def read_utf8(self, digest: str) -> bytes:
        """Do as `read`, without decoding it, which takes 50 to 100 ms for 48 MB."""
        return await asyncio.to_thread(self.read_blocking_utf8, digest)

    def read_blocking_utf8(self, digest: str) -> bytes:
        """Do as `read_utf8`, on the caller's thread: 1 ms for 1 MB."""
        try:
            data = self.path(digest).read_bytes()
        except OSError as error:
            raise EntityCorrupted(f"The code {digest} cannot be read.") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise EntityCorrupted(f"The code {digest} is damaged.")
        return data

    def unpin(self, digest: str) -> None:
        """Say that an entity names it now, once for each `put`."""
        if self._pinned[digest] > 1:
            self._pinned[digest] -= 1
        else:
            del self._pinned[digest]

    def remove(self, digest: str) -> None:
        """Delete a string, unless somebody is about to use it; when activations hold it, with the last of them."""
        if digest in self._held:
            self._condemned.add(digest)
        elif digest not in self._pinned:
            # Decided and done in one step: a `put` of the same text that comes now writes the file anew.
            self.path(digest).unlink(missing_ok=True)

    def hold(self, digest: str) -> None:
        """Keep a string for an activation, whatever becomes of its action meanwhile."""
        self._held[digest] += 1

    def release(self, digest: str) -> None:
        """Say that an activation needs it no more, once for each `hold`."""
        self._held[digest] -= 1
        if not self._held[digest]:
            del self._held[digest]
            if digest in self._condemned:
                self._condemned.discard(digest)
                self.remove(digest)

    async def sweep(self, used: Collection[str]) -> None:
        """Delete what is not in `used`, and what was being written when the daemon ended. Before any `put`."""
        await asyncio.to_thread(self._sweep, set(used))

    def _sweep(self, used: set[str]) -> None:
        for path in self._directory.iterdir():
            unused = _DIGEST.fullmatch(path.name) is not None and path.name not in used
            if unused or _UNFINISHED.fullmatch(path.name) is not None:
                path.unlink()

    def _write(self, digest: str, data: bytes) -> None:
        final = self._directory / digest
        if final.exists():
            return
        unfinished = self._directory / f".{digest}.{secrets.token_hex(4)}"
        try:
            with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:  # noqa: PTH123
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            unfinished.rename(final)
        finally:
            with contextlib.suppress(FileNotFoundError):
                unfinished.unlink()
        sync(self._directory)
