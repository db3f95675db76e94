"""Unpacks an action's archive inside the container. Imported when there is one: it draws in half of the library."""

from __future__ import annotations

import base64
import binascii
import io
import os
import stat
import tarfile
import tempfile
import zipfile

from invokerd_runtime import Refused


class NotAnArchive(Exception):
    """The code is neither a zip nor a tar.gz, or a damaged one."""


def decode(code: str) -> bytes:
    """Decode base64. Raises Refused."""
    try:
        return base64.b64decode(code, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused(400, f"The code is not valid base64: {error}") from None


def new_directory() -> str:
    """Make the directory an action lives in: below TMPDIR, for the root file system is read-only."""
    return tempfile.mkdtemp(prefix="action-")


def unpack_archive(data: bytes) -> str:
    """Unpack a zip or a tar.gz, told by its first bytes, into a new directory; returns that.

    Raises:
        NotAnArchive: with what is wrong.
    """
    directory = new_directory()
    try:
        if data[:2] == b"PK":
            _unpack_zip(data, directory)
        elif data[:2] == b"\x1f\x8b":
            with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
                archive.extractall(directory)  # noqa: S202 - the user's archive, in the user's container, as the user
        else:
            raise NotAnArchive("The code is neither a zip nor a tar.gz archive.")
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError, ValueError, RuntimeError, NotImplementedError) as error:
        raise NotAnArchive(f"The archive cannot be unpacked: {error}") from error
    return directory


def _unpack_zip(data: bytes, directory: str) -> None:
    """Unpack a zip with its modes and symbolic links, both of which zipfile leaves out."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for entry in archive.infolist():
            mode = entry.external_attr >> 16
            path = archive.extract(entry, directory)
            if stat.S_ISLNK(mode):
                os.unlink(path)
                os.symlink(archive.read(entry), path.encode())
            elif mode and not entry.is_dir():
                os.chmod(path, stat.S_IMODE(mode) | 0o600)
