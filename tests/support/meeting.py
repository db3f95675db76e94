"""For actions in Python whose activations must be there at the same time."""

#: Put it before an action's code: `await meet(n)` returns once n of them have come to it.
MEET = """
import asyncio
waiting = []

async def meet(wanted):
    ready = asyncio.get_running_loop().create_future()
    waiting.append(ready)
    if len(waiting) >= wanted:
        for each in waiting:
            each.set_result(None)
        waiting.clear()
    await ready
"""
