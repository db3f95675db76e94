"""Connections over freezes: servers of three languages that close what is idle, at the worst moments. Nothing is reset.

A server whose idle timer ran out while it stood still closes, on its thaw, the very connection that a request was just sent on.
"""

from __future__ import annotations

import io
import os
import random
import subprocess
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import engine_api
import pytest
from watched_site import WatchedSite

from bench.daemon import Daemon

pytestmark = [pytest.mark.docker, pytest.mark.long]

FOREIGN = Path(__file__).parents[1] / "foreign"
CONTAINERS = 100
CALLS = 2000
#: More of them at once would wait for each other in the engine.
CREATED_AT_ONCE = 4
#: For the engine to remove them all, s: with a tenth of a core it takes a minute, and longer still by hand.
REMOVED_WITHIN_S = 300
SENTINEL = "XXX_THE_END_OF_A_WHISK_ACTIVATION_XXX"
PYTHON = f"""
import json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
calls = 0
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = KEEP_ALIVE
    def log_message(self, *_):
        pass
    def do_POST(self):
        global calls
        self.rfile.read(int(self.headers["Content-Length"]))
        calls += self.path == "/run"
        body = json.dumps({{"calls": calls}}).encode()
        if self.path == "/run":
            for stream in (sys.stdout, sys.stderr):
                print("{SENTINEL}", file=stream, flush=True)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
ThreadingHTTPServer(("", 8080), Handler).serve_forever()
"""
NODE = f"""
let calls = 0;
const server = require("http").createServer((request, response) => {{
  request.resume().on("end", () => {{
    if (request.url === "/run") {{
      calls += 1;
      console.log("{SENTINEL}");
      console.error("{SENTINEL}");
    }}
    response.setHeader("Content-Type", "application/json");
    response.end(JSON.stringify({{calls}}));
  }});
}});
server.keepAliveTimeout = KEEP_ALIVE * 1000;
server.listen(8080);
"""
GO = f"""package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"sync/atomic"
	"time"
)

var calls atomic.Int64

func main() {{
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {{
		io.Copy(io.Discard, r.Body)
		count := calls.Load()
		if r.URL.Path == "/run" {{
			count = calls.Add(1)
			fmt.Println("{SENTINEL}")
			fmt.Fprintln(os.Stderr, "{SENTINEL}")
		}}
		fmt.Fprintf(w, `{{"calls": %d}}`, count)
	}})
	server := http.Server{{Addr: ":8080", IdleTimeout: KEEP_ALIVE * time.Second}}
	fmt.Fprintln(os.Stderr, server.ListenAndServe())
	os.Exit(1)
}}
"""
RECIPES = {
    "python": ('FROM invokerd/python3:latest\nCOPY server /server\nENTRYPOINT ["python3", "-u", "/server"]\n', PYTHON),
    "node": ('FROM invokerd/nodejs20:latest\nCOPY server /server.js\nENTRYPOINT ["node", "/server.js"]\n', NODE),
    "go": ('FROM scratch\nCOPY server /server\nENTRYPOINT ["/server"]\n', GO),
}


def compile_go(source: str, directory: Path) -> bytes:
    """Compile one file with the standard library alone."""
    (directory / "main.go").write_text(source)
    (directory / "go.mod").write_text("module server\n\ngo 1.19\n")
    settings = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOPROXY": "off", "GOFLAGS": "", "GOCACHE": str(directory / "cache")}
    subprocess.run(["go", "build", "-o", "server", "."], cwd=directory, env={**os.environ, **settings}, check=True)
    return (directory / "server").read_bytes()


def build(engine_url: str, language: str, keep_alive_s: int, directory: Path) -> str:
    """Build the image of a server; it says nothing of its keep-alive but what a label can say."""
    dockerfile, source = RECIPES[language]
    source = source.replace("KEEP_ALIVE", str(keep_alive_s))
    program = compile_go(source, directory) if language == "go" else source.encode()
    label = f'LABEL invokerd.protocol="" invokerd.keep-alive-s="{keep_alive_s}"\nCMD []\n'
    files = {"Dockerfile": (dockerfile + label).encode(), "server": program}
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o755
            archive.addfile(entry, io.BytesIO(data))
    name = f"invokerd-test/keep-alive-{language}-{keep_alive_s}:latest"
    for _ in engine_api.Engine(engine_url).stream("/build", query=[("t", name), ("rm", "1")], body=context.getvalue()):
        pass
    return name


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, engine_url: str, make_user: Any) -> Iterator[WatchedSite]:
    config = {"pool.memory_mib": CONTAINERS * 64 + 512, "pool.freeze_grace_s": 0.02, "pool.stem_cells.enabled": False}
    daemon = Daemon(tmp_path_factory.mktemp("keep-alive"), engine_url, config)
    with WatchedSite.on(daemon, engine_url, make_user) as site:
        yield site


@pytest.mark.parametrize("keep_alive_s", [1, 5])
@pytest.mark.parametrize("language", list(RECIPES))
def test_no_connection_is_reset_over_a_freeze(
    site: WatchedSite, tmp_path: Path, language: str, keep_alive_s: int, record_property: Any
):
    image = build(site.engine.url, language, keep_alive_s, tmp_path)
    # Each action has one container, for its calls come one after the other: so many stand side by side.
    for number in range(CONTAINERS):
        site.user.deploy(f"{language}{keep_alive_s}-{number}", image=image, memory=64)

    kinds: Counter[str] = Counter()

    def call(number: int, count: int) -> bool:
        """Make the call of this number to a container, and tell whether all was well."""
        answer = site.user.invoke(f"{language}{keep_alive_s}-{number}")
        if answer.status != 200 or answer.json["response"]["result"] != {"calls": count}:
            wrong.append(f"call {count}: {answer.status} {answer.text[:300]}")
            return False
        kinds[answer.annotations["startKind"]] += 1
        return True

    def work(number: int) -> None:
        draw = random.Random(number)
        for count in range(2, CALLS // CONTAINERS + 1):
            # Gaps are what is tested: about half of them beyond the server's patience.
            time.sleep(draw.uniform(0, 2 * keep_alive_s))
            if not call(number, count):
                return

    wrong: list[str] = []
    with ThreadPoolExecutor(CREATED_AT_ONCE) as workers:
        list(workers.map(call, range(CONTAINERS), [1] * CONTAINERS))
    with ThreadPoolExecutor(CONTAINERS) as workers:
        list(workers.map(work, range(CONTAINERS)))
    assert wrong == []
    assert kinds.total() == CALLS
    # After the first of each, almost all come to a container that stands still: only the shortest gaps are within the grace.
    assert kinds["cold"] == CONTAINERS, kinds
    assert kinds["frozen"] >= 0.8 * (CALLS - CONTAINERS), kinds
    record_property("starts", ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()))
    for number in range(CONTAINERS):
        site.user.ask("DELETE", f"actions/{language}{keep_alive_s}-{number}")
    site.daemon.wait(
        lambda: not any("anna/" in each["action"] for each in site.containers()), "to remove them", within_s=REMOVED_WITHIN_S
    )
