"""A daemon on which things go wrong: whose calls they are, who must not notice, and what must not be left behind."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

from bench.container import Engine
from bench.daemon import Daemon

ECHO = "def main(args):\n    return args\n"


class WatchedSite:
    """A daemon, a user whose calls go wrong, and a bystander whose do not."""

    def __init__(self, daemon: Daemon, engine_url: str, make_user: Any) -> None:
        self.daemon = daemon
        self.engine = Engine(engine_url)
        self.user = make_user(daemon, "anna")
        self.bystander = make_user(daemon, "bert", uid=20_002, gid=20_002)

    @classmethod
    @contextlib.contextmanager
    def on(cls, daemon: Daemon, engine_url: str, make_user: Any) -> Iterator[Self]:
        """Run a daemon while the block runs."""
        daemon.start()
        try:
            site = cls(daemon, engine_url, make_user)
            with contextlib.closing(site.engine):
                yield site
        finally:
            daemon.stop()

    def warm_bystander(self) -> None:
        """Give the bystander the action that `undisturbed` calls."""
        self.bystander.deploy("echo", ECHO)
        assert self.bystander.invoke("echo").status == 200

    def call(self, code: Any, **options: Any) -> Any:
        self.user.deploy("subject", code, **options)
        return self.user.invoke("subject")

    def finished_rows(self) -> dict[str, int]:
        """Count the ledger's rows of the user's ended activations, by activation."""
        self.user.ask("GET", "activations?limit=1")  # answered when all that was finished before is committed
        return dict(
            self.ledger("SELECT subject, count(*) FROM ledger WHERE type = 'finished' AND namespace = 'anna' GROUP BY subject")
        )

    def ledger(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Ask the ledger's files, as an auditor would: read-only, and past the daemon."""
        rows: list[tuple[Any, ...]] = []
        for month in (self.daemon.state_dir / "ledger").glob("*.db"):
            with contextlib.closing(sqlite3.connect(f"file:{month}?mode=ro", uri=True)) as ledger:
                rows += ledger.execute(query, values)
        return rows

    def tail_us(self, activation_id: str) -> int:
        """CPU time that was booked to an activation after its reply, microseconds."""
        query = "SELECT coalesce(sum(cpu_us), 0) FROM ledger WHERE type = 'tail' AND subject = ?"
        return sum(row[0] for row in self.ledger(query, activation_id))

    def containers(self) -> list[dict[str, Any]]:
        """Every container of the pool, as `invokerctl pool` shows it."""
        listed: list[dict[str, Any]] = json.loads(self.daemon.control("pool", "--json"))["containers"]
        return listed

    def pooled(self) -> dict[str, str]:
        """Every container of the pool, and its state."""
        return {each["container"]: each["state"] for each in self.containers()}

    @property
    def memory_used_mib(self) -> int:
        """What the pool's containers have reserved."""
        return int(json.loads(self.daemon.control("pool", "--json"))["memory_used_mib"])

    def health(self) -> dict[str, Any]:
        """The checks of `/health` that are not well, by name."""
        checks = self.user.ask("GET", "/health", key=None).json["checks"]
        return {check["name"]: check["detail"] for check in checks if not check["ok"]}

    def orphans(self) -> set[str]:
        """Containers that the engine has and the pool does not own."""
        listed = {each["Names"][0].removeprefix("/") for each in self.engine.containers(f"invokerd.node={self.daemon.node}")}
        return listed - set(self.pooled())

    @contextlib.contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Let the bystander call its warm action while the block runs: each call must be answered, by the same container."""
        over = threading.Event()

        def calls() -> set[tuple[int, str]]:
            seen = set()
            while True:
                answer = self.bystander.invoke("echo", {"still": "here"})
                seen.add((answer.status, answer.annotations["container"] if answer.status == 200 else answer.text))
                if over.wait(0.02):
                    return seen

        with ThreadPoolExecutor(1) as pool:
            held = self.bystander.invoke("echo").annotations["container"]
            seen = pool.submit(calls)
            try:
                yield
            finally:
                over.set()
            assert seen.result() == {(200, held)}
            assert self.bystander.invoke("echo").annotations["container"] == held
