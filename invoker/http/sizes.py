"""How large what a PUT sends may be; asked before anything else."""

from __future__ import annotations

from invoker.errors import TooLarge
from invoker.http.bodies import ActionBody, EntityBody, entries_bytes
from invoker.http.limits import ANNOTATIONS_BYTES, PARAMETERS_BYTES


def check_sizes(body: EntityBody) -> None:
    """Refuse parameters or annotations that are too large.

    Raises:
        TooLarge: naming the field.
    """
    if body.parameters is not None:
        _check_size("parameters", entries_bytes(body.parameters), PARAMETERS_BYTES)
    if body.annotations is not None:
        _check_size("annotations", entries_bytes(body.annotations), ANNOTATIONS_BYTES)


def check_action_sizes(body: ActionBody, *, code_bytes: int) -> None:
    """Refuse as `check_sizes`, and what an action executes: code, entry point and name of the image together.

    Args:
        body: of the PUT.
        code_bytes: what they may have, bytes of UTF-8.

    Raises:
        TooLarge: naming the field.
    """
    if body.exec is not None:
        size = len(body.code.utf8) if body.code is not None else 0
        size += sum(len(text.encode()) for text in (body.exec.main, body.exec.image) if text)
        _check_size("exec", size, code_bytes)
    check_sizes(body)


def _check_size(field: str, size: int, allowed: int) -> None:
    if size > allowed:
        raise TooLarge.measured(field, size, allowed)
