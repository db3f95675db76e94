"""What the pool is given: settings from the configuration, and an engine."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import pytest
from scripted_engine import Engine

from invoker import containers
from invoker.config.keys import ConfigError
from invoker.config.model import Config, EngineConfig, PoolConfig, StemCellConfig
from invoker.containers import check_wall, open_engine, pool_settings
from pool.courtesy import NoIdleCgroup
from pool.guard import CallClass
from pool.model import ContainerSpec
from pool.settings import UNLIMITED_MIB
from pool.user_groups import UserGroups
from pool.wall import Wall
from tests.support.made_up_cgroups import fill_group, hierarchy


def test_every_setting_of_the_section_reaches_the_pool() -> None:
    pool = PoolConfig(
        memory_mib=1000,
        freeze_grace_s=0.25,
        freeze_grace_most_s=0.75,
        keep_alive_s=90.0,
        keep_alive_policy="ttl",
        stem_cells=StemCellConfig(keep_s=17.0),
        parallel_starts=3,
        max_waiting=40,
        max_waiting_per_user=20,
        max_wait_s=30.0,
        overload_wait_s=1.5,
        max_containers_per_action=5,
        max_containers_per_user=6,
        max_memory_per_user_mib=900,
        shares=("physics-*=4",),
        shrink_frozen=False,
        frozen_margin_mib=8,
    )
    settings = pool_settings(pool)
    assert settings.longest_wait_s == 15.0
    assert settings.stem_keep_s == 17.0
    assert settings.shares == (("physics-*", 4.0),)
    same = {each.name for each in dataclasses.fields(pool)} & {each.name for each in dataclasses.fields(settings)} - {"shares"}
    assert len(same) > 10
    for name in same:
        assert getattr(settings, name) == getattr(pool, name), name


def test_without_a_bound_on_their_memory_users_have_none() -> None:
    assert pool_settings(PoolConfig(memory_mib=1000)).max_memory_per_user_mib == UNLIMITED_MIB


@pytest.fixture
async def engine(tmp_path: Path):
    async with Engine(str(tmp_path / "engine.sock")) as engine:
        yield engine


def config_of(engine: Engine, tmp_path: Path, parent: str) -> Config:
    return Config(state_dir=tmp_path, node="n", engine=EngineConfig(url=engine.url), pool=PoolConfig(cgroup_parent=parent))


def usual(_namespace: str) -> float:
    return 1.0


SPEC = ContainerSpec(namespace="g", uid=1001, gid=1001, image="sha256:1", kind="k", memory_mib=256)


@pytest.fixture(autouse=True)
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put made-up hierarchies in place of this machine's, and a systemd that obeys; return where the cgroups are."""
    proc, point = hierarchy(tmp_path, 1)
    monkeypatch.setattr(containers, "Wall", partial(Wall, proc=proc, run=lambda _command: None))
    monkeypatch.setattr(containers, "UserGroups", partial(UserGroups, proc=proc))
    return point


async def test_containers_are_made_in_their_users_cgroup_below_the_one_that_the_configuration_names(
    engine, tmp_path, cgroups
) -> None:
    engine.answers["GET /info"] = (200, {"MemoryLimit": True, "CgroupDriver": "cgroupfs"})
    async with open_engine(config_of(engine, tmp_path, "invokerd"), weight_of=usual) as backend:
        assert backend._groups.of(SPEC) == "/invokerd/u1001"
        assert (cgroups / "invokerd" / "memory.limit_in_bytes").read_text() == str(backend.wall.limit)
        assert check_wall(backend.wall).detail == f"{backend.wall.limit >> 20} MiB"
    engine.answers["GET /info"] = (200, {"MemoryLimit": True, "CgroupDriver": "systemd"})
    async with open_engine(config_of(engine, tmp_path, ""), weight_of=usual) as backend:
        assert backend._groups.of(SPEC) == "functions_n-u1001.slice"
    engine.answers["GET /info"] = (200, {"MemoryLimit": True, "CgroupDriver": "none"})
    async with open_engine(config_of(engine, tmp_path, ""), weight_of=usual) as backend:
        assert backend._groups is None
        check = check_wall(backend.wall)
        assert (check.ok, check.warning) == (True, True)
        assert "driver 'none'" in check.detail


async def test_cgroups_without_containers_go_at_the_start_and_the_parent_at_the_end(engine, tmp_path, cgroups) -> None:
    engine.answers["GET /info"] = (200, {"MemoryLimit": True, "CgroupDriver": "cgroupfs"})
    parent = cgroups / "functions_n"
    fill_group(parent, 1)
    (parent / "u1001" / "a container").mkdir(parents=True)
    (parent / "u1002").mkdir()
    async with open_engine(config_of(engine, tmp_path, ""), weight_of=usual):
        assert {each.name for each in parent.iterdir() if each.is_dir()} == {"u1001"}
        for file in parent.glob("memory.*"):
            file.unlink()  # in a real one no file stands in the way
    assert (parent / "u1001").is_dir()
    (parent / "u1001" / "a container").rmdir()
    fill_group(parent, 1)
    async with open_engine(config_of(engine, tmp_path, ""), weight_of=usual):
        assert parent.is_dir()
        for file in parent.glob("memory.*"):
            file.unlink()
    assert not parent.exists()


async def test_a_wall_that_cannot_be_is_a_fault_of_a_configuration_that_names_it_and_of_no_other(engine, tmp_path) -> None:
    engine.answers["GET /info"] = (200, {"MemoryLimit": True, "CgroupDriver": "cgroupfs"})
    (tmp_path / "proc" / "self" / "mountinfo").write_text("")
    with pytest.raises(ConfigError, match=r"pool\.cgroup_parent = invokerd: no cgroup hierarchy with a memory controller"):
        async with open_engine(config_of(engine, tmp_path, "invokerd"), weight_of=usual):
            pytest.fail("it must not start")
    async with open_engine(config_of(engine, tmp_path, ""), weight_of=usual) as backend:
        check = check_wall(backend.wall)
        assert (check.ok, check.warning) == (True, True)
        assert "only each container has a limit of its own: no cgroup hierarchy" in check.detail


async def test_the_engine_whose_cgroups_are_named_gives_way_until_the_daemon_ends(engine, tmp_path, monkeypatch) -> None:
    file = tmp_path / "cpu.idle"
    file.write_text("0")
    (tmp_path / "cpu.weight").write_text("100")
    monkeypatch.setattr(containers, "idle_file", {"/engine": file}.__getitem__)
    config = Config(state_dir=tmp_path, node="n", engine=EngineConfig(url=engine.url, cgroups=("/engine",)))
    async with open_engine(config, weight_of=usual) as backend:
        async with backend.guard.call("start", CallClass.CREATE):
            assert file.read_text() == "1"
        assert file.read_text() == "1"
    assert file.read_text() == "0"


async def test_an_engine_that_nobody_names_gives_way_to_nobody(engine, tmp_path) -> None:
    async with open_engine(config_of(engine, tmp_path, ""), weight_of=usual) as backend:
        assert backend.guard.courtesy is None


async def test_a_machine_without_a_cpu_controller_is_a_fault_of_a_configuration_that_names_cgroups(
    engine, tmp_path, monkeypatch
) -> None:
    def refuse(_group: str) -> Path:
        raise NoIdleCgroup("no cgroup hierarchy")

    monkeypatch.setattr(containers, "idle_file", refuse)
    config = Config(state_dir=tmp_path, node="n", engine=EngineConfig(url=engine.url, cgroups=("/engine",)))
    with pytest.raises(ConfigError, match=r"engine\.cgroups: no cgroup hierarchy"):
        async with open_engine(config, weight_of=usual):
            pytest.fail("it must not start")
