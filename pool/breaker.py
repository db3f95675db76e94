"""A circuit breaker: after some misses in a row nobody is let through for a while, then one at a time to see.

Pure state, no clock and no I/O: time is an argument, seconds of whatever clock the caller uses throughout.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class BreakerState(enum.Enum):
    """Closed lets everybody through, open nobody, half-open one at a time."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(slots=True)
class Breaker:
    """Counts misses of one kind of call.

    It opens after `misses_to_open` misses in a row, for `cooling_s`; each trial that misses opens it anew for twice as long, up
    to `longest_s`. One success closes it, and all is forgotten.

    Attributes:
        misses_to_open: misses in a row.
        cooling_s: how long it stays open at first, seconds.
        longest_s: how long at most.
    """

    misses_to_open: int = 3
    cooling_s: float = 5.0
    longest_s: float = 60.0
    #: Misses since the last success.
    misses: int = 0
    _open_until: float | None = None
    _pause_s: float = 0.0
    _trial: bool = False

    def state(self, now: float) -> BreakerState:
        """Say who is let through now."""
        if self._open_until is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now < self._open_until else BreakerState.HALF_OPEN

    def admit(self, now: float) -> bool:
        """Ask to be let through. Who gets True must tell the end: `succeeded`, `missed` or `abandoned`."""
        state = self.state(now)
        if state is BreakerState.CLOSED:
            return True
        if state is BreakerState.OPEN or self._trial:
            return False
        self._trial = True
        return True

    def wait_s(self, now: float) -> float:
        """After how many seconds asking again makes sense; 0 when it does now."""
        return 0.0 if self._open_until is None else max(0.0, self._open_until - now)

    def succeeded(self) -> None:
        """An admitted call came to its end: all is well again."""
        self.misses = 0
        self._open_until = None
        self._pause_s = 0.0
        self._trial = False

    def missed(self, now: float) -> None:
        """An admitted call got no answer in time."""
        self.misses += 1
        # Calls that were admitted before it opened may miss while a trial runs: they open it anew, too.
        self._trial = False
        if self._open_until is not None or self.misses >= self.misses_to_open:
            if self.state(now) is not BreakerState.OPEN:
                self._pause_s = min(self._pause_s * 2, self.longest_s) if self._pause_s else self.cooling_s
            self._open_until = now + self._pause_s

    def abandoned(self) -> None:
        """An admitted call ended for a reason that says nothing: cancelled, for example."""
        self._trial = False
