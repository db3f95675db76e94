"""An engine that is restarted under a daemon: with live-restore nobody notices, without it what was killed is replaced.

It is an engine of this file's own, below a directory of its own; the one that others use is left alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from own_engine import OwnEngine
from watched_site import ECHO, WatchedSite

from bench.daemon import Daemon

pytestmark = [pytest.mark.docker, pytest.mark.long]

SLEEP = "import time\ndef main(args):\n    time.sleep(args['s'])\n    return {'slept': args['s']}\n"


@pytest.fixture(scope="module")
def engine(ask: Any) -> Iterator[OwnEngine]:
    with OwnEngine.with_image(ask) as engine:
        engine.end()
        yield engine


def start_site(engine: OwnEngine, directory: Path, make_user: Any) -> WatchedSite:
    daemon = Daemon(directory, engine.url, {"pool.memory_mib": 2048, "pool.stem_cells.enabled": False})
    daemon.start()
    site = WatchedSite(daemon, engine.url, make_user)
    site.bystander.deploy("echo", ECHO)
    site.user.deploy("echo", ECHO, memory=128)
    site.user.deploy("sleep", SLEEP, memory=192)
    for user, name in ((site.bystander, "echo"), (site.user, "echo"), (site.user, "sleep")):
        assert user.invoke(name, {"s": 0}).status == 200
    daemon.wait(lambda: set(site.pooled().values()) == {"frozen"}, "to freeze all of them")
    return site


def of_users(site: WatchedSite) -> set[str]:
    """The containers of namespaces; the daemon's own, for its self-test, is made anew by each daemon."""
    return {each["container"] for each in site.containers() if each["namespace"] in {"anna", "bert"}}


def test_with_live_restore_warm_calls_go_on_and_all_containers_are_adopted_afterwards(
    engine: OwnEngine, tmp_path: Path, make_user: Any
):
    engine.start("--live-restore")
    site = start_site(engine, tmp_path, make_user)
    try:
        held = site.pooled().keys()
        kept = {name: site.user.invoke(name, {"s": 0}).annotations["container"] for name in ("echo", "sleep")}
        with site.undisturbed(), ThreadPoolExecutor(1) as other:
            running = other.submit(site.user.invoke, "sleep", {"s": 5})
            site.daemon.wait(lambda: site.pooled()[kept["sleep"]] == "busy", "to run it")
            engine.end()
            away = site.user.invoke("echo", {"engine": "away"})
            assert (away.status, away.annotations["container"]) == (200, kept["echo"])
            site.user.deploy("new", ECHO, memory=320)
            refused = site.user.invoke("new")
            assert (refused.status, refused.headers["x-invokerd-reason"]) == (503, "engine-unavailable"), refused.text
            engine.start("--live-restore")
            assert running.result().json["response"]["result"] == {"slept": 5}
            site.daemon.wait(lambda: site.user.invoke("new").status == 200, "to create again")
        assert held <= site.pooled().keys(), "a container was lost"
        assert not site.orphans()
        # As a crash of the daemon just after the engine's restart: the next one finds what both left.
        before = of_users(site)
        site.daemon.kill()
        site.daemon.start()
        site.daemon.wait(lambda: of_users(site) >= before, "to adopt them")
        for name, container in kept.items():
            answer = site.user.invoke(name, {"s": 0})
            assert (answer.status, answer.annotations["container"]) == (200, container)
            assert answer.annotations["startKind"] in {"warm", "frozen"}
        assert not site.orphans()
    finally:
        site.engine.close()
        site.daemon.stop()
        engine.end()


def test_without_live_restore_what_was_killed_is_replaced_and_nothing_is_left(engine: OwnEngine, tmp_path: Path, make_user: Any):
    engine.start()
    site = start_site(engine, tmp_path, make_user)
    try:
        before = set(site.pooled())
        engine.end()
        engine.start()
        for user, name in ((site.bystander, "echo"), (site.user, "echo"), (site.user, "sleep")):
            site.daemon.wait(lambda user=user, name=name: user.invoke(name, {"s": 0}).status == 200, f"to run {name}")
        site.daemon.wait(lambda: "removing" not in site.pooled().values(), "to have removed the dead")
        site.daemon.wait(lambda: not site.orphans(), "to have no container that the pool does not own")
        assert not before & set(site.pooled()), "a container outlived its engine"
        assert "engine" not in site.health()
    finally:
        site.engine.close()
        site.daemon.stop()
        engine.end()
