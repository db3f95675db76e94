"""What many entities cost: listing and reading with 100,000 of them stored, against the same with 200, and the start."""

from __future__ import annotations

import sqlite3
import time
from contextlib import ExitStack, closing

import msgspec
import uvloop

from bench import client
from bench.daemon import NAMESPACE, Daemon
from bench.measure import Line, make_line, ratio
from bench.setting import CODE, Setting, Subject, in_turn, latencies
from invoker.model import Action

FEW = 200
MANY = 100_000
#: One that is in both.
_NAME = "a00100"
_PAGE = 200


def entities(setting: Setting) -> Line:
    """List 200 actions, and read one, with 100,000 stored and with 200; and how long a daemon takes to be ready with them."""
    subjects: dict[str, Subject] = {}
    ready_s: dict[int, float] = {}
    with ExitStack() as stack:
        for count in (FEW, MANY):
            daemon = stack.enter_context(setting.daemon())
            key = daemon.create_namespace()
            daemon.deploy(key, _NAME, CODE)
            daemon.stop()
            fill(daemon, count)
            began = time.monotonic()
            daemon.start()
            ready_s[count] = time.monotonic() - began
            path = "/api/v1/namespaces/_/actions"
            for what, target in (("list", f"{path}?limit={_PAGE}"), ("get", f"{path}/{_NAME}")):
                request = client.request("GET", target, key=key)
                subjects[f"{what}-{count}"] = Subject(setting.connect(daemon.port), request)
            _check_counts(daemon, key, count)
        samples = latencies(uvloop.run(in_turn(setting, subjects)))
    ratios = {what: ratio(samples[f"{what}-{MANY}"], samples[f"{what}-{FEW}"]) for what in ("list", "get")}
    return make_line(
        "entities",
        seed=setting.seed,
        engine=setting.engine.version,
        blocks=samples,
        reference=None,
        facts={"ratios": msgspec.to_builtins(ratios), "ready_s": {str(n): round(s, 2) for n, s in ready_s.items()}},
        must=(f"list {_PAGE} and get one of {MANY}: <= 1.5 x of {FEW}", all(each.median <= 1.5 for each in ratios.values())),
    )


def fill(daemon: Daemon, count: int) -> None:
    """Store copies of the one action that there is, until there are `count`, while the daemon is stopped."""
    with closing(sqlite3.connect(daemon.state_dir / "entities.db")) as database, database:
        own = "SELECT value FROM entities WHERE namespace = ? AND collection = 'actions'"
        (text,) = database.execute(own, (NAMESPACE,)).fetchone()
        action = msgspec.json.decode(text, type=Action)
        rows = (_row(action, f"a{number:05}", number) for number in range(count) if f"a{number:05}" != action.path)
        database.executemany("INSERT INTO entities (namespace, path, collection, updated, value) VALUES (?, ?, ?, ?, ?)", rows)


def _row(action: Action, path: str, number: int) -> tuple[str, str, str, int, str]:
    updated = action.updated + number
    copy = msgspec.structs.replace(action, path=path, revision=f"{number:032x}", updated=updated)
    return copy.namespace, path, "actions", updated, msgspec.json.encode(copy).decode()


def _check_counts(daemon: Daemon, key: str, count: int) -> None:
    """See that the daemon has as many as it should: a fast list of too few would prove nothing."""
    answer = daemon.ask("/api/v1/namespaces/_/actions?count=true", key)
    assert answer == {"actions": count}, answer
