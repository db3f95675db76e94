"""Who of those that wait gets which container: one of its own action, one that must grow first, then a stem cell.

Decides, by the machine's books; the longest waiting of a line is served first.
"""

from __future__ import annotations

from collections.abc import Callable

from pool.books import Books, Container
from pool.launcher import Launcher
from pool.model import ActivationId, ReuseKey
from pool.queueing import FairQueue, Line, Waiter
from pool.settings import PoolSettings


class Serving:
    """Brings lines and containers together."""

    def __init__(
        self,
        settings: Callable[[], PoolSettings],
        books: Books,
        queue: FairQueue,
        launcher: Launcher,
        grant: Callable[[ActivationId, Container], None],
    ) -> None:
        """Join the parts.

        Args:
            settings: as they are now.
            books: of the machine.
            queue: every activation that waits.
            launcher: knows what is coming, and who is at a cap.
            grant: hands out a container that can take one more lease.
        """
        self._settings = settings
        self._books = books
        self._queue = queue
        self._launcher = launcher
        self._grant = grant

    def serve(self, key: ReuseKey) -> None:
        """Give the line of `key` what is there: ready containers, those that must grow first, then stem cells."""
        digest = key.digest
        while line := self._queue.line(digest):
            ready = self._books.ready.get(digest)
            if ready:
                self.serve_one(line.oldest(), next(reversed(ready.values())))
                continue
            if self._grow_one(digest):
                continue
            stem = self._find_stem(key, line)
            if stem is None:
                return
            self._books.specialise(stem, key)
            self.serve_one(line.oldest(), stem)

    def _grow_one(self, digest: str) -> bool:
        """Reserve the whole limit again for a frozen container that holds less, the last used first, if there is room."""
        return any(self.grow(container) for container in reversed(list(self._books.shrunk.get(digest, {}).values())))

    def grow(self, container: Container) -> bool:
        """Reserve the whole limit for a container that may hold less. False, and no change, where there is no room for that."""
        if self._books.used_mib + container.missing_mib > self._settings().memory_mib:
            return False
        if container.missing_mib:
            self._books.hold(container, container.memory_mib)
        return True

    def _find_stem(self, key: ReuseKey, line: Line) -> Container | None:
        """Find a stem cell for a line that has not enough coming already, and is not at its cap."""
        stems = self._books.stems.get(key.spec.digest)
        if not stems or not self._launcher.may_have_stem(key):
            return None
        if sum(self._launcher.coming(key.digest)) * self._launcher.takes(key) >= len(line.waiters):
            return None
        return next((stem for stem in list(stems.values()) if self.grow(stem)), None)

    def serve_with(self, container: Container) -> None:
        """Give a container with code to its own line, as often as its concurrency allows."""
        key = container.key
        assert key is not None
        while self._books.can_take(container) and (line := self._queue.line(key.digest)):
            self.serve_one(line.oldest(), container)

    def serve_spec(self, container: Container) -> None:
        """Give a container without code to any activation that waits for its spec, the longest waiting first."""
        if not self._queue:
            return
        for waiter in self._queue.waiting_for(container.spec.digest):
            if self._launcher.may_have_stem(waiter.key) and self.grow(container):
                self._books.specialise(container, waiter.key)
                self.serve_one(waiter, container)
                return

    def serve_one(self, waiter: Waiter, container: Container) -> None:
        """Give a container that can take one more lease to one who waits."""
        self._queue.serve(waiter, self._launcher.cost_of(waiter.key))
        pace = self._launcher.pace_of(waiter.key)
        if pace.serving_since is not None:
            pace.waited_s += self._books.now - max(waiter.arrived, pace.serving_since)
        self._grant(waiter.activation, container)
