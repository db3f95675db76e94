"""Parameters whose values are kept sealed: AES-256-GCM under a key of the node.

A parameter is sealed when it is written: because its `encryption` says `aes-256`, because the site seals all of them, or because
it was sealed before and is written anew. It is sealed in memory, on the disk and in backups, and opened in two places only: for
the action that gets it, and for the API's documents that its own namespace asks for. Who sees it otherwise, in a package that is
shared, sees the sealed text, which is of no use elsewhere: it is bound to its namespace.

What an activation is promised to be called with is written down before it runs: that is sealed too, all of it.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Callable

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from invoker.errors import InvalidRequest
from invoker.model import Parameter
from pool.errors import PlatformError

#: The only scheme that is known here, by its name in the API. Values of any other scheme are kept, and passed on, as they came.
SCHEME = "aes-256"
KEY_BYTES = 32
_NONCE_BYTES = 12
#: A sealed value is the text `PREFIX NAMESPACE : base64(nonce, ciphertext)`; no namespace has a colon in its name.
_PREFIX = "invokerd:1:"

_decode_text = msgspec.json.Decoder(str).decode
_encode = msgspec.json.encode


class SealedElsewhere(InvalidRequest):
    """A parameter was sealed with another key, or for another namespace."""

    code = "sealed-elsewhere"


class ParameterUnreadable(PlatformError):
    """A sealed parameter cannot be opened: the key of the node is not the one it was sealed with."""

    code = "parameter-unreadable"


class Vault:
    """Seals and opens parameters.

    Args:
        key: 32 bytes.
        seals_all: whether parameters are sealed that do not ask for it. May change from one call to the next.
    """

    def __init__(self, key: bytes, *, seals_all: Callable[[], bool] = lambda: False) -> None:
        self._cipher = AESGCM(key)
        self._seals_all = seals_all

    def seal(
        self, namespace: str, parameters: tuple[Parameter, ...], *, replaced: tuple[Parameter, ...] = ()
    ) -> tuple[Parameter, ...]:
        """Seal what a client has sent, where it or the site wants that. Null is no secret: it stays, and means *unset*.

        Args:
            namespace: in which the parameters may be used.
            parameters: as sent.
            replaced: those they are written over. What was sealed there is sealed again unless another `encryption` is sent:
                clients read a value opened, and many send it back without the rest.

        Raises:
            SealedElsewhere: one is sealed already, and not by this node for this namespace.
        """
        seals_all = self._seals_all()
        secrets = {each.key for each in replaced if each.encryption == SCHEME}
        return tuple(self._seal(namespace, each, wanted=seals_all or each.key in secrets) for each in parameters)

    def open(self, parameters: tuple[Parameter, ...]) -> tuple[Parameter, ...]:
        """Open what is sealed, for an action to have.

        Raises:
            ParameterUnreadable: by its name.
        """
        if all(each.encryption is None for each in parameters):
            return parameters
        return tuple(self._open(each) for each in parameters)

    def show(self, namespace: str, parameters: tuple[Parameter, ...]) -> tuple[Parameter, ...]:
        """Open for a namespace's eyes what is its own; `encryption` stays, so that what is sent back is sealed again.

        What belongs to another namespace stays sealed, and so does what cannot be opened.
        """
        if all(each.encryption is None for each in parameters):
            return parameters
        return tuple(self._show(namespace, each) for each in parameters)

    def seal_payload(self, namespace: str, payload: msgspec.Raw) -> msgspec.Raw:
        """Seal what an action is promised to be called with, so that the promise can be written down."""
        return msgspec.Raw(_encode(self._encrypt(namespace, bytes(payload))))

    def open_payload(self, payload: msgspec.Raw) -> msgspec.Raw:
        """Open such a payload; one that was never sealed is an object or an array, and passes.

        Raises:
            ParameterUnreadable: it was sealed with another key.
        """
        if bytes(memoryview(payload)[:1]) != b'"':
            return payload
        opened = self._decrypt(_decode_text(payload).removeprefix(_PREFIX))
        if opened is None:
            raise ParameterUnreadable(
                "The arguments that were promised cannot be opened: they were encrypted with another key; call it again."
            )
        return msgspec.Raw(opened)

    def _seal(self, namespace: str, parameter: Parameter, *, wanted: bool) -> Parameter:
        wanted = parameter.encryption == SCHEME or (wanted and parameter.encryption is None)
        if not wanted or bytes(parameter.value) == b"null":
            return parameter
        if (sealed := _sealed_text(parameter)) is not None:
            if sealed.partition(":")[0] != namespace or self._decrypt(sealed) is None:
                raise SealedElsewhere(
                    f"The parameter '{parameter.key}' was encrypted with another key, or for another namespace: send its value."
                )
            return parameter
        text = self._encrypt(namespace, bytes(parameter.value))
        return msgspec.structs.replace(parameter, value=msgspec.Raw(_encode(text)), encryption=SCHEME)

    def _open(self, parameter: Parameter) -> Parameter:
        sealed = _sealed_text(parameter)
        if sealed is None:
            return parameter
        value = self._decrypt(sealed)
        if value is None:
            raise ParameterUnreadable(
                f"The parameter '{parameter.key}' cannot be opened: it was encrypted with another key; write it anew."
            )
        return msgspec.structs.replace(parameter, value=msgspec.Raw(value), encryption=None)

    def _show(self, namespace: str, parameter: Parameter) -> Parameter:
        sealed = _sealed_text(parameter)
        if sealed is None or sealed.partition(":")[0] != namespace:
            return parameter
        value = self._decrypt(sealed)
        return parameter if value is None else msgspec.structs.replace(parameter, value=msgspec.Raw(value))

    def _encrypt(self, namespace: str, text: bytes) -> str:
        nonce = os.urandom(_NONCE_BYTES)
        ciphertext = self._cipher.encrypt(nonce, text, namespace.encode())
        return f"{_PREFIX}{namespace}:{base64.b64encode(nonce + ciphertext).decode()}"

    def _decrypt(self, sealed: str) -> bytes | None:
        """Open `NAMESPACE:base64`; None when it was not sealed with this key for that namespace."""
        namespace, _, text = sealed.partition(":")
        try:
            data = base64.b64decode(text, validate=True)
            return self._cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], namespace.encode())
        except (InvalidTag, ValueError, binascii.Error):
            return None


def _sealed_text(parameter: Parameter) -> str | None:
    """Take `NAMESPACE:base64` out of a sealed parameter; None when it is not sealed."""
    if parameter.encryption != SCHEME:
        return None
    try:
        text = _decode_text(parameter.value)
    except msgspec.MsgspecError:
        return None
    return text.removeprefix(_PREFIX) if text.startswith(_PREFIX) else None
