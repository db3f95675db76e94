from __future__ import annotations

import os
from pathlib import Path

import pytest

from pool.disk import Room, directory_of, refuse_on_full_disk, room_on
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
    fields[2:8] = 1000 << 8, 900 << 8, 100 << 8, 2000, 1800, 1700
    monkeypatch.setattr("pool.disk.os.statvfs", lambda _path: os.statvfs_result([4096, 4096, *fields[2:]]))
    assert room_on(str(tmp_path)) == Room(free=100 << 20, enough=50 << 20, inodes=1700, enough_inodes=100)


def test_disk_without_inodes_is_refused_however_many_bytes_are_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    disk = os.statvfs_result([4096, 4096, 1000 << 8, 900 << 8, 900 << 8, 60_000, 20, 20, 0, 255])
    monkeypatch.setattr("pool.disk.os.statvfs", lambda _path: disk)
    with pytest.raises(EngineDiskFull, match=r"has 20 inodes free, less than 3000: .* The operator must free space there"):
        refuse_on_full_disk(str(tmp_path))


def test_file_system_that_makes_inodes_as_it_needs_them_is_judged_by_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    disk = os.statvfs_result([4096, 4096, 1000 << 8, 900 << 8, 900 << 8, 0, 0, 0, 0, 255])
    monkeypatch.setattr("pool.disk.os.statvfs", lambda _path: disk)
    refuse_on_full_disk(str(tmp_path))


@pytest.mark.parametrize(("room", "below"), [(Room(100, 50), False), (Room(99, 50), True), (Room(200, 50, 19, 10), True)])
def test_room_is_below_twice_enough_when_bytes_or_inodes_are(room: Room, below: bool):
    assert room.is_below(2.0) is below
    assert room.shortage() == ""


def test_engine_of_unknown_place_is_not_judged():
    assert room_on("") is None
    refuse_on_full_disk("")
    refuse_on_full_disk("/no/such/place")


def info(driver_status: list[list[str]] | None, address: str) -> dict[str, object]:
    return {"DockerRootDir": "/engine", "DriverStatus": driver_status, "Containerd": {"Address": address}}


SNAPSHOTS = [["driver-type", "io.containerd.snapshotter.v1"]]
SERVICE, CHILD = "/run/containerd/containerd.sock", "/run/docker/containerd/containerd.sock"


@pytest.mark.parametrize(
    ("about", "directory"),
    [
        (info(SNAPSHOTS, SERVICE), "/var/lib/containerd"),
        (info(SNAPSHOTS, CHILD), "/engine"),
        (info([["Backing Filesystem", "extfs"]], SERVICE), "/engine"),
        (info(None, SERVICE), "/engine"),
        ({"DockerRootDir": "/engine", "DriverStatus": SNAPSHOTS}, "/engine"),
        ({}, ""),
    ],
)
def test_the_disk_that_counts_is_that_on_which_images_are(about: dict[str, object], directory: str, tmp_path: Path):
    assert directory_of(about, tmp_path / "absent.toml") == directory


@pytest.mark.parametrize(
    ("text", "directory"),
    [
        ('version = 2\nroot = "/data/containerd"\n[plugins]\n', "/data/containerd"),
        ("version = 2\n[plugins]\n", "/var/lib/containerd"),
        ("root = ", "/var/lib/containerd"),
    ],
)
def test_a_containerd_of_its_own_keeps_images_where_its_configuration_says(text: str, directory: str, tmp_path: Path):
    config = tmp_path / "config.toml"
    config.write_text(text)
    assert directory_of(info(SNAPSHOTS, SERVICE), config) == directory
