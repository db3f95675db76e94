"""What a PUT makes of an action: functions of the old action, the request's body and the site."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from invoker.config.model import LimitsConfig
from invoker.errors import InvalidRequest, MalformedContent
from invoker.http import entities
from invoker.http.bodies import ActionBody, ExecBody, LimitsBody, SentCode
from invoker.http.limits import check_action_limits, default_limits
from invoker.manifest import BLACKBOX, SEQUENCE, Manifest, check_image
from invoker.model import Action, Annotation, Exec, Limits, Parameter

_FALSE = msgspec.Raw(b"false")


class WrittenExec(NamedTuple):
    """What an action is to execute, and its code, which is stored apart.

    Attributes:
        exec: with everything but the code's digest.
        code: None for a black box without code.
    """

    exec: Exec
    code: SentCode | None


def resolve_exec(sent: ExecBody, code: SentCode | None, manifest: Manifest) -> WrittenExec:
    """Find out what an `exec` object of any kind but `sequence` means on this node.

    Raises:
        RuntimeNotSupported, RuntimeDeprecated: the kind.
        MalformedContent: something that the kind needs is not there.
        InvalidRequest: the image's name.
    """
    kind = normalise_kind(sent.kind)
    main = sent.main or None
    if kind == BLACKBOX:
        if not sent.image:
            raise MalformedContent.because("'image' must be a string defined in 'exec' for 'blackbox' actions")
        image = check_image(sent.image)
        code = None if code is None or code.blank else code
    else:
        runtime = manifest.resolve(kind)
        kind, image = runtime.kind, None
        if code is None:
            raise MalformedContent.because(f"'code' must be a string defined in 'exec' for '{kind}' actions")
        if runtime.require_main and main is None:
            raise MalformedContent.because(f"'main' must be a string defined in 'exec' for '{kind}' actions")
    execution = Exec(
        kind=kind,
        code_bytes=len(code.utf8) if code is not None else 0,
        binary=code is not None and code.binary,
        main=main,
        image=image,
    )
    return WrittenExec(execution, code)


def normalise_kind(kind: str) -> str:
    """Cut blanks around a kind, in lower case: clients write it as they like."""
    return kind.strip().lower()


def create_action(
    namespace: str, path: str, body: ActionBody, *, execution: Exec | None, site: LimitsConfig, concurrent: int, now_ms: int
) -> Action:
    """Make a new action.

    Args:
        namespace: the owner.
        path: name within it, `[package/]name`.
        body: what the client sent, sizes checked.
        execution: what `body.exec` was resolved to; the code's digest may still be missing.
        site: limits and their defaults.
        concurrent: activations that the namespace may have in flight.
        now_ms: wall clock.

    Raises:
        InvalidRequest: no `exec`, limits out of range, or a feature that is not there yet.
    """
    if execution is None:
        raise InvalidRequest("exec undefined")
    limits = _limits(default_limits(site), body.limits)
    check_action_limits(limits, site, concurrent)
    fields = entities.written_fields(None, body, now_ms)
    annotations = {entry.key: entry for entry in fields["annotations"]}
    annotations.setdefault("provide-api-key", Annotation(key="provide-api-key", value=_FALSE))
    fields["annotations"] = _annotations(annotations.values(), execution.kind)
    if execution.kind == SEQUENCE:
        fields["parameters"] = _component_parameters(execution)
    return Action(namespace=namespace, path=path, exec=execution, limits=limits, **fields)


def update_action(
    old: Action, body: ActionBody, *, execution: Exec | None, site: LimitsConfig, concurrent: int, now_ms: int
) -> Action:
    """Make the next version of an action: what is not given stays, annotations are merged, parameters replaced as a whole.

    Arguments as `create_action`; without `exec` the action keeps what it executes.

    Raises:
        InvalidRequest: limits out of range, or a feature that is not there yet.
    """
    limits = _limits(old.limits, body.limits)
    if limits != old.limits:
        check_action_limits(limits, site, concurrent)
    kept = execution is None
    execution = execution or old.exec
    fields = entities.written_fields(old, body, now_ms)
    deleted = body.delete_annotations if kept or execution.kind != SEQUENCE else ()  # as upstream
    annotations = {entry.key: entry for entry in old.annotations if entry.key not in deleted}
    annotations |= {entry.key: entry for entry in body.annotations or ()}
    fields["annotations"] = _annotations(annotations.values(), execution.kind)
    if execution.kind == SEQUENCE:
        fields["parameters"] = _component_parameters(execution)
    elif old.exec.kind == SEQUENCE and body.parameters is None:
        fields["parameters"] = ()
    return Action(
        namespace=old.namespace,
        path=old.path,
        exec=execution,
        limits=limits,
        image_id=old.image_id if kept else None,
        **fields,
    )


def _component_parameters(execution: Exec) -> tuple[Parameter, ...]:
    """Make the only parameter that a sequence has, whatever the client sends: its components."""
    components = [f"/{path}" for path in execution.components]
    return (Parameter(key="_actions", value=msgspec.Raw(msgspec.json.encode(components))),)


def _annotations(entries: Iterable[Annotation], kind: str) -> tuple[Annotation, ...]:
    """Set the annotation `exec`, which is always the kind, whatever the client says of it."""
    kept = tuple(entry for entry in entries if entry.key != "exec")
    return (*kept, Annotation(key="exec", value=msgspec.Raw(msgspec.json.encode(kind))))


def _limits(base: Limits, sent: LimitsBody) -> Limits:
    given = {name: value for name in sent.__struct_fields__ if (value := getattr(sent, name)) is not None}
    return msgspec.structs.replace(base, **given) if given else base
