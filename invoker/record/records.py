"""What readers find: records, results, log lines, sums of the ledger; also what the writer has not committed yet."""

from __future__ import annotations

import builtins
from pathlib import Path

import msgspec

from invoker.activation import Activation
from invoker.cpu_window import CpuUse
from invoker.record.activations import ActivationReader
from invoker.record.cpu_used import read_cpu_used
from invoker.record.intake import Intake
from invoker.record.ledger import Rounding, UsageRow, read_usage
from invoker.record.uncommitted import Uncommitted
from pool.model import ActivationId


class Records:
    """The reading side of a recorder, which knows its own writes: a record is found in memory, a list waits for the commit."""

    def __init__(self, ledger: Path, reader: ActivationReader, intake: Intake, uncommitted: Uncommitted) -> None:
        """Join the parts; their owner closes them.

        Args:
            ledger: directory of the months.
            reader: of the activation database.
            intake: knows what is committed.
            uncommitted: what is not.
        """
        self._ledger = ledger
        self._reader = reader
        self._intake = intake
        self._uncommitted = uncommitted

    async def get(self, namespace: str, activation_id: ActivationId) -> Activation | None:
        """Find a record; None as long as it waits for its logs."""
        if self._uncommitted.is_hidden(activation_id):
            return None
        entry = self._uncommitted.records.get(activation_id)
        if entry is None:
            return await self._reader.get(namespace, activation_id)
        if entry.activation.namespace != namespace:
            return None
        if entry.result is None:
            return entry.activation
        return msgspec.structs.replace(entry.activation, result=msgspec.Raw(entry.result.encode()))

    async def get_logs(self, namespace: str, activation_id: ActivationId) -> builtins.list[str] | None:
        """Find the log lines of a record, None when there is no such record (yet)."""
        if self._uncommitted.is_hidden(activation_id):
            return None
        entry = self._uncommitted.records.get(activation_id)
        if entry is not None:
            return None if entry.activation.namespace != namespace else list(self._uncommitted.lines_of(entry))
        found = await self._reader.get_logs(namespace, activation_id)
        # The record may be committed while its lines are still on their way.
        return list(self._uncommitted.lines.get(activation_id, found)) if found is not None else None

    async def list(
        self,
        namespace: str,
        *,
        name: str | None = None,
        since_ms: int | None = None,
        upto_ms: int | None = None,
        limit: int = 30,
        skip: int = 0,
    ) -> builtins.list[Activation]:
        """List records of a namespace, latest start first.

        Args:
            namespace: the caller's.
            name: `name` or `package/name` of the action, exactly; None or empty is all.
            since_ms: earliest start, inclusive.
            upto_ms: latest start, inclusive.
            limit: at most so many.
            skip: after leaving out so many.
        """
        await self._intake.wait_committed()
        return await self._reader.list(
            namespace, name=name, since_ms=since_ms, upto_ms=upto_ms, limit=limit, skip=skip, hidden=self._uncommitted.hidden()
        )

    async def count(
        self,
        namespace: str,
        *,
        name: str | None = None,
        since_ms: int | None = None,
        upto_ms: int | None = None,
        skip: int = 0,
    ) -> int:
        """Count what `list` would list without limit, after `skip` of them."""
        await self._intake.wait_committed()
        found = await self._reader.count(
            namespace, name=name, since_ms=since_ms, upto_ms=upto_ms, hidden=self._uncommitted.hidden()
        )
        return max(found - skip, 0)

    async def parts_of(self, namespace: str, cause: ActivationId, *, since_ms: int) -> builtins.list[Activation]:
        """List the records that name `cause` as theirs, in the order they ran.

        Args:
            namespace: the caller's.
            cause: the whole of a sequence or composition.
            since_ms: wall clock; no part began before it.
        """
        await self._intake.wait_committed()
        return await self._reader.parts_of(namespace, cause, since_ms)

    async def usage(
        self, *, namespace: str | None = None, since_ms: int, upto_ms: int, rounding: Rounding | None = None
    ) -> builtins.list[UsageRow]:
        """Sum the ledger over `since_ms <= start < upto_ms` by namespace and action.

        Args:
            namespace: None is all.
            since_ms: wall clock.
            upto_ms: wall clock, exclusive.
            rounding: of the price plan that is to be applied; see `rating.Plan.rounding`.
        """
        await self._intake.wait_committed()
        return await read_usage(
            self._ledger,
            namespace=namespace,
            since_ms=since_ms,
            upto_ms=upto_ms,
            rounding=rounding or Rounding(),
        )

    async def cpu_used(self, *, since_ms: int, upto_ms: int, step_ms: int, longest_ms: int) -> builtins.list[CpuUse]:
        """Sum the CPU time of what ended within a span; see `read_cpu_used`."""
        await self._intake.wait_committed()
        return await read_cpu_used(self._ledger, since_ms=since_ms, upto_ms=upto_ms, step_ms=step_ms, longest_ms=longest_ms)
