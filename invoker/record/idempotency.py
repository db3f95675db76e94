"""Idempotency keys that count: each for `IDEMPOTENCY_MS` from its call on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

from invoker.record.activations import IDEMPOTENCY_MS
from invoker.record.rows import IdempotencyRow


class IdempotencyKeys:
    """In memory, of all namespaces."""

    def __init__(self, restored: Iterable[IdempotencyRow], wall_ms: Callable[[], int]) -> None:
        """Begin with those of an earlier daemon.

        Args:
            restored: oldest first.
            wall_ms: wall clock, milliseconds.
        """
        self._wall_ms = wall_ms
        #: By namespace, path of the action and key. Oldest first.
        self._rows = {(row.namespace, row.action, row.key): row for row in restored}

    def add(self, row: IdempotencyRow) -> None:
        """Let a key count from now on. For each that is added at most two whose time is over are forgotten."""
        before = self._wall_ms() - IDEMPOTENCY_MS
        for key in list(itertools.islice(self._rows, 2)):
            if self._rows[key].accepted_ms <= before:
                del self._rows[key]
        self._rows[row.namespace, row.action, row.key] = row

    def take_back(self, row: IdempotencyRow) -> None:
        """Its call was not promised: the key does not count."""
        key = (row.namespace, row.action, row.key)
        if self._rows.get(key) is row:
            del self._rows[key]

    def find(self, namespace: str, path: str, key: str) -> IdempotencyRow | None:
        """Find the first call with this key; None when there is none, or its time is over."""
        row = self._rows.get((namespace, path, key))
        return None if row is None or row.accepted_ms + IDEMPOTENCY_MS <= self._wall_ms() else row
