"""Images that come from a registry: once for many calls, with the site's password, and nothing of a pull that does not end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from registry import Registry
from watched_site import WatchedSite

from bench.daemon import Daemon

pytestmark = pytest.mark.docker

BUILD = Path(__file__).parents[1] / "foreign/build.py"
#: Long enough for six megabytes over loopback on a machine that stands still for a while.
DEADLINE_S = 15.0
CALLERS = 6


class Site(WatchedSite):
    registry: Registry
    #: Offers an image that this engine has never seen; returns its reference.
    offer: Callable[[], str]
    credentials: Path

    def has(self, reference: str) -> bool:
        """Whether the engine has an image. One with containerd's image store lists its digest as if it were a tag."""
        images = self.engine.request("GET", "/images/json?all=1")
        return any(reference in (*(each["RepoDigests"] or ()), *(each["RepoTags"] or ())) for each in images)

    def is_held(self, name: str) -> bool:
        """Whether the pool has a container of the user's action."""
        return any(each["action"] == f"anna/{name}" for each in self.containers())

    def wait_stalled(self) -> None:
        self.daemon.wait(lambda: self.registry.is_stalling, "to pull")

    def pulls(self, result: str) -> float:
        """How many pulls ended so."""
        return self.daemon.metric("invokerd_engine_calls_total", operation="pull", result=result)

    def has_left_nothing(self, name: str, reference: str) -> None:
        """A pull that ended before its time has left neither image nor container, and the next call's pull goes well."""
        assert not self.has(reference)
        assert not self.is_held(name)
        assert self.user.invoke(name, {"do": "again"}).status == 200


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, engine_url: str, make_user: Any, ask: Any) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("pulls")
    built = subprocess.run([sys.executable, str(BUILD), "--engine", engine_url], stdout=subprocess.PIPE, text=True, check=True)
    status, saved = ask("GET", f"/images/{built.stdout.strip()}/get")
    assert status == 200, saved[:300]
    offered: list[str] = []

    def offer() -> str:
        offered.append(registry.offer(saved))
        return offered[-1]

    with Registry() as registry:
        keys = {"pool.memory_mib": 2048, "pool.stem_cells.enabled": False, "engine.pull_deadline_s": DEADLINE_S}
        daemon = Daemon(root, engine_url, keys | {"http.drain_s": 1.0, "registry.credentials_file": str(root / "config.json")})
        (root / "config.json").touch(0o600)
        (root / "config.json").write_text(registry.credentials())
        try:
            with Site.on(daemon, engine_url, make_user) as site:
                site.registry, site.offer, site.credentials = registry, offer, root / "config.json"
                site.warm_bystander()
                yield site
        finally:
            for reference in offered:
                ask("DELETE", f"/images/{quote(reference, safe='')}?force=1")


def test_many_first_calls_of_an_image_by_digest_pull_it_once_with_the_sites_password(site: Site):
    reference, before = site.offer(), site.registry.refused
    with site.undisturbed(), ThreadPoolExecutor(CALLERS) as callers:
        with site.registry.stalled():
            site.user.deploy("herd", image=reference)  # which begins to pull
            calls = [callers.submit(site.user.invoke, "herd", {"do": f"call {number}"}) for number in range(CALLERS)]
            site.wait_stalled()
            # The bystander's come and go.
            site.daemon.wait(lambda: site.daemon.metric("invokerd_activations_in_flight") > CALLERS, "to have all of them")
        answers = [each.result() for each in calls]
    assert [answer.status for answer in answers] == [200] * CALLERS, [answer.text for answer in answers]
    assert site.registry.times_given(reference) == 1
    assert site.registry.refused > before, "an engine asks without a password first"
    assert site.has(reference)
    # All waited for the same pull, and their records say so.
    assert min(answer.annotations["phases"]["pull"] for answer in answers) > 0


def test_a_wrong_password_is_told_as_an_image_that_cannot_be_pulled(site: Site):
    reference = site.offer()
    site.credentials.write_text(site.registry.credentials("wrong"))
    try:
        with site.undisturbed():
            site.user.deploy("locked", image=reference)  # which begins to pull
            answer = site.user.invoke("locked")
    finally:
        site.credentials.write_text(site.registry.credentials())
    assert (answer.status, answer.headers["x-invokerd-reason"]) == (502, "image-not-found"), answer.text
    assert f"Failed to pull container image '{reference}'" in answer.error
    assert "wrong" not in answer.text
    assert not site.is_held("locked")
    assert site.user.invoke("locked", {"do": "now"}).status == 200, "a password that was mended counts at once"


def test_a_pull_that_meets_its_deadline_is_told_leaves_nothing_and_can_be_tried_again(site: Site):
    reference, memory = site.offer(), site.memory_used_mib
    with site.undisturbed(), site.registry.stalled():
        site.user.deploy("slow", image=reference)
        answer = site.user.invoke("slow")
        assert (answer.status, answer.headers["x-invokerd-reason"]) == (502, "image-not-found"), answer.text
        assert f"the pull from its registry did not end within {DEADLINE_S:g} s" in answer.error
        assert site.pulls("timeout") == 1
    assert site.memory_used_mib == memory
    assert site.finished_rows()[answer.json["activationId"]] == 1
    assert "engine" not in site.health(), "a slow registry is no sick engine"
    site.has_left_nothing("slow", reference)


def test_a_call_that_is_cancelled_while_its_image_comes_never_runs_and_who_else_waits_gets_the_image(site: Site):
    reference, memory = site.offer(), site.memory_used_mib
    with site.undisturbed(), ThreadPoolExecutor(1) as other:
        with site.registry.stalled():
            site.user.deploy("shared", image=reference)
            site.wait_stalled()
            first = site.user.invoke("shared", {"do": "first"}, "blocking=false").json["activationId"]
            second = other.submit(site.user.invoke, "shared", {"do": "second"})
            # With or without one of the bystander's.
            site.daemon.wait(lambda: site.daemon.metric("invokerd_activations_in_flight") >= 2, "to have both")
            site.daemon.control("activation", "cancel", first)
            assert site.user.record(first).annotations["outcome"] == "cancelled"
            assert not site.is_held("shared")
            assert site.memory_used_mib == memory
        answer = second.result()
    assert answer.status == 200, answer.text
    assert answer.json["response"]["result"] == {"echo": {"do": "second"}}
    assert site.finished_rows()[first] == 1
    assert site.registry.times_given(reference) == 1


def test_a_daemon_that_stops_ends_its_pull_and_the_next_one_pulls_and_runs_what_was_accepted(site: Site):
    reference = site.offer()
    with site.registry.stalled():
        site.user.deploy("later", image=reference)
        site.wait_stalled()
        accepted = site.user.invoke("later", {"do": "later"}, "blocking=false").json["activationId"]
        site.daemon.stop()
    assert not site.has(reference)
    site.daemon.start()
    record = site.user.record(accepted, deadline_s=60)
    assert record.annotations["outcome"] == "ok", record.text
    assert record.json["response"]["result"] == {"echo": {"do": "later"}}
    assert site.finished_rows()[accepted] == 1
    assert site.has(reference)
    assert not site.orphans()


def test_what_was_deployed_runs_without_its_registry_whatever_becomes_of_its_containers_and_of_the_daemon(site: Site):
    reference = site.offer()
    site.user.deploy("deployed", image=reference)
    site.daemon.wait(lambda: site.has(reference), "to pull what was deployed, before any call")
    asked = site.registry.refused, site.registry.given.total()
    with site.registry.stalled():
        for round_ in ("first", "evicted", "restarted"):
            if round_ == "evicted":
                site.user.deploy("deployed", image=reference)  # a new revision: its container goes
            elif round_ == "restarted":
                site.daemon.stop()
                site.daemon.start()
            answer = site.user.invoke("deployed", {"do": round_})
            assert answer.status == 200, answer.text
            assert answer.json["response"]["result"] == {"echo": {"do": round_}}
            assert round_ == "restarted" or answer.annotations["startKind"] == "cold"
    assert (site.registry.refused, site.registry.given.total()) == asked, "it was not even asked"
