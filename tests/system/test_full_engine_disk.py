"""An engine whose disk is full, to the last byte or inode: who is told what, who goes on, and what comes back by itself.

The engine is this file's own, on a small file system of its own, which both end with it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from own_engine import OwnEngine
from watched_site import ECHO, WatchedSite

from bench.daemon import Daemon
from bench.proxy import CountingProxy

pytestmark = [pytest.mark.docker, pytest.mark.long]

#: Room for one image, twice while it comes in, and for some containers.
FILE_SYSTEM = "size=512m,nr_inodes=30000,mode=711"
START = "POST .*/containers/[^/]+/start"

Fill = Callable[[Path], None]


def to_the_last_byte(ballast: Path) -> None:
    """Write until there is no space left."""
    file = os.open(ballast / "bytes", os.O_WRONLY | os.O_CREAT)
    try:
        for size in (1 << 20, 4096, 1):
            with until_full():
                while True:
                    os.write(file, bytes(size))
    finally:
        os.close(file)


def to_the_last_inode(ballast: Path) -> None:
    """Create empty files until no more can be."""
    with until_full():
        for number in range(1 << 20):
            (ballast / str(number)).touch()


@contextlib.contextmanager
def until_full() -> Iterator[None]:
    """Go on after the block as soon as the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise


class Site(WatchedSite):
    proxy: CountingProxy
    ballast: Path

    def cold(self, name: str) -> Any:
        """Call an action that has no container, nor a stem cell."""
        self.user.deploy(name, ECHO, memory=300)
        return self.user.invoke(name, {"x": 1})

    @contextlib.contextmanager
    def space_comes_back(self) -> Iterator[None]:
        """Free what a block has filled."""
        self.ballast.mkdir()
        try:
            yield
        finally:
            shutil.rmtree(self.ballast)

    def creations(self) -> int:
        """How often the engine was asked for a container."""
        return sum(count for request, count in self.proxy.requests.items() if request.endswith("/containers/create"))

    def doctor(self) -> dict[str, Any]:
        """What `invokerd doctor` says of the engine's disk."""
        command = (sys.executable, "-m", "invoker", "doctor", "--json", "--config", str(self.daemon._file))
        findings = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=False).stdout)["findings"]
        (found,) = [finding for finding in findings if finding["check"] == "engine-space"]
        return found

    def settled(self) -> None:
        """Wait until nothing is left of what went wrong."""
        self.daemon.wait(lambda: "removing" not in self.pooled().values(), "to have removed what it must")
        self.daemon.wait(lambda: not self.orphans(), "to have no container that the pool does not own")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, ask: Any, make_user: Any) -> Iterator[Site]:
    def mount(data: Path) -> None:
        data.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", FILE_SYSTEM, "tmpfs", str(data)], check=True)

    root = tmp_path_factory.mktemp("full")
    with (
        OwnEngine.with_image(ask, mount) as engine,
        CountingProxy(root / "engine.sock", engine.url.removeprefix("unix://")) as proxy,
    ):
        daemon = Daemon(root, proxy.url, {"pool.memory_mib": 4096, "pool.stem_cells.enabled": False})
        with Site.on(daemon, engine.url, make_user) as site:
            site.proxy, site.ballast = proxy, engine.data / "ballast"
            site.warm_bystander()
            yield site


def assert_refused_for(site: Site, answer: Any, name: str, lacks: str) -> None:
    """It says what was wrong, where, and what to do; there is one record of it, which says the same."""
    assert (answer.status, answer.headers["x-invokerd-reason"]) == (503, "engine-disk-full"), answer.text
    assert f"({site.ballast.parent}) has {lacks}" in answer.error
    assert "warm containers go on. The operator must free space there (`docker system df` tells what takes it)" in answer.error
    records = site.user.ask("GET", f"activations?name={name}&docs=true").json
    assert [record["response"]["result"]["error"] for record in records] == [answer.error]
    assert [record["activationId"] for record in records] == [answer.headers["x-openwhisk-activation-id"]]


@pytest.mark.parametrize(
    ("fill", "lacks"),
    [(to_the_last_byte, "0 MiB free, less than 25 MiB"), (to_the_last_inode, "0 inodes free, less than 1500")],
    ids=["bytes", "inodes"],
)
def test_a_full_disk_refuses_cold_calls_by_its_name_holds_nobody_else_and_is_forgotten_once_there_is_space(
    site: Site, fill: Fill, lacks: str
):
    name = f"cold-{fill.__name__}"
    before, creations = site.memory_used_mib, site.creations()
    with site.undisturbed(), site.space_comes_back():
        fill(site.ballast)
        answer = site.cold(name)
        assert_refused_for(site, answer, name, lacks)
        assert site.creations() == creations > 0, "the engine was asked"
        assert lacks in site.health()["engine-disk"]
        assert site.user.ask("GET", "/ready", key=None).status == 200
        assert site.doctor()["verdict"] == "bad"
        assert lacks in site.doctor()["text"]
        assert not site.orphans()
        assert site.memory_used_mib == before
    again = site.user.invoke(name, {"x": 2})
    assert (again.status, again.json["response"]["result"]) == (200, {"x": 2}), again.text
    assert site.doctor()["verdict"] == "ok"
    assert "engine-disk" not in site.health()


@pytest.mark.parametrize("fill", [to_the_last_byte, to_the_last_inode])
def test_a_disk_that_fills_while_a_container_is_made_fails_that_call_by_its_name_and_leaves_nothing(site: Site, fill: Fill):
    name = f"late-{fill.__name__}"
    before = site.memory_used_mib
    with site.undisturbed(), site.space_comes_back():
        with site.proxy.sick(START, lambda: fill(site.ballast), times=1) as filled:
            answer = site.cold(name)
        assert filled.met == 1
        assert_refused_for(site, answer, name, "0 ")
        site.settled()
        assert site.memory_used_mib == before
    assert site.user.invoke(name, {"x": 2}).status == 200


def test_containers_are_removed_from_a_full_disk_and_their_memory_comes_back(site: Site):
    before = site.memory_used_mib
    assert site.cold("goes").status == 200
    with site.undisturbed(), site.space_comes_back():
        to_the_last_byte(site.ballast)
        assert site.user.ask("DELETE", "actions/goes").status == 200
        site.daemon.wait(lambda: site.memory_used_mib == before, "to have its memory back")
        site.settled()
