"""When alarms tick: seconds, intervals, summer time; what was missed fires late or together, and each tick once."""

import itertools
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invoker.alarms.schedule import (
    LATE_MS,
    MOST_COUNTED,
    SET_BACK_MS,
    BadSchedule,
    Bounds,
    Cron,
    Interval,
    Once,
    Progress,
    Tick,
    due_ticks,
    heed_clock,
    next_tick,
)

EVERY_SECOND = Cron("* * * * * *")
NOW = 1_790_000_000_000


def at(text: str, zone: str = "UTC") -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)


def first(schedule, after: int, count: int, zone: str = "UTC") -> list[str]:
    ticks = itertools.islice(schedule.after(after), count)
    return [datetime.fromtimestamp(tick / 1000, ZoneInfo(zone)).strftime("%m-%d %H:%M:%S") for tick in ticks]


def since(ms: int, **bounds) -> Bounds:
    return Bounds(since_ms=ms, **bounds)


# ---- schedules


def test_five_fields_tick_at_second_zero_and_six_name_the_seconds():
    assert first(Cron("*/5 * * * *"), at("2026-01-01T00:01:30"), 2) == ["01-01 00:05:00", "01-01 00:10:00"]
    assert first(Cron("*/20 * * * * *"), at("2026-01-01T00:01:30"), 2) == ["01-01 00:01:40", "01-01 00:02:00"]


def test_a_cron_means_its_time_zone():
    berlin = Cron("0 9 * * MON", "Europe/Berlin")
    assert first(berlin, at("2026-06-30T00:00:00"), 1) == ["07-06 07:00:00"]


def test_a_time_that_the_clocks_leap_over_fires_after_the_leap_and_one_that_comes_twice_fires_once():
    nightly = Cron("30 2 * * *", "Europe/Berlin")
    assert first(nightly, at("2026-03-28T12:00:00"), 2, "Europe/Berlin") == ["03-29 03:00:00", "03-30 02:30:00"]
    assert first(nightly, at("2026-10-24T12:00:00"), 2, "Europe/Berlin") == ["10-25 02:30:00", "10-26 02:30:00"]


@pytest.mark.parametrize("expression", ["", "* * * *", "61 * * * *", "* * * * * * *", "0 0 31 2 *", "a b c d e", "*" * 300])
def test_what_is_no_cron_is_refused_with_the_expression_or_its_length(expression):
    with pytest.raises(BadSchedule, match="cron"):
        Cron(expression).check()


@pytest.mark.parametrize("zone", ["Europe/Nowhere", "../etc/passwd", "", "\0"])
def test_what_is_no_time_zone_is_refused_by_name(zone):
    with pytest.raises(BadSchedule, match="timezone"):
        Cron("* * * * *", zone).check()


def test_an_interval_keeps_its_phase():
    interval = Interval(5, NOW)
    assert list(itertools.islice(interval.after(NOW - 1), 2)) == [NOW, NOW + 300_000]
    assert next(interval.after(NOW + 300_000)) == NOW + 600_000
    assert next(interval.after(NOW + 1_000_000)) == NOW + 1_200_000


def test_once_ticks_once():
    assert list(Once(NOW).after(NOW - 1)) == [NOW]
    assert list(Once(NOW).after(NOW)) == []


schedules = st.one_of(
    st.sampled_from(["* * * * * *", "*/7 * * * * *", "*/10 * * * *", "5 4 * * *"]).map(lambda text: Cron(text, "Europe/Berlin")),
    st.builds(Interval, st.integers(1, 90), st.integers(NOW - 10**7, NOW + 10**7)),
    st.builds(Once, st.integers(NOW - 10**6, NOW + 10**6)),
)


@given(schedules, st.integers(0, 10**6))
def test_the_latest_tick_is_the_last_of_those_before(schedule, later):
    upto = NOW + later
    latest = schedule.latest(upto)
    if latest is not None:
        assert latest <= upto
        assert next(schedule.after(latest - 1)) == latest
        assert next(schedule.after(latest), upto + 1) > upto


# ---- what is due


def test_nothing_is_due_before_the_first_tick_and_the_tick_is_due_from_its_moment_on():
    hourly, bounds = Interval(60, NOW), since(NOW - 1)
    assert due_ticks(hourly, bounds, None, NOW - 1) == []
    assert due_ticks(hourly, bounds, None, NOW) == [Tick(at_ms=NOW)]
    assert due_ticks(hourly, bounds, Progress(NOW, 1), NOW + 1) == []


def test_ticks_missed_by_up_to_sixty_seconds_fire_late_each_by_itself():
    due = due_ticks(EVERY_SECOND, since(0), Progress(NOW - LATE_MS - 1000, 7), NOW)
    assert due == [Tick(at_ms=tick) for tick in range(NOW - LATE_MS, NOW + 1, 1000)]


def test_older_ones_fire_as_one_that_says_how_many_they_were():
    due = due_ticks(EVERY_SECOND, since(0), Progress(NOW - LATE_MS - 5000, 7), NOW)
    assert due[0] == Tick(at_ms=NOW - LATE_MS - 1000, missed=3)
    assert len(due) == 1 + 61


def test_after_years_the_count_says_that_it_is_not_exact():
    due = due_ticks(EVERY_SECOND, since(0), Progress(NOW - 10**11, 7), NOW)
    assert due[0] == Tick(at_ms=NOW - LATE_MS - 1000, missed=MOST_COUNTED - 1, at_least=True)


def test_a_single_old_tick_fires_once_and_stands_for_itself_alone():
    assert due_ticks(Once(NOW - 10**8), since(NOW - 2 * 10**8), None, NOW) == [Tick(at_ms=NOW - 10**8)]


def test_what_would_have_ticked_before_the_alarm_was_written_was_not_missed():
    assert due_ticks(EVERY_SECOND, since(NOW), None, NOW + 1500) == [Tick(at_ms=NOW + 1000)]


def test_bounds_hold_and_the_number_of_ticks_too():
    bounds = since(0, start_ms=NOW - 2000, stop_ms=NOW - 1000)
    assert due_ticks(EVERY_SECOND, bounds, None, NOW) == [Tick(at_ms=NOW - 2000), Tick(at_ms=NOW - 1000)]
    assert next_tick(EVERY_SECOND, bounds, Progress(NOW - 1000, 2)) is None
    most = since(NOW - 5000, most=3)
    assert len(due_ticks(EVERY_SECOND, most, None, NOW)) == 3
    assert len(due_ticks(EVERY_SECOND, most, Progress(NOW - 4000, 2), NOW)) == 1
    assert next_tick(EVERY_SECOND, most, Progress(NOW - 3000, 3)) is None


@given(schedules, st.lists(st.integers(0, 200_000), min_size=1, max_size=6))
def test_however_often_it_looks_each_tick_fires_once_or_is_counted(schedule, pauses):
    bounds, progress, now = since(NOW), None, NOW
    fired: list[int] = []
    counted = 0
    for pause in pauses:
        now += pause
        for tick in due_ticks(schedule, bounds, progress, now):
            fired.append(tick.at_ms)
            counted += 1 + tick.missed
            progress = Progress(tick.at_ms, len(fired))
    assert fired == sorted(set(fired))
    assert counted == sum(1 for _ in itertools.takewhile(lambda tick: tick <= now, schedule.after(NOW)))


def test_a_clock_set_back_a_little_waits_and_one_that_was_far_ahead_is_forgotten():
    done = Progress(NOW, 5)
    assert heed_clock(since(0), done, NOW - SET_BACK_MS) == done
    assert heed_clock(since(0), done, NOW - SET_BACK_MS - 1) == Progress(NOW - SET_BACK_MS - 1, 5)
    assert heed_clock(since(NOW), None, NOW - SET_BACK_MS - 1) == Progress(NOW - SET_BACK_MS - 1, 0)
    assert heed_clock(since(NOW, start_ms=NOW * 2), None, NOW) is None


def test_utc_and_its_name_are_the_same():
    after = datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1000
    assert first(Cron("0 0 1 * *", "UTC"), int(after), 3) == first(Cron("0 0 1 * *", "Etc/UTC"), int(after), 3)
