"""What holds while many call at the same time: no old code after a rewrite, and never more memory than the pool has."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import engine_api
import pytest

from bench.daemon import Daemon

pytestmark = pytest.mark.docker

CALLERS = 4
BUDGET_MIB = 1024


def code(version: int) -> str:
    return f"import time\ndef main(args):\n    time.sleep(0.02)\n    return {{'version': {version}}}\n"


# ---- rewriting and deleting


class Callers:
    """Clients that call an action again and again, and note which version was acknowledged when they sent each call."""

    def __init__(self, user: Any, action: str) -> None:
        self.user = user
        self.action = action
        #: The last version whose PUT was answered.
        self.acknowledged = 0
        #: (acknowledged when the call was sent, version that answered).
        self.answers: list[tuple[int, int | None]] = []
        self.refused: list[str] = []
        self._ended = threading.Event()

    def call(self) -> None:
        while not self._ended.is_set():
            before = self.acknowledged
            answer = self.user.invoke(self.action, query="blocking=true&result=true")
            if answer.status != 200:
                self.refused.append(answer.text)
            self.answers.append((before, answer.json.get("version")))

    @contextmanager
    def calling(self) -> Iterator[None]:
        with ThreadPoolExecutor(CALLERS) as clients:
            running = [clients.submit(self.call) for _ in range(CALLERS)]
            try:
                yield
            finally:
                self._ended.set()
            for each in running:
                each.result()


def rewrite_under_load(daemon: Daemon, user: Any, times: int) -> None:
    user.deploy("changing", code(0), memory=128)
    callers = Callers(user, "changing")
    with callers.calling():
        for version in range(1, times + 1):
            user.deploy("changing", code(version), memory=128)
            callers.acknowledged = version
            # The next one comes in the midst of calls of this one, whose containers are warm, frozen and starting.
            daemon.wait(
                lambda version=version: bool(callers.answers) and callers.answers[-1][1] == version,
                f"to answer with version {version}",
            )
    assert callers.refused == []
    old = [(before, version) for before, version in callers.answers if version is None or version < before]
    assert old == []
    assert {version for _, version in callers.answers} >= set(range(1, times + 1))
    last = user.invoke("changing").annotations["container"]
    daemon.wait(lambda: {each["container"] for each in of_action(daemon, "anna/changing")} >= {last}, "to rest")
    for _ in range(20):
        assert user.invoke("changing", query="blocking=true&result=true").json == {"version": times}


def of_action(daemon: Daemon, action: str) -> list[dict[str, Any]]:
    return [each for each in json.loads(daemon.control("pool", "--json"))["containers"] if each["action"] == action]


def test_no_call_is_answered_by_old_code_once_a_rewrite_is_acknowledged(daemon, client):
    rewrite_under_load(daemon, client, 15)


@pytest.mark.long
def test_no_call_is_answered_by_old_code_in_a_hundred_rewrites(daemon, client):
    rewrite_under_load(daemon, client, 100)


def test_a_deleted_action_is_not_found_while_calls_that_began_before_end_well(daemon, client):
    client.deploy("doomed", "import time\ndef main(args):\n    time.sleep(2)\n    return {'done': True}\n", memory=128)
    with ThreadPoolExecutor(CALLERS) as clients:
        running = [clients.submit(client.invoke, "doomed") for _ in range(CALLERS)]
        # Some run, others may wait for a container: all were admitted before the action went.
        daemon.wait(lambda: daemon.metric("invokerd_activations_in_flight") == CALLERS, "to have all of them")
        daemon.wait(lambda: any(each["leases"] for each in of_action(daemon, "anna/doomed")), "to run one of them")
        busy = {each["container"] for each in of_action(daemon, "anna/doomed") if each["state"] == "busy"}
        assert client.ask("DELETE", "actions/doomed").status == 200
        for query in ("blocking=true", "blocking=false"):
            assert client.invoke("doomed", query=query).status == 404
        assert client.ask("GET", "actions/doomed").status == 404
        answers = [each.result() for each in running]
    assert [answer.json["response"]["result"] for answer in answers] == [{"done": True}] * CALLERS
    # Those that were started for what waited are never found again, and go by their keep-alive.
    daemon.wait(lambda: not busy & {each["container"] for each in of_action(daemon, "anna/doomed")}, "to remove those that ran")
    for answer in answers:
        assert client.record(answer.json["activationId"]).annotations["outcome"] == "ok"


def test_an_action_made_anew_under_the_name_of_a_deleted_one_runs_its_own_code(daemon, client):
    for version in range(10):
        client.deploy("again", code(version), memory=128)
        assert client.invoke("again", query="blocking=true&result=true").json == {"version": version}
        assert client.ask("DELETE", "actions/again").status == 200
        assert client.invoke("again").status == 404


# ---- memory


class Watch:
    """Looks at the pool, as it tells itself and as the engine has it, until the block ends."""

    def __init__(self, daemon: Daemon, engine: engine_api.Engine) -> None:
        self.daemon = daemon
        self.engine = engine
        self.told: list[dict[str, Any]] = []
        #: MiB that the limits of the engine's containers add up to, at each look.
        self.seen: list[int] = []
        self._ended = threading.Event()

    def look(self) -> None:
        query = [("all", "1"), ("filters", json.dumps({"label": [f"invokerd.node={self.daemon.node}"]}))]
        while not self._ended.is_set():
            found = self.engine.request("GET", "/containers/json", query=query)
            self.seen.append(sum(json.loads(each["Labels"]["invokerd.spec"])["memory_mib"] for each in found))
            self._ended.wait(0.05)

    @contextmanager
    def looking(self) -> Iterator[None]:
        words = ("pool", "--json", "--watch", "--interval", "0.1")
        command = (sys.executable, "-m", "invoker.commands.ctl", "--config", str(self.daemon._file), *words)
        with ThreadPoolExecutor(1) as other, subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as pool:
            looking = other.submit(self.look)
            try:
                yield
            finally:
                self._ended.set()
                pool.terminate()
                lines = pool.communicate()[0].splitlines()
            looking.result()
        # The last line may have been cut off.
        self.told = [json.loads(line) for line in lines[:-1] if line.strip()]


@pytest.mark.parametrize("shrinks", [False, True], ids=["limits-are-reserved", "frozen-ones-reserve-what-they-hold"])
def test_four_namespaces_that_want_more_than_there_is_never_get_it_and_all_are_answered(tmp_path, engine_url, make_user, shrinks):
    daemon = Daemon(tmp_path, engine_url, {"pool.memory_mib": BUDGET_MIB, "pool.shrink_frozen": shrinks})
    daemon.start()
    try:
        users = [make_user(daemon, f"user{number}", uid=20_001 + number, gid=20_001 + number) for number in range(4)]
        sizes = (128, 256, 384, 1024)  # the last needs the whole pool for itself
        for user in users:
            for size in sizes:
                user.deploy(f"a{size}", "import time\ndef main(args):\n    time.sleep(args['s'])\n    return args\n", memory=size)
        calls = [(user, f"a{size}", {"s": 0.02 * (turn % 4)}) for turn in range(6) for user in users for size in sizes]
        watch = Watch(daemon, engine_api.Engine(engine_url))
        with watch.looking(), ThreadPoolExecutor(24) as clients:
            answers = list(clients.map(lambda call: call[0].invoke(call[1], call[2]), calls))
        assert [(answer.status, answer.text[:200]) for answer in answers if answer.status != 200] == []
        assert [answer.json["response"]["result"] for answer in answers] == [payload for _, _, payload in calls]
        assert len(watch.told) >= 5
        assert len(watch.seen) >= 5
        for told in watch.told:
            assert told["memory_used_mib"] <= told["memory_budget_mib"] == BUDGET_MIB
            assert sum(each["memory_mib"] for each in told["containers"]) <= BUDGET_MIB
        assert max(told["memory_used_mib"] for told in watch.told) > BUDGET_MIB / 2, "there was no competition"
        assert shrinks or max(watch.seen) <= BUDGET_MIB, "of limits: frozen ones that shrank hold less"
        daemon.wait(lambda: json.loads(daemon.control("pool", "--json"))["waiting"] == 0, "to rest")
        uids = {each["container"]: each["uid"] for told in watch.told for each in told["containers"]}
        for (user, _, _), answer in zip(calls, answers, strict=True):
            held = answer.annotations["container"]
            assert uids.get(held, 20_001 + users.index(user)) == 20_001 + users.index(user)
    finally:
        daemon.stop()
