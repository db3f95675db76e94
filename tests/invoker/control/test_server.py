import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from invoker.control import messages
from invoker.control.fake import FakeControl
from invoker.control.server import serve_control


@pytest.fixture
def control() -> FakeControl:
    return FakeControl()


@pytest.fixture
async def session(control: FakeControl, tmp_path: Path) -> AsyncIterator[aiohttp.ClientSession]:
    path = tmp_path / "control.sock"
    async with (
        serve_control(control, path),
        aiohttp.ClientSession("http://localhost", connector=aiohttp.UnixConnector(str(path))) as session,
    ):
        yield session


async def ask(session: aiohttp.ClientSession, method: str, path: str, **options: Any) -> tuple[int, Any]:
    async with session.request(method, path, **options) as response:
        return response.status, await response.json()


ALICE = {"name": "alice", "uid": 4711, "gid": 4712, "groups": [20], "mounts": ["data"]}


async def test_a_namespace_is_created_listed_given_a_new_key_and_deleted(
    session: aiohttp.ClientSession, control: FakeControl
) -> None:
    status, created = await ask(session, "POST", messages.NAMESPACES, json=ALICE)
    assert (status, created) == (201, {"key": control.keys["alice"]})
    _, listed = await ask(session, "GET", messages.NAMESPACES)
    assert listed == {"namespaces": [{**ALICE, "created_ms": 0, "blocked": False}]}
    _, rotated = await ask(session, "POST", "/v1/namespaces/alice/key")
    assert rotated["key"] == control.keys["alice"] != created["key"]
    assert await ask(session, "DELETE", "/v1/namespaces/alice") == (200, {})
    assert control.namespaces == {}


async def test_refusals_have_a_status_a_sentence_and_a_stable_code(session: aiohttp.ClientSession) -> None:
    await ask(session, "POST", messages.NAMESPACES, json=ALICE)
    again = await ask(session, "POST", messages.NAMESPACES, json=ALICE)
    assert again == (409, {"error": "Namespace alice already exists.", "code": "already-exists"})
    absent = await ask(session, "DELETE", "/v1/namespaces/bob")
    assert absent == (404, {"error": "Namespace bob does not exist.", "code": "not-found"})
    status, body = await ask(session, "POST", messages.NAMESPACES, json={"name": "bob", "uid": "x", "gid": 1})
    assert (status, body["code"]) == (400, "malformed-content")
    assert "$.uid" in body["error"]
    assert (await ask(session, "GET", "/v1/nowhere"))[1]["code"] == "no-route"
    assert (await ask(session, "PUT", messages.POOL))[0] == 405


async def test_the_pool_is_told_with_its_memory(session: aiohttp.ClientSession, control: FakeControl) -> None:
    row = messages.PoolRow(
        container="invokerd-n-1", action="alice/a", namespace="alice", uid=4711, state="frozen", age_s=1.5, memory_mib=256
    )
    control.rows.append(row)
    _, body = await ask(session, "GET", messages.POOL)
    assert body["containers"] == [messages.to_builtins(row)]
    assert (body["memory_used_mib"], body["memory_budget_mib"]) == (256, 4096)


async def test_usage_is_asked_for_the_span_and_namespace_given(session: aiohttp.ClientSession, control: FakeControl) -> None:
    await ask(session, "GET", messages.USAGE)
    await ask(session, "GET", messages.USAGE + "?since_ms=5&until_ms=9&namespace=alice")
    assert control.asked == [(None, 0, 2**63 - 1), ("alice", 5, 9)]
    status, body = await ask(session, "GET", messages.USAGE + "?since_ms=yesterday")
    assert (status, body["code"]) == (400, "malformed-query")


async def test_usage_by_action_and_bills_reach_the_daemon(session: aiohttp.ClientSession, control: FakeControl) -> None:
    row = messages.UsageRow(
        namespace="a", activations=1, failed=0, billed_us=1, cpu_us=1, memory_byte_us=1, cost="0", currency="EUR", action="a/b"
    )
    control.usages = [row]
    assert (await ask(session, "GET", messages.USAGE))[1]["rows"] == []
    assert (await ask(session, "GET", messages.USAGE + "?by=action"))[1]["rows"] == [messages.to_builtins(row)]
    status, body = await ask(session, "GET", messages.path_to(messages.BILL, month="2026-11"))
    assert (status, body["month"], body["complete"]) == (200, "2026-11", False)


async def test_drain_and_cancel_reach_the_daemon(session: aiohttp.ClientSession, control: FakeControl) -> None:
    control.activations["a" * 32] = ("alice", "running")
    assert await ask(session, "POST", f"/v1/activations/{'a' * 32}/cancel") == (
        200,
        {"activation_id": "a" * 32, "was": "running"},
    )
    assert (await ask(session, "POST", f"/v1/activations/{'a' * 32}/cancel"))[0] == 404
    control.running = 3
    assert await ask(session, "POST", messages.DRAIN) == (200, {"running": 2})
    assert control.draining


async def test_the_socket_is_the_owners_alone_and_is_gone_afterwards(tmp_path: Path, control: FakeControl) -> None:
    path = tmp_path / "control.sock"
    path.write_text("left by a daemon that was killed")
    async with serve_control(control, path):
        assert stat.S_ISSOCK(path.stat().st_mode)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()
