from __future__ import annotations

import base64
import binascii
import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from invoker.code import CodeNotUnpackable, CodeStore, decode, unpack
from invoker.model import MIB, Exec


def zipped(entries: dict[str, bytes], mode: int = 0o644) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (stat.S_IFREG | mode) << 16
            archive.writestr(info, content)
    return buffer.getvalue()


def test_zip_is_unpacked_world_readable_and_keeps_what_is_executable(tmp_path: Path):
    unpack(zipped({"__main__.py": b"x = 1", "bin/tool": b"#!/bin/sh"}, mode=0o750), tmp_path)
    assert (tmp_path / "__main__.py").read_bytes() == b"x = 1"
    assert stat.S_IMODE((tmp_path / "bin/tool").stat().st_mode) == 0o755


def test_gzipped_tar_is_unpacked(tmp_path: Path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        info = tarfile.TarInfo("pkg/mod.py")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"a=1"))
    unpack(buffer.getvalue(), tmp_path)
    assert (tmp_path / "pkg/mod.py").read_bytes() == b"a=1"


def test_anything_else_is_one_executable(tmp_path: Path):
    unpack(b"\x7fELF....", tmp_path)
    assert stat.S_IMODE((tmp_path / "exec").stat().st_mode) == 0o755


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "a/../../b"])
def test_entry_outside_the_directory_is_refused_and_nothing_is_written_there(tmp_path: Path, name: str):
    target = tmp_path / "inner"
    target.mkdir()
    with pytest.raises(CodeNotUnpackable, match="not below its own directory"):
        unpack(zipped({name: b"x"}), target)
    assert [path.name for path in tmp_path.iterdir()] == ["inner"]


def test_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("invoker.code.UNPACKED_BYTES", 1000)
    with pytest.raises(CodeNotUnpackable, match="at most"):
        unpack(zipped({"big": b"\0" * 1001}), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_only_large_binary_code_is_mounted():
    assert CodeStore.is_mounted(Exec(kind="python:3", code="d", code_bytes=MIB + 1, binary=True))
    assert not CodeStore.is_mounted(Exec(kind="python:3", code="d", code_bytes=MIB, binary=True))
    assert not CodeStore.is_mounted(Exec(kind="python:3", code="d", code_bytes=MIB + 1, binary=False))


async def test_code_is_unpacked_once_and_swept_when_nobody_wants_it(tmp_path: Path):
    reads: list[str] = []

    def read(digest: str) -> bytes:
        reads.append(digest)
        return base64.b64encode(zipped({"a": b"1"}))

    store = CodeStore(tmp_path / "unpacked", read)
    await store.ensure("d1")
    await store.ensure("d1")
    assert reads == ["d1"]
    assert (store.path("d1") / "a").read_bytes() == b"1"
    store.sweep({"other"})
    assert not store.path("d1").exists()
    store.close()


async def test_broken_archive_is_said_to_be_broken_and_leaves_nothing(tmp_path: Path):
    store = CodeStore(tmp_path / "unpacked", lambda _digest: base64.b64encode(b"PK\x03\x04 not a zip"))
    with pytest.raises(CodeNotUnpackable, match="cannot be unpacked"):
        await store.ensure("d1")
    assert list((tmp_path / "unpacked").iterdir()) == []
    store.close()


@pytest.mark.parametrize("size", [0, 1, 2, 196_607, 196_608, 196_609, 393_216, 700_000])
def test_base64_is_decoded_in_pieces_to_what_it_is(size: int):
    data = bytes(range(256)) * (size // 256 + 1)
    assert decode(base64.b64encode(data[:size])) == data[:size]


@pytest.mark.parametrize("at", [0, 262_140, 262_144, 524_284])
@pytest.mark.parametrize("fault", [b"QQ==", b"Q===", b"Q Q=", b"Q\xc3\xa9Q", b"===="])
def test_base64_that_is_none_is_refused_wherever_it_breaks(at: int, fault: bytes):
    code = bytearray(b"QUJD" * (600_000 // 4))
    code[at : at + 4] = fault
    with pytest.raises(binascii.Error):
        base64.b64decode(code, validate=True)
    with pytest.raises(binascii.Error):
        decode(bytes(code))
