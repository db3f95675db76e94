import contextlib
import json
import os
from pathlib import Path

import pytest

from bench.client import drive, repeated
from bench.container import Engine, EngineRefused
from bench.setting import RUN, Setting, remove_containers
from pool.recipe import LABEL_NODE


@pytest.fixture
def setting(engine_url, tmp_path):
    with contextlib.closing(Engine(engine_url)) as engine:
        setting = Setting(engine=engine, root=tmp_path, seed=1, calls=1, blocks=1, rounds=1)
        try:
            setting.default_spec()
        except EngineRefused:
            pytest.skip("the image of the python:3 runtime is not built here")
        yield setting


@pytest.mark.docker
async def test_a_container_by_hand_runs_the_code_and_leaves_nothing(setting):
    with setting.by_hand(1) as (runner,):
        engine_id = runner.container.engine_id
        run = await drive([runner.connection], repeated(RUN, 3))
        assert [json.loads(answer.body) for answer in run.answers] == [{"ok": True}] * 3
        assert run.latencies_us()
    with pytest.raises(EngineRefused, match="404"):
        setting.engine.inspect(engine_id)


@pytest.mark.docker
async def test_a_frozen_container_by_hand_can_be_removed(setting):
    with setting.by_hand(1) as (runner,):
        engine_id = runner.container.engine_id
        freezer = runner.open_freezer()
        Path(f"/proc/self/fd/{freezer}").write_bytes(b"FROZEN" if runner.cgroup == "v1" else b"1")
    with pytest.raises(EngineRefused, match="404"):
        setting.engine.inspect(engine_id)


@pytest.mark.docker
async def test_what_a_node_left_is_removed_frozen_or_not(setting):
    runner = setting.start_by_hand(setting.default_spec())
    freezer = runner.open_freezer()
    Path(f"/proc/self/fd/{freezer}").write_bytes(b"FROZEN" if runner.cgroup == "v1" else b"1")
    remove_containers(setting.engine, setting.node)
    assert setting.engine.containers(f"{LABEL_NODE}={setting.node}") == []
    os.close(freezer)
    runner.connection.close()


@pytest.mark.docker
def test_a_refusal_of_the_engine_tells_what_it_refused(engine_url):
    with contextlib.closing(Engine(engine_url)) as engine:
        with pytest.raises(EngineRefused, match=r"GET /containers/no-such-container/json: 404 .*[Nn]o such container"):
            engine.inspect("no-such-container")
        # The connection survives a refusal, or is opened anew.
        assert engine.request("GET", "/version")["Version"] == engine.version
