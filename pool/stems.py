"""How many stem cells of which spec: a standing number, and more while they are wanted. No clock, no I/O.

A *stem cell* runs, has served one empty request, has no code and is frozen. It may become any action with an equal spec, which
includes the user: so they are kept for each user who was active of late, and only in memory that nobody wants.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pool.model import ContainerSpec, Reactive

#: Uses are counted in windows of this length; the last two count, s. OpenWhisk: one minute.
WINDOW_S = 60.0


@dataclass(slots=True, eq=False)
class StemTarget:
    """How many stem cells of one spec are wanted.

    Attributes:
        spec: what they are made from.
        count: the standing number.
        reactive: how the number follows demand; None: it does not.
        asked_at: when somebody last used one, or an action was deployed that could.
    """

    spec: ContainerSpec
    count: int
    reactive: Reactive | None
    asked_at: float
    _window_began: float = field(default=float("-inf"))
    _uses: int = 0
    _uses_before: int = 0

    def note_use(self, now: float) -> None:
        """An activation took a stem cell, or would have."""
        self._turn(now)
        self._uses += 1
        self.asked_at = now

    def wanted(self, now: float) -> int:
        """How many there should be.

        Without `reactive` always the standing number. With it that number at first, and after `ttl_s` without a use the least; in
        between `increment` for each `threshold` uses of the last one to two windows, at most the most.

        Source: OpenWhisk, reactive prewarming (`ContainerPool.increasePrewarms`, `stemCells` of its runtimes manifest).
        """
        reactive = self.reactive
        if reactive is None:
            return self.count
        self._turn(now)
        by_demand = (self._uses + self._uses_before) // reactive.threshold * reactive.increment
        standing = self.count if now - self.asked_at < reactive.ttl_s else reactive.least
        return min(max(by_demand, standing, reactive.least), max(reactive.most, self.count))

    def _turn(self, now: float) -> None:
        if now - self._window_began >= WINDOW_S:
            recent = now - self._window_began < 2 * WINDOW_S
            self._uses_before, self._uses = (self._uses if recent else 0), 0
            self._window_began = now


class StemTargets:
    """The wanted numbers of all specs."""

    def __init__(self) -> None:
        """Want nothing."""
        self._targets: dict[str, StemTarget] = {}
        #: Specs' digests of which there may be fewer than wanted.
        self.short: set[str] = set()

    def get(self, digest: str) -> StemTarget | None:
        """Return the target of a spec."""
        return self._targets.get(digest)

    def want(self, spec: ContainerSpec, count: int, reactive: Reactive | None, now: float) -> None:
        """Keep `count` from now on; `count` is at least 1."""
        known = self._targets.get(spec.digest)
        if known is None:
            self._targets[spec.digest] = StemTarget(spec, count, reactive, now)
        else:
            known.count, known.reactive, known.asked_at = count, reactive, now
        self.short.add(spec.digest)

    def drop(self, digest: str) -> bool:
        """Want none any more; tell whether some were wanted."""
        self.short.discard(digest)
        return self._targets.pop(digest, None) is not None

    def note_use(self, digest: str, now: float) -> None:
        """A container of this spec got its code: one that was a stem cell, or might have been."""
        target = self._targets.get(digest)
        if target is not None:
            target.note_use(now)
            self.short.add(digest)

    def clear(self) -> None:
        """Want nothing at all."""
        self._targets.clear()
        self.short.clear()
