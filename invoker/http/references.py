"""Names of other entities inside bodies: `/namespace/[package/]name`. Pure."""

from __future__ import annotations

from typing import NamedTuple

from invoker.errors import MalformedContent
from invoker.http.parsing import check_name, check_namespace


class Reference(NamedTuple):
    """An entity that another one names; whether it exists is another question.

    Attributes:
        namespace: `_` is resolved.
        path: `[package/]name`.
    """

    namespace: str
    path: str

    @property
    def full_path(self) -> str:
        """`namespace/[package/]name`, no leading slash."""
        return f"{self.namespace}/{self.path}"

    @classmethod
    def parse(cls, text: str, *, own: str) -> Reference:
        """Read a reference; the leading slash may be missing.

        Args:
            text: as the client wrote it.
            own: the namespace that `_` means.

        Raises:
            MalformedContent: not two or three segments.
            InvalidName: a segment that no name could be.
        """
        segments = text.strip().removeprefix("/").split("/")
        if not 2 <= len(segments) <= 3:
            raise MalformedContent.because(
                f"'{text}' is not a fully qualified entity name: it must contain at least the namespace and the name of the "
                "entity, /namespace/[package/]name"
            )
        namespace, *names = segments
        for name in names:
            check_name(name)
        return cls(own if namespace == "_" else check_namespace(namespace), "/".join(names))

    @classmethod
    def of_path(cls, full_path: str) -> Reference:
        """Split a full path, as entities store it."""
        namespace, _, path = full_path.partition("/")
        return cls(namespace, path)
