"""The program that looks at a directory, run as it is run."""

from __future__ import annotations

import subprocess

import pytest

from pool.look import look
from pool.sources import look_command


def run(path: object) -> tuple[int, str, str]:
    done = subprocess.run(look_command(str(path)), capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.strip(), done.stderr.strip()


def test_it_prints_where_the_links_of_a_directory_lead(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert run(tmp_path / "link") == (0, str((tmp_path / "real").resolve()), "")


def test_it_says_in_one_line_why_a_directory_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("")
    assert run(tmp_path / "absent") == (1, "", "No such file or directory")
    assert run(tmp_path / "file") == (1, "", "it is no directory")


def test_what_is_no_directory_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        look(str(tmp_path / "file"))
    assert look(str(tmp_path)) == str(tmp_path.resolve())
