"""Images that actions brought: which are here, when each was last used, and which go when the engine's disk is nearly full.

Only names under which this daemon has pulled an image are ever taken from it, and the image goes with its last name: never the
runtimes', never what somebody else keeps in the engine, also under another name, never one that a container is made from. What is
removed is pulled again when it is wanted.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from invoker.health import Check
from pool.backend import ContainerBackend
from pool.disk import ADVICE, Room
from pool.errors import InvokerError

log = logging.getLogger(__name__)

#: Room on the engine's disk, in units of what new containers need: below the first images go, until the second.
LOW_WATER, HIGH_WATER = 2.0, 3.0
#: An image that was used within this time stays, s.
KEEP_S = 3600.0


class Pulled(msgspec.Struct):
    """An image that an action brought.

    Attributes:
        references: as actions write it.
        used_ms: wall clock of its last use that was seen.
    """

    references: list[str]
    used_ms: int


class ImageShelf:
    """The pulled images of this node. Its file survives a restart; without it, nothing is removed."""

    def __init__(
        self,
        file: Path,
        *,
        backend: ContainerBackend,
        room: Callable[[], Room | None],
        in_use: Callable[[], Iterable[str]],
        on_removed: Callable[[], None],
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        """Read what is known.

        Args:
            file: JSON, written anew as a whole.
            backend: removes.
            room: on the engine's disk; None where that is not of this machine.
            in_use: ids of images that must stay: of containers, and of the runtimes.
            on_removed: an image is gone; whoever remembers it must forget it.
            wall_s: wall clock.
        """
        self._file = file
        self._backend = backend
        self._room = room
        self._in_use = in_use
        self._on_removed = on_removed
        self._wall_s = wall_s
        #: Image id -> what is known of it.
        self._pulled: dict[str, Pulled] = {}
        try:
            self._pulled = msgspec.json.decode(file.read_bytes(), type=dict[str, Pulled])
        except FileNotFoundError:
            pass
        except (OSError, msgspec.MsgspecError) as error:
            log.warning("%s cannot be read, so no image of an earlier daemon is ever removed: %s", file, error)

    def pulled(self, reference: str, image_id: str) -> None:
        """An image has just come. A hook of the backend."""
        known = self._pulled.get(image_id)
        references = {reference, *(known.references if known else ())}
        self._pulled[image_id] = Pulled(sorted(references), self._now_ms())
        self._write()

    def check(self) -> Check:
        """Tell whether the engine's disk has room for new containers, for `/health`."""
        room = self._room()
        shortage = room.shortage() if room is not None else ""
        if not shortage:
            return Check(name="engine-disk", ok=True)
        detail = f"the container engine's disk has {shortage}: no new containers and images, warm ones go on; {ADVICE}"
        return Check(name="engine-disk", ok=False, detail=detail)

    async def sweep(self) -> int:
        """Note what is in use; where the disk is nearly full remove what was not used for longest. Return how many went.

        Never raises: an engine that refuses keeps its images.
        """
        used = set(self._in_use())
        now_ms = self._now_ms()
        for image_id in used & self._pulled.keys():
            self._pulled[image_id].used_ms = now_ms
        room = self._room()
        if room is None or not room.is_below(LOW_WATER):
            return 0
        removed = 0
        for image_id, image in sorted(self._pulled.items(), key=lambda item: item[1].used_ms):
            if image_id in used or now_ms - image.used_ms < KEEP_S * 1000:
                continue
            names = ", ".join(image.references)
            try:
                for reference in image.references:
                    await self._backend.remove_image(image_id, reference)
            except InvokerError as error:
                log.warning("image %s (%s) stays: %s", names, image_id, error)
                continue
            removed += 1
            del self._pulled[image_id]
            self._on_removed()
            idle_h = (now_ms - image.used_ms) / 3_600_000
            log.info("image %s was not used for %.1f h and is removed: the engine's disk is nearly full", names, idle_h)
            room = self._room()
            if room is None or not room.is_below(HIGH_WATER):
                break
        if removed:
            self._write()
        return removed

    def _now_ms(self) -> int:
        return int(self._wall_s() * 1000)

    def _write(self) -> None:
        """Write the file; a full disk costs the knowledge of an image, not a call."""
        partial = self._file.with_suffix(".new")
        try:
            partial.write_bytes(msgspec.json.encode(self._pulled))
            partial.replace(self._file)
        except OSError as error:
            log.warning("%s cannot be written: %s", self._file, error)
