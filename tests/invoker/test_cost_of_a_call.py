"""What a warm call and a refused one cost the daemon, in instructions of Python's interpreter: a count, the same everywhere.

The whole way is real, from the client's socket to the journal and back: front, API, invoker, pool, recorder, metrics. Only the
engine is a fake, and its server's instructions are not counted, nor the client's, which has a thread of its own.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import http.client
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any, Self

import pytest
from aiohttp import web

from invoker.config.model import Config, PoolConfig, StemCellConfig
from invoker.daemon import Daemon
from invoker.http.front import build_front
from invoker.live_config import LiveConfig
from invoker.manifest import Manifest
from invoker.model import Action, Exec, Namespace
from invoker.stores import open_stores
from invoker.systemd import Notifier
from pool.backend import Image
from pool.fake import FakeBackend

#: Bytecode instructions of one warm call, all modules together: 5,020, and what timers add that ring meanwhile, of which a slow
#: machine meets more in a call. Lower it when the path gets shorter.
BUDGET = 5300
#: Likewise of a call that may not even wait for a container, 1,660: under overload most calls are such.
REFUSAL_BUDGET = 1800
_CALLS = 20
_ROUNDS = 5
_ROOT = Path(__file__).parents[2]
#: Modules of the fake engine, and of asyncio what uvloop does in the real daemon without any Python.
_NOT_COUNTED = (
    "fake.py",
    "fake_server.py",
    "asyncio/base_events.py",
    "asyncio/events.py",
    "asyncio/selector_events.py",
    "selectors.py",
    Path(__file__).name,
)


class Counting:
    """Counts instructions by function, of the thread that enters it."""

    def __init__(self) -> None:
        self.by_function: Counter[str] = Counter()

    def __enter__(self) -> Self:
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, _arg: Any) -> Any:
        if event == "call":
            if frame.f_code.co_filename.endswith(_NOT_COUNTED):
                return None
            frame.f_trace_lines, frame.f_trace_opcodes = False, True
        elif event == "opcode":
            code = frame.f_code
            self.by_function[f"{code.co_filename.removeprefix(str(_ROOT))}:{code.co_qualname}"] += 1
        return self._trace


class Images(dict[str, Image]):
    """The fake's images, which tell nobody when one was pulled."""

    on_pulled: Any = None


@asynccontextmanager
async def a_daemon(tmp_path: Path, **pool: int) -> AsyncIterator[tuple[int, bytes]]:
    """Serve one action on the fake engine; yield the port and a blocking invocation of it."""
    config = Config(
        state_dir=tmp_path,
        node="n",
        pool=PoolConfig(memory_mib=1024, freeze_grace_s=0.1, stem_cells=StemCellConfig(enabled=False), **pool),
    )
    backend: Any = FakeBackend()
    backend.guard = SimpleNamespace()
    backend.images = Images(backend.images)
    backend.wall = None
    async with AsyncExitStack() as stack:
        stores = await stack.enter_async_context(open_stores(config))
        stack.push_async_callback(backend.close)
        stack.callback(backend.bury_all)
        group = await stack.enter_async_context(asyncio.TaskGroup())
        daemon = Daemon(
            LiveConfig.of(config, None),
            manifest=Manifest.load(),
            stores=stores,
            backend=backend,
            notifier=Notifier(None),
            group=group,
        )
        key_hash = daemon.authenticator.hash_key("k")
        await stores.entities.put_namespace(Namespace(name="anna", uuid="u", key_hash=key_hash, uid=2001, gid=2001, created_ms=0))
        code = await stores.entities.code.put("def main(args): return args")
        await stores.entities.put(
            Action(namespace="anna", path="hello", revision="r", updated=0, exec=Exec(kind="python:3", code=code)),
            expected_revision=None,
        )
        runner = web.ServerRunner(build_front(daemon._services(), group))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        head = (
            "POST /api/v1/namespaces/_/actions/hello?blocking=true&result=true HTTP/1.1\r\nHost: x\r\n"
            f"Authorization: Basic {base64.b64encode(b'u:k').decode()}\r\n"
            "Content-Type: application/json\r\nContent-Length: 7\r\n\r\n"
        )
        yield runner.addresses[0][1], head.encode() + b'{"x":1}'
        await runner.cleanup()
        daemon.invoker.refuse()
        await daemon.invoker.wait_idle()
        await daemon.pool.close()


def call(port: int, request: bytes, times: int, status: int = 200) -> None:
    """Send one request after the other over one connection; each must be answered so. Blocks."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection, connection.makefile("rb") as answers:
        for _ in range(times):
            connection.sendall(request)
            line = answers.readline()
            assert line.startswith(f"HTTP/1.1 {status} ".encode()), line
            headers = http.client.parse_headers(answers)
            answers.read(int(headers["Content-Length"]))


async def count_instructions(port: int, request: bytes, status: int = 200) -> Counter[str]:
    """Count by function what `_CALLS` of a call take. The least of some rounds: in one in which the machine stood still a timer
    has rung, or the container was frozen."""
    rounds = []
    await asyncio.to_thread(call, port, request, _CALLS, status)
    for _ in range(_ROUNDS):
        with Counting() as counting:
            await asyncio.to_thread(call, port, request, _CALLS, status)
        rounds.append(counting.by_function)
    return min(rounds, key=Counter.total)


def check_budget(counted: Counter[str], budget: int) -> None:
    each = counted.total() / _CALLS
    most = "\n".join(f"{count / _CALLS:8.1f}  {name}" for name, count in counted.most_common(40))
    assert each <= budget, f"{each:.0f} instructions a call, the budget is {budget}. The most:\n{most}"


async def test_a_warm_call_stays_within_its_instructions(tmp_path: Path):
    async with a_daemon(tmp_path) as (port, request):
        check_budget(await count_instructions(port, request), BUDGET)


@pytest.mark.parametrize(("status", "pool"), [(200, {}), (429, {"max_waiting_per_user": 0})])
@pytest.mark.parametrize("clients", [1, 8])
async def test_a_call_leaves_nothing_to_the_collector_of_garbage(tmp_path: Path, clients: int, status: int, pool: dict[str, int]):
    """What refers to itself in a circle stays until the collector has found it: milliseconds in the middle of some call."""
    async with a_daemon(tmp_path, **pool) as (port, request):
        await asyncio.to_thread(call, port, request, _CALLS, status)
        gc.collect()
        gc.disable()
        try:
            await asyncio.gather(*(asyncio.to_thread(call, port, request, 50, status) for _ in range(clients)))
            found = gc.collect()
        finally:
            gc.enable()
    assert found < 50 * clients, f"{found} objects of {50 * clients} calls"


async def test_a_refused_call_stays_within_its_instructions_and_leaves_nothing(tmp_path: Path):
    async with a_daemon(tmp_path, max_waiting_per_user=0) as (port, request):
        check_budget(await count_instructions(port, request, 429), REFUSAL_BUDGET)
    async with open_stores(Config(state_dir=tmp_path, node="n")) as stores:
        assert await stores.recorder.records.count("anna", skip=0) == 0
