from __future__ import annotations

import os
from pathlib import Path

import pytest

from pool.disk import Room, refuse_on_full_disk, room_on
from pool.errors import EngineDiskFull


def test_disk_with_room_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pool.disk.LEAST_FREE_BYTES", 1)
    refuse_on_full_disk(str(tmp_path))


def test_nearly_full_disk_is_refused_with_both_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = os.statvfs(tmp_path)
    fields = list(real)
    fields[2], fields[3], fields[4] = 1000 << 8, 10 << 8, 10 << 8  # blocks, free, available: 1000 and 10 MiB of 4 KiB
    monkeypatch.setattr("pool.disk.os.statvfs", lambda _path: os.statvfs_result([4096, 4096, *fields[2:]]))
    with pytest.raises(EngineDiskFull, match=r"10 MiB free, less than 50 MiB"):
        refuse_on_full_disk(str(tmp_path))


def test_room_is_what_is_free_and_what_would_be_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fields = list(os.statvfs(tmp_path))
    fields[2], fields[3], fields[4] = 1000 << 8, 900 << 8, 100 << 8
    monkeypatch.setattr("pool.disk.os.statvfs", lambda _path: os.statvfs_result([4096, 4096, *fields[2:]]))
    assert room_on(str(tmp_path)) == Room(free=100 << 20, enough=50 << 20)


def test_engine_of_unknown_place_is_not_judged():
    assert room_on("") is None
    refuse_on_full_disk("")
    refuse_on_full_disk("/no/such/place")
