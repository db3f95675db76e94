"""The bodies of PUT requests: from JSON text to values. Pure; each refusal is an error that says what is wrong, and where.

Fields that we do not know are ignored, and JSON's null is the same as a field that is not there.
"""

from __future__ import annotations

import binascii
import pickle
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import msgspec

from invoker.errors import MalformedContent
from invoker.model import Annotation, Binding, Parameter

_VERSION = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})*")
_T = TypeVar("_T")

# --- as sent ----------------------------------------------------------------------------------------------------------


class ParameterBody(msgspec.Struct, frozen=True):
    """One entry of a parameter or annotation list, as sent."""

    key: str
    value: msgspec.Raw
    init: bool | None = None
    encryption: str | None = None


class ExecBody(msgspec.Struct, frozen=True):
    """The `exec` object, as sent but for the code, which is in `ActionBody.code`; `jar` is an old name of `code`."""

    kind: str
    code: str | None = None
    jar: str | None = None
    main: str | None = None
    image: str | None = None
    components: tuple[str, ...] | None = None


class LimitsBody(msgspec.Struct, frozen=True):
    """The `limits` object, as sent. Sizes below zero are no sizes."""

    timeout: int | None = None
    memory: Annotated[int, msgspec.Meta(ge=0)] | None = None
    logs: Annotated[int, msgspec.Meta(ge=0)] | None = None
    concurrency: int | None = None
    instances: Annotated[int, msgspec.Meta(ge=0)] | None = None


class _EntityBody(msgspec.Struct, frozen=True):
    parameters: tuple[ParameterBody, ...] | None = None
    annotations: tuple[ParameterBody, ...] | None = None
    version: str | None = None
    publish: bool | None = None


class _ActionBody(_EntityBody, frozen=True, rename={"del_annotations": "delAnnotations"}):
    exec: ExecBody | None = None
    limits: LimitsBody | None = None
    del_annotations: tuple[str, ...] | None = None


class _BindingBody(msgspec.Struct, frozen=True):
    namespace: str | None = None
    name: str | None = None


class _PackageBody(_EntityBody, frozen=True):
    binding: _BindingBody | None = None


class _TriggerBody(_EntityBody, frozen=True):
    limits: dict[str, Any] | None = None


class _ReferenceBody(msgspec.Struct, frozen=True):
    path: str
    name: str


class _RuleBody(_EntityBody, frozen=True):
    trigger: str | _ReferenceBody | None = None
    action: str | _ReferenceBody | None = None


class _StatusBody(msgspec.Struct, frozen=True):
    status: str


# --- as read ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SentCode:
    """The code of an action, and what is asked of it: it has up to 48 MB, and is looked through once.

    Attributes:
        utf8: the string that was sent.
        binary: it is base64; see `is_base64`.
        blank: there is nothing in it but blanks.
    """

    utf8: bytes
    binary: bool
    blank: bool

    @classmethod
    def of(cls, text: str) -> SentCode:
        """Look through a string."""
        return cls(text.encode(), is_base64(text), not text.strip())

    def __reduce_ex__(self, _protocol: object) -> tuple[type[SentCode], tuple[pickle.PickleBuffer, bool, bool]]:
        """Be pickled with the string beside it, so that it need not be copied."""
        return SentCode, (pickle.PickleBuffer(self.utf8), self.binary, self.blank)


@dataclass(frozen=True, slots=True, kw_only=True)
class EntityBody:
    """What the bodies of all collections share; None is *not given*.

    Attributes:
        version: normalised, `a.b.c`.
    """

    parameters: tuple[Parameter, ...] | None
    annotations: tuple[Annotation, ...] | None
    version: str | None
    publish: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionBody(EntityBody):
    """The body of a PUT of an action.

    Attributes:
        exec: without its code.
        code: of `exec`; None when there is none.
        delete_annotations: keys.
    """

    exec: ExecBody | None
    code: SentCode | None
    limits: LimitsBody
    delete_annotations: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageBody(EntityBody):
    """The body of a PUT of a package.

    Attributes:
        binding: as sent, `_` not resolved; None also for `{}`, which is what a real package is shown with.
    """

    binding: Binding | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleBody(EntityBody):
    """The body of a PUT of a rule.

    Attributes:
        trigger, action: references as sent, `/ns/[package/]name`.
    """

    trigger: str | None
    action: str | None


_ACTION = msgspec.json.Decoder(_ActionBody)
_PACKAGE = msgspec.json.Decoder(_PackageBody)
_TRIGGER = msgspec.json.Decoder(_TriggerBody)
_RULE = msgspec.json.Decoder(_RuleBody)
_STATUS = msgspec.json.Decoder(_StatusBody)


def parse_action(body: bytes) -> ActionBody:
    """Read the body of a PUT of an action.

    Raises:
        MalformedContent: with what is wrong, and where.
    """
    sent = _decode(_ACTION, body)
    execution, code = sent.exec, None
    if execution is not None:
        code = execution.jar if execution.code is None else execution.code
        execution = msgspec.structs.replace(execution, code=None, jar=None)
    return ActionBody(
        **_common(sent),
        exec=execution,
        code=None if code is None else SentCode.of(code),
        limits=sent.limits or LimitsBody(),
        delete_annotations=sent.del_annotations or (),
    )


def parse_package(body: bytes) -> PackageBody:
    """Read the body of a PUT of a package.

    Raises:
        MalformedContent: as `parse_action`; of a binding one half is missing.
    """
    sent = _decode(_PACKAGE, body)
    bound = sent.binding or _BindingBody()
    binding = None
    if bound.namespace is not None and bound.name is not None:
        binding = Binding(namespace=bound.namespace, name=bound.name)
    elif bound != _BindingBody():
        raise MalformedContent.because("a binding needs both, 'namespace' and 'name'")
    return PackageBody(**_common(sent), binding=binding)


def parse_trigger(body: bytes) -> EntityBody:
    """Read the body of a PUT of a trigger. Its `limits` have nothing in them yet: they must only be an object.

    Raises:
        MalformedContent: as `parse_action`.
    """
    return EntityBody(**_common(_decode(_TRIGGER, body)))


def parse_rule(body: bytes) -> RuleBody:
    """Read the body of a PUT of a rule.

    Raises:
        MalformedContent: as `parse_action`.
    """
    sent = _decode(_RULE, body)
    return RuleBody(**_common(sent), trigger=_reference(sent.trigger), action=_reference(sent.action))


def parse_status(body: bytes) -> str:
    """Read the body of a POST to a rule: the status that is wanted.

    Raises:
        MalformedContent: as `parse_action`.
    """
    return _decode(_STATUS, body).status


def _reference(sent: str | _ReferenceBody | None) -> str | None:
    return f"/{sent.path.removeprefix('/')}/{sent.name}" if isinstance(sent, _ReferenceBody) else sent


def _decode(decoder: msgspec.json.Decoder[_T], body: bytes) -> _T:
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        text = str(error)
        if "$.limits." in text:
            text = f"{text.rpartition('$.limits.')[2].strip('`')} must be whole number: {text}"
        elif "$.parameters" in text or "$.annotations" in text:
            text = f"parameters malformed! {text}"
        raise MalformedContent.because(text) from None


def _common(sent: _EntityBody) -> dict[str, Any]:
    try:
        return {
            "parameters": None if sent.parameters is None else _parameters(sent.parameters),
            "annotations": None if sent.annotations is None else _annotations(sent.annotations),
            "version": None if sent.version is None else parse_version(sent.version),
            "publish": sent.publish,
        }
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedContent.because(f"parameters malformed! {error}") from None


def parse_version(text: str) -> str:
    """Normalise a version: up to three numbers, missing ones are 0, further ones are dropped.

    Raises:
        MalformedContent: no version, or 0.0.0.
    """
    if _VERSION.fullmatch(text):
        numbers = [*(int(part) for part in text.split(".")[:3]), 0, 0][:3]
        if any(numbers):
            return ".".join(map(str, numbers))
    raise MalformedContent.because(f"'{text}' is not a version: major.minor.patch, not all zero")


def next_patch(version: str) -> str:
    """Return the version after `a.b.c`: `a.b.c+1`."""
    major_minor, _, patch = version.rpartition(".")
    return f"{major_minor}.{int(patch) + 1}"


def is_base64(code: str) -> bool:
    """Tell whether code, blanks around it cut, is canonical base64 and not empty: then it is binary.

    A short source text can look like base64, and is then taken for it, as upstream does.
    """
    text = code.strip()
    if not text or len(text) % 4:
        return False
    try:
        binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        return False
    return True


def entries_bytes(entries: Sequence[Parameter] | Sequence[Annotation]) -> int:
    """Size of a list of parameters or annotations: keys and compact values, bytes."""
    return sum(len(entry.key.encode()) + len(bytes(entry.value)) for entry in entries)


def _parameters(sent: tuple[ParameterBody, ...]) -> tuple[Parameter, ...]:
    entries = {
        each.key: Parameter(key=each.key, value=_compact(each.value), init=bool(each.init), encryption=each.encryption)
        for each in sent
    }
    return tuple(entries.values())


def _annotations(sent: tuple[ParameterBody, ...]) -> tuple[Annotation, ...]:
    return tuple({each.key: Annotation(key=each.key, value=_compact(each.value)) for each in sent}.values())


def _compact(value: msgspec.Raw) -> msgspec.Raw:
    """Cut blanks, check that it can be read, and let go of the request's body, into which the decoder's value points."""
    text = msgspec.json.format(bytes(value), indent=-1)
    text.decode()
    msgspec.json.decode(text)  # a number such as 1e999 is well-formed, and nobody could read the entity
    return msgspec.Raw(text)
