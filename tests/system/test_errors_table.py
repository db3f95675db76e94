"""Walks the table of docs/errors.md against a real daemon: what is answered, what is recorded, and that nobody else notices."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench.daemon import Daemon
from bench.proxy import CountingProxy

pytestmark = pytest.mark.docker

TABLE = Path(__file__).parents[2] / "docs/errors.md"
BLACKBOX = "openwhisk/dockerskeleton"
PYTHON_ERRORS = {
    "syntax-error": "def main(args) return args",
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
    outcome: str
    container: str


def rows() -> list[Row]:
    """Read the table."""
    found = []
    for line in TABLE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 6 and cells[2].isdigit():
            found.append(Row(cells[0], int(cells[2]), cells[3].strip("`"), cells[4], cells[5]))
    return found


def zipped(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


@dataclass
class Site:
    """The daemon, a user whose calls go wrong, and a bystander whose do not."""

    daemon: Daemon
    user: Any
    bystander: Any
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

    def call(self, code: Any, **options: Any) -> Any:
        self.user.deploy("subject", code, **options)
        return self.user.invoke("subject")

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


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, engine_url: str, make_user: Any, small_images: None) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("errors")
    disk = root / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", str(disk)], check=True)
    try:
        with CountingProxy(root / "engine.sock", engine_url.removeprefix("unix://")) as proxy:
            daemon = Daemon(root, proxy.url, {"pool.memory_mib": 4096, "state_dir": str(disk / "state")})
            daemon.start()
            try:
                user = make_user(daemon, "anna")
                bystander = make_user(daemon, "bert", uid=20_002, gid=20_002)
                for each in (user, bystander):
                    each.deploy("echo", "def main(args):\n    return args\n")
                    assert each.invoke("echo", {"x": 1}).status == 200
                yield Site(daemon, user, bystander, proxy, disk)
            finally:
                daemon.stop()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_the_table_names_each_case_once():
    cases = [row.case for row in rows()]
    assert len(cases) > 20
    assert len(set(cases)) == len(cases)


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.case)
def test_row(site: Site, row: Row):
    answer = site.run(row.case)
    assert answer.status == row.status, answer.text[:2000]
    if row.sentence:
        assert row.sentence in answer.error
    activation_id = answer.headers.get("x-openwhisk-activation-id")
    if row.outcome == "-":
        assert activation_id is None
    else:
        record = site.user.record(activation_id)
        assert record.annotations["outcome"] == row.outcome
        held = record.annotations.get("container")
        assert row.container == "gone" or (held is not None) == (row.container != "-")
        if held is not None:
            pooled = [
                each["container"]
                for each in json.loads(site.daemon.control("pool", "--json"))["containers"]
                if each["state"] != "removing"
            ]
            assert (held in pooled) == (row.container == "kept")
    if row.status == 503:
        assert int(answer.headers["retry-after"]) >= 1
    seen = site.bystander.invoke("echo", {"still": "here"}, "blocking=true&result=true")
    assert (seen.status, seen.json) == (200, {"still": "here"})


def test_every_outcome_of_the_source_is_in_the_table_or_named_below():
    """A reason that code can give must be documented: in the table, or in the list at the end of the page."""
    root = Path(__file__).parents[2]
    source = (root / "invoker/runtime.py").read_text() + (root / "invoker/invoke.py").read_text()
    given = set(re.findall(r'(?:reason|"outcome"|outcome)=?\s*"([a-z-]+)"', source)) | set(
        re.findall(r'ERROR, [^\n]*?, "([a-z-]+)"', source)
    )
    text = TABLE.read_text()
    assert not {reason for reason in given if f"`{reason}`" not in text and f"| {reason} |" not in text}
