import asyncio

import pytest

from invoker.http.code_answers import render_action
from invoker.http.documents import action_document
from invoker.http.rendering import render
from invoker.model import Action, Exec, Limits

LIMITS = Limits(timeout=1000, memory=256, logs=10, concurrency=1)
ACTION = Action(namespace="guest", path="a", exec=Exec(kind="python:3"), limits=LIMITS, version="0.0.1", updated=1, revision="r")


@pytest.mark.parametrize("code", [None, "", "short é", "QUJD" * 700_000, '😀é"\\\n\0</x>' * 250_000])
@pytest.mark.parametrize("binding", [None, "guest/b"])
async def test_in_pieces_a_document_is_the_same_to_the_byte(code, binding):
    whole = render(action_document(ACTION, code, binding=binding))
    assert await render_action(ACTION, None if code is None else code.encode(), binding=binding) == whole


async def test_others_have_their_turns_while_long_code_is_rendered():
    turns = 0

    async def others():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        neighbour = group.create_task(others())
        await render_action(ACTION, b"x" * (8 * 1024 * 1024))
        neighbour.cancel()
    assert turns >= 8
