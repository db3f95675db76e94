"""Row LM-05: several activations in one container, where the kind can."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from meeting import MEET

pytestmark = pytest.mark.docker

NODE = "nodejs:20"
#: Answers once `wanted` activations are there at the same time, and says how many it saw; each writes two lines.
TOGETHER = """
let here = 0
const waiting = []
async function main({ n, wanted }) {
  here += 1
  console.log(`begins ${n}`)
  await new Promise((resolve) => {
    waiting.push(resolve)
    if (here >= wanted) { here = 0; waiting.splice(0).forEach((go) => go()) }
  })
  console.error(`ends ${n}`)
  return { n }
}
"""
#: One of them ends the process, or throws where nobody catches it, when all are there.
FAILS = """
let here = 0
function main({ n, wanted, how }) {
  if (!how) return {}
  here += 1
  if (here >= wanted) {
    if (how === 'exit') process.exit(1)
    setImmediate(() => { throw new Error('nobody catches this') })
  }
  return new Promise(() => {})
}
"""

#: The same in Python: a coroutine function.
TOGETHER_IN_PYTHON = (
    MEET
    + """
async def main(args):
    print("begins", args["n"])
    await meet(args["wanted"])
    print("ends", args["n"])
    return {"n": args["n"]}
"""
)

#: The one of `n` 0 goes wrong once all are there, and the others end after that.
WRONG_IN_PYTHON = """
import asyncio, sys
here = 0
wrong = asyncio.Event()

async def main(args):
    global here
    if args["n"] < 0:
        return {}
    here += 1
    while here < args["wanted"]:
        await asyncio.sleep(0.01)
    if args["n"] == 0:
        wrong.set()
        HOW
    await wrong.wait()
    await asyncio.sleep(0.1)
    return {"n": args["n"]}
"""

#: Says how many of them run.
COUNTS = """
import time
running = 0
def main(args):
    global running
    running += 1
    time.sleep(0.2)
    seen = running
    running -= 1
    return {"seen": seen}
"""


def all_at_once(client: Any, name: str, count: int, **payload: Any) -> list[Any]:
    with ThreadPoolExecutor(count) as threads:
        calls = [threads.submit(client.invoke, name, {"n": n, "wanted": count, **payload}) for n in range(count)]
        return [call.result() for call in calls]


def test_LM_05_five_activations_run_at_the_same_time_in_one_container(client):
    client.deploy("together", TOGETHER, kind=NODE, concurrency=5)
    client.invoke("together", {"n": 0, "wanted": 1})
    answers = all_at_once(client, "together", 5)
    assert [each.status for each in answers] == [200] * 5, [each.text[:500] for each in answers]
    assert len({each.annotations["container"] for each in answers}) == 1
    assert {each.annotations["limits"]["concurrency"] for each in answers} == {5}
    for n, answer in enumerate(answers):
        record = client.record(answer.json["activationId"])
        said = [line.partition(": ")[2] for line in record.json["logs"]]
        assert said == [f"begins {n}", f"ends {n}"]
        assert record.annotations["cpuTime"]["quality"] == "shared"


def test_LM_05_five_python_coroutines_run_at_the_same_time_in_one_container(client):
    client.deploy("coroutine", TOGETHER_IN_PYTHON, concurrency=5)
    assert client.invoke("coroutine", {"n": 0, "wanted": 1}).status == 200
    answers = all_at_once(client, "coroutine", 5)
    assert [each.status for each in answers] == [200] * 5, [each.text[:500] for each in answers]
    assert len({each.annotations["container"] for each in answers}) == 1
    for n, answer in enumerate(answers):
        record = client.record(answer.json["activationId"])
        assert [line.partition(": ")[2] for line in record.json["logs"]] == [f"begins {n}", f"ends {n}"]
        assert record.annotations["cpuTime"]["quality"] == "shared"


@pytest.mark.parametrize("how", ["sys.exit(3)", "raise KeyboardInterrupt", "await asyncio.sleep(3600)"])
def test_LM_05_a_python_coroutine_that_goes_wrong_leaves_the_others_alone_and_the_next_call_has_another_container(client, how):
    client.deploy("wrong", WRONG_IN_PYTHON.replace("HOW", how), concurrency=3, timeout=8000)
    first = client.invoke("wrong", {"n": -1})
    answers = all_at_once(client, "wrong", 3)
    assert [each.status for each in answers] == [502, 200, 200], [each.text[:500] for each in answers]
    assert {each.annotations["container"] for each in answers} == {first.annotations["container"]}
    after = client.invoke("wrong", {"n": -1})
    assert after.status == 200
    assert after.annotations["container"] != first.annotations["container"]


def test_LM_05_what_runs_alone_is_metered_exactly(client):
    client.deploy("alone", TOGETHER, kind=NODE, concurrency=5)
    for _ in range(2):
        answer = client.invoke("alone", {"n": 0, "wanted": 1})
        assert answer.annotations["cpuTime"]["quality"] == "exact"


@pytest.mark.parametrize(("how", "words"), [("exit", "exited unexpectedly"), ("throw", "nobody catches this")])
def test_LM_05_what_ends_the_process_ends_all_of_them_and_the_next_one_has_another(client, how, words):
    client.deploy("fails", FAILS, kind=NODE, concurrency=3, timeout=60_000)
    assert client.invoke("fails").status == 200, "a container that is there takes all three"
    answers = all_at_once(client, "fails", 3, how=how)
    assert [each.status for each in answers] == [502] * 3
    assert all(words in each.error for each in answers), [each.error for each in answers]
    assert {each.json["response"]["status"] for each in answers} == {"action developer error"}
    client.deploy("fails", TOGETHER, kind=NODE, concurrency=3)
    assert client.invoke("fails", {"n": 0, "wanted": 1}).status == 200


def test_LM_05_code_that_cannot_runs_one_at_a_time_in_a_container_and_is_metered_exactly(client):
    client.deploy("python", COUNTS, concurrency=4)
    for _ in range(2):  # cold, and where its containers are known to take one at a time
        answers = all_at_once(client, "python", 4)
        assert [each.json["response"]["result"] for each in answers] == [{"seen": 1}] * 4
        assert {each.annotations["cpuTime"]["quality"] for each in answers} == {"exact"}


def test_LM_05_that_code_takes_one_at_a_time_is_known_over_a_restart(daemon, client):
    client.deploy("kept", COUNTS, concurrency=4)
    container = client.invoke("kept", {}).annotations["container"]
    daemon.stop()
    daemon.start()
    answers = all_at_once(client, "kept", 2)
    assert [each.json["response"]["result"] for each in answers] == [{"seen": 1}] * 2
    assert container in {each.annotations["container"] for each in answers}
    assert {each.annotations["cpuTime"]["quality"] for each in answers} == {"exact"}
