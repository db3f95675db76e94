"""Counters of the running daemon: plain attributes, updated in place.

All updates come from the event loop's thread, so nothing is locked, and one costs less than 0.3 us; the clients of
`prometheus_client`'s own counters pay 2 us for `labels().inc()`. `exposition.py` copies them for a scrape.
"""

from __future__ import annotations

import itertools
import operator
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from metrics.catalogue import BOUNDS_US, OTHER, PHASES, STATUSES
from pool.books import Container
from pool.model import ContainerState, StartKind

Entry = TypeVar("Entry")

_INIT = PHASES.index("init")
_RUN = PHASES.index("run")
#: Observations that are counted together: about 0.1 ms of work.
_AT_ONCE = 256


class Histogram:
    """Counts of durations between fixed bounds. A duration is only noted; it is counted with others, which costs a fifth."""

    __slots__ = ("_counts", "_noted", "_sum_us")

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS_US) + 1)
        self._sum_us = 0
        #: Observed and not counted yet.
        self._noted: list[int] = []

    def observe(self, duration_us: int) -> None:
        """Count one duration, microseconds."""
        self._noted.append(duration_us)
        if len(self._noted) >= _AT_ONCE:
            self._count()

    def observe_all(self, durations_us: Iterable[int]) -> None:
        """Count several."""
        self._noted.extend(durations_us)
        self._count()

    @property
    def counts(self) -> list[int]:
        """One per bound of `BOUNDS_US`, not cumulative, and one for all above."""
        self._count()
        return self._counts

    @property
    def sum_us(self) -> int:
        """Sum of all durations."""
        self._count()
        return self._sum_us

    def _count(self) -> None:
        if self._noted:
            self._sum_us += sum(self._noted)
            for place, count in Counter(map(bisect_left, itertools.repeat(BOUNDS_US), self._noted)).items():
                self._counts[place] += count
            self._noted.clear()


class NamespaceCounters:
    """What one namespace used."""

    __slots__ = ("billed_mib_us", "billed_us", "by_status", "cpu_us", "frozen_us", "idle_mib_us", "throttled", "warm_us")

    def __init__(self) -> None:
        #: Activations; the index is the status code.
        self.by_status = [0] * len(STATUSES)
        self.cpu_us = 0
        self.billed_us = 0
        self.billed_mib_us = 0
        #: Of idle containers: for how long they ran, stood still, and the memory they held times that.
        self.warm_us = self.frozen_us = self.idle_mib_us = 0
        #: By reason.
        self.throttled: dict[str, int] = {}


class ActionCounters:
    """What became of one action's activations."""

    __slots__ = ("activations", "billed_us", "errors")

    def __init__(self) -> None:
        self.activations = 0
        self.errors = 0
        self.billed_us = 0


class _Tally:
    """Activations alike in namespace, action, start kind, outcome and status, since they were last settled."""

    __slots__ = ("billed_mib_us", "billed_us", "cpu_us", "oom_kills", "phases_us")

    def __init__(self) -> None:
        self.cpu_us = 0
        self.billed_us = 0
        self.billed_mib_us = 0
        self.oom_kills = 0
        #: Of each.
        self.phases_us: list[Sequence[int]] = []


class TransitionCounters:
    """How often containers went from one state to another, and how long they had been in the first."""

    __slots__ = ("count", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelCaps:
    """How many values of a label are told apart; the others are summed under `_other`.

    The caps bound a scrape to 300 KB whatever users do. Names may be long, hence the bound on characters.

    Attributes:
        actions, namespaces: values of these labels.
        action_characters, namespace_characters: sum of the lengths of those values.
    """

    actions: int = 500
    action_characters: int = 15_000
    namespaces: int = 100
    namespace_characters: int = 3_000


class Capped(Generic[Entry]):
    """Entries by label value: first come, first served, up to a cap; all later values share one entry.

    First come and not busiest: a counter that changes its label would count backwards.
    """

    __slots__ = ("_characters_left", "_make", "_max_entries", "dropped", "entries")

    def __init__(self, make: Callable[[], Entry], max_entries: int, max_characters: int) -> None:
        self._make = make
        self._max_entries = max_entries
        self._characters_left = max_characters
        self.entries: dict[str, Entry] = {}
        #: Updates that went to `_other`.
        self.dropped = 0

    def __getitem__(self, value: str) -> Entry:
        """Return the entry of a label value, a new one or that of `_other` where it has none, for one update."""
        return self.entry(value, updates=1)

    def entry(self, value: str, *, updates: int) -> Entry:
        """Return the same for several updates."""
        entry = self.entries.get(value)
        return self._admit(value, updates) if entry is None else entry

    def forget(self, value: str) -> None:
        """Drop the entry of a value that no longer exists, so that another may have its place."""
        if value != OTHER and self.entries.pop(value, None) is not None:
            self._characters_left += len(value)

    def _admit(self, value: str, updates: int) -> Entry:
        # `OTHER` itself takes no place: it holds what has none.
        taken = len(self.entries) - (OTHER in self.entries)
        if taken < self._max_entries and len(value) <= self._characters_left:
            self._characters_left -= len(value)
        else:
            self.dropped += updates
            value = OTHER
        return self.entries.setdefault(value, self._make())


class Observer:
    """Told of everything that is counted. No method waits or raises; all are called from the loop's thread.

    Activations are tallied by their kind and settled in bulk: call `settle` before counters are read.
    """

    def __init__(self, caps: LabelCaps | None = None) -> None:
        caps = caps or LabelCaps()
        #: By (start kind or `none`, status, outcome).
        self.activations: dict[tuple[str, str, str], int] = {}
        #: By (namespace, action, start kind, outcome, status): what `settle` has not counted yet.
        self._tallies: dict[tuple[str, str, StartKind | None, str, int], _Tally] = {}
        self.phases = tuple(Histogram() for _ in PHASES)
        self.durations: dict[StartKind | None, Histogram] = {start: Histogram() for start in (*StartKind, None)}
        self.overheads: dict[StartKind | None, Histogram] = {start: Histogram() for start in (*StartKind, None)}
        self.oom_kills = 0
        self.namespaces = Capped(NamespaceCounters, caps.namespaces, caps.namespace_characters)
        #: By the action's whole path, `namespace/[package/]name`.
        self.actions = Capped(ActionCounters, caps.actions, caps.action_characters)
        self.transitions: dict[tuple[ContainerState | None, ContainerState | None], TransitionCounters] = {}
        #: By the runtime's kind.
        self.container_starts = Capped(Histogram, 32, 1_000)
        self.repairs = 0
        self.freeze_failures = 0
        self.tail_us = 0
        #: CPU time of all activations until their replies, microseconds.
        self.cpu_us = 0
        #: By reason.
        self.refusals: dict[str, int] = {}
        #: By (operation, result).
        self.engine_calls: dict[tuple[str, str], int] = {}
        #: By operation.
        self.engine_seconds: dict[str, Histogram] = {}
        self.journal_writes = Histogram()
        self.log_lines_dropped = 0
        self.log_lines_late = 0
        self.loop_lags = Histogram()

    def activation_finished(
        self,
        *,
        namespace: str,
        action: str,
        start: StartKind | None,
        outcome: str,
        status: int,
        phases_us: Sequence[int],
        cpu_us: int,
        billed_us: int,
        memory_limit_mib: int,
        oom_kills: int = 0,
    ) -> None:
        """Count one activation, whatever its end.

        Args:
            namespace: that is billed.
            action: whole path, `namespace/[package/]name`.
            start: None when no container was ever held.
            outcome: stable reason from the catalogue of outcomes, a small set.
            status: `statusCode`, 0 to 3.
            phases_us: durations in the order of `catalogue.PHASES`, microseconds; 0 is a phase it did not have.
            cpu_us: CPU time, microseconds.
            billed_us: init plus run, microseconds.
            memory_limit_mib: declared.
            oom_kills: processes that the kernel killed for memory.
        """
        key = (namespace, action, start, outcome, status)
        tally = self._tallies.get(key)
        if tally is None:
            tally = self._tallies[key] = _Tally()
        tally.cpu_us += cpu_us
        tally.billed_us += billed_us
        tally.billed_mib_us += billed_us * memory_limit_mib
        tally.oom_kills += oom_kills
        tally.phases_us.append(phases_us)
        if len(tally.phases_us) >= _AT_ONCE or len(self._tallies) > _AT_ONCE:
            self.settle()

    def settle(self) -> None:
        """Count what was tallied."""
        tallies, self._tallies = self._tallies, {}
        for (namespace, action, start, outcome, status), tally in tallies.items():
            count = len(tally.phases_us)
            key = ("none" if start is None else start.value, STATUSES[status], outcome)
            self.activations[key] = self.activations.get(key, 0) + count
            self.oom_kills += tally.oom_kills
            self.cpu_us += tally.cpu_us

            used = self.namespaces.entry(namespace, updates=count)
            used.by_status[status] += count
            used.cpu_us += tally.cpu_us
            used.billed_us += tally.billed_us
            used.billed_mib_us += tally.billed_mib_us

            counted = self.actions.entry(action, updates=count)
            counted.activations += count
            counted.billed_us += tally.billed_us
            counted.errors += count if status else 0

            for histogram, durations_us in zip(self.phases, zip(*tally.phases_us, strict=True), strict=True):
                histogram.observe_all(filter(None, durations_us))
            totals = list(map(sum, tally.phases_us))
            self.durations[start].observe_all(totals)
            inside = (phases[_INIT] + phases[_RUN] for phases in tally.phases_us)
            self.overheads[start].observe_all(map(operator.sub, totals, inside))

    def throttled(self, namespace: str, reason: str) -> None:
        """Count a request refused by a limit of its namespace."""
        reasons = self.namespaces[namespace].throttled
        reasons[reason] = reasons.get(reason, 0) + 1

    def refused(self, reason: str) -> None:
        """Count a request refused because of the node's own state: full, stopping, disk, engine."""
        self.refusals[reason] = self.refusals.get(reason, 0) + 1

    def container_moved(
        self, container: Container, before: ContainerState | None, after: ContainerState | None, seconds_in_before: float
    ) -> None:
        """Count a container's change of state, and its start; has the shape of `PoolHooks.transition`."""
        entry = self.transitions.get((before, after)) or self._new_transition(before, after)
        entry.count += 1
        entry.seconds += seconds_in_before
        if before is ContainerState.STARTING and after not in {ContainerState.REMOVING, None}:
            self.container_started(container.spec.kind, seconds_in_before)

    def transition(self, before: ContainerState | None, after: ContainerState | None, seconds_in_before: float) -> None:
        """Count a change of state; None is before its creation, and after its end."""
        entry = self.transitions.get((before, after)) or self._new_transition(before, after)
        entry.count += 1
        entry.seconds += seconds_in_before

    def _new_transition(self, before: ContainerState | None, after: ContainerState | None) -> TransitionCounters:
        entry = self.transitions[before, after] = TransitionCounters()
        return entry

    def container_started(self, kind: str, seconds: float) -> None:
        """Count a container that was created and started for a runtime of this kind."""
        self.container_starts[kind].observe(round(seconds * 1e6))

    def repaired(self) -> None:
        """Count a container that the kernel had frozen while a call was in flight, and that was thawed."""
        self.repairs += 1

    def freeze_failed(self) -> None:
        """Count a container that the kernel would not freeze."""
        self.freeze_failures += 1

    def tail(self, cpu_us: int) -> None:
        """Count CPU time that a container used after the reply of its activation, microseconds."""
        self.tail_us += cpu_us

    @property
    def booked_cpu_us(self) -> int:
        """CPU time that some activation pays, microseconds."""
        self.settle()
        return self.cpu_us + self.tail_us

    def idle(self, namespace: str, warm_us: int, frozen_us: int, memory_mib_us: int) -> None:
        """Count what idle containers of a namespace have held: microseconds, and MiB-microseconds."""
        used = self.namespaces[namespace]
        used.warm_us += warm_us
        used.frozen_us += frozen_us
        used.idle_mib_us += memory_mib_us

    def engine_call(self, operation: str, result: str, seconds: float) -> None:
        """Count a request to the engine. `result` is `ok` or the code of an error."""
        key = (operation, result)
        self.engine_calls[key] = self.engine_calls.get(key, 0) + 1
        histogram = self.engine_seconds.get(operation)
        if histogram is None:
            histogram = self.engine_seconds[operation] = Histogram()
        histogram.observe(round(seconds * 1e6))

    def journal_write(self, seconds: float) -> None:
        """Count one record appended to the journal."""
        self.journal_writes.observe(round(seconds * 1e6))

    def log_lines(self, dropped: int = 0, late: int = 0) -> None:
        """Count log lines that were lost, or came after their activation was recorded."""
        self.log_lines_dropped += dropped
        self.log_lines_late += late

    def loop_lag(self, seconds: float) -> None:
        """Count how much later than asked a timer ran."""
        self.loop_lags.observe(round(seconds * 1e6))

    def forget_action(self, action: str) -> None:
        """Stop exposing a deleted action, by its whole path."""
        self.settle()
        self.actions.forget(action)

    def forget_namespace(self, namespace: str) -> None:
        """Stop exposing a deleted namespace."""
        self.settle()
        self.namespaces.forget(namespace)
