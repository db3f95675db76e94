import io
import tarfile

from invoker.sdk import KIT, kit_archive


def test_the_archive_holds_each_file_of_the_kit_below_the_directory_that_wsk_names():
    with tarfile.open(fileobj=io.BytesIO(kit_archive())) as archive:
        entries = {entry.name: entry for entry in archive}
        assert sorted(entries) == [f"dockerSkeleton/{path.name}" for path in sorted(KIT.iterdir())]
        for name, entry in entries.items():
            file = archive.extractfile(entry)
            assert file is not None
            assert file.read() == (KIT / name.partition("/")[2]).read_bytes()
            assert entry.mode == (0o755 if name.endswith(("/exec", "/build.sh")) else 0o644)


def test_the_archive_is_the_same_each_time():
    first = kit_archive()
    kit_archive.cache_clear()
    assert kit_archive() == first
