"""What is made of the console of an emulated machine; the run itself takes most of an hour (scripts/vm-test)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROBE = Path(__file__).parents[2] / "scripts/lib/vm_probe.py"
CONSOLE = """Loading Linux ...
vm login: CHECK engine ok 2 systemd 20.10 | live-restore
TIME engine 31 s
CHECK frozen-by-v2 {result} /sys/fs/cgroup/system.slice/docker-x.scope
{end}
""".replace("\n", "\r\n")


def report(tmp_path: Path, result: str, end: str) -> tuple[int, str]:
    console = tmp_path / "console.log"
    console.write_text(CONSOLE.format(result=result, end=end))
    words = (sys.executable, str(PROBE), "--report", str(console), "2026-01-01T00:00:00Z", "abc1234")
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_a_run_in_which_all_passed_says_so_and_shows_what_was_seen(tmp_path):
    code, page = report(tmp_path, "ok", "PROBE ENDED")
    assert code == 0
    assert "Every check passed." in page
    assert "| frozen-by-v2 | ok | /sys/fs/cgroup/system.slice/docker-x.scope |" in page
    assert "| engine | ok | 2 systemd 20.10 / live-restore |" in page
    assert "engine 31 s" in page


@pytest.mark.parametrize(
    ("result", "end", "said"),
    [("FAILED", "PROBE ENDED", "Failed: frozen-by-v2."), ("ok", "reboot: Power down", "Failed: it did not come to its end.")],
)
def test_a_failed_check_or_a_run_without_its_end_is_no_success(tmp_path, result, end, said):
    code, page = report(tmp_path, result, end)
    assert code == 1
    assert said in page
