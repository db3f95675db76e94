"""The page that tells of the long tier, from what pytest wrote."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "lib" / "long_result.py"
SUITE = """<?xml version="1.0"?><testsuites><testsuite>{}</testsuite></testsuites>"""
SHORT = '<testcase file="tests/a.py" name="test_quick" time="0.5">{}</testcase>'
LONG = """<testcase file="tests/b.py" name="test_a_soak[1]" time="90.4"><properties><property name="long" value="yes"/>
<property name="calls" value="1000"/></properties>{}</testcase>"""
FAILED = '<failure message="no">at /some/where</failure>'


def tell(tmp_path: Path, first: str, alone: str | None = None, *words: str) -> tuple[int, str]:
    files = [tmp_path / "first.xml", tmp_path / "alone.xml"]
    for file, text in zip(files, (first, alone), strict=True):
        if text is not None:
            file.write_text(SUITE.format(text))
    command = [sys.executable, str(SCRIPT), "--started", "2026-01-02T03:04:05Z", "--commit", "abc1234", *words, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.stderr
    return done.returncode, done.stdout


def test_it_has_the_totals_and_a_row_for_each_long_test(tmp_path):
    code, page = tell(tmp_path, SHORT.format("") + LONG.format("") + '<testcase name="x" time="0"><skipped/></testcase>')
    assert code == 0
    assert "2026-01-02T03:04:05Z, commit abc1234" in page
    assert "2 passed, 0 failed, 1 skipped, 2 minutes" in page
    assert "| test a soak[1] (`tests/b.py`) | passed | 90 | calls: 1000 |" in page
    assert "test quick" not in page


def test_what_failed_beside_others_and_passed_alone_is_named(tmp_path):
    code, page = tell(tmp_path, SHORT.format(FAILED) + LONG.format(""), SHORT.format(""))
    assert code == 0
    assert "2 passed, 0 failed" in page
    assert "Failed beside others and passed alone:\n\n- `tests/a.py` test_quick\n" in page


def test_what_was_mended_in_between_is_said(tmp_path):
    _, page = tell(tmp_path, SHORT.format(FAILED), SHORT.format(""), "--mended", "def5678")
    assert "passed alone, after what they showed was mended (commit def5678):\n\n- `tests/a.py` test_quick\n" in page


@pytest.mark.parametrize("kind", ["failure", "error"])
def test_what_failed_is_named_without_a_word_of_where_it_ran(tmp_path, kind):
    failed = FAILED.replace("failure", kind)
    code, page = tell(tmp_path, SHORT.format("") + LONG.format(failed), LONG.format(failed))
    assert code == 1
    assert "1 passed, 1 failed" in page
    assert "Failed:\n\n- `tests/b.py` test_a_soak[1]\n" in page
    assert "/some/where" not in page


def test_a_teardown_that_failed_counts_beside_the_test_that_passed(tmp_path):
    code, page = tell(tmp_path, SHORT.format("") + SHORT.format("<error/>"))
    assert code == 1
    assert "0 passed, 1 failed" in page


def test_a_run_that_wrote_nothing_is_no_success(tmp_path):
    assert tell(tmp_path, "")[0] == 1
