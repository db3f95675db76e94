"""A small client of the OpenWhisk REST API, as much of it as the demo needs; works with any server of that API."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import aiohttp

#: How long to go on when the server says that it is full or the minute's quota is used up: a little over a minute.
PATIENCE_S = 75.0


class ApiError(Exception):
    """The server refused a request, or cannot be reached; the message is a sentence for the user."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One finished activation.

    Attributes:
        record: the activation record; numbers in its annotations are `Decimal` where they have a point.
        wall_us: from sending the request to having read the answer, microseconds, waits for a quota excluded.
    """

    record: Mapping[str, Any]
    wall_us: int

    @property
    def result(self) -> dict[str, Any]:
        """What the action returned; `{}` when the record has no object there."""
        result = self.record.get("response", {}).get("result")
        return result if isinstance(result, dict) else {}

    @property
    def success(self) -> bool:
        """Whether the action ended well."""
        return bool(self.record.get("response", {}).get("success"))

    @property
    def annotations(self) -> dict[str, Any]:
        """Annotations of the record by key."""
        return {entry["key"]: entry["value"] for entry in self.record.get("annotations", [])}


class OpenWhisk:
    """The API as one namespace sees it. Use within the life of `session`."""

    def __init__(self, session: aiohttp.ClientSession, apihost: str, auth: str) -> None:
        """Take the address and a key.

        Args:
            session: shared between clients; its connections are kept, so calls can follow each other at once.
            apihost: `host:port` or a URL; plain HTTP where no scheme is given.
            auth: `uuid:key`.

        Raises:
            ApiError: the key is no key.
        """
        user, colon, password = auth.strip().partition(":")
        if not (user and colon and password):
            raise ApiError("a key has the form uuid:key")
        self._session = session
        self._base = f"{apihost if '://' in apihost else f'http://{apihost}'}/api/v1/namespaces/_".replace("//api", "/api")
        self._headers = {"Authorization": f"Basic {base64.b64encode(auth.strip().encode()).decode()}"}

    async def put_action(self, name: str, execution: Mapping[str, Any], limits: Mapping[str, int] | None = None) -> None:
        """Create an action, or write over it.

        Raises:
            ApiError: with the server's own words.
        """
        body = {"exec": execution, "limits": limits or {}}
        status, text, _ = await self._request("PUT", f"/actions/{name}", {"overwrite": "true"}, body)
        if status != 200:
            raise ApiError(f"action {name} was not accepted ({status}): {_sentence(text)}")

    async def delete_action(self, name: str) -> None:
        """Delete an action; gone already is fine.

        Raises:
            ApiError: with the server's own words.
        """
        status, text, _ = await self._request("DELETE", f"/actions/{name}", {}, None)
        if status not in (200, 404):
            raise ApiError(f"action {name} was not deleted ({status}): {_sentence(text)}")

    async def invoke(self, name: str, arguments: Mapping[str, Any]) -> Call:
        """Call an action and wait for its end, whatever it is: an error of the action is a result, not an exception.

        A server that is full (503) or has given all of the minute's quota (429) is asked again for PATIENCE_S seconds.

        Raises:
            ApiError: there is no activation to report of.
        """
        deadline = time.monotonic() + PATIENCE_S
        while True:
            began = time.perf_counter_ns()
            status, text, headers = await self._request("POST", f"/actions/{name}", {"blocking": "true"}, arguments)
            wall_us = (time.perf_counter_ns() - began) // 1000
            if status not in (429, 503) or time.monotonic() > deadline:
                break
            await asyncio.sleep(min(float(headers.get("Retry-After", 1)), 10.0))
        record = _record(text)
        if status == 202:
            return Call(record=await self._wait_for(str(record.get("activationId", "")), name), wall_us=wall_us)
        if "activationId" not in record or "response" not in record:
            raise ApiError(f"action {name} was not run ({status}): {_sentence(text)}")
        return Call(record=record, wall_us=wall_us)

    async def _wait_for(self, activation_id: str, name: str) -> dict[str, Any]:
        """Ask for the record of an activation that outlived the blocking call until it is there."""
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            status, text, _ = await self._request("GET", f"/activations/{activation_id}", {}, None)
            if status == 200:
                return _record(text)
            await asyncio.sleep(0.5)
        raise ApiError(f"activation {activation_id} of {name} has no record after 5 minutes")

    async def _request(
        self, method: str, path: str, query: Mapping[str, str], body: Mapping[str, Any] | None
    ) -> tuple[int, str, Mapping[str, str]]:
        try:
            async with self._session.request(
                method, self._base + path, params=query, json=body, headers=self._headers
            ) as response:
                return response.status, await response.text(), response.headers
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ApiError(f"{method} {self._base}{path}: {error or type(error).__name__}") from error


def _record(text: str) -> dict[str, Any]:
    """Decode a record; `{}` when it is none. Annotations keep decimals as they were written: there is money in them."""
    try:
        record = json.loads(text)
        exact = json.loads(text, parse_float=Decimal)
    except ValueError:
        return {}
    if not isinstance(record, dict):
        return {}
    if "annotations" in exact:
        record["annotations"] = exact["annotations"]
    return record


def _sentence(text: str) -> str:
    """Take the sentence out of an error body; else the body's beginning."""
    error = _record(text).get("error")
    return error if isinstance(error, str) else text[:300] or "empty answer"
