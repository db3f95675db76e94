"""Documents of actions with their code: up to 48 MB, rendered piece by piece, so that others have their turns between."""

from __future__ import annotations

import asyncio
import codecs
import secrets

from invoker.http.documents import action_document
from invoker.http.rendering import render
from invoker.model import Action

#: Code from this length on, bytes, is rendered in pieces of this length: one takes half a millisecond.
_PIECE_BYTES = 128 * 1024


async def render_action(action: Action, code: bytes | None, *, binding: str | None = None) -> bytes | bytearray:
    """Render a whole action.

    Args:
        action: the action, with the parameters that are to be shown.
        code: UTF-8 of what was sent as its code; None leaves the field out.
        binding: full path of the binding that it was found through; None leaves the field out.
    """
    if code is None or len(code) < _PIECE_BYTES:
        return render(action_document(action, None if code is None else code.decode(), binding=binding))
    marker = secrets.token_hex(16)  # nothing else in the document has it
    head, tail = render(action_document(action, marker, binding=binding)).split(marker.encode())
    document = bytearray(head)
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(code), _PIECE_BYTES):
        text = decoder.decode(code[start : start + _PIECE_BYTES])  # a character may end in the next piece
        document += render(text)[1:-1]
        await asyncio.sleep(0)
    document += tail
    return document
