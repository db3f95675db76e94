"""An image that shares no code with ours, Go and its standard library: the contract is OpenWhisk's, nothing more."""

from __future__ import annotations

import io
import json
import os
import random
import re
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import engine_api
import pytest

from bench.daemon import Daemon

pytestmark = pytest.mark.docker

BUILD = Path(__file__).parents[1] / "foreign/build.py"
LINE = re.compile(r"\d+-\d+-\d+T\d+:\d+:\d+\.\d+Z\s+(stdout|stderr): (.*)", re.DOTALL)
#: Of the foreign server: it closes a connection that is idle for so long.
KEEP_ALIVE_S = 1.0


@pytest.fixture(scope="module")
def image(engine_url: str) -> str:
    done = subprocess.run(
        [sys.executable, str(BUILD), "--engine", engine_url], stdout=subprocess.PIPE, text=True, check=True, env=os.environ
    )
    return done.stdout.strip()


@pytest.fixture(scope="module")
def concurrent_image(engine_url: str, image: str) -> str:
    """The same image, whose label says that it serves several activations at the same time."""
    dockerfile = f"FROM {image}\nLABEL invokerd.concurrent=true\n".encode()
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(dockerfile)
        archive.addfile(entry, io.BytesIO(dockerfile))
    name = "invokerd-test/foreign-concurrent:latest"
    for _ in engine_api.Engine(engine_url).stream("/build", query=[("t", name), ("rm", "1")], body=context.getvalue()):
        pass
    return name


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, engine_url: str) -> Iterator[Daemon]:
    """One whose grace is long enough to meet a warm container, and short enough to see it freeze."""
    running = Daemon(tmp_path_factory.mktemp("foreign"), engine_url, {"pool.memory_mib": 2048, "pool.freeze_grace_s": 0.4})
    running.start()
    yield running
    running.stop()


@pytest.fixture
def foreign(client: Any, image: str) -> Any:
    """A user whose action `foreign` is new: its next start is cold."""
    client.deploy("foreign", image=image, timeout=10_000)
    return client


def freeze(daemon: Daemon) -> None:
    def frozen() -> bool:
        listed = json.loads(daemon.control("pool", "--json"))["containers"]
        return any(each["action"] == "anna/foreign" and each["state"] == "frozen" for each in listed)

    daemon.wait(frozen, "to freeze it")


def call(user: Any, **payload: Any) -> Any:
    answer = user.invoke("foreign", payload)
    assert answer.status == 200, answer.text
    return answer


def lines_of(user: Any, answer: Any) -> list[tuple[str, str]]:
    """Lines of an activation; they come after its record, and each of these writes some."""
    deadline = time.monotonic() + 20
    while not (record := user.record(answer.json["activationId"])).json["logs"] and time.monotonic() < deadline:
        time.sleep(0.02)
    matches = [LINE.fullmatch(line) for line in record.json["logs"]]
    assert all(matches), record.json["logs"]
    return [(match[1], match[2]) for match in matches if match]


def test_cold_warm_and_frozen_calls_answer_and_have_their_own_lines_without_sentinels(daemon, foreign):
    starts, containers = [], set()
    for turn in range(4):
        if turn >= 2:
            freeze(daemon)
        answer = call(foreign, do=f"turn {turn}")
        assert answer.json["response"]["result"] == {"echo": {"do": f"turn {turn}"}}
        assert sorted(lines_of(foreign, answer)) == [("stderr", "foreign: on stderr"), ("stdout", f"foreign: run turn {turn}")]
        starts.append(answer.annotations["startKind"])
        containers.add(answer.annotations["container"])
    assert starts[0] == "cold"
    assert starts[2:] == ["frozen", "frozen"]
    assert len(containers) == 1


def test_it_runs_as_the_user_and_is_told_what_the_contract_says(foreign):
    result = call(foreign, do="env").json["response"]["result"]
    assert (result["uid"], result["gid"]) == (20_001, 20_001)
    environment = dict(line.split("=", 1) for line in result["env"])
    assert environment["__OW_NAMESPACE"] == "anna"
    assert environment["__OW_ACTION_NAME"] == "/anna/foreign"
    assert re.fullmatch("[0-9a-f]{32}", environment["__OW_ACTIVATION_ID"])
    assert int(environment["__OW_DEADLINE"]) > 1_600_000_000_000
    assert environment["__OW_API_HOST"].startswith("http://127.0.0.1:")
    assert "__OW_LOG_PIPE" not in environment
    assert "__OW_API_KEY" not in environment


@pytest.mark.parametrize(
    ("do", "sentence", "status", "outcome", "kept"),
    [
        ("error", "as asked", "application error", "application-error", True),
        ("fail", "failed as asked", "action developer error", "failed", False),
        ("exit", "exited unexpectedly", "action developer error", "crashed", False),
        ("scalar", "did not produce a valid JSON or JSON Array response", "action developer error", "bad-response", False),
        ("rubbish", "", "action developer error", None, False),
        ("sleep", "exceeded its time limits of 1000 milliseconds", "action developer error", "timeout", False),
    ],
)
def test_what_goes_wrong_inside_is_told_and_the_next_call_works(foreign, image, do, sentence, status, outcome, kept):
    foreign.deploy("foreign", image=image, timeout=1000)
    first = call(foreign, do="nothing")
    answer = foreign.invoke("foreign", {"do": do, "seconds": 60})
    assert answer.status == 502, answer.text
    assert sentence in answer.error
    assert answer.json["response"]["status"] == status
    assert outcome is None or answer.annotations["outcome"] == outcome
    texts = [text for _, text in lines_of(foreign, answer)]
    assert f"foreign: run {do}" in texts
    assert not [text for text in texts if "XXX_THE_END" in text]
    after = call(foreign, do="nothing")
    assert (after.annotations["container"] == first.annotations["container"]) == kept


def test_its_result_does_not_wait_for_its_lines(foreign):
    """`exit` prints no sentinel, so its lines are waited for; the answer is not."""
    took_s: list[float] = []
    while not took_s or took_s[-1] >= 2.0:  # for so long it may wait for lines; so would each of them
        assert len(took_s) < 5, took_s
        call(foreign, do="nothing")
        began = time.monotonic()
        answer = foreign.invoke("foreign", {"do": "exit"})
        took_s.append(time.monotonic() - began)
        assert answer.status == 502
        assert ("stdout", "foreign: run exit") in lines_of(foreign, answer)


def reuse(daemon: Daemon, foreign: Any, rounds: int) -> None:
    """Call again and again after pauses around the keep-alive of the server: no call may meet a dead connection."""
    random.seed(7)
    first = call(foreign, do="round")
    for turn in range(rounds):
        freeze(daemon)
        # Not to wait for something: the pause itself is what is tried, half of them about the moment of the close.
        time.sleep(random.choice((random.uniform(0.0, 1.5), random.uniform(KEEP_ALIVE_S - 0.45, KEEP_ALIVE_S - 0.35))))
        answer = call(foreign, do=f"round {turn}")
        assert answer.annotations["startKind"] == "frozen"
        assert answer.annotations["container"] == first.annotations["container"]
        assert ("stdout", f"foreign: run round {turn}") in lines_of(foreign, answer)


def test_freezes_longer_than_the_servers_keep_alive_lose_no_call(daemon, foreign):
    reuse(daemon, foreign, 20)


@pytest.mark.long
def test_many_freezes_longer_than_the_servers_keep_alive_lose_no_call(daemon, foreign):
    reuse(daemon, foreign, 200)


def meet(user: Any, count: int) -> list[Any]:
    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(lambda n: user.invoke("foreign", {"do": "meet", "wanted": count, "n": n}), range(count)))


def test_an_image_whose_label_says_so_serves_several_at_once_and_what_they_used_is_divided_and_marked(client, concurrent_image):
    client.deploy("foreign", image=concurrent_image, timeout=20_000, concurrency=3)
    assert call(client, do="nothing").annotations["startKind"] == "cold"
    answers = meet(client, 3)
    assert [each.status for each in answers] == [200] * 3, [each.text[:500] for each in answers]
    assert {each.json["response"]["result"]["echo"]["n"] for each in answers} == {0, 1, 2}
    assert len({each.annotations["container"] for each in answers}) == 1
    spent = [each.annotations["cpuTime"] for each in answers]
    assert {each["quality"] for each in spent} == {"shared"}
    assert sum(each["us"] for each in spent) >= 5_000, (
        "they spun for 20 ms by the clock, of which a busy machine gives them a part"
    )
    for answer in answers:
        assert any("lines of theirs may be among these" in text for _, text in lines_of(client, answer))
    alone = call(client, do="alone")
    assert alone.annotations["cpuTime"]["quality"] == "exact"
    assert sorted(lines_of(client, alone)) == [("stderr", "foreign: on stderr"), ("stdout", "foreign: run alone")]


def test_an_image_that_says_nothing_takes_one_at_a_time_whatever_the_actions_limit(client, image):
    client.deploy("foreign", image=image, timeout=20_000, concurrency=2)
    with ThreadPoolExecutor(2) as threads:
        answers = list(threads.map(lambda _: call(client, do="sleep", seconds=0.2), range(2)))
    assert {each.annotations["cpuTime"]["quality"] for each in answers} == {"exact"}
