"""When an alarm ticks, and what is due now. Pure values: time comes in as milliseconds of the wall clock.

A tick is named by the moment it was scheduled for. What was missed, because the daemon was down or the clock was set, is
made up for: a tick missed by up to `LATE_MS` fires late; all older ones together fire once, and that one says how many
they were.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import msgspec
from cronsim import CronSim, CronSimError

#: A tick missed by up to this much fires late, by itself, ms.
LATE_MS = 60_000
#: Ticks that were missed for longer are counted up to here; what they come to is one tick anyway.
MOST_COUNTED = 1_000
#: A clock that was set back by up to this much waits until it has caught up: each tick fires once. One that was set back
#: further had been wrong, and the schedule begins anew from what it says now, ms.
SET_BACK_MS = 3_600_000
_CRON_CHARACTERS = 256


class BadSchedule(ValueError):
    """The schedule can never be kept; the message says why, in the words of its parameters."""


class Cron(msgspec.Struct, frozen=True, tag="cron"):
    """Times by a cron expression: five fields, or six with the seconds in front.

    Attributes:
        expression: names of months and weekdays, `L`, `LW` and `#` included.
        timezone: IANA name, whose summer time counts: with five fields a fixed hour that the clocks leap over fires right
            after the leap, and one that comes twice fires once.
    """

    expression: str
    timezone: str = "UTC"

    def check(self) -> None:
        """Refuse what is no cron expression or no time zone.

        Raises:
            BadSchedule: it is not.
        """
        if len(self.expression) > _CRON_CHARACTERS:
            raise BadSchedule(f"cron is longer than {_CRON_CHARACTERS} characters")
        try:
            zone_of(self.timezone)
        except (ValueError, OSError, LookupError):
            raise BadSchedule(f"timezone {self.timezone!r} is not known; it must be an IANA name such as Europe/Berlin") from None
        try:
            CronSim(self.expression, datetime.now(UTC))
        except CronSimError as error:
            raise BadSchedule(f"cron {self.expression!r} is not valid: {error}") from None

    def after(self, at_ms: int) -> Iterator[int]:
        """Iterate over the ticks later than `at_ms`, earliest first; finite only where no more will come."""
        last = at_ms
        for moment in CronSim(self.expression, _moment(at_ms, self.timezone)):
            tick = int(moment.timestamp()) * 1000
            if tick > last:
                last = tick
                yield tick

    def latest(self, upto_ms: int) -> int | None:
        """Find the last tick not later than `upto_ms`."""
        moments = CronSim(self.expression, _moment(upto_ms // 1000 * 1000 + 1000, self.timezone), reverse=True)
        return next((tick for moment in moments if (tick := int(moment.timestamp()) * 1000) <= upto_ms), None)


class Interval(msgspec.Struct, frozen=True, tag="interval"):
    """Every so many minutes, counted from `start_ms`, which is the first tick: restarts do not move the phase."""

    minutes: int
    start_ms: int

    def check(self) -> None:
        """Refuse an interval of less than a minute.

        Raises:
            BadSchedule: it is.
        """
        if self.minutes < 1:
            raise BadSchedule("minutes must be an integer greater than 0")

    def after(self, at_ms: int) -> Iterator[int]:
        """As `Cron.after`."""
        step = self.minutes * 60_000
        tick = self.start_ms if at_ms < self.start_ms else self.start_ms + ((at_ms - self.start_ms) // step + 1) * step
        while True:
            yield tick
            tick += step

    def latest(self, upto_ms: int) -> int | None:
        """As `Cron.latest`."""
        step = self.minutes * 60_000
        return None if upto_ms < self.start_ms else self.start_ms + (upto_ms - self.start_ms) // step * step


class Once(msgspec.Struct, frozen=True, tag="once"):
    """A single moment."""

    at_ms: int

    def check(self) -> None:
        """Accept any moment; that it is in the future is its creator's business."""

    def after(self, at_ms: int) -> Iterator[int]:
        """As `Cron.after`."""
        if at_ms < self.at_ms:
            yield self.at_ms

    def latest(self, upto_ms: int) -> int | None:
        """As `Cron.latest`."""
        return self.at_ms if self.at_ms <= upto_ms else None


Schedule = Cron | Interval | Once


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """Within which time, and how often, a schedule counts.

    Attributes:
        since_ms: when it was written: what would have ticked until then was not missed.
        start_ms: no tick earlier than this; None is open.
        stop_ms: no tick later than this; None is open.
        most: how many ticks fire at most; None is any number.
    """

    since_ms: int
    start_ms: int | None = None
    stop_ms: int | None = None
    most: int | None = None


class Progress(msgspec.Struct, frozen=True):
    """How far an alarm has come: the last tick that fired, and how many did."""

    at_ms: int
    fired: int


class Tick(msgspec.Struct, frozen=True, kw_only=True):
    """One firing that is due.

    Attributes:
        at_ms: the moment it was scheduled for; of several in one, the last of them.
        missed: how many earlier ticks it stands for beside its own.
        at_least: there were more than were counted.
    """

    at_ms: int
    missed: int = 0
    at_least: bool = False


def next_tick(schedule: Schedule, bounds: Bounds, progress: Progress | None) -> int | None:
    """Find the first tick that has not fired; it may be in the past. None when none will come any more."""
    if bounds.most is not None and progress is not None and progress.fired >= bounds.most:
        return None
    tick = next(schedule.after(_floor(bounds, progress)), None)
    if tick is None or (bounds.stop_ms is not None and tick > bounds.stop_ms):
        return None
    return tick


def due_ticks(schedule: Schedule, bounds: Bounds, progress: Progress | None, now_ms: int) -> list[Tick]:
    """Find what is due: older misses as one tick, then each of the last `LATE_MS`, earliest first.

    The number of ticks looked at is bounded, however long nothing fired.
    """
    last = _floor(bounds, progress)
    upto = now_ms if bounds.stop_ms is None else min(now_ms, bounds.stop_ms)
    old_upto = min(now_ms - LATE_MS - 1, upto)
    due: list[Tick] = []
    latest = schedule.latest(old_upto) if old_upto > last else None
    if latest is not None and latest > last:
        count = 0
        for tick in schedule.after(last):
            if tick > old_upto or count == MOST_COUNTED:
                break
            count += 1
        due.append(Tick(at_ms=latest, missed=count - 1, at_least=count == MOST_COUNTED))
        last = latest
    for tick in schedule.after(last):
        if tick > upto:
            break
        due.append(Tick(at_ms=tick))
    if bounds.most is not None:
        due = due[: max(0, bounds.most - (progress.fired if progress else 0))]
    return due


def heed_clock(bounds: Bounds, progress: Progress | None, now_ms: int) -> Progress | None:
    """Correct how far an alarm has come where the clock was far ahead then: it goes on from now."""
    if _floor(msgspec.structs.replace(bounds, start_ms=None), progress) > now_ms + SET_BACK_MS:
        return Progress(now_ms, progress.fired if progress else 0)
    return progress


def zone_of(name: str) -> ZoneInfo:
    """Find a time zone by its IANA name.

    Raises:
        ValueError, OSError, LookupError: there is none.
    """
    return ZoneInfo(name)


def _floor(bounds: Bounds, progress: Progress | None) -> int:
    """The moment up to which nothing is due."""
    floor = bounds.since_ms if progress is None else progress.at_ms
    return floor if bounds.start_ms is None else max(floor, bounds.start_ms - 1)


def _moment(at_ms: int, timezone: str) -> datetime:
    moment = datetime.fromtimestamp(at_ms // 1000, UTC)
    # cronsim treats `timezone.utc` itself as the zone without summer time.
    return moment if timezone == "UTC" else moment.astimezone(zone_of(timezone))
