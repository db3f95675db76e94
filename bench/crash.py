"""`kill -9` in mid-flight, again and again: what was answered or promised stands in the ledger, once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import uvloop

from bench import client
from bench.daemon import Daemon
from bench.measure import Line, make_line
from bench.setting import Setting
from pool.recipe import LABEL_NODE

CLIENTS = 16
#: The longest call takes 20 ms, a restart and the first new containers a few seconds.
SLOW_S = 20.0
_ACTION = "nap"
_CODE = 'import time\n\ndef main(args):\n    time.sleep(args["ms"] / 1000)\n    return {"ok": True}\n'


class Round(NamedTuple):
    """What one crash left, counted after the restart.

    Attributes:
        answered: blocking calls that had an answer.
        accepted: non-blocking calls that had a 202.
        in_flight: calls whose client lost its connection.
        containers: that existed when the daemon was killed; each runs one activation at a time.
        without_row: answered calls without a finished row.
        twice: activations with more than one finished row, over all rounds so far.
        without_record: accepted calls without a finished row; each also has a record that the API shows.
        lost: activations that ended as lost.
        refused: answers that were neither 200 nor 202.
        slow: answers that took longer than `SLOW_S`: their activations hung somewhere.
    """

    answered: int
    accepted: int
    in_flight: int
    containers: int
    without_row: int
    twice: int
    without_record: int
    lost: int
    refused: int
    slow: int


def crash(setting: Setting) -> Line:
    """Kill the daemon at a random moment of 1,000 calls by 16 clients, half of them blocking; count after the restart."""
    rounds: list[Round] = []
    latencies: list[list[float]] = []
    with setting.daemon() as daemon:
        key = daemon.create_namespace()
        daemon.deploy(key, _ACTION, _CODE)
        for _ in range(setting.rounds):
            answers, one = _crash_once(setting, daemon, key)
            rounds.append(one)
            latencies.append([answer.latency_us for answer in answers])
    total = Round(*map(sum, zip(*rounds, strict=True)))
    # What had begun was in a container; open calls that still waited for one are no excuse.
    within = all(one.lost <= one.containers for one in rounds)
    kept = total.without_row == total.twice == total.without_record == total.refused == 0 and within
    return make_line(
        "crash",
        seed=setting.seed,
        engine=setting.engine.version,
        blocks={"call": latencies},
        reference=None,
        facts=total._asdict()
        | {"rounds": len(rounds), "lost_of_each_round": [one.lost for one in rounds]}
        | {"containers_of_each_round": [one.containers for one in rounds]},
        must=("answered without row 0, rows twice 0, accepted without record 0, lost no more than were in flight", kept),
    )


def _crash_once(setting: Setting, daemon: Daemon, key: str) -> tuple[list[client.Answer], Round]:
    lost_before = _count_lost(finished_rows(daemon.state_dir))
    kill_at = setting.random.randrange(setting.calls // 10, setting.calls * 9 // 10)
    requests = _requests(setting.random, daemon, key, setting.calls)
    before = uvloop.run(_drive_and_kill(setting, daemon, requests, kill_at, setting.random.random() * 0.005))
    containers = len(setting.engine.containers(f"{LABEL_NODE}={daemon.node}"))
    daemon.kill()
    daemon.start()
    # The rest of the calls meets the daemon while it clears up.
    after = uvloop.run(client.drive(setting.connect(daemon.port, CLIENTS), requests))
    answers = before.answers + after.answers
    answered = [_id_of(answer) for answer in answers if answer.status == 200]
    accepted = [_id_of(answer) for answer in answers if answer.status == 202]
    daemon.wait(lambda: all(daemon.activation(key, each) for each in accepted), "to a record of every accepted call")
    daemon.wait(lambda: daemon.metric("invokerd_recorder_backlog_records") == 0, "to an empty journal")
    finished = finished_rows(daemon.state_dir)
    return answers, Round(
        answered=len(answered),
        accepted=len(accepted),
        in_flight=before.unanswered,
        containers=containers,
        without_row=sum(activation not in finished for activation in answered),
        twice=sum(len(outcomes) > 1 for outcomes in finished.values()),
        without_record=sum(activation not in finished for activation in accepted),
        lost=_count_lost(finished) - lost_before,
        refused=sum(answer.status not in {200, 202} for answer in answers) + after.unanswered,
        slow=sum(answer.latency_us > SLOW_S * 1e6 for answer in answers),
    )


async def _drive_and_kill(
    setting: Setting, daemon: Daemon, requests: Iterator[bytes], kill_at: int, delay_s: float
) -> client.Run:
    """Send requests, and end the daemon a moment after the one with number `kill_at` was written."""
    loop = asyncio.get_running_loop()

    def counted() -> Iterator[bytes]:
        for number, request in enumerate(requests):
            if number == kill_at:
                loop.call_later(delay_s, os.kill, daemon.pid, signal.SIGKILL)
            yield request

    return await client.drive(setting.connect(daemon.port, CLIENTS), counted())


def _requests(chance: random.Random, daemon: Daemon, key: str, count: int) -> Iterator[bytes]:
    """Make calls that take up to 20 ms, half of them blocking, in random order."""
    kinds = ["blocking=true", "blocking=false"] * (count // 2)
    chance.shuffle(kinds)
    for query in kinds:
        yield daemon.invocation(key, _ACTION, {"ms": chance.randrange(20)}, query)


def _id_of(answer: client.Answer) -> str:
    found: str = json.loads(answer.body)["activationId"]
    return found


def finished_rows(state_dir: Path) -> dict[str, list[str]]:
    """Read the outcome of each finished row, by activation, over all months and nodes of a ledger."""
    outcomes: dict[str, list[str]] = {}
    for file in sorted((state_dir / "ledger").glob("*.db")):
        with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as ledger:
            for subject, outcome in ledger.execute("SELECT subject, outcome FROM ledger WHERE type = 'finished'"):
                outcomes.setdefault(subject, []).append(outcome)
    return outcomes


def _count_lost(finished: Mapping[str, list[str]]) -> int:
    return sum("lost" in outcomes for outcomes in finished.values())
