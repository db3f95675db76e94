"""An invoker on the real pool, planner, recorder and journal; only the engine is a fake."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from invoker.activation import Activation
from invoker.code import CodeStore
from invoker.config.model import Config, LimitsConfig, StemCellConfig
from invoker.config.model import PoolConfig as PoolBranch
from invoker.errors import EntityNotFound
from invoker.invocation import Call
from invoker.invoke import Invoker
from invoker.manifest import Manifest
from invoker.model import Action, Exec, Identity, Namespace
from invoker.plan import Planner
from invoker.record.code_files import CodeFiles
from invoker.record.recorder import Recorder
from invoker.resolve import ResolvedAction
from invoker.vault import KEY_BYTES, Vault
from pool.fake import FakeBackend
from pool.machine import PoolSettings
from pool.pool import Pool
from pool.table import ContainerTable

ANNA = Namespace(name="anna", uuid="u", key_hash="", uid=2001, gid=2001, created_ms=0)


def action(path: str = "hello", **changes: Any) -> Action:
    values: dict[str, Any] = {
        "namespace": "anna",
        "path": path,
        "revision": f"r-{path}",
        "updated": 0,
        "exec": Exec(kind="python:3", code="c"),
    }
    return Action(**(values | changes))


def a_call(an_action: Action | None = None, payload: bytes = b'{"x":1}', **changes: Any) -> Call:
    values: dict[str, Any] = {
        "identity": Identity(namespace=ANNA, api_key="u:k"),
        "action": an_action or action(),
        "payload": msgspec.Raw(payload),
        "payload_bytes": len(payload),
        "transaction": "t",
        "blocking": True,
        "wait_s": 10.0,
        "received": time.monotonic(),
        "authenticate_us": 3,
        "authorise_us": 2,
    }
    return Call(**(values | changes))


#: Opens what tests seal for the action.
VAULT = Vault(b"k" * KEY_BYTES)


class AnyCode(CodeFiles):
    """Has code for every digest."""

    async def read(self, digest: str) -> str:
        return "def main(args): return args"


class Site:
    """An invoker and its parts."""

    def __init__(
        self, group: asyncio.TaskGroup, recorder: Recorder, table: ContainerTable, tmp_path: Path, **settings: Any
    ) -> None:
        self.backend = FakeBackend()
        #: What sequences and compositions find, by full path.
        self.actions: dict[str, Action] = {}
        #: What the daemon carries out itself, by full path.
        self.builtins: dict[str, Any] = {}
        self.recorder = recorder
        self.finished: list[Activation] = []
        self.throttled: list[tuple[str, str]] = []
        self.config = Config(
            state_dir=tmp_path,
            limits=LimitsConfig(result_bytes=2000),
            pool=PoolBranch(memory_mib=2048, max_wait_s=5.0, stem_cells=StemCellConfig(enabled=False)),
        )
        self.pool = Pool(self.backend, PoolSettings(**{"memory_mib": 2048, **settings}), node="n", group=group, table=table)
        self.code = CodeStore(tmp_path / "unpacked", lambda _digest: b"")
        self.planner = Planner(config=lambda: self.config, manifest=Manifest.load(), backend=self.backend, code=self.code)
        self.invoker = Invoker(
            pool=self.pool,
            planner=self.planner,
            recorder=recorder,
            code=AnyCode(tmp_path / "code"),
            vault=VAULT,
            group=group,
            node="n",
            max_wait_s=lambda: self.config.pool.max_wait_s,
            result_bytes=lambda: self.config.limits.result_bytes,
            on_finished=self.finished.append,
            on_throttled=lambda namespace, reason: self.throttled.append((namespace, reason)),
            resolve=self.resolve,
            builtins=self.builtins,
        )

    def resolve(self, identity: Identity, path: str) -> ResolvedAction:
        if path not in self.actions:
            raise EntityNotFound
        return ResolvedAction(self.actions[path])

    def call(self, an_action: Action | None = None, payload: bytes = b'{"x":1}', **changes: Any) -> Call:
        return a_call(an_action, payload, **changes)

    async def run(self, *args: Any, **changes: Any) -> Activation:
        done = await self.invoker.invoke(self.call(*args, **changes))
        assert isinstance(done, Activation)
        return done


@asynccontextmanager
async def site(tmp_path: Path, **settings: Any) -> AsyncIterator[Site]:
    """Run an invoker; at its end every activation has exactly one finished record."""
    table = ContainerTable.open(tmp_path / "containers.table", "boot")
    recorder = await Recorder.open(tmp_path, node="n")
    the_site: Site | None = None
    try:
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            the_site = Site(group, recorder, table, tmp_path, **settings)
            yield the_site
            the_site.invoker.refuse()
            await the_site.invoker.wait_idle()
            await the_site.pool.close()
        ids = [each.activation_id for each in the_site.finished]
        assert len(ids) == len(set(ids)), "an activation was recorded twice"
        namespaces = {"anna", *(each.namespace for each in the_site.finished)}
        assert sum([await recorder.records.count(name, skip=0) for name in namespaces]) == len(ids)
    finally:
        if the_site is not None:
            the_site.backend.bury_all()
            await the_site.backend.close()
            the_site.code.close()
        await recorder.close()
        table.close()


async def until(holds: Callable[[], bool]) -> None:
    """Wait for what other tasks of this loop bring about."""
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0)


def error_of(activation: Activation) -> str:
    assert activation.result is not None
    return str(msgspec.json.decode(activation.result)["error"])
