"""An engine that hangs, lies, loses answers and goes away, behind a proxy; and who is the worse for it.

One whose disk is really full: `test_full_engine_disk.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from watched_site import ECHO, WatchedSite

from bench.daemon import Daemon
from bench.proxy import CountingProxy

pytestmark = pytest.mark.docker

CREATE = "POST .*/containers/create"
START = "POST .*/containers/[^/]+/start"
INSPECT = "GET .*/containers/[^/]+/json"
LIST = "GET .*/containers/json"
REMOVE = "DELETE .*/containers/.*"
#: Long enough for a healthy engine on a machine that stands still for a while.
DEADLINE_S = 12.0


def says(status: int, body: Any) -> str:
    """A whole HTTP response."""
    text = json.dumps(body)
    kind = "Content-Type: application/json\r\nConnection: close"
    return f"HTTP/1.1 {status} X\r\n{kind}\r\nContent-Length: {len(text)}\r\n\r\n{text}"


class Site(WatchedSite):
    proxy: CountingProxy

    def cold(self, name: str, engine: str = "") -> Any:
        """Call an action that has no container, nor a stem cell."""
        self.user.deploy(name, f"# {engine}\n{ECHO}", memory=300)
        return self.user.invoke(name, {"x": 1})

    def settled(self) -> None:
        """Wait until nothing is left of what went wrong."""
        self.daemon.wait(lambda: "removing" not in self.pooled().values(), "to have removed what it must")
        self.daemon.wait(lambda: not self.orphans(), "to have no container that the pool does not own")

    def look_now(self) -> None:
        """Make the daemon look at the engine: the event stream breaks and is opened again."""
        self.proxy.cut()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, engine_url: str, make_user: Any) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("sick")
    with CountingProxy(root / "engine.sock", engine_url.removeprefix("unix://")) as proxy:
        deadlines = {f"engine.{name}_deadline_s": DEADLINE_S for name in ("create", "remove", "read")}
        daemon = Daemon(root, proxy.url, {"pool.memory_mib": 4096, "pool.stem_cells.enabled": False} | deadlines)
        with Site.on(daemon, engine_url, make_user) as site:
            site.proxy = proxy
            site.warm_bystander()
            yield site


def test_an_engine_that_does_not_create_is_not_asked_for_a_while_and_then_by_one_call_at_a_time(site: Site):
    before = site.memory_used_mib
    with site.undisturbed(), site.proxy.sick(CREATE, "hang") as sickness:
        with ThreadPoolExecutor(3) as callers:
            answers = list(callers.map(site.cold, ("hung1", "hung2", "hung3")))
        for answer in answers:
            assert (answer.status, answer.headers["x-invokerd-reason"]) == (503, "engine-unavailable"), answer.text
            assert f"within {DEADLINE_S:g} s" in answer.error
        asked = sickness.met
        refused = site.cold("hung4")
        assert refused.status == 503
        assert "not asked for a while" in refused.error
        assert int(refused.headers["retry-after"]) >= 1
        assert sickness.met == asked, "the engine was asked although its breaker is open"
        assert site.daemon.metric("invokerd_engine_breaker_open", **{"class": "create"}) == 1
        assert "create" in site.health()["engine"]
        assert site.daemon.metric("invokerd_engine_breaker_open", **{"class": "read"}) == 0
    site.daemon.wait(lambda: site.cold("hung5").status == 200, "to create again")
    assert site.daemon.metric("invokerd_engine_breaker_open", **{"class": "create"}) == 0
    site.daemon.wait(lambda: "engine" not in site.health(), "to see that the engine is well")
    site.settled()
    assert site.memory_used_mib == before + 300


@pytest.mark.parametrize("how", ["cut", "mute"])
@pytest.mark.parametrize("step", [CREATE, START, INSPECT], ids=["create", "start", "inspect"])
def test_an_answer_that_was_lost_costs_no_call(site: Site, how: str, step: str):
    """As when the engine closes a connection just as a request comes, or restarts: done or not, the step is repeated."""
    with site.undisturbed(), site.proxy.sick(step, how, times=1) as sickness:
        answer = site.cold("lost", how + step)
    assert sickness.met == 1
    assert answer.status == 200, answer.text
    site.settled()


@pytest.mark.parametrize(
    ("step", "answer", "status", "reason"),
    [
        (CREATE, says(500, {"message": "write /var/lib/docker: no space left on device"}), 503, "engine-error"),
        (CREATE, says(201, {"Id": 7}), 503, "engine-error"),
        (START, says(500, {"message": "failed to create shim task"}), 503, "engine-error"),
        (INSPECT, says(500, {"message": "sick"}), 503, "engine-error"),
        (INSPECT, says(200, {"State": {"Pid": 0, "ExitCode": 1}}), 502, "container-start-failed"),
        (INSPECT, says(200, {"State": {"Pid": 4194303}}), 502, "container-start-failed"),
        (INSPECT, says(200, "rubbish"), 503, "engine-error"),
    ],
    ids=["disk-full", "create-lies", "start-fails", "inspect-fails", "says-ended", "wrong-pid", "rubbish"],
)
def test_a_creation_that_fails_at_any_step_leaves_nothing(site: Site, step: str, answer: str, status: int, reason: str):
    site.settled()
    with site.undisturbed():
        with site.proxy.sick(step, answer), site.proxy.sick(REMOVE, says(500, {"message": "device busy"}), times=1):
            failed = site.cold("subject", answer)
        assert (failed.status, failed.headers["x-invokerd-reason"]) == (status, reason), failed.text
        assert "Traceback" not in failed.text
        site.settled()
    assert not [each for each in site.containers() if each["action"] == "anna/subject"]
    assert site.memory_used_mib == sum(each["memory_mib"] for each in site.containers())


def test_an_engine_that_says_it_has_no_containers_is_not_believed(site: Site):
    with site.undisturbed(), site.proxy.sick(LIST, says(200, [])) as sickness:
        site.look_now()
        site.daemon.wait(lambda: sickness.met >= 1, "to ask what there is")
        for _ in range(20):
            assert site.bystander.invoke("echo").status == 200
    site.look_now()


def test_while_the_engine_is_away_deaths_are_seen_and_what_is_left_is_removed_when_it_is_back(site: Site):
    names = [f"doomed{number}" for number in range(5)]
    for name in names:
        assert site.cold(name).status == 200
    doomed = {
        each["container"] for each in json.loads(site.daemon.control("pool", "--json"))["containers"] if "doomed" in str(each)
    }
    assert len(doomed) == 5
    with site.undisturbed(), site.proxy.failing("refuse"):
        for container in doomed:
            site.engine.request("POST", f"/containers/{container}/kill")
        site.daemon.wait(lambda: {site.pooled()[each] for each in doomed} == {"removing"}, "to see that they are dead")
        answer = site.user.invoke("doomed0")
        assert (answer.status, answer.headers["x-invokerd-reason"]) == (503, "engine-unavailable")
    site.daemon.wait(lambda: not doomed & set(site.pooled()), "to remove them")
    site.settled()
    assert site.user.invoke("doomed0", {"x": 1}).status == 200


def test_a_removal_that_hangs_holds_its_memory_and_nobody_else(site: Site):
    assert site.cold("slow-to-go").status == 200
    site.settled()
    held = site.memory_used_mib
    with site.undisturbed(), site.proxy.sick(REMOVE, "hang"):
        assert site.user.ask("DELETE", "actions/slow-to-go").status == 200
        assert "removing" in site.pooled().values()
        assert site.memory_used_mib == held
        assert site.cold("other").status == 200
    site.settled()
    assert site.memory_used_mib == held
