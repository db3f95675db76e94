"""A server of the few routes the demo uses. It runs the real examples natively, and can be told to be wrong."""

import asyncio
import base64
import json
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from aiohttp import web
from hitfinder import action as hit_finder

GRACE_S = 0.05
PRICE = Decimal("0.0000000170")


@dataclass(kw_only=True)
class FakeOpenWhisk:
    """Actions of two namespaces.

    Attributes:
        data: directory that namespace A sees at /data.
        run: runs a small example, `(name, arguments) -> result`.
        uids: of the two namespaces, by key.
        spoil: changes a record before it is sent.
        refusals: statuses to answer invocations with before the first is let through.
        slow: names of actions whose blocking calls are answered with 202.
    """

    data: str
    run: Callable[[str, Any], Awaitable[dict[str, Any]]]
    uids: dict[str, int] = field(default_factory=lambda: {"a:1": 2001, "b:2": 2002})
    spoil: Callable[[dict[str, Any]], None] = lambda _record: None
    refusals: list[int] = field(default_factory=list)
    slow: tuple[str, ...] = ()
    actions: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    last_end: dict[tuple[str, str], float] = field(default_factory=dict)
    records: dict[str, dict[str, Any]] = field(default_factory=dict)

    def app(self) -> web.Application:
        """The routes."""
        app = web.Application(client_max_size=50 * 2**20)
        app.router.add_put("/api/v1/namespaces/_/actions/{name}", self.put)
        app.router.add_post("/api/v1/namespaces/_/actions/{name}", self.invoke)
        app.router.add_get("/api/v1/namespaces/_/activations/{id}", self.get)
        return app

    def key(self, request: web.Request) -> str:
        key = base64.b64decode(request.headers["Authorization"].removeprefix("Basic ")).decode()
        if key not in self.uids:
            raise web.HTTPUnauthorized(text=json.dumps({"error": "The supplied authentication is invalid.", "code": "x"}))
        return key

    async def put(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        assert request.query["overwrite"] == "true"
        self.actions[self.key(request), name] = body = await request.json()
        self.last_end.pop((self.key(request), name), None)
        assert body["exec"]["code"]
        return web.json_response({"name": name, **body})

    async def get(self, request: web.Request) -> web.Response:
        record = self.records.get(request.match_info["id"])
        return web.json_response(record) if record else web.json_response({"error": "not there", "code": "x"}, status=404)

    async def invoke(self, request: web.Request) -> web.Response:
        if self.refusals:
            headers = {"Retry-After": "0"}
            return web.json_response({"error": "Too many", "code": "x"}, status=self.refusals.pop(0), headers=headers)
        key, name = self.key(request), request.match_info["name"]
        if (key, name) not in self.actions:
            return web.json_response({"error": "The requested resource does not exist.", "code": "x"}, status=404)
        assert request.query["blocking"] == "true"
        start_kind = self.start_kind(key, name)
        began = time.monotonic()
        result = await self.result_of(key, name, await request.json())
        record = self.record(name, start_kind, result, int((time.monotonic() - began) * 1e6))
        self.last_end[key, name] = time.monotonic()
        self.spoil(record)
        self.records[record["activationId"]] = record
        if name in self.slow:
            return web.json_response({"activationId": record["activationId"]}, status=202)
        return web.json_response(record, status=200 if record["response"]["success"] else 502)

    def start_kind(self, key: str, name: str) -> str:
        if (key, name) in self.last_end:
            return "warm" if time.monotonic() - self.last_end[key, name] < GRACE_S else "frozen"
        common = self.actions[key, name]["exec"]["kind"] == "python:3" and not self.actions[key, name]["limits"]
        return "stem" if common else "cold"

    async def result_of(self, key: str, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        if name == "whoami":
            mount = {"path": "/data", "visible": key == "a:1", "writable": False, "refusal": "Read-only file system"}
            uid = self.uids[key]
            return {
                "uid": uid,
                "gid": uid,
                "groups": [],
                "capabilities": "0000000000000000",
                "no_new_privileges": True,
                "mount": mount,
            }
        if str(arguments.get("path", "")).startswith("/data/"):
            arguments = {**arguments, "path": self.data + arguments["path"].removeprefix("/data")}
        if name == "hitfinder":
            return await asyncio.to_thread(hit_finder.main, {"data_root": self.data, **arguments})
        return await self.run(name, arguments)

    def record(self, name: str, start_kind: str, result: dict[str, Any], run_us: int) -> dict[str, Any]:
        ok = "error" not in result
        fresh = start_kind in ("cold", "stem")
        phases = dict.fromkeys(("authenticate", "authorise", "resolve", "queue", "pull", "thaw", "collect"), 10)
        annotations = {
            "path": f"a/{name}",
            "waitTime": 1,
            "startKind": start_kind,
            "phases": {**phases, "create": 50_000 if start_kind == "cold" else 0, "init": 3000 if fresh else 0, "run": run_us},
            "cpuTime": {"us": run_us, "quality": "exact", "throttledUs": 0},
            "memoryPeak": {"bytes": 40 * 2**20, "quality": "exact"},
            "cost": {"amount": f"{PRICE * run_us:f}", "currency": "EUR", "plan": "default@1"},
        }
        return {
            "name": name,
            "activationId": uuid.uuid4().hex,
            "duration": run_us // 1000,
            "response": {"status": "success" if ok else "application error", "success": ok, "result": result},
            "annotations": [{"key": key, "value": value} for key, value in annotations.items()],
        }
