"""What is made of what an emulated machine printed; the run itself takes most of an hour (scripts/vm-test)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPORT = Path(__file__).parents[2] / "scripts/lib/vm/report.py"
PRINTED = """[   70 s] BEGIN engine
[   88 s] CHECK engine ok 2 systemd 20.10 | live-restore
[   99 s] TIME engine 31 s
[  100 s] CHECK frozen-by-v2 {result} /sys/fs/cgroup/system.slice/docker-x.scope
  | the daemon said CHECK nothing
{end}
""".replace("\n", "\r\n")


def report(tmp_path: Path, result: str, end: str) -> tuple[int, str]:
    printed = tmp_path / "checks.log"
    printed.write_text(PRINTED.format(result=result, end=end))
    words = (sys.executable, str(REPORT), str(printed), "2026-01-01T00:00:00Z", "abc1234", "13")
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_a_run_in_which_all_passed_says_so_and_shows_what_was_seen(tmp_path):
    code, page = report(tmp_path, "ok", "PROBE ENDED")
    assert code == 0
    assert "All 2 checks passed." in page
    assert "| frozen-by-v2 | ok | /sys/fs/cgroup/system.slice/docker-x.scope |" in page
    assert "| engine | ok | 2 systemd 20.10 / live-restore |" in page
    assert "engine 31 s" in page
    assert "`scripts/vm-test --debian 13`, 2026-01-01T00:00:00Z, commit abc1234: an emulated Debian 13" in page


@pytest.mark.parametrize(
    ("result", "end", "said"),
    [("FAILED", "PROBE ENDED", "Failed: frozen-by-v2."), ("ok", "reboot: Power down", "Failed: it did not come to its end.")],
)
def test_a_failed_check_or_a_run_without_its_end_is_no_success(tmp_path, result, end, said):
    code, page = report(tmp_path, result, end)
    assert code == 1
    assert said in page


def test_a_machine_that_printed_nothing_is_no_success(tmp_path):
    printed = tmp_path / "checks.log"
    printed.write_text("")
    words = (sys.executable, str(REPORT), str(printed), "2026-01-01T00:00:00Z", "abc1234", "13")
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "it did not come to its end" in done.stdout
