"""Activations that ended with the daemon that ran them: what is known of each, and the record that becomes of it.

Each gets one record, its outcome `lost`. What is part of a sequence or composition names it as its cause; the whole, which is
lost with what ran in it, names its parts, and comes after them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from graphlib import TopologicalSorter

import msgspec

from invoker.activation import Accepted, Activation, Composition, Meter, Status
from invoker.manifest import SEQUENCE
from invoker.model import Limits
from invoker.plan import Facts
from pool.model import ActivationId

#: What its callers are told.
SENTENCE = "The daemon was stopped while the action ran: lost, may have run."


class Lost(msgspec.Struct, frozen=True, kw_only=True):
    """One activation that had begun and never ended.

    Attributes:
        facts: of its action, as far as they are known.
        start_ms: wall clock of its beginning.
        stored: None or true for a record; false where the namespace keeps none, and only the ledger has it.
        cause, transaction, binding: as of the record.
        composed: it was the whole of a sequence or composition.
        status, reason, sentence: by whose fault it ended, its outcome, and the error in its result.
    """

    activation_id: ActivationId
    facts: Facts
    start_ms: int
    stored: bool | None = None
    cause: str | None = None
    transaction: str = ""
    binding: str | None = None
    composed: bool = False
    status: Status = Status.INTERNAL_ERROR
    reason: str = "lost"
    sentence: str = SENTENCE

    def with_promise(self, accepted: Accepted) -> Lost:
        """Add what the journal knows of it to what the container table does."""
        return msgspec.structs.replace(
            self, cause=accepted.cause, transaction=accepted.transaction, binding=accepted.binding, composed=accepted.composed
        )

    def record(self, parts: Sequence[Activation], *, node: str) -> Activation:
        """Make its record. It costs nothing.

        Args:
            parts: of a whole: what it ran itself, in order; they bear what it cost.
            node: of this daemon.
        """
        facts = self.facts
        composition, kind, memory, end_ms = None, facts.kind, facts.memory, self.start_ms
        meter = Meter(memory_limit_mib=facts.memory, outcome=self.reason)
        if self.composed:
            composition = Composition(
                parts=tuple(each.activation_id for each in parts),
                duration_ms=sum(each.duration_ms for each in parts),
                is_conductor=facts.kind != SEQUENCE,
                is_topmost=self.cause is None,
            )
            kind, meter = SEQUENCE, Meter(outcome=self.reason)
            memory = max((each.limits.memory for each in parts), default=0)
            end_ms = max((each.end_ms for each in parts), default=end_ms)
        return Activation(
            activation_id=self.activation_id,
            node=node,
            namespace=facts.namespace,
            subject=facts.namespace,
            path=facts.path,
            version=facts.version,
            kind=kind,
            limits=Limits(timeout=facts.timeout, memory=memory, logs=facts.logs, concurrency=facts.concurrency),
            start_ms=self.start_ms,
            end_ms=max(self.start_ms, end_ms),
            status=self.status,
            result=msgspec.Raw(msgspec.json.encode({"error": self.sentence})),
            cause=self.cause,
            transaction=self.transaction,
            binding=self.binding,
            composition=composition,
            meter=meter,
        )


def parts_first(lost: Iterable[Lost]) -> list[Lost]:
    """Put them in an order in which every whole comes after what was lost inside it."""
    by_id = {each.activation_id: each for each in lost}
    order: TopologicalSorter[ActivationId] = TopologicalSorter(dict.fromkeys(by_id, ()))
    for each in by_id.values():
        if each.cause is not None and (cause := ActivationId(each.cause)) in by_id:
            order.add(cause, each.activation_id)
    return [by_id[each] for each in order.static_order()]
