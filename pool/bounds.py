"""Who may wait: bounds of the queue, in numbers and in time, and what is told to those who may not. No clock, no I/O.

Within an action the first come is the first served. So what is let in is served within a time that can be told when it
comes: the runs before it, divided by the containers. A burst may fill the queue up to `longest_wait_s`. A line that has refused
somebody is asked for more than its action can serve: until it is empty only what will be served within `overload_wait_s`
is let in, so that callers wait for little more than their own run, and calls are as quick as before as soon as the load ends.

Source: a bound that is wide for a burst and narrow for a queue that stands: Nichols, Jacobson, Controlling Queue Delay, ACM
Queue 2012. There what has waited for too long is dropped at the head; here it is refused before it waits at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

from pool.errors import PoolOverloaded, TooManyWaiting
from pool.model import ReuseKey
from pool.queueing import RETRY_AFTER_S, FairQueue
from pool.settings import PoolSettings


class Forecast(Protocol):
    """Tells what is to be expected of an action, from what was seen of it."""

    def mean_s(self, key: ReuseKey) -> float:
        """How long an activation holds its container, s; 0 where nothing is known yet."""

    def expected_wait_s(self, key: ReuseKey, waiting: int) -> float:
        """How long one will wait behind so many of its key, s: no longer than they would by a single container."""


class Bounds:
    """Decides whether one more activation may wait."""

    def __init__(self, settings: Callable[[], PoolSettings], queue: FairQueue, forecast: Forecast) -> None:
        """Look at a queue.

        Args:
            settings: numbers of this moment.
            queue: who waits.
            forecast: of how long one will wait.
        """
        self._settings = settings
        self._queue = queue
        self._forecast = forecast

    def refusal(self, key: ReuseKey, now: float, *, coming: int = 0) -> PoolOverloaded | None:
        """Say why an activation may not even wait; None when it may.

        Args:
            key: who wants it.
            now: seconds of the pool's clock.
            coming: activations of the key that may wait, and do not yet.
        """
        refusal = self._too_many(key, now, coming) or self._too_long(key, coming)
        if refusal is not None:
            self._queue.overflow(key.digest)
        return refusal

    def _too_many(self, key: ReuseKey, now: float, coming: int) -> PoolOverloaded | None:
        settings, queue, uid = self._settings(), self._queue, key.spec.uid
        if (waiting := len(queue) + coming) >= settings.max_waiting:
            retry_after_s = queue.retry_after_s(now)
            text = f"The node is busy: {waiting} activations wait for a container already; come back in {retry_after_s:.0f} s."
            return PoolOverloaded(text, retry_after_s)
        if (waiting := queue.waiting_of(uid) + coming) >= settings.max_waiting_per_user:
            retry_after_s = queue.retry_after_s(now, uid)
            text = f"{waiting} of your activations wait for a container already; come back in {retry_after_s:.0f} s."
            return TooManyWaiting(text, retry_after_s)
        return None

    def _too_long(self, key: ReuseKey, coming: int) -> PoolOverloaded | None:
        line = self._queue.line(key.digest)
        waiting = coming + (len(line.waiters) if line else 0)
        if not waiting:
            return None
        settings = self._settings()
        overflowed = line is not None and line.overflowed
        bound_s = min(settings.overload_wait_s, settings.longest_wait_s) if overflowed else settings.longest_wait_s
        if waiting * self._forecast.mean_s(key) <= bound_s:
            return None  # even by a single container: the usual case
        wait_s = self._forecast.expected_wait_s(key, waiting)
        if wait_s <= bound_s:
            return None
        least, most = RETRY_AFTER_S
        retry_after_s = min(max(math.ceil(wait_s - bound_s), least), most)
        text = (
            f"{waiting} activations of the action wait for a container already, the last of them for about {wait_s:.1f} s more; "
            f"come back in {retry_after_s:.0f} s."
        )
        return TooManyWaiting(text, retry_after_s)
