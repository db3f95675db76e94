import contextlib
from pathlib import Path

import msgspec
import pytest

from bench.__main__ import SCENARIOS, main
from bench.container import Engine
from bench.measure import Line, dump
from bench.setting import Setting

#: Too small for their numbers to mean anything, large enough that every line of a scenario runs.
SIZES = {"calls": 30, "blocks": 2, "rounds": 2}
#: What must hold at any size, on any machine.
EXACT = {"engine-requests", "crash", "alarms"}


@pytest.mark.docker
@pytest.mark.long
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_prints_a_line_and_leaves_no_container(name, engine_url, tmp_path):
    with contextlib.closing(Engine(engine_url)) as engine:
        before = {container["Id"] for container in engine.containers("invokerd.node")}
        with Setting(engine=engine, root=tmp_path, seed=1, **SIZES) as setting:
            line = SCENARIOS[name].run(setting)
        assert msgspec.json.decode(dump(line), type=Line) == line
        assert all(distribution.n for distribution in line.subjects.values())
        if name in EXACT:
            assert line.must["met"], line.facts
        left = [container for container in engine.containers("invokerd.node") if container["Id"] not in before]
        # Others on this engine may have started theirs meanwhile.
        assert [each["Names"] for each in left if str(tmp_path) in str(each["Mounts"])] == []


def test_every_scenario_tells_what_it_measures_and_is_in_the_readme():
    readme = (Path(__file__).parents[2] / "bench" / "README.md").read_text(encoding="utf-8")
    for name, scenario in SCENARIOS.items():
        assert scenario.run.__doc__
        assert f"| `{name}` |" in readme


def test_an_unknown_scenario_is_refused_with_the_known_ones(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["bench", "warn"])
    with pytest.raises(SystemExit):
        main()
    assert "engine-requests" in capsys.readouterr().err
