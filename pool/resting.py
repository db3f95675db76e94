"""What becomes of containers that nobody uses: frozen once their grace is over, removed once they have rested long enough.

Decides; the machine, at each tick, has it carried out.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from pool.books import Books, Container
from pool.expiries import EARLY_S
from pool.grace import grace_s
from pool.launcher import Launcher
from pool.model import ContainerId
from pool.settings import PoolSettings


class Resting:
    """Knows when to look at which container again, by the machine's books."""

    def __init__(
        self,
        settings: Callable[[], PoolSettings],
        books: Books,
        launcher: Launcher,
        *,
        freeze: Callable[[Container], None],
        remove: Callable[[Container], None],
    ) -> None:
        """Join the parts.

        Args:
            settings: as they are now.
            books: of the machine.
            launcher: knows how often actions are called, and which stem cells are wanted.
            freeze: has a container in WARM frozen; changes the books at once.
            remove: has a container removed, likewise.
        """
        self._settings = settings
        self._books = books
        self._launcher = launcher
        self._freeze = freeze
        self._remove = remove

    def next_look(self) -> float | None:
        """When to look again, seconds of the pool's clock; None when nothing is planned."""
        books, settings = self._books, self._settings()
        looks = [books.lingers.soonest(), books.expiries.soonest()]
        if books.warm and settings.freezing:
            looks.append(next(iter(books.warm.values())).since + settings.freeze_grace_s)
        return min((due for due in looks if due is not None), default=None)

    def look(self) -> None:
        """Freeze and remove what is due."""
        settings = self._settings()
        if settings.freezing:
            for container in self._due(self._books.warm, settings.freeze_grace_s):
                self._freeze_unless_expected(container)
        for container_id in self._books.lingers.due(self._books.now + EARLY_S):
            if settings.freezing and (lingering := self._books.lingering.get(container_id)) is not None:
                self._freeze_unless_expected(lingering)
        for container_id in self._books.expiries.due(self._books.now + EARLY_S):
            container = self._books.containers[container_id]
            if container_id in self._books.resting:
                self._expire(container)

    def keep_s(self, container: Container) -> float:
        """For how long a container may rest from now on, or until it is looked at again, s."""
        settings = self._settings()
        if container.key is not None:
            return min(settings.policy.keep_s(self._launcher.idle(container)), settings.keep_alive_s)
        target = self._launcher.stems.get(container.spec.digest)
        reactive = target.reactive if target else None
        return min(reactive.ttl_s, settings.stem_keep_s) if reactive else settings.stem_keep_s

    def _expire(self, container: Container) -> None:
        """Remove a container that has rested for as long as it may; else plan the next look at it."""
        now, keep_s = self._books.now, self.keep_s(container)
        if container.since + keep_s > now + EARLY_S:
            self._books.expiries.plan(container.container_id, container.since + keep_s)
        elif container.key is not None or self._is_surplus(container):
            self._remove(container)
        else:
            self._books.expiries.plan(container.container_id, now + keep_s)

    def _is_surplus(self, stem: Container) -> bool:
        """Whether there are more stem cells like this one than wanted: its user was not active, or demand has gone."""
        digest, now = stem.spec.digest, self._books.now
        target = self._launcher.stems.get(digest)
        if target is None or now - target.asked_at >= self._settings().stem_keep_s - EARLY_S:
            self._launcher.stems.drop(digest)
            return True
        return len(self._books.stems.get(digest, ())) > target.wanted(now)

    def _freeze_unless_expected(self, container: Container) -> None:
        """Freeze a container whose grace is over, unless its action is usually called again within a while that is not."""
        settings, key = self._settings(), container.key
        pace = self._launcher.find_pace(key.digest) if key is not None else None
        grace = grace_s(pace.habits if pace else None, least_s=settings.freeze_grace_s, most_s=settings.freeze_grace_most_s)
        until = container.since + grace
        if until > self._books.now + EARLY_S:
            self._books.linger(container, until)
        else:
            self._freeze(container)

    def _due(self, ordered: dict[ContainerId, Container], after_s: float) -> list[Container]:
        """Take from the front of a dictionary ordered by `since` those whose time is up."""
        limit = self._books.now - after_s + EARLY_S
        return list(itertools.takewhile(lambda container: container.since <= limit, ordered.values()))
