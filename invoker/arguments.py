"""What an action is called with: its bound parameters under the caller's payload, as JSON text, never re-encoded in vain."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from invoker.errors import ParametersNotAllowed
from invoker.model import Action, Parameter

_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def merge_arguments(parameters: Sequence[Parameter], payload: msgspec.Raw) -> tuple[msgspec.Raw, dict[str, str]]:
    """Lay the payload over the bound parameters, and take out what goes to the environment at /init.

    Args:
        parameters: bound ones, the innermost last.
        payload: JSON text of an object; or of an array, when the action before it in a sequence returned one.

    Returns:
        (JSON text of the arguments, environment): the payload itself where nothing is bound, or where it is an array. A value
        of the payload replaces a bound one, also where that is for the environment.
    """
    if not parameters or bytes(memoryview(payload)[:1]) == b"[":
        return payload, {}
    merged = {parameter.key: parameter.value for parameter in parameters}
    if len(payload) > 2:
        merged.update(_decode_object(payload))
    environment = {p.key: environment_text(merged.pop(p.key)) for p in parameters if p.init and p.key in merged}
    return msgspec.Raw(msgspec.json.encode(merged)), environment


def environment_text(value: msgspec.Raw) -> str:
    """Write a JSON value as the text of an environment variable: a string as it is, null as nothing, the rest as JSON."""
    try:
        decoded = msgspec.json.decode(value)
    except msgspec.MsgspecError:  # a number that is too large for one: a caller's payload may have any
        return bytes(value).decode()
    if isinstance(decoded, str):
        return decoded
    return "" if decoded is None else bytes(value).decode()


def refuse_final(action: Action, payload: msgspec.Raw) -> None:
    """Refuse a payload that names a bound, non-null parameter of an action annotated `final`.

    Raises:
        ParametersNotAllowed: it does.
    """
    bound = {parameter.key for parameter in action.parameters if bytes(parameter.value) != b"null"}
    if bound and len(payload) > 2 and action.annotation("final") is True and bound & _decode_object(payload).keys():
        raise ParametersNotAllowed
