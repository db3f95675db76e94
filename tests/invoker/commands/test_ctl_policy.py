from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from invoker.commands.ctl import main

FUNCTIONS = "func_name,cold_dur_ms,warm_dur_ms,mem_mb\na,1500,500,128\nb,900,40,256\n"
CALLS = "func_name,invoke_time_ms\n" + "".join(f"{'ab'[number % 2]},{number * 4000}\n" for number in range(20))


def files(tmp_path: Path, calls: str = CALLS) -> list[str]:
    (tmp_path / "calls.csv").write_text(calls)
    (tmp_path / "functions.csv").write_text(FUNCTIONS)
    return ["--calls", str(tmp_path / "calls.csv"), "--functions", str(tmp_path / "functions.csv")]


def test_a_trace_from_files_is_played_under_every_policy(tmp_path: Path):
    result = CliRunner().invoke(main, ["policy", "simulate", *files(tmp_path), "--memory-mib", "512"])
    assert result.exit_code == 0, result.output
    assert "20 calls of 2 actions" in result.output
    assert "blend *" in result.output
    assert "greedy-dual" in result.output


def test_json_has_every_outcome(tmp_path: Path):
    result = CliRunner().invoke(main, ["policy", "simulate", *files(tmp_path), "--memory-mib", "300", "--json"])
    outcomes = json.loads(result.output)
    assert {each["policy"] for each in outcomes} >= {"blend", "ttl", "lru"}
    assert all(each["calls"] == 20 and each["memory_mib"] == 300 for each in outcomes)


def test_a_bad_trace_is_told_by_file_and_line(tmp_path: Path):
    result = CliRunner().invoke(main, ["policy", "simulate", *files(tmp_path, "func_name,invoke_time_ms\nc,1\n")])
    assert result.exit_code == 1
    assert "calls, line 2" in result.output


def test_one_file_without_the_other_is_a_wrong_usage(tmp_path: Path):
    result = CliRunner().invoke(main, ["policy", "simulate", "--calls", str(tmp_path / "calls.csv")])
    assert result.exit_code == 2
    assert "go together" in result.output


def test_an_empty_ledger_is_said(tmp_path: Path):
    (tmp_path / "invokerd.toml").write_text(f'state_dir = "{tmp_path}"\n')
    result = CliRunner().invoke(main, ["--config", str(tmp_path / "invokerd.toml"), "policy", "simulate"])
    assert result.exit_code == 1
    assert "no activation of this span" in result.output
