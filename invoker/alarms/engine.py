"""The engine: one timer for all alarms. It sleeps until the earliest tick, fires what is due, and sleeps again.

A tick is done when the journal says so: `fire` writes it in one record with what it starts. So a daemon that is killed
in between has either done both or neither, and its successor finds out which.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import msgspec

from invoker.alarms.alarm import Alarm, Disabled
from invoker.alarms.schedule import SET_BACK_MS, Progress, Tick, due_ticks, heed_clock, next_tick
from invoker.alarms.store import AlarmStore
from invoker.record.store import StoreBroken

log = logging.getLogger(__name__)

#: The wall clock is looked at this often at least: it may have been set, and a sleep does not notice, s.
LOOK_S = 15.0
#: Alarms that fire at the same time; their records share the journal's syncs.
_TOGETHER = 500
#: After the database of alarms could not be written.
_AGAIN_MS = 1_000


@dataclass(frozen=True, slots=True)
class Later:
    """The tick could not be fired now: try again after so many seconds."""

    after_s: float


#: Fires one tick: None when that is done (whether or not a rule listened), else why not. Durable when it returns.
Fire = Callable[[Alarm, Tick, Progress], Awaitable[Later | Disabled | None]]


class AlarmEngine:
    """Belongs to one event loop."""

    def __init__(
        self,
        store: AlarmStore,
        *,
        progress: Mapping[str, Progress],
        fire: Fire,
        finish: Callable[[Alarm], Awaitable[Disabled | None]],
        forget: Callable[[str], None],
        wall_ms: Callable[[], int],
    ) -> None:
        """Begin with the alarms of the store; `run` makes them tick.

        Args:
            store: of alarms.
            progress: by alarm id, as an earlier daemon left it.
            fire: fires a tick.
            finish: called when the last tick of an alarm has fired: why it stays disabled, or None when it is to go.
            forget: told the id of each alarm that is no more.
            wall_ms: wall clock.
        """
        self._store = store
        self._progress = dict(progress)
        self._fire = fire
        self._finish = finish
        self._forget_in_journal = forget
        self._wall_ms = wall_ms
        #: (when to look at it, number of the entry, alarm); those of alarms that are not in the store any more are skipped.
        self._agenda: list[tuple[int, int, Alarm]] = []
        self._numbers = itertools.count()
        #: The wall clock at the last look.
        self._looked_ms = 0
        self._changed = asyncio.Event()

    # ---- what its owner calls

    async def put(self, alarm: Alarm) -> None:
        """Write an alarm, in place of the one its trigger has.

        Raises:
            StoreBroken: it was not written, and the old one goes on.
        """
        before = self._store.get(*alarm.key)
        await self._store.put(alarm)
        if before is not None:
            self._forget(before)
        self._enter(alarm)
        self._changed.set()

    async def delete(self, alarm: Alarm) -> None:
        """Delete an alarm.

        Raises:
            StoreBroken: it is still there, and goes on.
        """
        await self._store.delete(alarm)
        self._forget(alarm)

    def get(self, namespace: str, trigger: str) -> Alarm | None:
        """Find the alarm of a trigger."""
        return self._store.get(namespace, trigger)

    async def run(self) -> None:
        """Fire what is due, for ever."""
        self._enter_all()
        while True:
            due = self._take_due()
            async with asyncio.TaskGroup() as group:
                for alarm in due:
                    group.create_task(self._tick_safely(alarm), name=f"alarm {alarm.namespace}/{alarm.trigger}")
            if not due:
                await self._sleep()

    # ---- one round

    def _take_due(self) -> list[Alarm]:
        now_ms = self._wall_ms()
        due: list[Alarm] = []
        if now_ms < self._looked_ms - SET_BACK_MS:
            log.warning("the clock was set back by %d s: alarms go on from now", (self._looked_ms - now_ms) // 1000)
            self._agenda.clear()
            self._enter_all()
        self._looked_ms = now_ms
        while self._agenda and self._agenda[0][0] <= now_ms and len(due) < _TOGETHER:
            _, _, alarm = heapq.heappop(self._agenda)
            if self._store.get(*alarm.key) is alarm:
                due.append(alarm)
        return due

    async def _sleep(self) -> None:
        self._changed.clear()
        wait_s = LOOK_S
        if self._agenda:
            wait_s = min(wait_s, max(0.0, (self._agenda[0][0] - self._wall_ms()) / 1000))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._changed.wait()

    async def _tick_safely(self, alarm: Alarm) -> None:
        """As `_tick`; a database that cannot be written now is tried again."""
        try:
            await self._tick(alarm)
        except StoreBroken as error:
            log.error("the alarm of %s/%s waits: %s", alarm.namespace, alarm.trigger, error)  # noqa: TRY400 - not a bug of ours
            self._enter_at(alarm, self._wall_ms() + _AGAIN_MS)

    async def _tick(self, alarm: Alarm) -> None:
        """Fire all that is due of one alarm, in order, and enter when to look at it next."""
        for tick in due_ticks(alarm.schedule, alarm.bounds, self._progress.get(alarm.alarm_id), self._wall_ms()):
            if self._store.get(*alarm.key) is not alarm:
                return  # rewritten or deleted meanwhile
            before = self._progress.get(alarm.alarm_id)
            after = Progress(tick.at_ms, (before.fired if before else 0) + 1)
            match await self._fire(alarm, tick, after):
                case Later(after_s):
                    self._enter(alarm, not_before_ms=self._wall_ms() + round(after_s * 1000))
                    return
                case Disabled() as why:
                    await self.disable(alarm, why)
                    return
                case None:
                    if self._store.get(*alarm.key) is alarm:
                        self._progress[alarm.alarm_id] = after
        if self._store.get(*alarm.key) is alarm and not self._enter(alarm):
            await self._end(alarm)

    async def _end(self, alarm: Alarm) -> None:
        """The last tick has fired."""
        why = await self._finish(alarm)
        if why is not None:
            await self.disable(alarm, why)
        elif self._store.get(*alarm.key) is alarm:
            await self.delete(alarm)

    async def disable(self, alarm: Alarm, why: Disabled) -> None:
        """Let an alarm fire no more; its feed's READ tells why."""
        if self._store.get(*alarm.key) is alarm:
            log.warning("the alarm of %s/%s does not fire any more: %s", alarm.namespace, alarm.trigger, why.message)
            await self._store.put(msgspec.structs.replace(alarm, disabled=why, changed_ms=self._wall_ms()))

    def _forget(self, alarm: Alarm) -> None:
        self._progress.pop(alarm.alarm_id, None)
        self._forget_in_journal(alarm.alarm_id)

    def _enter_all(self) -> None:
        """Begin anew with all alarms, as the clock is now."""
        for alarm in self._store.all():
            heeded = heed_clock(alarm.bounds, self._progress.get(alarm.alarm_id), self._wall_ms())
            if heeded is not None:
                self._progress[alarm.alarm_id] = heeded
            if not self._enter(alarm):
                self._enter_at(alarm, 0)  # an earlier daemon was killed between its last tick and its end

    def _enter(self, alarm: Alarm, *, not_before_ms: int = 0) -> bool:
        """Note when to look at an alarm next; False when it will not tick any more."""
        if alarm.disabled is not None:
            return True
        at_ms = next_tick(alarm.schedule, alarm.bounds, self._progress.get(alarm.alarm_id))
        if at_ms is None:
            return False
        self._enter_at(alarm, max(at_ms, not_before_ms))
        return True

    def _enter_at(self, alarm: Alarm, at_ms: int) -> None:
        heapq.heappush(self._agenda, (at_ms, next(self._numbers), alarm))
