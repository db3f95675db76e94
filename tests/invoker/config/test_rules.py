import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from invoker.config.keys import Address, walk
from invoker.config.model import Config, SiteMount
from invoker.config.rules import find_problems


def change(config: Any, name: str, value: Any) -> Any:
    """Replace one dotted key of the tree."""
    head, _, rest = name.partition(".")
    return dataclasses.replace(config, **{head: change(getattr(config, head), rest, value) if rest else value})


def keys_at_fault(**changes: Any) -> set[str]:
    config: Any = Config(node="node-1")
    for name, value in changes.items():
        config = change(config, name.replace("__", "."), value)
    return {problem.key for problem in find_problems(config)}


def test_the_defaults_are_without_fault() -> None:
    assert find_problems(Config()) == []


def bounds() -> Iterator[tuple[str, float]]:
    for name, declared, _ in walk(Config()):
        for bound, beyond in (("at_least", -1), ("at_most", 1)):
            if declared.metadata[bound] is not None:
                yield name, declared.metadata[bound] + beyond


@pytest.mark.parametrize(("name", "value"), list(bounds()))
def test_a_value_just_out_of_bounds_is_refused_by_its_name(name: str, value: float) -> None:
    assert name in keys_at_fault(**{name.replace(".", "__"): value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limits.profile", "aws"),
        ("pool.keep_alive_policy", "belady"),
        ("pool.shares", ("physics",)),
        ("pool.shares", ("physics=0",)),
        ("pool.shares", ("=2",)),
        ("pool.max_waiting_per_user", 5000),
        ("isolation.cpu_policy", "all"),
        ("log.level", "loud"),
        ("node", "Ümlaut"),
        ("node", ""),
        ("state_dir", Path("/")),
        ("state_dir", Path("/tmp") / ("x" * 100)),
        ("prices.file", Path("/nonexistent/prices.toml")),
        ("runtimes.manifest", Path("/nonexistent/runtimes.json")),
        ("metrics.listen", Address("127.0.0.1", 3233)),
        ("http.public_url", "functions.example.org"),
        ("engine.url", "tcp://192.0.2.1:2375"),
        ("engine.url", "ssh://engine"),
        ("engine.url", "/var/run/docker.sock"),
        ("engine.cgroups", ("/",)),
        ("engine.cgroups", ("docker.service",)),
        ("engine.cgroups", ("/system.slice/docker.service", "/system.slice/../init.scope")),
        ("limits.timeout_min_ms", 10_000_000),
        ("limits.timeout_default_ms", 50),
        ("limits.memory_default_mib", 32),
        ("limits.memory_max_mib", 2**30),
        ("limits.logs_default_mib", 101),
        ("limits.concurrency_default", 9),
        ("store.keep_logs_s", 10**9),
        ("store.keep_results_s", 10**9),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_its_name(name: str, value: Any) -> None:
    assert keys_at_fault(**{name.replace(".", "__"): value}) == {name}


def test_ports_may_both_be_left_to_the_kernel() -> None:
    assert keys_at_fault(http__listen=Address("127.0.0.1", 0), metrics__listen=Address("127.0.0.1", 0)) == set()


@pytest.mark.parametrize("url", ["unix:///run/x.sock", "tcp://127.0.0.1:2375", "tcp://localhost:1"])
def test_an_engine_on_this_machine_is_accepted(url: str) -> None:
    assert keys_at_fault(engine__url=url) == set()


def test_a_cpu_quota_that_the_policy_ignores_is_refused() -> None:
    assert keys_at_fault(isolation__cpu_policy="by-memory", isolation__cpu_millis=500) == {"isolation.cpu_millis"}
    assert keys_at_fault(isolation__cpu_policy="by-memory") == set()


@pytest.mark.parametrize("key", ["registry.credentials_file", "store.parameter_key_file", "http.operator_credentials_file"])
def test_secrets_that_others_may_read_are_refused(tmp_path: Path, key: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("{}")
    secret.chmod(0o644)
    assert keys_at_fault(**{key.replace(".", "__"): secret}) == {key}
    secret.chmod(0o600)
    assert keys_at_fault(**{key.replace(".", "__"): secret}) == set()


def mounts_at_fault(source: str, target: str, name: str = "m") -> set[str]:
    mount = SiteMount(name=name, source=Path(source), target=Path(target))
    return {key.rpartition(".")[2] for key in keys_at_fault(isolation__mounts=(mount,))}


@pytest.mark.parametrize(
    ("source", "target", "fault"),
    [
        ("/srv/data", "/data", None),
        ("/cvmfs", "/cvmfs", None),
        ("srv", "/data", "source"),
        ("/srv/../etc", "/data", "source"),
        ("/", "/data", "source"),
        ("/etc/ssl", "/data", "source"),
        ("/var", "/data", "source"),
        ("/run/docker.sock", "/data", "source"),
        ("/var/lib/invokerd/code", "/data", "source"),
        ("/var/lib", "/data", "source"),
        ("/srv/data", "/", "target"),
        ("/srv/data", "/tmp/x", "target"),
        ("/srv/data", "/dev", "target"),
        ("/srv/data", "/run/invokerd/log", "target"),
    ],
)
def test_a_mount_may_not_hand_over_the_node_nor_cover_the_container(source: str, target: str, fault: str | None) -> None:
    assert mounts_at_fault(source, target) == ({fault} if fault else set())


def test_mounts_have_names_and_each_its_own() -> None:
    assert mounts_at_fault("/srv", "/srv", name="a b") == {"name"}
    twice = tuple(SiteMount(name="m", source=Path("/srv"), target=Path(target)) for target in ("/a", "/b"))
    assert keys_at_fault(isolation__mounts=twice) == {"isolation.mounts[1].name"}
