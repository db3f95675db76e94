"""A file and a directory are synced by the same call; nothing stays open."""

from pathlib import Path

import pytest

from invoker.record.disk import sync


@pytest.mark.parametrize("name", ["file", "."])
def test_what_is_synced_is_closed_again(tmp_path: Path, name: str):
    (tmp_path / "file").write_text("x")
    opened = len(list(Path("/proc/self/fd").iterdir()))
    sync(tmp_path / name)
    assert len(list(Path("/proc/self/fd").iterdir())) == opened


def test_what_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        sync(tmp_path / "nothing")
