"""What was used of the minute survives a restart within it."""

import asyncio

import pytest

from invoker.config.model import LimitsConfig
from invoker.errors import Throttled
from invoker.http.admission import Admission
from invoker.minute import MinuteFile
from invoker.model import LimitOverrides, Namespace

NOW = 60.0 * 28_000_000 + 10


def namespace(uuid="u", **limits):
    return Namespace(name=uuid, uuid=uuid, key_hash="", uid=2000, gid=2000, created_ms=0, limits=LimitOverrides(**limits))


def admission():
    return Admission(lambda: LimitsConfig.of_profile("openwhisk"))


def test_the_next_daemon_goes_on_counting_and_other_namespaces_are_not_touched(tmp_path):
    first, file = admission(), tmp_path / "minute.json"
    for _ in range(60):
        first.admit(namespace(), NOW, 0)
    first.admit_fire(namespace(fires_per_minute=1), NOW)
    MinuteFile(file, first, lambda: NOW).save()
    after = admission()
    MinuteFile(file, after, lambda: NOW + 5).load()
    with pytest.raises(Throttled, match=r"count: 61, allowed: 60") as caught:
        after.admit(namespace(), NOW + 5, 0)
    assert caught.value.retry_after_s == 45
    with pytest.raises(Throttled, match="count: 2, allowed: 1"):
        after.admit_fire(namespace(fires_per_minute=1), NOW + 5)
    after.admit(namespace("v"), NOW + 5, 0)
    after.admit(namespace(), NOW + 60, 0)


def test_nothing_is_written_while_nothing_is_counted(tmp_path):
    counting = admission()
    file = MinuteFile(tmp_path / "minute.json", counting, lambda: NOW)
    file.save()
    assert list(tmp_path.iterdir()) == []
    counting.admit(namespace(), NOW, 0)
    file.save()
    written = (tmp_path / "minute.json").stat()
    file.save()
    assert (tmp_path / "minute.json").stat().st_ino == written.st_ino


@pytest.mark.parametrize("content", [b"", b"{", b'{"minute":"x"}', b"\xff"])
def test_a_broken_file_is_told_of_and_counts_nothing(tmp_path, caplog, content):
    (tmp_path / "minute.json").write_bytes(content)
    counting = admission()
    MinuteFile(tmp_path / "minute.json", counting, lambda: NOW).load()
    assert "this minute counts anew" in caplog.text
    counting.admit(namespace(invocations_per_minute=1), NOW, 0)


def test_a_disk_that_takes_nothing_is_told_of_once_and_tried_again(tmp_path, caplog):
    counting = admission()
    counting.admit(namespace(), NOW, 0)
    file = MinuteFile(tmp_path / "absent" / "minute.json", counting, lambda: NOW)
    file.save()
    file.save()
    assert caplog.text.count("cannot be written") == 1
    (tmp_path / "absent").mkdir()
    file.save()
    assert (tmp_path / "absent" / "minute.json").exists()


async def test_it_is_saved_at_the_end_of_the_block(tmp_path):
    counting = admission()
    async with asyncio.TaskGroup() as group, MinuteFile(tmp_path / "minute.json", counting, lambda: NOW).kept(group):
        counting.admit(namespace(), NOW, 0)
    again = admission()
    MinuteFile(tmp_path / "minute.json", again, lambda: NOW).load()
    assert again.counts(NOW).invocations == {"u": 1}
