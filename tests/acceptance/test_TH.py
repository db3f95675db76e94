"""Rows TH and SQ-05: how often and how much at once a namespace may do things."""

from __future__ import annotations

import json
import time
from base64 import b64encode
from typing import Any

import pytest

from bench.daemon import Daemon
from invoker.config.model import LimitsConfig

SPIN = """
import time
def main(args):
    began = time.process_time()
    while time.process_time() - began < 0.6:
        pass
    return args
"""
HELLO = {"exec": {"kind": "python:3", "code": "def main(args): return args"}}


async def put_hello(site: Any) -> None:
    assert (await site.ask("PUT", "actions/hello", HELLO)).status == 200


async def test_TH_01_the_61st_invocation_of_a_minute_is_refused_and_the_next_minutes_first_is_not(site):
    await put_hello(site)
    site.now = 60.0 * 28_000_000 + 17
    for _ in range(60):
        assert (await site.ask("POST", "actions/hello", {})).status == 202
    refused = await site.ask("POST", "actions/hello", {})
    assert (refused.status, refused.headers["Retry-After"]) == (429, "43")
    assert "requests in the last minute (count: 61, allowed: 60)" in refused.error
    assert len(site.invoker.calls) == 60
    site.now += 43
    assert (await site.ask("POST", "actions/hello", {})).status == 202


async def test_TH_01_requests_that_fail_count_and_reads_and_writes_do_not(site):
    await put_hello(site)
    site.grant(invocations_per_minute=3)
    assert (await site.ask("POST", "actions/missing", {})).status == 404
    assert (await site.ask("POST", "actions/hello", "[1]")).status == 400
    assert (await site.ask("POST", "actions/hello?timeout=0", {})).status == 400
    for path in ("actions", "actions/hello", "activations", "limits"):
        assert (await site.ask("GET", path)).status == 200
    refused = await site.ask("POST", "actions/hello", {})
    assert "count: 4, allowed: 3" in refused.error
    assert site.invoker.calls == []


async def test_TH_02_the_31st_at_once_is_refused(site):
    await put_hello(site)
    site.invoker.running = 29
    assert (await site.ask("POST", "actions/hello", {})).status == 202
    site.invoker.running = 30
    refused = await site.ask("POST", "actions/hello", {})
    assert refused.status == 429
    assert "concurrent requests in flight (count: 30, allowed: 30)" in refused.error
    assert int(refused.headers["Retry-After"]) >= 1
    assert len(site.invoker.calls) == 1


async def test_TH_03_whether_records_are_stored_is_shown_where_it_was_set(site):
    assert "storeActivations" not in (await site.ask("GET", "limits")).json
    site.grant(store_activations=False)
    assert (await site.ask("GET", "limits")).json["storeActivations"] is False


async def test_TH_04_limits_belong_to_the_namespace_and_not_to_the_key(site):
    await put_hello(site)
    other = site.add_namespace("other")
    site.grant(invocations_per_minute=1)
    assert (await site.ask("POST", "actions/hello", {})).status == 202
    (guest,) = [each for each in site.entities.list_namespaces() if each.name == "guest"]
    second_key = "Basic " + b64encode(site.authenticator.derived_key(guest).encode()).decode()
    assert (await site.ask("POST", "actions/hello", {}, auth=second_key)).status == 429
    assert (await site.ask("PUT", "actions/hello", HELLO, auth=other)).status == 200
    assert (await site.ask("POST", "actions/hello", {}, auth=other)).status == 202


@pytest.mark.parametrize("query", ["", "?blocking=true", "?blocking=true&result=true"])
async def test_TH_05_who_has_no_cpu_time_left_is_refused_before_anything_begins_until_some_is_forgotten(site, query):
    await put_hello(site)
    site.grant(cpu_seconds_per_window=10)
    site.now = 60.0 * 28_400_000
    site.use(4)
    site.now += 90
    site.use(5.9)
    site.invoker.running = 3
    assert (await site.ask("POST", f"actions/hello{query}", {})).status == 202
    site.use(0.5)
    refused = await site.ask("POST", f"actions/hello{query}", {})
    assert (refused.status, refused.headers["Retry-After"]) == (429, "3570")
    assert refused.error == (
        "Too much CPU time used in the last 3600 seconds (used: 10.4 s, allowed: 10 s). Try again in 3570 seconds."
    )
    assert len(site.invoker.calls) == 1
    for path in ("actions", "actions/hello", "activations", "limits"):
        assert (await site.ask("GET", path)).status == 200
    site.now += 3570
    assert (await site.ask("POST", f"actions/hello{query}", {})).status == 202


async def test_TH_05_a_site_may_limit_all_and_let_some_have_more_and_shows_it(site):
    await put_hello(site)
    assert "cpuSecondsPerWindow" not in (await site.ask("GET", "limits")).json
    site.limits = LimitsConfig.of_profile("openwhisk", cpu_seconds_per_window=10)
    site.use(10)
    assert (await site.ask("POST", "actions/hello", {})).status == 429
    shown = (await site.ask("GET", "limits")).json
    assert (shown["cpuSecondsPerWindow"], shown["cpuWindowSeconds"]) == (10, 3600)
    site.grant(cpu_seconds_per_window=11)
    assert (await site.ask("POST", "actions/hello", {})).status == 202
    assert (await site.ask("GET", "limits")).json["cpuSecondsPerWindow"] == 11


# ---- on real containers


@pytest.fixture(scope="module")
def daemon(tmp_path_factory, engine_url, leave_no_containers):
    """One with OpenWhisk's limits."""
    config = {"pool.memory_mib": 2048, "limits.profile": "openwhisk", "limits.memory_max_mib": 512}
    running = Daemon(tmp_path_factory.mktemp("daemon"), engine_url, config)
    running.start()
    yield running
    running.stop()


def put_sequence(client: Any, name: str, *components: str) -> None:
    body = {"exec": {"kind": "sequence", "components": [f"/_/{each}" for each in components]}}
    assert client.ask("PUT", f"actions/{name}?overwrite=true", body).status == 200


def within_one_minute(attempt: Any) -> Any:
    """What `attempt` returns, when the clock's minute did not end on the way."""
    while True:
        minute = time.time() // 60
        result = attempt()
        if time.time() // 60 == minute:
            return result
        time.sleep(0.01)


@pytest.mark.docker
def test_SQ_05_a_sequence_counts_once_and_what_it_runs_does_not(daemon, make_user):
    user = make_user(daemon, "sqfive", uid=20_005, gid=20_005)
    user.deploy("a", "def main(args):\n    return args\n")
    put_sequence(user, "s", "a", "a", "a")
    limits = ("--invocations-per-minute", "2", "--concurrent-invocations", "1")
    daemon.control("namespace", "limits", "sqfive", *limits)

    def attempt() -> list[Any]:
        return [user.invoke("s") for _ in range(3)]

    answers = within_one_minute(attempt)
    ran = [each for each in answers if each.status == 200]
    assert {len(each.json["logs"]) for each in ran} <= {3}
    assert [each.status for each in answers if each not in ran] == [429] * (3 - len(ran))
    assert len(ran) in {0, 2}, "a minute that was begun by an earlier attempt has none left"
    assert "requests in the last minute" in answers[-1].error


@pytest.mark.docker
def test_TH_01_what_was_used_of_the_minute_survives_a_restart(daemon, make_user):
    user = make_user(daemon, "restarts", uid=20_006, gid=20_006)
    user.deploy("a", "def main(args):\n    return args\n")
    daemon.control("namespace", "limits", "restarts", "--invocations-per-minute", "1")

    def attempt() -> list[int]:
        first = user.invoke("a").status
        daemon.stop()
        daemon.start()
        return [first, user.invoke("a").status]

    first, second = within_one_minute(attempt)
    assert first in {200, 429}
    assert second == 429


@pytest.mark.docker
def test_TH_05_used_cpu_time_counts_when_a_call_has_ended_cuts_no_sequence_and_survives_a_kill(daemon, make_user):
    user = make_user(daemon, "spends", uid=20_008, gid=20_008)
    user.deploy("spin", SPIN)
    user.deploy("a", "def main(args):\n    return args\n")
    put_sequence(user, "s", "spin", "a", "a")
    daemon.control("namespace", "limits", "spends", "--cpu-seconds-per-window", "1")
    for _ in range(2):  # the first part of the second uses up what the first has left
        ran = user.invoke("s")
        assert (ran.status, len(ran.json["logs"])) == (200, 3)
    refused = user.invoke("a")
    assert (refused.status, "allowed: 1 s" in refused.error) == (429, True)
    assert daemon.metric("invokerd_throttled_total", namespace="spends", reason="cpu") == 1
    daemon.kill()
    daemon.start()
    assert user.invoke("a").status == 429

    def agrees() -> bool:
        (row,) = json.loads(daemon.control("usage", "--namespace", "spends", "--json"))["rows"]
        used_s = daemon.metric("invokerd_namespace_cpu_window_seconds", namespace="spends")
        return used_s == pytest.approx(row["cpu_us"] / 1e6, abs=1e-9)

    daemon.wait(agrees, "to a window that says what the bill says")


@pytest.mark.docker
def test_TH_03_without_stored_activations_what_runs_is_answered_and_leaves_no_record(daemon, make_user):
    user = make_user(daemon, "leaves-no", uid=20_007, gid=20_007)
    daemon.control("namespace", "limits", "leaves-no", "--no-store-activations")
    user.deploy("a", "def main(args):\n    print('said')\n    return args\n")
    put_sequence(user, "s", "a", "a")
    ids = [user.invoke(name, {"n": 1}).json["activationId"] for name in ("a", "s")]
    accepted = user.invoke("a", {}, "blocking=false")
    assert accepted.status == 202
    ids.append(accepted.json["activationId"])
    deadline = time.monotonic() + 30
    while '"activations":5' not in daemon.control("usage", "--namespace", "leaves-no", "--json").replace(" ", ""):
        assert time.monotonic() < deadline, "the bill does not have all five"
        time.sleep(0.05)
    assert [user.ask("GET", f"activations/{each}").status for each in ids] == [404] * 3
    assert user.ask("GET", "activations").json == []
