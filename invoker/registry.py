"""Credentials for image registries, in the format of Docker's own `config.json`."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path

import msgspec

from pool.errors import PlatformError

#: Docker Hub's name in that file, and in an image's reference without a host.
HUB = "https://index.docker.io/v1/"


class CredentialsUnreadable(PlatformError):
    """The file of registry credentials cannot be used."""

    code = "credentials-unreadable"


class _Auth(msgspec.Struct, frozen=True):
    """One registry; `auth` is base64 of `user:password`."""

    auth: str = ""
    username: str = ""
    password: str = ""


class _File(msgspec.Struct, frozen=True):
    auths: dict[str, _Auth] = {}


def registry_of(reference: str) -> str:
    """Name the registry of an image reference: its host, or Docker Hub."""
    host, slash, _ = reference.partition("/")
    is_host = bool(slash) and ("." in host or ":" in host or host == "localhost")
    return host if is_host else HUB


def credentials_for(reference: str, file: Path | None) -> Mapping[str, str] | None:
    """Find the credentials that the site has for an image's registry; None where it has none.

    The file is read each time: a pull is rare, and a changed password counts at once.

    Raises:
        CredentialsUnreadable: naming the file, and what is wrong with it; never what it holds.
    """
    if file is None:
        return None
    registry = registry_of(reference)
    try:
        auths = msgspec.json.decode(file.read_bytes(), type=_File).auths
        entry = auths.get(registry) or auths.get(f"https://{registry}")
        if entry is None:
            return None
        user, password = entry.username, entry.password
        if entry.auth:
            user, _, password = base64.b64decode(entry.auth, validate=True).decode().partition(":")
    except OSError as error:
        raise CredentialsUnreadable(f"{file}: {error.strerror}") from error
    except (msgspec.MsgspecError, binascii.Error, UnicodeDecodeError) as error:
        raise CredentialsUnreadable(f"{file} is not of the form of Docker's config.json") from error
    return {"username": user, "password": password, "serveraddress": registry}
