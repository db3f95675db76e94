"""How often and how much at once a namespace may invoke, and whether it has CPU time left. No I/O.

`Admission.counts` and `restore` let a restart of the daemon within a minute forget nothing: see `minute.py`.

A minute is a minute of the wall clock: the count begins again at its boundary, as in OpenWhisk. What is in flight is not
counted here but asked of the invoker, so that nothing can be forgotten to be given back.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec

from invoker.config.model import LimitsConfig
from invoker.cpu_window import CpuWindows
from invoker.errors import Throttled
from invoker.model import Namespace

_MINUTE_S = 60
_SECOND_US = 1_000_000


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """What was counted in one minute of the wall clock, by namespace uuid.

    Attributes:
        minute: since the epoch.
    """

    minute: int
    invocations: dict[str, int]
    fires: dict[str, int]


class _RateLimit:
    """A fixed-window counter per namespace."""

    def __init__(self) -> None:
        #: Requests in `_minute` by namespace uuid, refused ones included; all are dropped when another minute begins.
        self._counts: dict[str, int] = {}
        self._minute = -1
        #: Requests counted since the beginning.
        self.total = 0

    def count(self, uuid: str, allowed: int, now_wall: float) -> None:
        """Count one request.

        Raises:
            Throttled: it is one too many in this minute.
        """
        minute = self._begin_minute(now_wall)
        self.total += 1
        count = self._counts[uuid] = self._counts.get(uuid, 0) + 1
        if count > allowed:
            raise Throttled(
                f"Too many requests in the last minute (count: {count}, allowed: {allowed}).",
                retry_after_s=math.ceil((minute + 1) * _MINUTE_S - now_wall),
            )

    def takes(self, uuid: str, allowed: int, now_wall: float) -> bool:
        """Count one request, unless it is one too many in this minute."""
        self._begin_minute(now_wall)
        count = self._counts.get(uuid, 0)
        if count >= allowed:
            return False
        self.total += 1
        self._counts[uuid] = count + 1
        return True

    def _begin_minute(self, now_wall: float) -> int:
        """Drop what was counted in another minute than this; return this one's number."""
        minute = int(now_wall // _MINUTE_S)
        if minute != self._minute:
            self._counts.clear()
            self._minute = minute
        return minute

    def of_minute(self, minute: int) -> dict[str, int]:
        """Return the counts of a minute; nothing of one that is over, or has not begun."""
        return dict(self._counts) if minute == self._minute else {}

    def restore(self, minute: int, counts: dict[str, int]) -> None:
        """Go on counting where somebody else stopped."""
        self._minute = minute
        self._counts = dict(counts)


class Admission:
    """Decides whether a namespace may invoke, or fire, once more now.

    Args:
        site: gives the site's limits of this moment (they may be reloaded); a namespace's own grants go before.
        on_throttled: told of each refusal: namespace, and `rate`, `cpu`, `concurrent` or `fires`. May not raise.
        cpu: knows how much CPU time namespaces have used.
    """

    def __init__(
        self,
        site: Callable[[], LimitsConfig],
        on_throttled: Callable[[str, str], None] | None = None,
        cpu: CpuWindows | None = None,
    ) -> None:
        self._site = site
        self._on_throttled = on_throttled
        self._cpu = cpu or CpuWindows(site().cpu_window_s)
        self._invocations = _RateLimit()
        self._fires = _RateLimit()

    def invocations_per_minute(self, namespace: Namespace) -> int:
        """Invocations that the namespace may begin in a minute."""
        own = namespace.limits.invocations_per_minute
        return self._site().invocations_per_minute if own is None else own

    def concurrent_invocations(self, namespace: Namespace) -> int:
        """Activations that the namespace may have in flight."""
        own = namespace.limits.concurrent_invocations
        return self._site().concurrent_invocations if own is None else own

    def fires_per_minute(self, namespace: Namespace) -> int:
        """Triggers that the namespace may fire in a minute."""
        own = namespace.limits.fires_per_minute
        return self._site().fires_per_minute if own is None else own

    def cpu_seconds_per_window(self, namespace: Namespace) -> int | None:
        """CPU seconds that the namespace may use within the window; None: there is no limit."""
        own = namespace.limits.cpu_seconds_per_window
        return self._site().cpu_seconds_per_window if own is None else own

    def admit(self, namespace: Namespace, now_wall: float, in_flight: int) -> None:
        """Count one invocation against the minute, then compare CPU time used, and what is in flight, with the limits.

        Called before rights and existence are looked at: requests that fail later count too.

        Args:
            namespace: the caller's, which is billed.
            now_wall: seconds since the epoch.
            in_flight: the namespace's activations that have not ended, this one not among them.

        Raises:
            Throttled: with both numbers, and after how long to ask again.
        """
        try:
            self._invocations.count(namespace.uuid, self.invocations_per_minute(namespace), now_wall)
        except Throttled:
            self._tell(namespace, "rate")
            raise
        self._check_cpu(namespace)
        self.check_concurrency(namespace, in_flight)

    def admits(self, namespace: Namespace, now_wall: float, in_flight: int) -> bool:
        """As `admit`, for a call that is to be refused elsewhere: where it would be, nothing is counted and nobody is told."""
        own, site = namespace.limits, self._site()  # once: this is part of every call
        concurrent, per_minute, cpu_s = own.concurrent_invocations, own.invocations_per_minute, own.cpu_seconds_per_window
        if in_flight >= (site.concurrent_invocations if concurrent is None else concurrent):
            return False
        if cpu_s is None:
            cpu_s = site.cpu_seconds_per_window
        if cpu_s is not None and self._cpu.used_us(namespace.name) >= cpu_s * _SECOND_US:
            return False
        return self._invocations.takes(
            namespace.uuid, site.invocations_per_minute if per_minute is None else per_minute, now_wall
        )

    def check_concurrency(self, namespace: Namespace, in_flight: int) -> None:
        """Compare what is in flight with the limit; nothing is counted.

        Called again immediately before the invocation starts, because others may have started while the body arrived.

        Raises:
            Throttled: with both numbers.
        """
        allowed = self.concurrent_invocations(namespace)
        if in_flight >= allowed:
            self._tell(namespace, "concurrent")
            raise Throttled(f"Too many concurrent requests in flight (count: {in_flight}, allowed: {allowed}).")

    def _check_cpu(self, namespace: Namespace) -> None:
        """Compare the CPU time used within the window with the limit.

        Raises:
            Throttled: with both numbers, and when so much will be forgotten that it can go on.
        """
        allowed_s = self.cpu_seconds_per_window(namespace)
        if allowed_s is None:
            return
        used_us, allowed_us = self._cpu.used_us(namespace.name), allowed_s * _SECOND_US
        if used_us < allowed_us:
            return
        wait_s = max(1, math.ceil(self._cpu.wait_s(namespace.name, allowed_us)))
        self._tell(namespace, "cpu")
        raise Throttled(
            f"Too much CPU time used in the last {self._cpu.length_s} seconds (used: {used_us / _SECOND_US:.1f} s, "
            f"allowed: {allowed_s} s). Try again in {wait_s} seconds.",
            retry_after_s=wait_s,
        )

    def admit_fire(self, namespace: Namespace, now_wall: float) -> None:
        """Count one firing of a trigger.

        Raises:
            Throttled: it is one too many in this minute.
        """
        try:
            self._fires.count(namespace.uuid, self.fires_per_minute(namespace), now_wall)
        except Throttled:
            self._tell(namespace, "fires")
            raise

    @property
    def counted(self) -> int:
        """How much was counted since the beginning: it tells whether `counts` has anything new."""
        return self._invocations.total + self._fires.total

    def counts(self, now_wall: float) -> Counts:
        """Return what was counted in this minute."""
        minute = int(now_wall // _MINUTE_S)
        return Counts(minute=minute, invocations=self._invocations.of_minute(minute), fires=self._fires.of_minute(minute))

    def restore(self, counts: Counts) -> None:
        """Go on with the counts of an earlier daemon; those of a minute that is over fall away with the next request."""
        self._invocations.restore(counts.minute, counts.invocations)
        self._fires.restore(counts.minute, counts.fires)

    def _tell(self, namespace: Namespace, reason: str) -> None:
        if self._on_throttled is not None:
            self._on_throttled(namespace.name, reason)
