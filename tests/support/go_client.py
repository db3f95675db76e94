"""What `wsk` and `wskdeploy` do with an answer: their Go library, as far as it can be told apart from outside.

Neither can be had as a package, so their requests are replayed, and here is how they read what comes back: which exit code a
status means, when an error counts as told, and of which type each field must be, since Go refuses a whole document over one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

#: Header that every request of theirs bears, beside the credentials.
USER_AGENT = "OpenWhisk-CLI/1.0 (2024-09-01T00:00:00.000+0000) linux amd64"

_KEY_VALUES = [{"key": str}]
_COMMON = {"namespace": str, "name": str, "version": str, "publish": bool, "annotations": _KEY_VALUES}
#: Types of the fields they read, by what a document is; a field that is absent is empty. Dates and limits are whole numbers.
TYPES: dict[str, Any] = {
    "action": _COMMON | {
        "exec": {"kind": str, "code": str, "image": str, "main": str, "binary": bool, "components": [str]},
        "parameters": _KEY_VALUES,
        "limits": {"timeout": int, "memory": int, "logs": int, "concurrency": int},
        "updated": int,
    },
    "package": _COMMON | {
        "parameters": _KEY_VALUES,
        "binding": {"namespace": str, "name": str},
        "actions": [{"name": str, "version": str, "annotations": _KEY_VALUES}],
        "feeds": [{"name": str, "version": str, "annotations": _KEY_VALUES}],
        "updated": int,
    },
    "trigger": _COMMON | {"parameters": _KEY_VALUES, "limits": {}, "rules": {}, "updated": int},
    "rule": _COMMON | {
        "trigger": {"path": str, "name": str},
        "action": {"path": str, "name": str},
        "status": str,
        "updated": int,
    },
    "activation": _COMMON | {
        "subject": str,
        "activationId": str,
        "start": int,
        "end": int,
        "duration": int,
        "statusCode": int,
        "cause": str,
        "response": {"status": str, "success": bool, "statusCode": int},
        "logs": [str],
    },
    "id": {"activationId": str},
    "logs": {"logs": [str]},
    "api info": {"description": str, "build": str, "buildno": str},
    "names": [str],
    "anything": {},
}  # fmt: skip


@dataclass(frozen=True)
class Read:
    """What the command has made of an answer: exit code, what it decoded, what it says of an error."""

    exit_code: int
    value: Any = None
    said: str = ""


def read(answer: Any, what: str, *, blocking: bool = False) -> Read:
    """Read an answer as the client does.

    Args:
        answer: with `status`, `headers` and `text`.
        what: it is expected to be, a key of TYPES; `list of` before it for an array; empty where the body is not read.
        blocking: it answers a blocking invocation.

    Raises:
        AssertionError: Go would not decode it.
    """
    if 200 <= answer.status < 300:
        value = decode(answer, what) if what and answer.text else None
        if blocking and answer.status == 202:
            return Read(202, value, "Request accepted, but processing not completed yet.")
        if blocking and isinstance(value, dict) and value.get("response", {}).get("success") is False:
            return Read(246, value)
        return Read(0, value)
    body = decode(answer, "anything")
    exit_code = (answer.status - 256) % 256
    if body.get("error") and body.get("code"):  # both, or it is no error of the API
        assert isinstance(body["error"], str)
        assert isinstance(body["code"], str), "a number here is a failure of its own to Go"
        return Read(exit_code, body, f"{body['error']} (code {body['code']})")
    if blocking and answer.status == 502:
        return Read(exit_code, decode(answer, "activation") if "response" in body else body)
    return Read(exit_code, body, f"The connection failed, or timed out. (HTTP status code {answer.status})")


def decode(answer: Any, what: str) -> Any:
    """Decode JSON into the types of what it is expected to be; the content type must be exactly this, in this case."""
    assert answer.headers["Content-Type"] == "application/json"
    kind = what.removeprefix("list of ")
    _check(answer.json, [TYPES[kind]] if kind != what else TYPES[kind], what)
    return answer.json


def _check(value: Any, expected: Any, where: str) -> None:
    """Hold a value against its type, as encoding/json does: absent or null is empty, numbers have no fraction."""
    if value is None:
        return
    if isinstance(expected, dict):
        assert isinstance(value, dict), f"{where} is no object: {value!r}"
        for name, inner in expected.items():
            if name == "binding" and value.get(name) is False:
                continue  # in lists; the one thing the client forgives
            _check(value.get(name), inner, f"{where}.{name}")
    elif isinstance(expected, list):
        assert isinstance(value, list), f"{where} is no array: {value!r}"
        for index, each in enumerate(value):
            _check(each, expected[0], f"{where}[{index}]")
    else:
        assert type(value) is expected, f"{where} is no {expected.__name__}: {value!r}"


def note(entity: Any, key: str) -> Any:
    """The value of an annotation; None where there is none."""
    return next((each["value"] for each in entity["annotations"] if each["key"] == key), None)
