"""Who calls: HTTP Basic credentials to an identity.

A key is `uuid:key`. Only HMAC-SHA-256 of the key under the node's pepper is kept, so that a stolen database alone opens nothing.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
import string
import uuid as uuids
from typing import Protocol

from invoker.errors import BadCredentials, Unauthenticated
from invoker.model import Identity, Namespace

#: The challenge of each 401, as upstream sends it.
CHALLENGE = 'Basic realm="OpenWhisk secure realm",charset=UTF-8'

_KEY_LENGTH = 64
_KEY_ALPHABET = string.ascii_letters + string.digits
_CACHE_ENTRIES = 4096


class Namespaces(Protocol):
    """What the authenticator needs of the entity store."""

    def get_namespace_by_uuid(self, uuid: str) -> Namespace | None:
        """Find the namespace whose credentials have this user part."""


class Authenticator:
    """Finds the caller behind an `Authorization` header.

    Args:
        namespaces: where namespaces are looked up, in memory.
        pepper: the node's secret, 32 random bytes; with another one no key fits any more.
    """

    def __init__(self, namespaces: Namespaces, pepper: bytes) -> None:
        self._namespaces = namespaces
        self._pepper = pepper
        #: Headers that were good, oldest first. An entry holds only while the store gives the very namespace it was checked with.
        self._cache: dict[str, Identity] = {}

    def identify(self, header: str | None) -> Identity:
        """Find the caller.

        Args:
            header: the whole value of `Authorization`; None when there was none.

        Raises:
            Unauthenticated: no header, or nothing in it that could be Basic credentials.
            BadCredentials: unknown, wrong or blocked.
        """
        if header is None:
            raise Unauthenticated
        cached = self._cache.get(header)
        if cached is not None:
            if self._namespaces.get_namespace_by_uuid(cached.namespace.uuid) is cached.namespace:
                return cached
            del self._cache[header]
        uuid, key = _decode(header)
        namespace = self._namespaces.get_namespace_by_uuid(uuid)
        # An unknown user costs the same two hashes as a known one.
        own = self._matches(key, uuid, namespace.key_hash if namespace else "")
        if namespace is None or namespace.blocked or not own:
            raise BadCredentials
        identity = Identity(namespace=namespace, api_key=f"{uuid}:{key}")
        if len(self._cache) >= _CACHE_ENTRIES:
            del self._cache[next(iter(self._cache))]
        self._cache[header] = identity
        return identity

    def make_key(self) -> tuple[str, str]:
        """Make new credentials: (uuid, key of 64 letters and digits)."""
        return str(uuids.uuid4()), "".join(secrets.choice(_KEY_ALPHABET) for _ in range(_KEY_LENGTH))

    def hash_key(self, key: str) -> str:
        """Hash a key for `Namespace.key_hash`: HMAC-SHA-256 under the pepper, hexadecimal."""
        return hmac.digest(self._pepper, key.encode(), "sha256").hex()

    def derived_key(self, namespace: Namespace) -> str:
        """Make a `uuid:key` that opens this namespace until its key is rotated.

        For activations that outlive a restart: their action may call back, and the key they came with was never stored.
        """
        return f"{namespace.uuid}:{self._derive(namespace.uuid, namespace.key_hash)}"

    def _derive(self, uuid: str, key_hash: str) -> str:
        # The zero byte keeps these messages apart from every key: keys are letters and digits.
        return hmac.digest(self._pepper, f"\0derived\0{uuid}\0{key_hash}".encode(), "sha256").hex()

    def _matches(self, key: str, uuid: str, key_hash: str) -> bool:
        plain = hmac.compare_digest(self.hash_key(key), key_hash)
        derived = hmac.compare_digest(key.encode(), self._derive(uuid, key_hash).encode())
        return plain or derived


def _decode(header: str) -> tuple[str, str]:
    """Take `uuid` and `key` out of a header; a token without a colon is a user without a key. Raises as `basic_credentials`."""
    uuid, _, key = basic_credentials(header).decode("utf-8", errors="replace").partition(":")
    return uuid, key


def basic_credentials(header: str) -> bytes:
    """Take `user:password` out of a header.

    Raises:
        Unauthenticated: another scheme, no token, or one that is not base64.
    """
    scheme, _, token = header.partition(" ")
    token = token.strip()
    if scheme.lower() != "basic" or not token:
        raise Unauthenticated
    try:
        return base64.b64decode(token, validate=True)
    except (binascii.Error, ValueError):
        raise Unauthenticated from None
