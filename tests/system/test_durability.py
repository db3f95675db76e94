"""What was answered or promised stands, once, whatever becomes of the daemon or of the client.

The action of these tests notes in a file on a site mount that it has begun: what it did is told by the file, not by the daemon.
"""

from __future__ import annotations

import base64
import http.client
import json
import random
import socket
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from site_mounts import shared_data

from bench.daemon import Daemon

pytestmark = pytest.mark.docker

CLIENTS = 16
MEMORY_MIB = 2048
ACTION_MIB = 256
#: One write of one line with O_APPEND: lines of containers that write at the same time do not mix.
NAP = """import os, time

def main(args):
    fd = os.open("/data/begun", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(fd, f"{os.environ['__OW_ACTIVATION_ID']} {args['number']}\\n".encode())
    os.close(fd)
    time.sleep(args["ms"] / 1000)
    print("slept", args["ms"])
    return {"number": args["number"]}
"""


@dataclass
class Site:
    """A daemon with one user, and the file in which the action notes what it has begun."""

    daemon: Daemon
    user: Any
    data: Path

    def begun(self) -> list[tuple[str, int]]:
        """Read (activation id, number of the call) of all that began, in order."""
        file = self.data / "begun"
        lines = file.read_text().splitlines() if file.exists() else []
        return [(name, int(number)) for name, number in (line.split() for line in lines)]

    def finished(self) -> dict[str, list[dict[str, Any]]]:
        """Read the finished rows of all months of the ledger, by activation, once everything is in it."""
        self.daemon.wait(lambda: self.daemon.metric("invokerd_recorder_backlog_records") == 0, "to an empty backlog")
        rows: dict[str, list[dict[str, Any]]] = {}
        for file in sorted((self.daemon.state_dir / "ledger").glob("*.db")):
            with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as ledger:
                ledger.row_factory = sqlite3.Row
                for row in ledger.execute("SELECT * FROM ledger WHERE type = 'finished'"):
                    rows.setdefault(row["subject"], []).append(dict(row))
        return rows


@pytest.fixture
def site(tmp_path: Path, engine_url: str, make_user: Any) -> Iterator[Site]:
    daemon = Daemon(tmp_path, engine_url, {"pool.memory_mib": MEMORY_MIB})
    data = shared_data(daemon, tmp_path)
    daemon.start()
    try:
        user = make_user(daemon, "anna", words=("--mount", "data"))
        user.deploy("nap", NAP, memory=ACTION_MIB)
        yield Site(daemon, user, data)
    finally:
        daemon.stop()


# ---- kill -9


@dataclass
class Load:
    """Calls of many clients, over a crash: whose connection breaks waits until the daemon is there again, and goes on."""

    site: Site
    numbers: Iterator[int]
    kill_at: int
    chance: random.Random
    answered: dict[str, int] = field(default_factory=dict)
    accepted: dict[str, int] = field(default_factory=dict)
    broken: set[int] = field(default_factory=set)
    refused: list[Any] = field(default_factory=list)
    time_to_kill: threading.Event = field(default_factory=threading.Event)
    back: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self) -> tuple[int, bool, int] | None:
        with self.lock:
            number = next(self.numbers, None)
            if number == self.kill_at:
                self.time_to_kill.set()
            return None if number is None else (number, self.chance.random() < 0.5, self.chance.randrange(200))

    def run_client(self) -> None:
        while (call := self.next()) is not None:
            number, blocking, ms = call
            payload = {"number": number, "ms": ms}
            try:
                answer = self.site.user.invoke("nap", payload, f"blocking={json.dumps(blocking)}")
            except (OSError, http.client.HTTPException):
                self.broken.add(number)
                assert self.back.wait(60)
                continue
            kept = {200: self.answered, 202: self.accepted}.get(answer.status)
            if kept is None or (answer.status == 200) != blocking:
                self.refused.append((answer.status, answer.text))
            else:
                kept[answer.json["activationId"]] = number


def crash(site: Site, chance: random.Random, numbers: range) -> Load:
    """Kill the daemon at a random moment of these calls, start it again, and let the clients make the rest of them."""
    load = Load(site, iter(numbers), chance.choice(numbers[len(numbers) // 10 : len(numbers) * 9 // 10]), chance)
    with ThreadPoolExecutor(CLIENTS) as clients:
        running = [clients.submit(load.run_client) for _ in range(CLIENTS)]
        try:
            assert load.time_to_kill.wait(120)
            threading.Event().wait(chance.random() * 0.2)  # any moment of a call, not only its start
            site.daemon.kill()
            site.daemon.start()
        finally:
            load.back.set()
        for client in running:
            client.result()
    return load


def check(site: Site, loads: list[Load]) -> None:
    answered = {name: number for load in loads for name, number in load.answered.items()}
    accepted = {name: number for load in loads for name, number in load.accepted.items()}
    assert [refusal for load in loads for refusal in load.refused] == []
    records = {name: site.user.record(name, 60) for name in accepted}
    records |= {name: site.user.record(name) for name in answered}
    rows = site.finished()
    begun = site.begun()

    assert {name: len(found) for name, found in rows.items() if len(found) != 1} == {}
    outcomes = {name: found[0]["outcome"] for name, found in rows.items()}
    assert {name: outcomes.get(name) for name in answered if outcomes.get(name) != "ok"} == {}
    assert {name: outcomes.get(name) for name in accepted if outcomes.get(name) not in {"ok", "lost"}} == {}
    assert {name for name, record in records.items() if record.annotations["outcome"] != outcomes[name]} == set()

    # What had begun was not run again: neither the activation nor, under another id, the call.
    for position in (0, 1):
        assert {each: count for each, count in Counter(entry[position] for entry in begun).items() if count > 1} == {}
    # What ended well has run, and what has run has ended.
    assert {name for name, outcome in outcomes.items() if outcome == "ok"} <= {name for name, _ in begun}
    assert {name for name, _ in begun} <= set(outcomes)

    numbers = dict(begun)
    for name, outcome in outcomes.items():
        if outcome == "ok" and name in records:
            number = answered.get(name, accepted.get(name))
            assert numbers[name] == number
            assert records[name].json["response"]["result"] == {"number": number}
    lost = sum(outcome == "lost" for outcome in outcomes.values())
    unanswered = sum(len(load.broken) for load in loads)
    assert lost <= len(loads) * MEMORY_MIB // ACTION_MIB
    assert lost <= unanswered + len(accepted)


def rounds_of(site: Site, count: int, calls: int) -> None:
    chance = random.Random(count)
    loads = [crash(site, chance, range(turn * calls, (turn + 1) * calls)) for turn in range(count)]
    check(site, loads)
    assert sum(len(load.broken) for load in loads) > 0, "no crash met a call"


def test_calls_in_flight_at_a_crash_end_once_and_nothing_that_had_begun_is_run_again(site):
    rounds_of(site, 2, 250)


@pytest.mark.long
def test_ten_crashes_of_a_thousand_calls_each(site):
    rounds_of(site, 10, 1000)


def test_what_was_accepted_and_waited_at_a_crash_is_run_by_the_next_daemon(site):
    site.user.deploy("nap", NAP, memory=MEMORY_MIB)  # one container has all of the pool
    first = site.user.invoke("nap", {"number": 0, "ms": 60_000}, "blocking=false").json["activationId"]
    site.daemon.wait(site.begun, "to run the first call")
    waiting = [
        site.user.invoke("nap", {"number": number, "ms": 0}, "blocking=false").json["activationId"] for number in range(1, 6)
    ]
    site.daemon.kill()
    site.daemon.start()
    assert site.user.record(first).annotations["outcome"] == "lost"
    assert site.user.record(first).json["response"]["result"]["error"]
    assert [site.user.record(name).json["response"]["result"] for name in waiting] == [{"number": n} for n in range(1, 6)]
    assert sorted(site.begun()) == sorted(zip([first, *waiting], range(6), strict=True))
    assert Counter(row["outcome"] for rows in site.finished().values() for row in rows) == {"ok": 5, "lost": 1}


QUICK = "def main(args):\n    return {'number': 1, 'ms': 60_000}\n"


def test_a_sequence_that_is_lost_names_its_parts_and_the_part_its_cause_and_the_bill_is_that_of_what_ended(site):
    user = site.user
    user.deploy("quick", QUICK, memory=128)
    for name, components in (("inner", ["/_/nap"]), ("outer", ["/_/quick", "/_/inner", "/_/quick"])):
        made = user.ask("PUT", f"actions/{name}", {"exec": {"kind": "sequence", "components": components}})
        assert made.status == 200, made.text
    outer = user.invoke("outer", query="blocking=false").json["activationId"]
    site.daemon.wait(site.begun, "to run the part that does not end")
    [(part, _)] = site.begun()
    site.daemon.kill()
    site.daemon.start()

    whole, lost = user.record(outer), user.record(part)
    inner = lost.json["cause"]
    first, nested = whole.json["logs"]
    assert nested == inner
    assert whole.json["response"]["status"] == lost.json["response"]["status"] == "whisk internal error"
    assert user.record(inner).json["logs"] == [part]
    assert [user.record(each).json["cause"] for each in (first, inner)] == [outer, outer]
    told = whole.annotations
    assert (told["kind"], told["topmost"], told["outcome"], told["limits"]["memory"]) == ("sequence", True, "lost", ACTION_MIB)
    assert {"cost", "billed"}.isdisjoint(told)
    assert lost.annotations["causedBy"] == "sequence"
    assert whole.json["duration"] == user.record(first).json["duration"] + user.record(inner).json["duration"]

    rows = site.finished()
    assert {name: [row["outcome"] for row in found] for name, found in rows.items()} == {
        first: ["ok"], part: ["lost"], inner: ["lost"], outer: ["lost"],
    }  # fmt: skip
    assert [rows[each][0]["cause"] for each in (first, part, inner, outer)] == [outer, inner, outer, None]
    assert sum(row["billed_us"] for [row] in rows.values()) == rows[first][0]["billed_us"] > 0


def test_what_is_lost_of_a_namespace_that_keeps_no_records_is_in_the_ledger_and_has_no_record(site):
    site.daemon.control("namespace", "limits", "anna", "--no-store-activations")
    name = site.user.invoke("nap", {"number": 1, "ms": 60_000}, "blocking=false").json["activationId"]
    site.daemon.wait(site.begun, "to run the call")
    site.daemon.kill()
    site.daemon.start()
    assert [row["outcome"] for row in site.finished()[name]] == ["lost"]
    assert site.user.ask("GET", f"activations/{name}").status == 404
    assert site.user.ask("GET", "activations").json == []


@pytest.mark.parametrize("size", [10, 900_000], ids=["small", "large"])
def test_a_payload_is_durable_when_the_call_is_accepted(site, size):
    site.user.deploy("length", "def main(args):\n    return {'length': len(args['text'])}\n", memory=MEMORY_MIB)
    site.user.invoke("nap", {"number": 0, "ms": 60_000}, "blocking=false")
    site.daemon.wait(site.begun, "to be busy")
    name = site.user.invoke("length", {"text": "x" * size}, "blocking=false").json["activationId"]
    site.daemon.kill()
    site.daemon.start()
    assert site.user.record(name).json["response"]["result"] == {"length": size}


@pytest.mark.parametrize("size", [10, 900_000], ids=["small", "large"])
def test_what_was_answered_is_there_after_a_crash_with_its_result_and_its_logs(site, size):
    site.user.deploy("text", "def main(args):\n    print('made it')\n    return {'text': 'x' * args['size']}\n")
    answer = site.user.invoke("text", {"size": size})
    site.daemon.kill()
    assert answer.status == 200
    site.daemon.start()
    record = site.user.record(answer.json["activationId"])
    told = record.json
    assert [line.partition(": ")[2] for line in told.pop("logs")] == ["made it"]
    assert told == {key: value for key, value in answer.json.items() if key != "logs"}


def test_a_crash_while_recovering_from_a_crash_loses_nothing_and_repeats_nothing(site):
    names = [
        site.user.invoke("nap", {"number": number, "ms": 300}, "blocking=false").json["activationId"] for number in range(30)
    ]
    for _ in range(3):
        before = len(site.begun())
        site.daemon.kill()
        site.daemon.start()
        # It is killed again as soon as it has begun something of what it found; what was handed to a container just before the
        # last kill is lost without a mark, and that may have been all of the rest.
        site.daemon.wait(
            lambda before=before: len(site.begun()) > before or site.daemon.metric("invokerd_activations_in_flight") == 0,
            "to go on",
        )
    outcomes = Counter(site.user.record(name, 60).annotations["outcome"] for name in names)
    assert sum(outcomes.values()) == 30
    assert set(outcomes) <= {"ok", "lost"}
    rows = site.finished()
    assert {name: len(rows[name]) for name in names} == dict.fromkeys(names, 1)
    assert max(Counter(number for _, number in site.begun()).values()) == 1


# ---- clients that do not wait


def test_a_client_that_hangs_up_changes_nothing(site):
    request = json.dumps({"number": 7, "ms": 1000}).encode()
    credentials = base64.b64encode(site.user.key.encode()).decode()
    with socket.create_connection(("127.0.0.1", site.daemon.port)) as connection:
        connection.sendall(
            b"POST /api/v1/namespaces/_/actions/nap?blocking=true HTTP/1.1\r\nHost: localhost\r\n"
            + f"Authorization: Basic {credentials}\r\nContent-Type: application/json\r\n".encode()
            + f"Content-Length: {len(request)}\r\n\r\n".encode()
            + request
        )
        site.daemon.wait(site.begun, "to run the call")
    [(name, _)] = site.begun()
    record = site.user.record(name)
    assert record.json["response"]["result"] == {"number": 7}
    phases = next(each["value"] for each in record.json["annotations"] if each["key"] == "phases")
    assert phases["thaw"] + phases["run"] >= 1_000_000
    [row] = site.finished()[name]
    assert row["outcome"] == "ok"
    assert row["billed_us"] >= 1_000_000
    [usage] = [each for each in json.loads(site.daemon.control("usage", "--json"))["rows"] if each["namespace"] == "anna"]
    assert usage["billed_us"] >= 1_000_000


def test_a_blocking_call_that_outlasts_its_wait_is_answered_with_its_id_and_goes_on(site):
    answer = site.user.invoke("nap", {"number": 1, "ms": 1000}, "blocking=true&timeout=100")
    assert answer.status == 202, answer.text
    name = answer.json["activationId"]
    assert answer.headers["x-openwhisk-activation-id"] == name
    assert site.user.ask("GET", f"activations/{name}").status == 404
    record = site.user.record(name)
    assert record.json["response"]["result"] == {"number": 1}
    assert site.begun() == [(name, 1)]
