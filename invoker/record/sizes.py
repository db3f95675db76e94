"""How many bytes of the activation store each namespace has, without asking the database: to sum a million rows holds up commits.

It is read once and then counted up with what is written. What is deleted for its age is not counted down, nor what was
written twice: so it is never too little, and who seems to have too much is asked of the database before anything is done.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from invoker.record.rows import bytes_of


class Stored(Protocol):
    """A row of a namespace."""

    @property
    def namespace(self) -> str:
        """Whose it is."""

    @property
    def text(self) -> str:
        """What is stored of it."""


class Sizes:
    """Upper bounds of what the namespaces have, by table."""

    def __init__(self) -> None:
        """Know nothing yet."""
        #: Table -> namespace -> bytes, or more. Only tables that were learnt.
        self._bytes: dict[str, dict[str, int]] = {}

    def knows(self, table: str) -> bool:
        """Whether a table was learnt."""
        return table in self._bytes

    def learn(self, table: str, sizes: Iterable[tuple[str, int]]) -> None:
        """Begin with what a table holds by namespace, bytes."""
        self._bytes[table] = dict(sizes)

    def add(self, table: str, rows: Sequence[Stored]) -> None:
        """Count what was written; nothing of a table that was not learnt."""
        sizes = self._bytes.get(table)
        if sizes is None:
            return
        for row in rows:
            sizes[row.namespace] = sizes.get(row.namespace, 0) + bytes_of(row.text)

    def over(self, table: str, bound: int) -> dict[str, int]:
        """Give the namespaces that may have more than `bound` bytes in a table, and how many."""
        return {namespace: size for namespace, size in self._bytes[table].items() if size > bound}

    def correct(self, table: str, namespace: str, size: int) -> None:
        """Take what the database says that a namespace has, bytes."""
        self._bytes[table][namespace] = size
