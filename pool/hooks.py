"""What the pool tells whoever wants to know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pool.books import Observer
from pool.door import Serve
from pool.model import ActivationId, ContainerId


@dataclass(slots=True)
class PoolHooks:
    """Whom the pool tells what. None may raise.

    Attributes:
        transition: each change of a container's state.
        tail: CPU microseconds used after the reply of an activation: (activation, container id, microseconds).
        late_lines: log lines that came after their activation was over.
        dropped_lines: log lines that a runtime could not write, because the pipe was full.
        repaired: a container was found frozen with a call in flight, and thawed.
        freeze_failed: the kernel would not freeze a container.
        lived: a container was `created` or `removed`: (container id, namespace, path of its action or empty, which, CPU
            microseconds it has used).
        serve: gets each connection that a container makes to the API; None opens no doors.
    """

    transition: Observer | None = None
    tail: Callable[[ActivationId, ContainerId, int], None] | None = None
    late_lines: Callable[[int], None] | None = None
    dropped_lines: Callable[[int], None] | None = None
    repaired: Callable[[ContainerId], None] | None = None
    freeze_failed: Callable[[], None] | None = None
    lived: Callable[[ContainerId, str, str, str, int], None] | None = None
    serve: Serve | None = None
