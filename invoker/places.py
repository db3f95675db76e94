"""Places in the pool's queue: who may not even wait is refused before anything is made of the call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from invoker.composition import Resolve, first_of
from invoker.invocation import Call
from invoker.plan import Plan, Planner
from pool.errors import PoolOverloaded
from pool.pool import Pool


class Places:
    """Knows who was let in and does not wait yet, beside those that the pool knows."""

    def __init__(
        self, pool: Pool, planner: Planner, resolve: Resolve, on_refused: Callable[[Call, PoolOverloaded], None]
    ) -> None:
        """Begin with all places free.

        Args:
            pool: has the queue.
            planner: knows what an action needs.
            resolve: finds what a sequence runs first.
            on_refused: told of each call that finds no place; may not raise.
        """
        self._pool = pool
        self._planner = planner
        self._resolve = resolve
        self._on_refused = on_refused
        #: Reuse key's digest -> how many were let in and will wait for a container in a moment. No zeros.
        self._coming: dict[str, int] = {}

    def plan_first(self, call: Call) -> Plan | None:
        """Find the plan of what a call runs first; None while it is not known.

        A sequence is taken or refused as its first part would be. Those after it are never refused: what has begun ends.
        """
        action = first_of(self._resolve, call.identity, call.action)
        return None if action is None else self._planner.find(call.identity.namespace, action)

    def check_first(self, call: Call) -> None:
        """As `check`, of what a call runs first, where no container stands ready for it."""
        plan = self.plan_first(call)
        if plan is not None and not self._pool.is_ready(plan.key):
            self.check(call, plan)

    def check(self, call: Call, plan: Plan) -> None:
        """Refuse what may not even wait. What a container waits for may in any case.

        Raises:
            PoolOverloaded: it may not; nothing was done.
        """
        if call.origin is not None and call.blocking:
            return
        refusal = self._pool.refusal(plan.key, coming=self._coming.get(plan.key.digest, 0))
        if refusal is not None:
            self._on_refused(call, refusal)
            try:
                raise refusal
            finally:
                del refusal  # its traceback holds this frame: a circle, of which overload would make thousands

    def has_coming(self, plan: Plan) -> bool:
        """Whether one was let in that will want such a container in a moment."""
        return plan.key.digest in self._coming

    @contextmanager
    def keep(self, plan: Plan | None) -> Iterator[None]:
        """Keep the place of one that was let in and will wait in a moment, so that those after it do not find it free."""
        if plan is None:
            yield
            return
        coming, digest = self._coming, plan.key.digest
        coming[digest] = coming.get(digest, 0) + 1
        try:
            yield
        finally:
            coming[digest] -= 1
            if not coming[digest]:
                del coming[digest]
