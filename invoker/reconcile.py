"""A look at the engine, now and then and when something hints at it: what differs between engine, kernel and books is mended.

Events are hints only, and so is what the engine says: whether a process runs, the kernel knows. A sick engine costs calls nothing
that do not need it; it is asked again until it answers, and what it left behind meanwhile is then removed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from invoker.health import Check
from pool.backend import ContainerBackend, FoundContainer
from pool.books import EVICTABLE
from pool.errors import InvokerError
from pool.model import ContainerState
from pool.pool import Pool

log = logging.getLogger(__name__)

RECONCILE_EVERY_S = 60.0
#: While the engine does not answer it is looked at more often.
RECONCILE_SICK_S = 5.0
#: Looks come no closer to each other than this, however many hints there are.
RECONCILE_PAUSE_S = 0.5
FROZEN = frozenset({ContainerState.FROZEN, ContainerState.STEM_FROZEN})


class Reconciler:
    """Keeps engine, kernel and books together. Its loop is run by the daemon's group."""

    def __init__(
        self,
        *,
        pool: Pool,
        backend: ContainerBackend,
        sick: Callable[[], Sequence[str]],
        then: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        """Know nothing yet.

        Args:
            pool: the books.
            backend: asked what there is.
            sick: classes of calls to which the engine has not answered lately.
            then: what else is to be done after each look at an engine that answers.
        """
        self._pool = pool
        self._backend = backend
        self._sick = sick
        self._then = then
        self._seen = Check(name="engine", ok=True)
        self._nudged = asyncio.Event()

    @property
    def engine_up(self) -> bool:
        """Whether the engine answered when last asked."""
        return self._seen.ok

    def check(self) -> Check:
        """Tell how the engine is."""
        sick = self._sick()
        if not self._seen.ok or not sick:
            return self._seen
        detail = f"the engine does not answer in time ({', '.join(sick)}); warm calls go on, new containers may be refused"
        return Check(name="engine", ok=False, detail=detail)

    def nudge(self) -> None:
        """Something may have changed: look soon."""
        self._nudged.set()

    async def loop(self) -> None:
        """Look again and again. Never returns."""
        while True:
            try:
                async with asyncio.timeout(RECONCILE_EVERY_S if self.check().ok else RECONCILE_SICK_S):
                    await self._nudged.wait()
            except TimeoutError:
                pass
            self._nudged.clear()
            await self.reconcile()
            if self._then is not None and self._seen.ok:
                await self._then()
            await asyncio.sleep(RECONCILE_PAUSE_S)

    async def reconcile(self) -> None:
        """Compare engine, kernel and books once: `daemon-reload` may have thawed what stood still, or somebody removed it."""
        try:
            found = await self._backend.list_containers()
        except InvokerError as error:
            if self._seen.ok:
                log.warning("engine: %s", error)
            detail = f"{error}; warm calls go on, new containers cannot be started"
            self._seen = Check(name="engine", ok=False, detail=detail)
            return
        if not self._seen.ok:
            log.info("engine: it answers again")
        self._seen = Check(name="engine", ok=True, detail=f"{len(found)} containers")
        known = {container.container_id: container for container in self._pool.containers()}
        await self._remove_orphans([container for container in found if container.container_id not in known])
        there = {container.container_id for container in found if container.running}
        for container_id, ours in known.items():
            if ours.state in EVICTABLE and container_id not in there:
                self._pool.gone(container_id)
            elif ours.state in FROZEN:
                self._pool.refreeze(container_id)

    async def _remove_orphans(self, orphans: Sequence[FoundContainer]) -> None:
        for container in orphans:
            log.info("%s is nobody's and is removed", container.container_id)
            try:
                await self._backend.remove(container.container_id, None)
            except InvokerError as error:
                log.warning("%s could not be removed: %s", container.container_id, error)
