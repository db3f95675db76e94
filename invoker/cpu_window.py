"""How much CPU time namespaces have used of late: a window that slides in steps. No I/O.

What an activation has used is counted when it has ended, with the step that is on then, and forgotten when it is a whole window
old: never before, and at most one step after. There is no timer: whoever counts, or asks, moves the window on.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

#: Steps of a window: so much finer than the window it forgets, and so many numbers a namespace has at most, and one more.
STEPS = 60


class CpuUse(NamedTuple):
    """CPU time of a namespace in one step, microseconds; steps are numbered from the epoch on."""

    namespace: str
    step: int
    cpu_us: int


class CpuWindows:
    """The windows of all namespaces, which move together.

    Args:
        length_s: of the window.
        wall_clock: seconds since the epoch; read when a step is over, and by who asks. Set back, it makes nothing older or newer.
    """

    def __init__(self, length_s: int, wall_clock: Callable[[], float] = time.time) -> None:
        self._wall_clock = wall_clock
        self._begin(length_s)

    def _begin(self, length_s: int) -> None:
        self.length_s = length_s
        #: Duration of one step.
        self.step_ms = length_s * 1000 // STEPS
        #: What was used in the step that is on, by namespace, microseconds.
        self._present: dict[str, int] = {}
        #: The same of each of the steps before it that count, the latest first.
        self._earlier: deque[dict[str, int]] = deque([{} for _ in range(STEPS)], maxlen=STEPS)
        #: Sums of `_earlier`; no zeros.
        self._sums: dict[str, int] = {}
        self._number = self._number_now()
        self._ends_ms = (self._number + 1) * self.step_ms

    def add(self, namespace: str, cpu_us: int, at_ms: int) -> None:
        """Count what was used up to now. Part of every call: it looks at the clock only when `at_ms` says that a step is over.

        Args:
            namespace: who pays.
            cpu_us: microseconds.
            at_ms: wall clock of about now.
        """
        if at_ms >= self._ends_ms:
            self._move()
        self._present[namespace] = self._present.get(namespace, 0) + cpu_us

    def used_us(self, namespace: str) -> int:
        """Return what a namespace has used within the window, microseconds."""
        self._move()
        return self._sums.get(namespace, 0) + self._present.get(namespace, 0)

    def all_used_us(self) -> Mapping[str, int]:
        """Return the same of all who have used anything."""
        self._move()
        return {name: self._sums.get(name, 0) + self._present.get(name, 0) for name in {*self._sums, *self._present}}

    def wait_s(self, namespace: str, below_us: int) -> float:
        """Tell after how many seconds a namespace has less than `below_us` in the window, if it uses no more.

        The whole window's length where that is never.
        """
        left_us = self.used_us(namespace)
        if left_us < below_us:
            return 0.0
        for age, step in zip(range(STEPS, -1, -1), (*reversed(self._earlier), self._present), strict=True):
            left_us -= step.get(namespace, 0)
            if left_us < below_us:
                forgotten_s = (self._number - age + STEPS + 1) * self.step_ms / 1000
                return max(0.0, forgotten_s - self._wall_clock())
        return float(self.length_s)

    def forget(self, namespace: str) -> None:
        """Count nothing any more of a namespace that is deleted: another one of its name begins anew."""
        for step in (self._present, self._sums, *self._earlier):
            step.pop(namespace, None)

    def restore(self, uses: Iterable[CpuUse], step_ms: int) -> None:
        """Count what was used before, beside what is counted already. What is too old falls away.

        Args:
            uses: in any order.
            step_ms: duration of their steps, which need not be these: what was used in one counts as if used at its end.
        """
        self._move()
        for name, number, cpu_us in uses:
            age = self._number - ((number + 1) * step_ms - 1) // self.step_ms
            if age <= 0:
                self._present[name] = self._present.get(name, 0) + cpu_us
            elif age <= STEPS and cpu_us:
                step = self._earlier[age - 1]
                step[name] = step.get(name, 0) + cpu_us
                self._sums[name] = self._sums.get(name, 0) + cpu_us

    def resize(self, length_s: int) -> None:
        """Have windows of another length from now on. What a shorter one has forgotten a longer one does not find again."""
        if length_s == self.length_s:
            return
        self._move()
        step_ms, number, steps = self.step_ms, self._number, (self._present, *self._earlier)
        self._begin(length_s)
        self.restore(
            (CpuUse(name, number - age, cpu_us) for age, step in enumerate(steps) for name, cpu_us in step.items()), step_ms
        )

    def _number_now(self) -> int:
        return int(self._wall_clock() * 1000) // self.step_ms

    def _move(self) -> None:
        """Let the steps that are over be earlier ones, and forget those that leave the window."""
        number = self._number_now()
        ahead = number - self._number
        if -1 <= ahead <= 0:  # a clock that is corrected by a little moves nothing back
            return
        for _ in range(min(ahead, STEPS + 1)):
            self._push()
        self._number = number  # of a clock that was set back too: all keeps its age
        self._ends_ms = (number + 1) * self.step_ms

    def _push(self) -> None:
        for name, cpu_us in self._earlier[-1].items():
            left_us = self._sums[name] - cpu_us
            if left_us:
                self._sums[name] = left_us
            else:
                del self._sums[name]
        over = {name: cpu_us for name, cpu_us in self._present.items() if cpu_us}
        self._earlier.appendleft(over)
        for name, cpu_us in over.items():
            self._sums[name] = self._sums.get(name, 0) + cpu_us
        self._present = {}
