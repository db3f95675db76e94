"""Triggers: how long a fan-out takes to be on record, and whether an alarm's ticks survive `kill -9`, each once."""

from __future__ import annotations

import collections
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bench.daemon import LOOK_S, Daemon, DaemonFailed
from bench.measure import Line, make_line
from bench.setting import Setting

#: Rules on the trigger of `fanout`, and how long each of their actions sleeps.
RULES = 20
SLEEP_S = 1.0
#: From the fire to the last record.
MUST_S = 1.5
#: Fires that may go by until there is a container for each rule.
WARM_UP = 20
#: Between two crashes of `alarms`: ten of them fill two minutes.
ROUND_S = 12.0

_SLEEPS = 'import time\n\ndef main(args):\n    time.sleep(args["s"])\n    return {}\n'
_TICKS = 'def main(args):\n    return {"tick": args["__ow_alarm"]}\n'
_LISTED = 200


def fanout(setting: Setting) -> Line:
    """Fire a trigger with 20 rules on warm actions that sleep 1 s, memory for all; time until all 20 records are there."""
    with setting.daemon({"pool.memory_mib": 256 * (RULES + 4)}) as daemon:
        key = daemon.create_namespace()
        daemon.deploy(key, "sleeps", _SLEEPS)
        daemon.api(key, "PUT", "triggers/all", {"parameters": [{"key": "s", "value": SLEEP_S}]})
        for number in range(RULES):
            daemon.api(key, "PUT", f"rules/r{number}", {"trigger": "/_/all", "action": "/_/sleeps"})
        fires = _warm_up(daemon, key)
        starts_before = daemon.starts()
        took = [_fire(daemon, key, known=RULES * (fires + number)) for number in range(setting.rounds)]
        starts = _since(daemon, starts_before)
    slowest = max(took) / 1e6
    return make_line(
        "fanout",
        seed=setting.seed,
        engine=setting.engine.version,
        blocks={"fire to last record": [took]},
        reference=None,
        config=daemon.config,
        facts={"rules": RULES, "sleep_s": SLEEP_S, "starts": starts, "slowest_s": round(slowest, 3)},
        must=(f"the slowest fire is on record within {MUST_S} s", slowest <= MUST_S),
    )


def _warm_up(daemon: Daemon, key: str) -> int:
    """Fire until a fire finds a container for every rule; return how many fires that took.

    One does not do: the daemon rather waits a second for a container than starts a 20th.
    """
    for number in range(WARM_UP):
        before = daemon.starts()
        _fire(daemon, key, known=RULES * number)
        starts = _since(daemon, before)
        if not starts["cold"] and not starts["stem"]:
            return number + 1
    raise DaemonFailed(f"after {WARM_UP} fires there is still no container for each of {RULES} rules")


def _since(daemon: Daemon, before: Mapping[str, int]) -> dict[str, int]:
    return {kind: count - before[kind] for kind, count in daemon.starts().items()}


def _fire(daemon: Daemon, key: str, *, known: int) -> float:
    """Fire once; return the time until so many more activations are listed than are known, us."""
    began = time.monotonic()
    daemon.api(key, "POST", "triggers/all", {})
    daemon.wait(lambda: _count(daemon, key, "sleeps") >= known + RULES, "to all records of a fan-out")
    return (time.monotonic() - began) * 1e6


def _count(daemon: Daemon, key: str, name: str) -> int:
    counted: int = daemon.api(key, "GET", f"activations?count=true&name={name}")["activations"]
    return counted


class Ticks(NamedTuple):
    """What an alarm left, counted by the moments that its ticks were scheduled for.

    Attributes:
        expected: seconds from the first tick to the last.
        missing: of these, without a record.
        twice: with more than one.
        together: told as missed for longer than a minute, and fired as one.
        promised: activations that the ticks have promised.
        without_record: of these, without a record.
        lost: of these, that may have run when the daemon was killed.
    """

    expected: int
    missing: int
    twice: int
    together: int
    promised: int
    without_record: int
    lost: int


def alarms(setting: Setting) -> Line:
    """Kill the daemon at random moments, ten times in two minutes, while an alarm ticks each second; count the ticks."""
    down: list[float] = []
    with setting.daemon() as daemon:
        key = daemon.create_namespace()
        daemon.deploy(key, "ticks", _TICKS)
        daemon.api(key, "PUT", "triggers/second", {})
        daemon.api(key, "PUT", "rules/r", {"trigger": "/_/second", "action": "/_/ticks"})
        _feed(daemon, key, "CREATE", {"cron": "* * * * * *"})
        daemon.wait(lambda: _count(daemon, key, "second") > 0, "to the first tick")
        began = time.monotonic()
        for number in range(setting.rounds):
            kill_at = began + number * ROUND_S + setting.random.uniform(1.0, ROUND_S - 5.0)
            time.sleep(max(0.0, kill_at - time.monotonic()))
            killed = time.monotonic()
            daemon.kill()
            daemon.start()
            down.append((time.monotonic() - killed) * 1e6)
        time.sleep(max(0.0, began + setting.rounds * ROUND_S - time.monotonic()))
        _feed(daemon, key, "DELETE", {})
        counted = _count_ticks(daemon, key)
    return make_line(
        "alarms",
        seed=setting.seed,
        engine=setting.engine.version,
        blocks={"kill to ready": [down]},
        reference=None,
        facts=counted._asdict() | {"kills": setting.rounds},
        must=(
            "ticks missing 0, twice 0, promised without record 0",
            counted.missing == counted.twice == counted.without_record == 0,
        ),
    )


def _feed(daemon: Daemon, key: str, event: str, parameters: dict[str, Any]) -> None:
    told = {"lifecycleEvent": event, "triggerName": "/_/second", "authKey": key, **parameters}
    daemon.api(key, "POST", "/whisk.system/actions/alarms/alarm?blocking=true", told)


def _count_ticks(daemon: Daemon, key: str) -> Ticks:
    fired = _records(daemon, key, "second")
    told = [record["response"]["result"]["__ow_alarm"] for record in fired]
    seconds = collections.Counter(each["scheduled"] // 1000 for each in told)
    first, last = min(seconds), max(seconds)
    promised = [json.loads(line)["activationId"] for record in fired for line in record["logs"]]
    daemon.wait(lambda: _count(daemon, key, "ticks") >= len(promised), "to the records of what the ticks promised")
    outcomes = {record["activationId"]: _outcome(record) for record in _records(daemon, key, "ticks")}
    return Ticks(
        expected=last - first + 1,
        missing=sum(second not in seconds for second in range(first, last + 1)),
        twice=sum(count > 1 for count in seconds.values()),
        together=sum(each["missed"] for each in told),
        promised=len(promised),
        without_record=sum(activation not in outcomes for activation in promised),
        lost=sum(outcomes.get(activation) == "lost" for activation in promised),
    )


def _records(daemon: Daemon, key: str, name: str) -> Sequence[dict[str, Any]]:
    """Read all records of a name, page by page; nothing is being added."""
    found: list[dict[str, Any]] = []
    while True:
        page = daemon.api(key, "GET", f"activations?docs=true&limit={_LISTED}&skip={len(found)}&name={name}")
        found += page
        if len(page) < _LISTED:
            return found
        time.sleep(LOOK_S)


def _outcome(record: dict[str, Any]) -> str:
    return next(str(each["value"]) for each in record["annotations"] if each["key"] == "outcome")
