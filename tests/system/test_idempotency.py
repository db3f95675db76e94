"""`Idempotency-Key`: whoever asks again is given the first activation, and nothing is run twice."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from site_mounts import shared_data

from bench.daemon import Daemon

pytestmark = pytest.mark.docker

NOTE = """import os, time

def main(args):
    fd = os.open("/data/begun", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(fd, f"{os.environ['__OW_ACTIVATION_ID']}\\n".encode())
    os.close(fd)
    time.sleep(args.get("s", 0))
    if args.get("raise"):
        raise ValueError("out of cheese")
    return args
"""


@dataclass
class Site:
    """A daemon, a user, and the file in which the action notes what it has begun."""

    daemon: Daemon
    user: Any
    data: Path

    def begun(self) -> list[str]:
        file = self.data / "begun"
        return file.read_text().splitlines() if file.exists() else []

    def ask(self, key: str, payload: dict[str, Any], query: str = "blocking=true", action: str = "note") -> Any:
        return self.user.invoke(action, payload, query, headers={"Idempotency-Key": key})


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, engine_url: str, make_user: Any) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("idempotency")
    daemon = Daemon(root, engine_url, {"pool.memory_mib": 2048})
    data = shared_data(daemon, root)
    daemon.start()
    try:
        user = make_user(daemon, "anna", words=("--mount", "data"))
        for action in ("note", "other"):
            user.deploy(action, NOTE)
        yield Site(daemon, user, data)
    finally:
        daemon.stop()


@pytest.fixture
def site(start: Site) -> Site:
    """The module's daemon, with nothing noted; each test has keys of its own."""
    (start.data / "begun").unlink(missing_ok=True)
    return start


def test_the_same_call_again_is_answered_with_the_first_activation(site):
    first = site.ask("again", {"n": 1})
    again = site.ask("again", {"n": 1})
    assert (first.status, again.status) == (200, 200)
    assert again.json["activationId"] == first.json["activationId"]
    assert again.headers["x-openwhisk-activation-id"] == first.json["activationId"]
    assert again.json["response"] == first.json["response"]
    bare = site.ask("again", {"n": 1}, "blocking=true&result=true")
    assert (bare.status, bare.json) == (200, {"n": 1})
    assert site.ask("again", {"n": 1}, "blocking=false").json == {"activationId": first.json["activationId"]}
    assert len(site.begun()) == 1


def test_a_failure_is_repeated_too(site):
    answers = [site.ask("failure", {"raise": True}) for _ in range(2)]
    assert [answer.status for answer in answers] == [502, 502]
    assert answers[0].json["activationId"] == answers[1].json["activationId"]
    assert len(site.begun()) == 1


def test_a_large_result_is_repeated_too(site):
    first, again = (site.ask("large", {"text": "x" * 800_000}) for _ in range(2))
    assert first.json["activationId"] == again.json["activationId"]
    assert len(again.json["response"]["result"]["text"]) == 800_000


@pytest.mark.parametrize("query", ["blocking=true", "blocking=false"])
def test_calls_at_the_same_moment_are_one_activation(site, query):
    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(lambda _: site.ask(f"moment {query}", {"s": 0.5}, query), range(16)))
    assert {answer.status for answer in answers} == {200 if query == "blocking=true" else 202}
    [name] = {answer.json["activationId"] for answer in answers}
    site.user.record(name)
    assert site.begun() == [name]


def test_another_body_under_the_same_key_is_refused(site):
    first = site.ask("body", {"n": 1})
    for query in ("blocking=true", "blocking=false"):
        refused = site.ask("body", {"n": 2}, query)
        assert refused.status == 409
        assert "Idempotency-Key" in refused.error
    assert site.ask("body", {"n": 1}).json["activationId"] == first.json["activationId"]
    assert len(site.begun()) == 1


def test_another_body_is_refused_while_the_first_call_runs(site):
    name = site.ask("running", {"s": 1}, "blocking=false").json["activationId"]
    site.daemon.wait(site.begun, "to run it")
    assert site.ask("running", {"s": 2}).status == 409
    assert site.ask("running", {"s": 1}).json["activationId"] == name


def test_keys_are_of_one_action_and_one_namespace(site, make_user):
    bert = make_user(site.daemon, "bert", uid=20_002, gid=20_002)
    bert.deploy("note", "def main(args):\n    return {'mine': True}\n")
    first = site.ask("shared", {"n": 1})
    other = site.ask("shared", {"n": 2}, action="other")
    of_bert = bert.invoke("note", {"n": 3}, headers={"Idempotency-Key": "shared"})
    assert [answer.status for answer in (first, other, of_bert)] == [200, 200, 200]
    assert of_bert.json["response"]["result"] == {"mine": True}
    assert len({answer.json["activationId"] for answer in (first, other, of_bert)}) == 3


def test_calls_without_a_key_are_never_the_same(site):
    names = {site.user.invoke("note", {"n": 1}).json["activationId"] for _ in range(3)}
    assert len(names) == 3
    assert sorted(site.begun()) == sorted(names)


def test_the_first_activation_is_given_also_after_the_action_was_rewritten(site):
    site.user.deploy("changing", "def main(args):\n    return {'v': 1}\n")
    first = site.ask("changing", {}, action="changing")
    site.user.deploy("changing", "def main(args):\n    return {'v': 2}\n")
    again = site.ask("changing", {}, action="changing")
    assert again.json["activationId"] == first.json["activationId"]
    assert again.json["response"]["result"] == {"v": 1}
    assert site.user.invoke("changing").json["response"]["result"] == {"v": 2}


def test_a_refused_call_leaves_its_key_unused(site):
    refused = site.user.invoke("note", b"{", headers={"Idempotency-Key": "refused"})
    assert refused.status == 400
    assert site.ask("refused", {"n": 1}).status == 200


@pytest.mark.parametrize("key", ["", "k" * 10_000])
def test_a_key_without_sense_is_refused(site, key):
    assert site.ask(key, {"n": 1}).status == 400
    assert site.begun() == []


# ---- over restarts


def restarts(site: Site) -> dict[str, Callable[[], None]]:
    return {"stop": site.daemon.stop, "kill": site.daemon.kill}


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_restart_forgets_no_key(site, end):
    first = site.ask(f"restart {end}", {"n": 1})
    restarts(site)[end]()
    site.daemon.start()
    again = site.ask(f"restart {end}", {"n": 1})
    assert (again.status, again.json["activationId"]) == (200, first.json["activationId"])
    assert again.json["response"] == first.json["response"]
    assert site.ask(f"restart {end}", {"n": 2}).status == 409
    assert len(site.begun()) == 1


@pytest.mark.parametrize("query", ["blocking=true", "blocking=false"])
def test_who_asks_again_after_a_crash_in_mid_call_is_told_that_it_was_lost_and_nothing_runs_again(site, query):
    key = f"crash {query}"
    with ThreadPoolExecutor(1) as client:
        call = client.submit(site.ask, key, {"s": 60}, query)
        site.daemon.wait(site.begun, "to run it")
        site.daemon.kill()
        if query == "blocking=true":
            with pytest.raises((OSError, http.client.HTTPException)):
                call.result()
    [name] = site.begun()
    site.daemon.start()
    again = site.ask(key, {"s": 60})
    assert again.json["activationId"] == name
    assert again.status == 500
    assert again.annotations["outcome"] == "lost"
    assert site.ask(key, {"s": 60}, "blocking=false").json == {"activationId": name}
    assert site.ask(key, {"s": 61}).status == 409
    assert site.begun() == [name]


def test_a_call_with_a_key_that_had_not_begun_at_a_crash_is_run_once_for_all_who_ask_again(site):
    site.user.deploy("note", NOTE, memory=2048)  # one container has all of the pool
    try:
        site.user.invoke("note", {"s": 60}, "blocking=false")
        site.daemon.wait(site.begun, "to be busy")
        with ThreadPoolExecutor(1) as client:
            call = client.submit(site.ask, "waiting", {"n": 1})
            site.daemon.wait(lambda: site.daemon.metric("invokerd_activations_in_flight") == 2, "to have it wait")
            site.daemon.kill()
            with pytest.raises((OSError, http.client.HTTPException)):
                call.result()
        site.daemon.start()
        with ThreadPoolExecutor(8) as clients:
            answers = list(clients.map(lambda _: site.ask("waiting", {"n": 1}), range(8)))
        assert {answer.status for answer in answers} <= {200, 202}
        [name] = {answer.json["activationId"] for answer in answers}
        assert site.user.record(name).json["response"]["result"] == {"n": 1}
        assert site.begun().count(name) == 1
        assert len(site.begun()) == 2
    finally:
        site.user.deploy("note", NOTE)


def test_a_call_with_a_key_that_waits_at_a_drain_is_told_to_come_back_and_then_finds_its_activation(site):
    site.user.deploy("note", NOTE, memory=2048)
    try:
        site.user.invoke("note", {"s": 8}, "blocking=false")
        site.daemon.wait(site.begun, "to be busy")
        with ThreadPoolExecutor(1) as client:
            call = client.submit(site.ask, "drained", {"n": 1})
            site.daemon.wait(lambda: site.daemon.metric("invokerd_activations_in_flight") == 2, "to have it wait")
            site.daemon.stop()
            refused = call.result()
        assert refused.status == 503
        assert int(refused.headers["retry-after"]) >= 1
        site.daemon.start()
        again = site.ask("drained", {"n": 1})
        name = again.json["activationId"]
        assert name == refused.headers["x-openwhisk-activation-id"]
        assert site.user.record(name).json["response"]["result"] == {"n": 1}
        assert site.begun().count(name) == 1
    finally:
        site.user.deploy("note", NOTE)
