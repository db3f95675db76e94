"""When to look at which resting container again: one heap, at most one entry a container."""

from __future__ import annotations

import heapq
import itertools

from pool.model import ContainerId

#: Entries of containers that are gone are swept out once there are this many more than live ones.
STALE = 64

#: A timer may fire a hair early, s.
EARLY_S = 1e-6


class Expiries:
    """Looks that are planned.

    A container that rests again while a look at it is planned keeps that earlier look, which finds that it is too early and
    plans the next: so a busy container costs the heap nothing, however often it rests.
    """

    def __init__(self) -> None:
        """Plan nothing."""
        self._heap: list[tuple[float, int, ContainerId]] = []
        self._planned: dict[ContainerId, int] = {}
        self._numbers = itertools.count()

    def __contains__(self, container: object) -> bool:
        return container in self._planned

    def plan(self, container: ContainerId, at: float) -> None:
        """Look at it at this time. A look that was planned before is forgotten."""
        number = self._planned[container] = next(self._numbers)
        heapq.heappush(self._heap, (at, number, container))
        if len(self._heap) > 2 * len(self._planned) + STALE:
            self._heap = [entry for entry in self._heap if self._planned.get(entry[2]) == entry[1]]
            heapq.heapify(self._heap)

    def forget(self, container: ContainerId) -> None:
        """It is gone."""
        self._planned.pop(container, None)

    def soonest(self) -> float | None:
        """When the next look is due; None when none is planned."""
        heap = self._heap
        while heap and self._planned.get(heap[0][2]) != heap[0][1]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def due(self, now: float) -> list[ContainerId]:
        """Take out those that are to be looked at by now."""
        found = []
        while (at := self.soonest()) is not None and at <= now:
            container = heapq.heappop(self._heap)[2]
            del self._planned[container]
            found.append(container)
        return found
