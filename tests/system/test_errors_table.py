"""Walks the table of docs/errors.md against a real daemon: what is answered, what is recorded, and that nobody else notices.

Sites provoke the cases: `Site` a daemon behind a proxy and on a disk of its own, `TightSite` one whose pool is small.
`thaw-failed` needs a kernel that disobeys, and is walked on the fake engine in `tests/invoker/test_invoke.py`.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from watched_site import ECHO, WatchedSite

from bench.daemon import Daemon
from bench.proxy import CountingProxy

#: Rows that another test walks.
ON_THE_FAKE = {"thaw-failed"}
#: Rows that concern every caller of the node.
EVERYBODYS = {"disk-full"}
DEADLINE_S = 60.0
TABLE = Path(__file__).parents[2] / "docs/errors.md"
BLACKBOX = "openwhisk/dockerskeleton"
PYTHON_ERRORS = {
    "syntax-error": "def main(args) return args",
    "init-exited": "import os\nos._exit(3)\n",
    "returns-a-number": "def main(args):\n    return 7\n",
    "raises": "def main(args):\n    raise ValueError('out of cheese')\n",
    "prints-much": "def main(args):\n    for _ in range(1600):\n        print('x' * 65535)\n    return {}\n",
    "result-too-large": "def main(args):\n    return {'x': 'y' * (1 << 21)}\n",
    "eats-memory": "def main(args):\n    keep = []\n    while True:\n        keep.append(bytearray(1 << 22))\n",
    "sleeps": "import time\ndef main(args):\n    time.sleep(60)\n",
    "exits": "import os\ndef main(args):\n    os._exit(3)\n",
    "forks": """import os
def main(args):
    children = []
    try:
        while True:
            pid = os.fork()
            if pid == 0:
                os.read(hold[0], 1)
                os._exit(0)
            children.append(pid)
    except OSError:
        pass
    os.close(hold[1])
    for pid in children:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    return {'forked': len(children)}
hold = os.pipe()
""",
}


@dataclass(frozen=True)
class Row:
    case: str
    status: int
    sentence: str
    reason: str
    recorded: bool
    container: str


def rows() -> list[Row]:
    """Read the table."""
    found = []
    for line in TABLE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 7 and cells[2].isdigit():
            found.append(Row(cells[0], int(cells[2]), cells[3].strip("`"), cells[4], cells[5] == "one", cells[6]))
    return found


def zipped(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


class Site(WatchedSite):
    """A daemon with a proxy before its engine, and on a disk of its own."""

    proxy: CountingProxy
    disk: Path

    def run(self, case: str) -> Any:
        """Provoke one row."""
        provoke: dict[str, Callable[[], Any]] = {
            "malformed-json": lambda: self.user.invoke("echo", b"{"),
            "payload-no-object": lambda: self.user.invoke("echo", [1]),
            "payload-too-large": lambda: self.user.invoke("echo", {"x": "y" * (1 << 20)}),
            "wrong-key": lambda: self.user.invoke("echo", key=self.user.key[:-4] + "zzzz"),
            "no-key": lambda: self.user.invoke("echo", key=None),
            "unknown-action": lambda: self.user.invoke("nobody"),
            "unknown-kind": lambda: self.user.ask("PUT", "actions/k", {"exec": {"kind": "cobol:68", "code": "x"}}),
            "code-too-large": lambda: self.user.ask(
                "PUT", "actions/k", {"exec": {"kind": "python:3", "code": "x" * (48 * 1024 * 1024 + 1)}}
            ),
            "zip-without-entry-point": lambda: self.call(zipped("readme.txt", b"nothing to run")),
            "broken-zip": lambda: self.call(b"PK\x03\x04" + os.urandom(1 << 20)),
            "image-missing": lambda: self.call(None, image="nowhere.invalid/no/such:1"),
            "image-exits": lambda: self.call(None, image="invokerd-test/exits:latest"),
            "image-silent": lambda: self.call(None, image="invokerd-test/silent:latest", timeout=1000),
            "prints-nothing": lambda: self.call("#!/bin/sh\nexit 0\n", image=BLACKBOX),
            "prints-rubbish": lambda: self.call("#!/bin/sh\necho rubbish\n", image=BLACKBOX),
            "engine-down": lambda: self.without_engine("refuse"),
            "engine-hangs": lambda: self.without_engine("hang"),
            "disk-full": self.with_full_disk,
        }
        if case in PYTHON_ERRORS:
            return self.call(
                PYTHON_ERRORS[case], timeout=1000 if case == "sleeps" else 60_000, memory=1024 if case == "forks" else 256
            )
        return provoke[case]()

    def without_engine(self, how: str) -> Any:
        self.user.deploy("subject", f"def main(args):\n    return {{'how': '{how}'}}\n", memory=300)
        with self.proxy.failing(how):
            return self.user.invoke("subject")

    def with_full_disk(self) -> Any:
        filler = self.disk / "filler"
        with filler.open("wb") as file:
            try:
                while True:
                    file.write(b"\0" * (1 << 20))
                    file.flush()
            except OSError:
                pass
        try:
            for _ in range(100_000):
                answer = self.user.invoke("echo", {"x": "y" * 3000})
                if answer.status != 200:
                    return answer
            raise AssertionError("a full disk never refused a call")
        finally:
            filler.unlink()
            self.daemon.wait(lambda: self.user.invoke("echo").status == 200, "to take work again")


class TightDaemon(Daemon):
    """A daemon whose pool is made smaller than an action that was written before."""

    def tighten(self, **pool: Any) -> None:
        self.stop()
        text = self._file.read_text()
        for name, value in pool.items():
            text = re.sub(rf"(?m)^{name} = .*$", f"{name} = {value}", text)
        self._file.write_text(text)
        self.start()


class TightSite(WatchedSite):
    """A daemon with room for one container of the user's and one of the bystander's."""

    def states(self) -> set[tuple[str, str]]:
        return {(each["action"], each["state"]) for each in self.containers()}

    def run(self, case: str) -> Any:
        """Provoke one row."""
        if case == "memory-never-available":
            return self.user.invoke("large")
        with ThreadPoolExecutor(1) as pool:
            held = pool.submit(self.user.invoke, "sleep", {"s": 10})
            self.daemon.wait(lambda: ("anna/sleep", "busy") in self.states(), "to run it")
            answer = self.user.invoke("other")
            assert held.result().status == 200
        return answer


TIGHT = {"memory-never-available", "waited-too-long"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, engine_url: str, make_user: Any, small_images: None) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("errors")
    disk = root / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", str(disk)], check=True)
    try:
        with CountingProxy(root / "engine.sock", engine_url.removeprefix("unix://")) as proxy:
            # So that a full disk is felt after some hundred calls, and a hung engine after some seconds.
            small = {"store.journal_segment_bytes": 1 << 20, "engine.create_deadline_s": 12.0}
            daemon = Daemon(root, proxy.url, {"pool.memory_mib": 4096, "state_dir": str(disk / "state")} | small)
            daemon.state_dir = disk / "state"
            with Site.on(daemon, engine_url, make_user) as site:
                site.proxy, site.disk = proxy, disk
                site.warm_bystander()
                site.user.deploy("echo", ECHO)
                assert site.user.invoke("echo", {"x": 1}).status == 200
                yield site
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.fixture(scope="module")
def tight_site(tmp_path_factory: pytest.TempPathFactory, engine_url: str, make_user: Any) -> Iterator[TightSite]:
    config = {"pool.memory_mib": 1024, "pool.max_wait_s": 60.0, "pool.stem_cells.enabled": False}
    daemon = TightDaemon(tmp_path_factory.mktemp("tight"), engine_url, config)
    with TightSite.on(daemon, engine_url, make_user) as site:
        site.user.deploy("large", ECHO, memory=1024)
        site.user.deploy("sleep", "import time\ndef main(args):\n    time.sleep(args['s'])\n    return {}\n", memory=256)
        site.user.deploy("other", ECHO, memory=256)
        site.bystander.deploy("echo", ECHO, memory=64)
        # What will be needed is there already, for the next daemon to adopt: no start has to fit into the short wait. The
        # self-test's container has 64 MiB of the memory.
        assert site.user.invoke("sleep", {"s": 0}).status == 200
        assert site.bystander.invoke("echo").status == 200
        daemon.tighten(memory_mib=448, max_wait_s=4.0)
        assert site.bystander.invoke("echo").status == 200
        yield site


def test_the_table_names_each_case_once_and_says_what_is_answered():
    cases = [row.case for row in rows()]
    assert len(cases) > 30
    assert len(set(cases)) == len(cases)
    assert set(cases) >= ON_THE_FAKE | TIGHT | EVERYBODYS
    for row in rows():
        assert row.status == 200 or len(row.sentence) > 1, f"{row.case} has no sentence"
        assert row.recorded or row.container == "-", f"{row.case}: a container without an activation"


@pytest.mark.docker
@pytest.mark.parametrize("row", [row for row in rows() if row.case not in ON_THE_FAKE], ids=lambda row: row.case)
def test_row(request: pytest.FixtureRequest, row: Row):
    site: WatchedSite = request.getfixturevalue("tight_site" if row.case in TIGHT else "site")
    before = site.finished_rows()
    with site.undisturbed() if row.case not in EVERYBODYS else contextlib.nullcontext():
        answer = site.run(row.case)
    assert answer.status == row.status, answer.text[:2000]
    assert answer.headers.get("x-invokerd-reason") == (row.reason if row.status != 200 else None)
    if row.status != 200:
        assert row.sentence in answer.error
        if "activationId" not in answer.json:
            assert answer.json["code"] == answer.headers["x-request-id"]
    if row.status == 503:
        assert int(answer.headers["retry-after"]) >= 1
    activation_id = answer.headers.get("x-openwhisk-activation-id")
    assert (activation_id is not None) == row.recorded
    new = {name: count for name, count in site.finished_rows().items() if name not in before}
    if activation_id is None:
        assert row.case in EVERYBODYS or new == {}, "a row was written for what had not begun"
    else:
        check_record(site, row, activation_id, new)
    site.daemon.wait(lambda: not site.orphans(), "to have no container that the pool does not own")


def check_record(site: WatchedSite, row: Row, activation_id: str, new: dict[str, int]) -> None:
    """One record, one ledger row, and the container as the table says."""
    record = site.user.record(activation_id)
    assert record.annotations["outcome"] == row.reason
    assert new[activation_id] == 1
    assert set(new.values()) == {1}
    held = record.annotations.get("container")
    if row.container == "kept":
        assert site.pooled()[held] != "removing"
    elif held is not None:
        assert site.pooled().get(held, "removing") == "removing"
        site.daemon.wait(lambda: held not in site.pooled(), "to have removed it")
    assert held is None or row.container != "-"


def test_every_outcome_of_the_source_is_in_the_table_or_named_below():
    """A reason that code can give must be documented: in the table, or in the list at the end of the page."""
    root = Path(__file__).parents[2]
    modules = ("runtime", "invoke", "long", "composed", "builtin", "ending", "composition")
    source = "".join((root / f"invoker/{name}.py").read_text() for name in modules)
    given = set(re.findall(r'(?:reason|"outcome"|outcome)=?\s*"([a-z-]+)"', source)) | set(
        re.findall(r'ERROR, [^\n]*?, "([a-z-]+)"', source)
    )
    text = TABLE.read_text()
    assert not {reason for reason in given if f"`{reason}`" not in text and f"| {reason} |" not in text}
