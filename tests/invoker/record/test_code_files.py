"""Code as files: named by their content, whole or not there."""

import hashlib

import pytest

from invoker.errors import EntityCorrupted
from invoker.record.code_files import CodeFiles


@pytest.fixture
def code(tmp_path):
    return CodeFiles(tmp_path / "code")


async def test_a_string_is_stored_under_its_digest(code):
    text = "def main(args):\n    return {'ä': 1}\r\n"
    digest = await code.put(text)
    assert digest == hashlib.sha256(text.encode()).hexdigest()
    assert await code.put(text) == digest
    assert await code.read(digest) == text
    assert code.read_blocking_utf8(digest) == text.encode()
    assert code.path(digest).stat().st_mode & 0o077 == 0


async def test_damaged_and_missing_code_is_told(code):
    digest = await code.put("code")
    code.path(digest).write_text("c0de")
    with pytest.raises(EntityCorrupted, match="damaged"):
        await code.read(digest)
    code.path(digest).unlink()
    with pytest.raises(EntityCorrupted, match="cannot be read"):
        await code.read(digest)
    with pytest.raises(EntityCorrupted):
        code.path("../" + "a" * 61)


async def test_a_sweep_deletes_what_nobody_uses_and_what_was_not_finished_and_nothing_else(code, tmp_path):
    used, unused = await code.put("used"), await code.put("unused")
    directory = tmp_path / "code"
    (directory / f".{used}.ab12").write_text("half")
    (directory / "README").write_text("not ours")
    await code.sweep({used})
    assert sorted(path.name for path in directory.iterdir()) == sorted([used, "README"])
    assert unused != used


async def test_code_that_somebody_is_about_to_use_is_not_removed(code):
    digest = await code.put("code")
    await code.put("code")
    code.unpin(digest)
    code.remove(digest)
    assert code.path(digest).exists()
    code.unpin(digest)
    code.remove(digest)
    assert not code.path(digest).exists()


async def test_code_that_activations_hold_goes_with_the_last_of_them(code):
    digest = await code.put("code")
    code.unpin(digest)
    code.hold(digest)
    code.hold(digest)
    code.remove(digest)
    code.release(digest)
    assert await code.read(digest) == "code"
    code.release(digest)
    assert not code.path(digest).exists()


async def test_held_code_that_is_put_anew_stays_when_it_is_released(code):
    digest = await code.put("code")
    code.unpin(digest)
    code.hold(digest)
    code.remove(digest)
    await code.put("code")
    code.unpin(digest)
    code.release(digest)
    assert await code.read(digest) == "code"
