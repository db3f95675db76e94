"""Activations that the daemon carries out itself."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from invoker_site import action, error_of, site

from invoker.activation import Status
from invoker.invocation import Accepted202
from invoker.manifest import BUILTIN
from invoker.model import Action, Exec, Identity, Parameter
from invoker.record.store import StoreBroken
from pool.errors import ActionError


def built_in() -> Action:
    return action("feed", exec=Exec(kind=BUILTIN), parameters=(Parameter(key="p", value=msgspec.Raw(b"1")),))


@pytest.mark.parametrize("blocking", [True, False])
async def test_what_the_daemon_does_itself_has_a_record_and_no_container(tmp_path: Path, blocking: bool):
    async with site(tmp_path) as s:

        async def echo_it(identity: Identity, arguments: msgspec.Raw) -> msgspec.Raw:
            return msgspec.Raw(msgspec.json.encode({"who": identity.namespace.name, "got": arguments}))

        s.builtins["anna/feed"] = echo_it
        await s.invoker.invoke(s.call(built_in(), blocking=blocking))
        await s.invoker.wait_idle()
        (done,) = s.finished
        assert msgspec.json.decode(done.result) == {"who": "anna", "got": {"p": 1, "x": 1}}
        assert (done.status, done.container, done.kind) == (Status.SUCCESS, None, "builtin")
        assert s.backend.containers == {}


async def test_what_the_daemon_refuses_to_do_is_an_application_error_and_what_it_cannot_is_its_own(tmp_path: Path):
    async with site(tmp_path) as s:
        errors = [ActionError("no such alarm"), StoreBroken("the disk")]

        async def fail(_identity: Identity, _arguments: msgspec.Raw) -> msgspec.Raw:
            raise errors.pop(0)

        s.builtins["anna/feed"] = fail
        done = await s.run(built_in())
        assert (done.status, error_of(done)) == (Status.APPLICATION_ERROR, "no such alarm")
        with pytest.raises(StoreBroken):
            await s.run(built_in())
        assert s.finished[1].status is Status.INTERNAL_ERROR
        del s.builtins["anna/feed"]
        assert "does not provide" in error_of(await s.run(built_in()))


async def test_cancelled_before_it_began_it_never_runs_and_while_it_runs_it_is_ended(tmp_path: Path):
    async with site(tmp_path) as s:
        running, ran = asyncio.Event(), []

        async def wait(_identity: Identity, arguments: msgspec.Raw) -> msgspec.Raw:
            running.set()
            await asyncio.Event().wait()
            ran.append(arguments)
            return arguments

        s.builtins["anna/feed"] = wait
        never = await s.invoker.invoke(s.call(built_in(), blocking=False))
        assert isinstance(never, Accepted202)
        assert s.invoker.cancel(never.activation_id) == "queued"
        await s.invoker.wait_idle()
        assert not running.is_set()
        ended = await s.invoker.invoke(s.call(built_in(), blocking=False))
        assert isinstance(ended, Accepted202)
        await running.wait()
        assert s.invoker.cancel(ended.activation_id) == "running"
        await s.invoker.wait_idle()
        assert [each.meter.outcome for each in s.finished] == ["cancelled", "cancelled"]
        assert ran == []
