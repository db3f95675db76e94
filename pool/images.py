"""The images of the container engine: what is behind a reference; pulls, shared by who waits for one, one a user at a time.

An image is always used by its immutable id; a reference is only ever a way to find it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
from collections.abc import Callable, Mapping
from weakref import WeakValueDictionary

import msgspec

from pool import recipe
from pool.backend import Image
from pool.disk import refuse_on_full_disk
from pool.engine import EngineClient, EngineRefused
from pool.errors import EngineError, ImageNotFound
from pool.guard import CallClass
from pool.model import LogTransport

#: A reference as the engine's grammar has it, near enough to keep `..`, `?` and `#` out of our URLs.
_REFERENCE = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._:/@-]{0,511}")

#: What is pulled, and with whose credentials: only pulls that agree in both may be shared.
_PullKey = tuple[str, frozenset[tuple[str, str]]]


class _ImageConfig(msgspec.Struct):
    labels: dict[str, str] | None = msgspec.field(name="Labels", default=None)


class _InspectedImage(msgspec.Struct):
    image_id: str = msgspec.field(name="Id")
    config: _ImageConfig | None = msgspec.field(name="Config", default=None)


class EngineImages:
    """Finds, pulls and removes images of one engine.

    Attributes:
        on_pulled: told of each image that was pulled: reference and id. May not raise.
    """

    def __init__(self, engine: EngineClient, *, root_dir: Callable[[], str]) -> None:
        """Ask nothing yet.

        Args:
            engine: the door to it.
            root_dir: the engine's own directory, whose disk a pull may not fill; empty while it is not known.
        """
        self._engine = engine
        self._root_dir = root_dir
        #: All and only the pulls under way; the result is whether it came to an end by itself.
        self._pulls: dict[_PullKey, asyncio.Future[bool]] = {}
        #: One pull at a time for each user: who wants many images does not hold up those who want one.
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.on_pulled: Callable[[str, str], None] | None = None

    async def resolve(self, reference: str, *, pull: bool, credentials: Mapping[str, str] | None = None, user: str = "") -> Image:
        """Find the image behind a reference. See `ContainerBackend.resolve_image`."""
        if not _REFERENCE.fullmatch(reference):
            raise ImageNotFound(f"{reference!r} is not an image reference")
        if not pull:
            return await self._inspect(reference)
        key = (reference, frozenset((credentials or {}).items()))
        image = await self._find_or_join(key)
        if image is not None:
            return image
        turn = self._turns.setdefault(user, asyncio.Lock())
        async with turn:
            image = await self._find_or_join(key)  # it may have come while others had their turn
            if image is None:
                refuse_on_full_disk(self._root_dir())
                await self._lead_pull(key, reference, credentials)
                image = await self._inspect(reference)
                if self.on_pulled is not None:
                    self.on_pulled(reference, image.image_id)
            return image

    async def _find_or_join(self, key: _PullKey) -> Image | None:
        """Find an image that is here, or comes by somebody's pull; None where it is to be pulled."""
        while True:
            with contextlib.suppress(ImageNotFound):
                return await self._inspect(key[0])
            flight = self._pulls.get(key)
            if flight is None:
                return None
            # wait() and not await: our cancellation must not end the pull for the others. Was its leader
            # cancelled, the loop makes one of those who wait the next leader.
            await asyncio.wait({flight})
            if not flight.cancelled() and (error := flight.exception()) is not None:
                raise ImageNotFound(str(error)) from error

    async def remove(self, image_id: str, reference: str) -> None:
        """Take a name from an image. See `ContainerBackend.remove_image`."""
        with contextlib.suppress(ImageNotFound):
            if (await self._inspect(reference)).image_id != image_id:
                return
        try:
            # Not by force, which would take the image from somebody's stopped containers, nor by its id, which takes all names.
            await self._engine.command("remove_image", CallClass.REMOVE, "DELETE", f"images/{reference}")
        except EngineRefused as error:
            if error.status != 404:
                raise

    async def _inspect(self, reference: str) -> Image:
        try:
            found = await self._engine.request("image", CallClass.READ, "GET", f"images/{reference}/json", _InspectedImage)
        except EngineRefused as error:
            if error.status == 404:
                raise ImageNotFound(f"{reference} is not on this node") from error
            raise
        labels = (found.config.labels if found.config else None) or {}
        speaks_pipe = labels.get(recipe.LABEL_PROTOCOL) == "pipe"
        keep_alive_s = 1.0
        with contextlib.suppress(ValueError):
            keep_alive_s = float(labels.get(recipe.LABEL_KEEP_ALIVE, 1.0))
        return Image(
            image_id=found.image_id,
            logs=LogTransport.PIPE if speaks_pipe else LogTransport.ATTACHED,
            server_keep_alive_s=keep_alive_s,
            concurrent=labels.get(recipe.LABEL_CONCURRENT) == "true",
        )

    async def _lead_pull(self, key: _PullKey, reference: str, credentials: Mapping[str, str] | None) -> None:
        """Pull for all who wait; they hear how it ended, or, when we are cancelled, that one of them must lead."""
        flight: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._pulls[key] = flight
        try:
            await self._pull(reference, credentials)
            flight.set_result(True)
        except (EngineError, ImageNotFound) as error:
            flight.set_exception(error)
            raise
        finally:
            del self._pulls[key]
            if flight.done() and not flight.cancelled():
                flight.exception()  # looked at: nobody else may be waiting
            flight.cancel()

    async def _pull(self, reference: str, credentials: Mapping[str, str] | None) -> None:
        name, tag = split_reference(reference)
        auth = base64.urlsafe_b64encode(json.dumps(dict(credentials or {})).encode()).decode()
        await self._engine.pull(reference, {"fromImage": name, "tag": tag}, auth)


def split_reference(reference: str) -> tuple[str, str]:
    """Split an image reference into name and tag (or digest); `latest` where it names none."""
    name, at, digest = reference.partition("@")
    if at:
        return name, digest
    head, colon, tag = name.rpartition(":")
    return (head, tag) if colon and "/" not in tag else (name, "latest")
