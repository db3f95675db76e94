"""The parts of the alarms, put together: what the daemon runs, and what it answers for."""

from __future__ import annotations

import secrets
import time

from invoker.alarms.engine import AlarmEngine
from invoker.alarms.feeds import AlarmFeeds
from invoker.alarms.firing import AlarmFirer
from invoker.alarms.schedule import Progress
from invoker.http.admission import Admission
from invoker.http.auth import Authenticator
from invoker.invocation import Builtin
from invoker.stores import Stores
from invoker.triggers import Triggers


def build_alarms(
    stores: Stores, *, admission: Admission, triggers: Triggers, authenticator: Authenticator
) -> tuple[AlarmEngine, dict[str, Builtin]]:
    """Build the engine, which is to be run, and the feed actions by their full path. Call within a running loop."""
    recorder, entities = stores.recorder, stores.entities
    firer = AlarmFirer(
        entities=entities,
        admission=admission,
        triggers=triggers,
        derived_key=authenticator.derived_key,
        wall_clock=time.time,
    )
    engine = AlarmEngine(
        stores.alarms,
        progress={each.alarm_id: Progress(each.at_ms, each.fired) for each in recorder.ticks.values()},
        fire=firer.fire,
        finish=firer.finish,
        forget=recorder.forget_alarm,
        wall_ms=_wall_ms,
    )
    feeds = AlarmFeeds(
        engine,
        find=entities.get,
        authenticator=authenticator,
        new_id=lambda: secrets.token_hex(16),
        wall_ms=_wall_ms,
    )
    return engine, feeds.builtins()


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
