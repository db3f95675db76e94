import os
from pathlib import Path

import pytest

from invoker.config.keys import Address, walk
from invoker.config.model import (
    Config,
    HttpConfig,
    IsolationConfig,
    LimitsConfig,
    RegistryConfig,
    SiteMount,
)


def test_the_fixed_keys_have_their_defaults() -> None:
    config = Config()
    assert str(config.http.listen) == "127.0.0.1:3233"
    assert str(config.metrics.listen) == "127.0.0.1:3234"
    assert config.engine.url == "unix:///var/run/docker.sock"
    assert config.pool.freeze_grace_s == 0.05
    half_mib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**21
    assert config.pool.memory_mib == half_mib
    assert config.control_socket == Path("/var/lib/invokerd/control.sock")
    assert config.http.url == "http://127.0.0.1:3233"


def test_the_url_is_the_public_one_or_leads_to_where_the_api_listens() -> None:
    assert HttpConfig(listen=Address.parse(":80")).url == "http://127.0.0.1:80"
    assert HttpConfig(listen=Address("::", 80)).url == "http://[::1]:80"
    assert HttpConfig(public_url="https://functions.example.org/").url == "https://functions.example.org"


def test_every_key_says_what_it_means() -> None:
    for name, declared, _ in walk(Config()):
        assert declared.metadata.get("doc"), name
        assert declared.metadata["doc"].endswith("."), name


def test_the_openwhisk_profile_has_the_numbers_of_upstream() -> None:
    limits = LimitsConfig.of_profile("openwhisk")
    assert (limits.invocations_per_minute, limits.concurrent_invocations, limits.fires_per_minute) == (60, 30, 60)
    assert (limits.timeout_min_ms, limits.timeout_default_ms, limits.timeout_max_ms) == (100, 60_000, 300_000)
    assert (limits.memory_min_mib, limits.memory_default_mib, limits.memory_max_mib) == (128, 256, 512)
    assert (limits.logs_min_mib, limits.logs_default_mib, limits.logs_max_mib) == (0, 10, 10)
    assert (limits.payload_bytes, limits.result_bytes, limits.code_bytes) == (2**20, 2**20, 48 * 2**20)


@pytest.mark.parametrize(
    ("uid", "gid", "groups", "allow_root", "refused"),
    [
        (4711, 4711, (), False, None),
        (4711, 4711, (20, 44), False, None),
        (0, 4711, (), False, "allow_root"),
        (4711, 0, (), False, "allow_root"),
        (4711, 4711, (0,), False, "allow_root"),
        (0, 0, (), True, None),
        (999, 4711, (), False, "min_uid"),
        (4711, 999, (), True, "min_uid"),
        (-1, 4711, (), False, "not a Unix id"),
        (2**32 - 1, 4711, (), True, "not a Unix id"),
    ],
)
def test_root_and_system_accounts_are_refused_as_identities(
    uid: int, gid: int, groups: tuple[int, ...], allow_root: bool, refused: str | None
) -> None:
    said = IsolationConfig(allow_root=allow_root).refuse_identity(uid, gid, groups)
    assert (said is None) if refused is None else (refused in (said or ""))


def test_the_cpu_quota_is_fixed_or_goes_by_memory_and_never_beyond_the_machine() -> None:
    machine = 1000 * (os.cpu_count() or 1)
    assert IsolationConfig().cpu_millis_for(4096) == 1000
    assert IsolationConfig(cpu_millis=0).cpu_millis_for(4096) == 0
    by_memory = IsolationConfig(cpu_policy="by-memory", cpu_millis_per_gib=500)
    assert by_memory.cpu_millis_for(1024) == 500
    assert by_memory.cpu_millis_for(16) == 10
    assert by_memory.cpu_millis_for(1024 * 1024) == machine


SITE = IsolationConfig(
    mounts=(
        SiteMount(name="data", source=Path("/srv/data"), target=Path("/data")),
        SiteMount(name="beam", source=Path("/srv/beam"), target=Path("/beam"), read_only=False, namespaces=("p11-*",)),
        SiteMount(name="other", source=Path("/srv/other"), target=Path("/data")),
    )
)


def test_a_namespace_gets_the_mounts_it_was_granted_in_order_of_their_target() -> None:
    mounts = SITE.mounts_for("p11-alice", ["data", "beam"])
    assert [(m.source, m.target, m.read_only) for m in mounts] == [("/srv/beam", "/beam", False), ("/srv/data", "/data", True)]


@pytest.mark.parametrize(
    ("names", "says"),
    [(["nope"], "offered: data, other"), (["beam"], "not offered"), (["data", "other"], "both have the target")],
)
def test_a_mount_that_is_not_offered_or_not_possible_is_refused_by_name(names: list[str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        SITE.mounts_for("alice", names)


def test_images_are_allowed_by_pattern() -> None:
    registry = RegistryConfig(allow=("registry.example.org/*", "python:3.*"))
    assert registry.allows("registry.example.org/x/y:1")
    assert registry.allows("python:3.11")
    assert not registry.allows("python:2.7")
    assert not registry.allows("elsewhere.example.org/registry.example.org/x")
