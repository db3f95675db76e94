import contextlib
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import click.testing
import pytest

import invoker
from invoker.__main__ import main
from invoker.commands import doctor
from invoker.config.keys import ConfigError
from invoker.config.model import Config
from invoker.config.text import render_example, render_reference
from invoker.record.corruption import StoreCorrupt
from invoker.record.store import open_writer
from invoker.stores import lock_state
from pool.errors import EngineUnavailable


def run(*arguments: str, code: int = 0) -> click.testing.Result:
    result = click.testing.CliRunner().invoke(main, list(arguments))
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "invokerd.toml"
    path.write_text('state_dir = "state"\nnode = "n7"\n')
    return path


@pytest.fixture
def bad_config(tmp_path: Path) -> Path:
    path = tmp_path / "bad.toml"
    path.write_text("nod = 1\n[pool]\nmemory = 1\n")
    return path


def test_check_config_prints_what_is_in_effect(config: Path) -> None:
    assert 'node = "n7"  # file' in run("check-config", "--config", str(config)).stdout
    assert json.loads(run("check-config", "--config", str(config), "--json").stdout)["config"]["node"] == "n7"


@pytest.mark.parametrize("command", ["serve", "check-config", "doctor"])
def test_a_bad_configuration_is_exit_code_78_and_every_problem_named(command: str, bad_config: Path) -> None:
    refused = run(command, "--config", str(bad_config), code=78)
    assert "bad.toml:1: nod: unknown key; did you mean node?" in refused.stderr
    assert "bad.toml:3: pool.memory: unknown key; did you mean pool.memory_mib?" in refused.stderr


def test_the_example_and_the_reference_can_be_printed() -> None:
    assert run("example-config").stdout == render_example()
    assert run("example-config", "--reference").stdout == render_reference()


class FakeDaemon(ModuleType):
    """Stands in for `invoker.daemon`: ends at once as a test says, and remembers what it was started with."""

    def __init__(self, outcome: int | Exception) -> None:
        super().__init__("invoker.daemon")
        self.outcome = outcome
        self.started: list[tuple[Config, Path | None, str]] = []

    async def serve(self, config: Config, path: Path | None) -> int:
        import asyncio

        self.started.append((config, path, type(asyncio.get_running_loop()).__module__))
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


def stand_in(monkeypatch: pytest.MonkeyPatch, outcome: int | Exception) -> FakeDaemon:
    daemon = FakeDaemon(outcome)
    monkeypatch.setitem(sys.modules, "invoker.daemon", daemon)
    monkeypatch.setattr(invoker, "daemon", daemon, raising=False)
    return daemon


def test_serve_runs_the_daemon_on_uvloop_and_ends_with_its_code(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = stand_in(monkeypatch, 7)
    run("serve", "--config", str(config), code=7)
    ((started, path, loop),) = daemon.started
    assert (started.node, path) == ("n7", config)
    assert loop.startswith("uvloop")


@pytest.mark.parametrize(
    ("outcome", "code", "says"),
    [
        (EngineUnavailable("the engine does not answer: start docker"), 1, "start docker (engine-unavailable)"),
        (StoreCorrupt("ledger/2026-11.db is corrupt: restore a copy"), 65, "restore a copy (store-corrupt)"),
        (ConfigError(["prices.toml:3: currency: missing"]), 78, "prices.toml:3: currency: missing"),
    ],
)
def test_what_the_start_refuses_is_told_without_a_traceback(
    config: Path, monkeypatch: pytest.MonkeyPatch, outcome: Exception, code: int, says: str
) -> None:
    stand_in(monkeypatch, outcome)
    stderr = run("serve", "--config", str(config), code=code).stderr
    assert says in stderr
    assert "Traceback" not in stderr


@pytest.mark.parametrize(("verdict", "code"), [(doctor.Verdict.OK, 0), (doctor.Verdict.WARNING, 0), (doctor.Verdict.BAD, 1)])
def test_the_doctors_exit_code_says_whether_the_node_is_fit(
    config: Path, monkeypatch: pytest.MonkeyPatch, verdict: doctor.Verdict, code: int
) -> None:
    def examine(_: Config) -> list[doctor.Finding]:
        return [doctor.Finding(check="kernel", verdict=verdict, text="Linux", advice="do")]

    monkeypatch.setattr(doctor, "examine", examine)
    assert "kernel" in run("doctor", "--config", str(config), code=code).stdout
    findings: list[dict[str, Any]] = json.loads(run("doctor", "--config", str(config), "--json", code=code).stdout)["findings"]
    assert findings[0]["verdict"] == verdict.value


def a_state(tmp_path: Path, config: Path) -> Path:
    """A state directory with a database whose last page is damaged."""
    state = tmp_path / "state"
    config.write_text(f'state_dir = "{state}"\n')
    with contextlib.closing(open_writer(state / "entities.db", "entities", durable=False)) as connection:
        rows = [(f"n{number}", f"u{number}", "x" * 500) for number in range(50)]
        connection.executemany("INSERT INTO namespaces (name, uuid, value) VALUES (?, ?, ?)", rows)
    path = state / "entities.db"
    pages = path.read_bytes()
    last = next(n for n in reversed(range(len(pages) // 4096)) if pages[n * 4096] == 13)
    path.write_bytes(pages[: last * 4096] + b"\xa5" * 4096 + pages[(last + 1) * 4096 :])
    return state


def test_a_corrupt_database_is_rescued_only_while_no_daemon_runs(
    tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("invoker.record.rescue._PROBES", 10_000)
    state = a_state(tmp_path, config)
    held = lock_state(state)
    assert "uses" in run("rescue", "entities.db", "--config", str(config), code=1).stderr
    os.close(held)
    assert "none of entities.db" in run("rescue", "other.db", "--config", str(config), code=2).stderr
    shown = run("rescue", "entities.db", "--config", str(config), code=1).stdout
    assert re.search(r"namespaces: [1-4]\d rows were saved; not all: database disk image is malformed", shown)
    assert f"the old file is {state}/damaged/entities-" in shown
    again = run("rescue", "entities.db", "--config", str(config), code=0).stdout
    assert "not all" not in again


@pytest.mark.parametrize("heavy", ["aiohttp", "asyncio", "uvloop", "msgspec", "tomllib"])
def test_help_starts_without_what_only_serving_needs(heavy: str) -> None:
    code = f"import sys, invoker.__main__; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_package_can_be_run() -> None:
    shown = subprocess.run([sys.executable, "-m", "invoker", "--help"], capture_output=True, text=True, check=True).stdout
    assert shown.startswith("Usage: invokerd ")
