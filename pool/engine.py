"""The doors to the container engine: one request, one endless answer, one pull; each through the guard.

The only importer of aiodocker. Errors of aiodocker and aiohttp become ours in `translated`, and nowhere else.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any, TypeVar

import aiodocker
import aiohttp
import msgspec

from pool.errors import EngineError, EngineUnavailable, ImageNotFound
from pool.guard import CallClass, Guard

log = logging.getLogger(__name__)

#: An endless answer: an event stream, a container's output, the progress of a pull.
Stream = aiohttp.ClientResponse

T = TypeVar("T")


class EngineRefused(EngineError):
    """The container engine answered with an error."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        #: HTTP status.
        self.status = status


class EngineClient:
    """Sends requests to one engine.

    Attributes:
        guard: the bounds around them.
    """

    def __init__(self, url: str, guard: Guard) -> None:
        """Connect to nothing yet. Raises EngineError for a URL that is no local engine's."""
        self.guard = guard
        self._docker = _client(url)

    def speak(self, api_version: str) -> None:
        """Use this version of the API from now on, `v1.41`."""
        self._docker.api_version = api_version

    async def close(self) -> None:
        """End every connection."""
        await self._docker.close()
        await self._docker.connector.close()

    async def request(
        self,
        verb: str,
        kind: CallClass,
        method: str,
        path: str,
        answer_type: type[T],
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        versioned: bool = True,
    ) -> T:
        """Send one request; decode and check its answer. Raises as `command`."""
        answer = await self.command(verb, kind, method, path, params=params, body=body, versioned=versioned)
        with translated(verb):
            return msgspec.json.decode(answer, type=answer_type)

    async def command(
        self,
        verb: str,
        kind: CallClass,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        versioned: bool = True,
    ) -> bytes:
        """Send one request; return its answer as it is.

        Every command may be repeated, for it goes by the container's name or id: so one whose connection broke without an answer
        (the engine restarts) is sent once more.

        Raises:
            EngineRefused: it answered with an error.
            EngineUnavailable: it did not answer.
            EngineError: its answer makes no sense.
        """
        data = None if body is None else msgspec.json.encode(body)
        async with self.guard.call(verb, kind):
            with translated(verb):
                try:
                    return await self._ask(path, method, params, data, versioned=versioned)
                except (aiodocker.DockerError, aiohttp.ClientError) as error:
                    if not _broke_without_answer(error):
                        raise
                    log.info("the engine closed the connection without an answer, once more: %s", verb)
                return await self._ask(path, method, params, data, versioned=versioned)

    async def _ask(
        self, path: str, method: str, params: Mapping[str, str] | None, data: bytes | None, *, versioned: bool
    ) -> bytes:
        query = self._docker._do_query  # noqa: SLF001 -- the typed helpers lack options
        async with await query(path, method, params=params, data=data, versioned_api=versioned) as response:
            return await response.read()

    async def open_stream(self, verb: str, method: str, path: str, params: Mapping[str, str]) -> Stream:
        """Send one request whose answer goes on for ever; only its beginning has a deadline. Raises as `command`."""
        async with self.guard.call(verb, CallClass.READ):
            with translated(verb):
                return await self._docker._do_query(path, method, params=params)  # noqa: SLF001 -- as above

    async def pull(self, reference: str, params: Mapping[str, str], registry_auth: str) -> None:
        """Pull an image; the whole of it has one deadline.

        Raises:
            ImageNotFound: the registry does not give it, or not in time.
            EngineUnavailable, EngineError: as `command`.
        """
        try:
            async with self.guard.call("pull", CallClass.PULL):
                with translated("pull"):
                    response = await self._docker._do_query(  # noqa: SLF001 -- the typed helper cannot be bounded
                        "images/create", "POST", params=params, headers={"X-Registry-Auth": registry_auth}
                    )
                async with contextlib.aclosing(read_json_lines(response, "pull")) as lines:
                    async for progress in lines:
                        if "error" in progress:
                            raise ImageNotFound(f"{reference} cannot be pulled: {progress['error']}")
        except EngineRefused as error:
            raise ImageNotFound(f"{reference} cannot be pulled: {error}") from error


def _client(url: str) -> aiodocker.Docker:
    """Make a client whose connections only the guard bounds; the default connector stops at 100.

    No connection is kept: the engine closes idle ones when it likes, and a request on one that it just closed would fail.
    A new one on the local socket costs 0.1 ms, and each request here costs milliseconds at least.
    """
    scheme, _, rest = url.partition("://")
    connector: aiohttp.BaseConnector
    if scheme == "unix":
        connector = aiohttp.UnixConnector(rest, limit=0, force_close=True)
        return aiodocker.Docker("unix://localhost", connector=connector, api_version="v1.40")
    if scheme in ("tcp", "http"):
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        return aiodocker.Docker(f"http://{rest}", connector=connector, api_version="v1.40")
    raise EngineError(f"engine url {url!r}: only unix:// and tcp:// are spoken")


async def read_json_lines(response: Stream, verb: str) -> AsyncGenerator[dict[str, Any], None]:
    """Decode a stream of JSON objects, one a line; close it at the end, whoever ends it."""
    try:
        with translated(verb):
            async for line in response.content:
                yield json.loads(line)
    finally:
        response.close()


@contextlib.contextmanager
def translated(verb: str) -> Iterator[None]:
    """Turn foreign exceptions into ours."""
    try:
        yield
    except aiodocker.DockerError as error:
        if error.status == 900:  # aiodocker's number for: no connection
            raise EngineUnavailable(f"the container engine does not answer ({verb}): {error.message}") from error
        raise EngineRefused(f"{verb}: {error.message}", error.status) from error
    except (aiohttp.ClientError, ConnectionError) as error:
        raise EngineUnavailable(f"the connection to the container engine broke ({verb}): {error!r}") from error
    except (ValueError, LookupError) as error:
        raise EngineError(f"{verb}: the engine's answer makes no sense: {error}") from error


def _broke_without_answer(error: Exception) -> bool:
    """Tell a connection that the engine took and closed, silent, from one it refused and from an answer that is an error."""
    cause = error.__context__ if isinstance(error, aiodocker.DockerError) else error
    silent = isinstance(cause, (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError))
    return silent and not isinstance(cause, aiohttp.ClientConnectorError)
