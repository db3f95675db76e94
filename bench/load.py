"""What a pool does under too much: a flood, a multiple of its capacity, a herd, a burst of new actions."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import secrets
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import uvloop

from bench import client
from bench.container import Engine, post
from bench.cpu import cpu_us
from bench.daemon import Daemon
from bench.measure import Distribution, Line, make_line, percentile
from bench.setting import CODE, Setting, Subject, cpu_us_a_call, init_value, remove_containers

SLEEPS = 'import time\ndef main(args):\n    time.sleep({seconds})\n    return {{"ok": True}}\n'
_BLOCKING = "blocking=true&result=true"
#: `overload`: connections that offer, and how many of their calls may wait in the daemon.
CROWD, WAITING = 600, 256
#: `refusals`: how many wait, beside the one that runs.
QUEUED = 8
#: `burst`: stem cells that stand ready.
STEMS = 16
#: `creation_rate`: threads, and containers that each creates.
PARALLEL, CREATED_EACH = 4, 5


# ---- one user floods


def flood(setting: Setting) -> Line:
    """Call one user's action now and then, while another user floods with 10,000 calls on 64 connections."""
    code = SLEEPS.format(seconds=0.05)
    with setting.daemon({"pool.stem_cells.enabled": False}) as daemon:
        first, second = daemon.create_namespace(), daemon.create_namespace("bench-b", uid=20_002)
        daemon.deploy(first, "sleep", code)
        daemon.deploy(second, "sleep", code)
        lone = daemon.invocation(second, "sleep", query="blocking=true")  # the whole record: it says where the time went
        through = setting.connect(daemon.port)
        uvloop.run(client.drive(through, client.repeated(lone, 5))).latencies_us()
        quiet = uvloop.run(client.drive(through, client.repeated(lone, setting.calls), pause_s=0.05)).latencies_us()
        crowd = setting.connect(daemon.port, 64)
        flooding = daemon.invocation(first, "sleep", query=_BLOCKING)
        before, began_us = daemon.starts(), cpu_us(daemon.pid)
        result, lone_run = uvloop.run(_beside(crowd, client.repeated(flooding, setting.rounds), through, lone))
        used_us = cpu_us(daemon.pid) - began_us
        starts = {kind: count - before[kind] for kind, count in daemon.starts().items()}
    beside = lone_run.latencies_us()
    statuses = Counter(answer.status for answer in result.answers)
    p99 = [percentile(sorted(samples), 0.99) for samples in (quiet, beside)]
    return make_line(
        "flood",
        seed=setting.seed,
        engine=setting.engine.version,
        blocks={"quiet": [quiet], "flooded": [beside]},
        reference=None,
        config={"pool.stem_cells.enabled": False},
        facts={
            "flood": {str(status): count for status, count in sorted(statuses.items())},
            "flood_per_s": round(len(result.answers) / result.seconds, 1),
            "p99_ratio": round(p99[1] / p99[0], 2),
            "lone_calls": len(beside),
            "slowest_ms": _phases_ms(lone_run.answers),
            "starts": starts,
            "daemon_cpu": round(used_us / 1e6 / lone_run.seconds, 2),
        },
        must=("p99 of the other user's lone calls <= 2 x its quiet value", p99[1] <= 2 * p99[0]),
    )


def _phases_ms(answers: Sequence[client.Answer]) -> dict[str, float]:
    """Tell where the slowest twentieth of some calls spent its time, ms on average; `outside`: in no phase of the record."""
    slowest = sorted(answers, key=lambda answer: -answer.latency_us)[: max(1, len(answers) // 20)]
    spent_us: Counter[str] = Counter()
    for answer in slowest:
        annotations = {each["key"]: each["value"] for each in json.loads(answer.body)["annotations"]}
        phases = annotations["phases"]
        spent_us.update(phases)
        spent_us["outside"] += answer.latency_us - sum(phases.values())
    return {phase: round(us / 1000 / len(slowest), 1) for phase, us in spent_us.items() if us}


async def _beside(
    crowd: Sequence[client.Connected], flooding: Any, through: Sequence[client.Connected], lone: bytes
) -> tuple[client.Run, client.Run]:
    """Flood, and call alone until the flood is over."""
    over = asyncio.Event()

    def until_over() -> Any:
        while not over.is_set():
            yield lone

    async with asyncio.TaskGroup() as group:
        calls = group.create_task(client.drive(through, until_over(), pause_s=0.05), name="lone")
        run = await client.drive(crowd, flooding)
        over.set()
    return run, calls.result()


# ---- ten times the capacity


def overload(setting: Setting) -> Line:
    """Offer ten times the measured capacity for a while; see how long it takes until calls are as quick as before."""
    config = {"pool.max_containers_per_action": 4, "pool.max_waiting_per_user": WAITING, "pool.stem_cells.enabled": False}
    with setting.daemon(config) as daemon:
        key = daemon.create_namespace()
        daemon.deploy(key, "sleep", SLEEPS.format(seconds=0.05))
        call = daemon.invocation(key, "sleep", query=_BLOCKING)
        through = setting.connect(daemon.port, 8)
        uvloop.run(client.drive(through, client.repeated(call, 400))).latencies_us()
        measured = uvloop.run(client.drive(through, client.repeated(call, 400)))
        capacity = len(measured.answers) / measured.seconds
        quiet = uvloop.run(client.drive(through[:1], client.repeated(call, 50), pause_s=0.02)).latencies_us()
        normal_us = 2 * percentile(sorted(quiet), 0.99)
        crowd = setting.connect(daemon.port, CROWD)
        seconds = float(setting.rounds)
        began = time.perf_counter()
        run, recovered_s, after = uvloop.run(_offer(crowd, through[:1], call, 10 * capacity, seconds, normal_us))
        offering_s = time.perf_counter() - began
        daemon.wait(lambda: daemon.metric("invokerd_activations_in_flight") == 0, "to come to rest")
    statuses = Counter(answer.status for answer in run.answers)
    lost = run.unanswered + sum(count for status, count in statuses.items() if status not in {200, 429, 503})
    return make_line(
        "overload",
        seed=setting.seed,
        engine=setting.engine.version,
        blocks={"quiet": [quiet], "after": [after]},
        reference=None,
        config=config,
        facts={
            "capacity_per_s": round(capacity, 1),
            "served_per_s": round(statuses[200] / seconds, 1),
            "served_us": msgspec.to_builtins(Distribution.of([each.latency_us for each in run.answers if each.status == 200])),
            "offered_per_s": round(len(run.answers) / min(seconds, offering_s), 1),
            "answers": {str(status): count for status, count in sorted(statuses.items())},
            "lost": lost,
            "recovered_s": round(recovered_s, 2),
        },
        must=("calls as quick as before within 5 s, none lost", recovered_s <= 5 and lost == 0),
    )


async def _offer(
    crowd: Sequence[client.Connected],
    lone: Sequence[client.Connected],
    call: bytes,
    rate: float,
    seconds: float,
    normal_us: float,
) -> tuple[client.Run, float, list[float]]:
    """Offer calls at a rate, stop, and call alone until twenty in a row were normal.

    Returns:
        What came of those offered, the seconds until the first of the twenty began, and the latencies of all lone calls.
    """
    stop_at = time.perf_counter() + seconds

    def until_then() -> Iterator[bytes]:
        while time.perf_counter() < stop_at:
            yield call

    # Those whose call waits in the daemon's queue offer nothing meanwhile.
    pause_s = (len(crowd) - WAITING) / rate
    async with asyncio.TaskGroup() as group:
        offered = group.create_task(client.drive(crowd, until_then(), pause_s=pause_s), name="offer")
        await asyncio.sleep(seconds)
        latencies: list[float] = []
        streak, normal_at = 0, stop_at
        while streak < 20 and time.perf_counter() < stop_at + 60:
            if streak == 0:
                normal_at = time.perf_counter()
            (answer,) = (await client.drive(lone, [call])).answers
            latencies.append(answer.latency_us)
            streak = streak + 1 if answer.status == 200 and answer.latency_us <= normal_us else 0
    recovered_s = normal_at - stop_at if streak == 20 else float("inf")
    return offered.result(), recovered_s, latencies


def refusals(setting: Setting) -> Line:
    """See what a refusal costs the daemon, beside a warm call: an action whose queue is full is called by 16 clients."""
    config = {"pool.max_containers_per_action": 1, "pool.max_waiting_per_user": QUEUED, "pool.stem_cells.enabled": False}
    with setting.daemon(config) as daemon:
        key = daemon.create_namespace()
        daemon.deploy(key, "echo", CODE)
        daemon.deploy(key, "long", SLEEPS.format(seconds=20))
        through = setting.connect(daemon.port, 16)
        warm = Subject(through[:1], daemon.invocation(key, "echo", query=_BLOCKING), daemon.pid)
        uvloop.run(client.drive(through[:1], client.repeated(warm.request, setting.calls))).latencies_us()
        waiting = daemon.invocation(key, "long", query="blocking=false")
        uvloop.run(client.drive(through[:1], [waiting]))
        daemon.wait(lambda: daemon.metric("invokerd_containers", state="busy") == 1, "to run the action")
        queued = uvloop.run(client.drive(through[:1], client.repeated(waiting, QUEUED)))
        if {answer.status for answer in queued.answers} != {202}:
            raise client.CallFailed(f"the queue could not be filled: {Counter(answer.status for answer in queued.answers)}")
        runs, refused = uvloop.run(_refuse(setting, warm, through, daemon.invocation(key, "long", query=_BLOCKING)))
        count = daemon.metric("invokerd_activations_total", outcome="user-queue-full")
    statuses = Counter(answer.status for run in refused for answer in run.answers)
    costs = cpu_us_a_call({"warm": runs, "refused": refused})
    quotient = costs["refused"] / costs["warm"]
    return make_line(
        "refusals",
        seed=setting.seed,
        engine=setting.engine.version,
        blocks={"warm": [run.latencies_us() for run in runs]},
        reference=None,
        config=config,
        facts={
            "answers": {str(status): number for status, number in sorted(statuses.items())},
            "cpu_us_a_call": costs,
            "cpu_ratio": round(quotient, 2),
            "per_s": round(sum(len(run.answers) for run in refused) / sum(run.seconds for run in refused)),
            "records": round(count),
        },
        must=(
            "a refusal takes at most half of a warm call's CPU time and leaves no record",
            quotient <= 0.5 and count <= QUEUED + 1,
        ),
    )


async def _refuse(
    setting: Setting, warm: Subject, through: Sequence[client.Connected], call: bytes
) -> tuple[list[client.Run], list[client.Run]]:
    """Call a warm action, and one whose queue is full, in turn; return the runs of each."""
    runs: list[client.Run] = []
    refused: list[client.Run] = []
    for _ in range(setting.blocks):
        for connections, request, of_it in ((warm.connections, warm.request, runs), (through, call, refused)):
            before = cpu_us(warm.pid)
            run = await client.drive(connections, client.repeated(request, setting.calls))
            of_it.append(run._replace(cpu_us=cpu_us(warm.pid) - before))
    return runs, refused


# ---- all at once


def herd(setting: Setting) -> Line:
    """Call new actions for the first time from many clients at once: 500 and 16 of 10 ms, and 16 of 10 s; stem cells off."""
    config = {"pool.stem_cells.enabled": False}
    rate = creation_rate(setting)
    with setting.daemon(config) as daemon:
        key = daemon.create_namespace()
        told: dict[str, Any] = {}
        blocks = {}
        for name, clients, seconds in (("500 x 10 ms", 500, 0.01), ("16 x 10 ms", 16, 0.01), ("16 x 10 s", 16, 10.0)):
            action = name.replace(" ", "")
            daemon.deploy(key, action, SLEEPS.format(seconds=seconds))
            before = _first_starts(daemon)
            call = daemon.invocation(key, action, query=_BLOCKING)
            run = uvloop.run(client.drive(setting.connect(daemon.port, clients), client.repeated(call, clients)))
            blocks[name] = [run.latencies_us()]
            told[name] = {"containers": _first_starts(daemon) - before, "seconds": round(run.seconds, 2)}
    by_hand_s = 16 / rate + 10.0
    cores = os.cpu_count() or 1
    quotient = told["16 x 10 s"]["seconds"] / by_hand_s
    met = (
        told["500 x 10 ms"]["containers"] <= 2 * cores
        and told["16 x 10 ms"]["containers"] <= 4
        and told["16 x 10 s"]["containers"] == 16
        and quotient <= 1.3
    )
    what = "500 of 10 ms: <= 2 containers a core; 16 of 10 ms: <= 4; 16 of 10 s: 16 containers, <= 1.3 x the best by hand"
    return make_line(
        "herd",
        seed=setting.seed,
        engine=setting.engine.version,
        blocks=blocks,
        reference=None,
        config=config,
        facts={**told, "by_hand_per_s": round(rate, 2), "long_ones_ratio": round(quotient, 2)},
        must=(what, met),
    )


def _first_starts(daemon: Daemon) -> int:
    """Count the containers that were given code: made for it, or made for an action before it and not needed there any more."""
    starts = daemon.starts()
    return starts["cold"] + starts["stem"]


def burst(setting: Setting) -> Line:
    """Call 100 new actions for the first time at once, when 16 stem cells stand ready."""
    rate = creation_rate(setting)
    config = {"pool.stem_cells.count": STEMS, "pool.memory_mib": 512 * (setting.calls + STEMS)}
    with setting.daemon(config) as daemon:
        key = daemon.create_namespace()
        for number in range(setting.calls):
            daemon.deploy(key, f"new-{number}", CODE)
        daemon.wait(lambda: daemon.metric("invokerd_containers", state="stem_frozen") >= STEMS, "to have its stem cells")
        before = daemon.starts()
        calls = [daemon.invocation(key, f"new-{number}", query=_BLOCKING) for number in range(setting.calls)]
        run = uvloop.run(client.drive(setting.connect(daemon.port, len(calls)), calls))
        taken = run.latencies_us()
        starts = {kind: count - before[kind] for kind, count in daemon.starts().items()}
    best_s = (setting.calls - STEMS) / rate
    quotient = percentile(sorted(taken), 0.95) / 1e6 / best_s
    return make_line(
        "burst",
        seed=setting.seed,
        engine=setting.engine.version,
        blocks={"first call": [taken]},
        reference=None,
        config=config,
        facts={"starts": starts, "by_hand_per_s": round(rate, 2), "p95_ratio": round(quotient, 3)},
        must=(f"p95 <= 1.2 x ({setting.calls} - {STEMS}) / creation rate by hand, four in parallel", quotient <= 1.2),
    )


def creation_rate(setting: Setting) -> float:
    """Create containers by hand, four in parallel, and return how many come up in a second, code and all."""
    spec = setting.default_spec()

    def create_some(_: int) -> None:
        with contextlib.closing(Engine(setting.engine.url)) as engine:
            own = dataclasses.replace(setting, engine=engine, root=setting.root / secrets.token_hex(4))
            own.node = setting.node
            for _ in range(CREATED_EACH):
                connection = own.start_by_hand(spec).connection
                post(connection, "/init", init_value())
                connection.close()
            ended.append(time.perf_counter())

    ended: list[float] = []
    began = time.perf_counter()
    try:
        with ThreadPoolExecutor(PARALLEL) as threads:
            list(threads.map(create_some, range(PARALLEL)))
    finally:
        remove_containers(setting.engine, setting.node)
    return PARALLEL * CREATED_EACH / (max(ended) - began)
