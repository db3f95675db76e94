"""What a call costs a node whose stores are full: 1,000,000 activations and 10,000 actions, against one that begins empty."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import msgspec
import uvloop

from bench import client
from bench.daemon import Daemon
from bench.measure import Line, make_line, ratio
from bench.setting import CODE, Setting, Subject, cpu_us_a_call, in_turn, latencies
from invoker.activation import Activation, CpuQuality, Meter, Phases, Status
from invoker.ids import ActivationIds
from invoker.model import Action, Exec, Limits
from invoker.record.ledger import finished_values, month_of
from invoker.record.rows import RecordRow, TextRow, with_bytes
from invoker.record.store import load_queries, open_writer
from pool.model import StartKind

CLIENTS = 16
CONTAINERS = 4
#: Activations for each of the scenario's rounds.
ACTIVATIONS = 10_000
ACTIONS = 10_000
#: So that none has more than retention leaves to it.
_NAMESPACES = 20
_OVER_S = 6 * 3600
_BATCH = 10_000
_ACTION = "echo"


def stored(setting: Setting) -> Line:
    """Call through a daemon with 1,000,000 stored activations and 10,000 actions, and through one with none, in turn."""
    config = {"pool.max_containers_per_action": CONTAINERS}
    activations = ACTIVATIONS * setting.rounds
    with ExitStack() as stack:
        daemons = {
            "empty": stack.enter_context(setting.daemon(config)),
            "stored": stack.enter_context(setting.daemon(config, prepare=lambda directory: fill(directory, activations))),
        }
        one: dict[str, Subject] = {}
        many: dict[str, Subject] = {}
        looks: dict[str, dict[str, float]] = {}
        for name, daemon in daemons.items():
            looks[name] = _look(daemon, activations)
            key = daemon.create_namespace()
            daemon.deploy(key, _ACTION, CODE)
            call = daemon.invocation(key, _ACTION, query="blocking=true&result=true")
            through = setting.connect(daemon.port, CLIENTS)
            uvloop.run(client.drive(through, client.repeated(call, 400))).latencies_us()
            one[name] = Subject(through[:1], call, daemon.pid)
            many[f"{name} x{CLIENTS}"] = Subject(through, call, daemon.pid)
        lone = uvloop.run(in_turn(setting, one))
        alone = latencies(lone)
        runs = uvloop.run(in_turn(setting, many, calls=8 * setting.calls))
    rates = {name: [[len(run.answers) / run.seconds] for run in of_it] for name, of_it in runs.items()}
    slower = ratio(alone["stored"], alone["empty"])
    rate = ratio(rates[f"stored x{CLIENTS}"], rates[f"empty x{CLIENTS}"])
    return make_line(
        "stored",
        seed=setting.seed,
        engine=setting.engine.version,
        blocks=alone,
        reference=None,
        config=config,
        facts={
            "activations": activations,
            "actions": ACTIONS,
            "p50_ratio": msgspec.to_builtins(slower),
            "throughput_ratio": msgspec.to_builtins(rate),
            "cpu_us_a_call": cpu_us_a_call(lone) | cpu_us_a_call(runs),
            "ready_s": {name: round(daemon.ready_s, 2) for name, daemon in daemons.items()},
            "listed_ms": looks,
            "throughput": {name: round(sum(rate for (rate,) in of_it) / len(of_it)) for name, of_it in rates.items()},
        },
        must=("p50 and throughput within 10 % of the empty node's", slower.median <= 1.1 and rate.median >= 0.9),
    )


def _look(daemon: Daemon, activations: int) -> dict[str, float]:
    """Measure what the lists of one of the namespaces take that have the stored activations, ms: the median of nine."""
    key = daemon.create_namespace("n0", uid=20_003)
    queries = {
        "the last 30": "limit=30",
        "30 from the middle": f"limit=30&skip={activations // _NAMESPACES // 2}",
        "30 of one action": "limit=30&name=action0",
        "count": "count=true",
    }
    taken: dict[str, float] = {}
    for name, query in queries.items():
        samples = []
        for _ in range(9):
            began = time.perf_counter()
            daemon.api(key, "GET", f"activations?{query}")
            samples.append((time.perf_counter() - began) * 1000)
        taken[name] = round(statistics.median(samples), 1)
    return taken


def fill(state_dir: Path, activations: int) -> None:
    """Fill the stores of a daemon that has never run."""
    with closing(open_writer(state_dir / "entities.db", "entities", durable=False)) as entities:
        entities.execute("BEGIN")
        for number in range(ACTIONS):
            action = Action(
                namespace=f"n{number % _NAMESPACES}",
                path=f"action{number}",
                revision=f"{number:032x}",
                updated=time.time_ns() // 1_000_000,
                exec=Exec(kind="python:3"),
            )
            value = msgspec.json.encode(action).decode()
            row = {"namespace": action.namespace, "path": action.path, "collection": "actions", "updated": action.updated}
            entities.execute(load_queries("entities")["put_entity"], {**row, "value": value})
        entities.execute("COMMIT")
    made = _made(activations)
    month = month_of(time.time_ns() // 1_000_000)
    queries = load_queries("activations")
    with (
        closing(open_writer(state_dir / "ledger" / f"{month}.db", "ledger", durable=False)) as ledger,
        closing(open_writer(state_dir / "activations.db", "activations", durable=False)) as store,
    ):
        for begin in range(0, activations, _BATCH):
            batch = [next(made) for _ in range(min(_BATCH, activations - begin))]
            ledger.execute("BEGIN")
            ledger.executemany(load_queries("ledger")["finished"], map(finished_values, batch))
            ledger.execute("COMMIT")
            store.execute("BEGIN")
            store.executemany(queries["add_records"], with_bytes(map(RecordRow.of, batch)))
            results = [TextRow(each.activation_id, each.namespace, each.start_ms, '{"ok":true}') for each in batch]
            store.executemany(queries["add_results"], with_bytes(results))
            store.execute("COMMIT")
            for each in (ledger, store):
                each.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _made(activations: int) -> Iterator[Activation]:
    """Make activations that have ended in the last hours, oldest first."""
    ids, begin = ActivationIds(), time.time() - _OVER_S
    for number in range(activations):
        start = begin + number * (_OVER_S - 60) / activations
        namespace = f"n{number % _NAMESPACES}"
        yield Activation(
            activation_id=ids.new(start),
            node="node",
            namespace=namespace,
            subject=namespace,
            path=f"{namespace}/action{number % ACTIONS}",
            version="0.0.1",
            kind="python:3",
            limits=Limits(),
            start_ms=int(start * 1000),
            end_ms=int(start * 1000) + 1,
            status=Status.SUCCESS,
            size=11,
            transaction=f"{number:032x}",
            container="invokerd-node-000000000000",
            meter=Meter(
                start_kind=StartKind.WARM,
                memory_limit_mib=256,
                billed_us=300,
                cpu_us=200,
                cpu_quality=CpuQuality.EXACT,
                phases=Phases(authenticate=20, resolve=20, run=300, collect=40),
            ),
        )
