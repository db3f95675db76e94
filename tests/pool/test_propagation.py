"""Which mounts may be `rslave`, by a made-up table of mounts."""

from pathlib import Path

import pytest

from pool.model import Mount
from pool.propagation import shared_sources

TABLE = """\
22 1 8:1 / / rw,relatime {root} - ext4 /dev/sda1 rw
31 22 0:40 / {top}/cvmfs rw,relatime shared:7 - autofs auto rw
32 22 0:41 / {top}/net ro master:3 propagate_from:2 - nfs4 server rw
33 22 0:42 / {top}/scratch rw - xfs /dev/sdb rw
"""


@pytest.fixture
def sources(tmp_path):
    """Ask for directories below the temporary one, the root's mount being as told."""

    def sources(*names: str, root: str = "", read_only: bool = True) -> set[str]:
        table = tmp_path / "mountinfo"
        table.write_text(TABLE.format(top=tmp_path, root=root).replace("  - ", " - "))
        mounts = [Mount(source=str(tmp_path / name), target="/data", read_only=read_only) for name in names]
        resolved = {mount.source: Path(mount.source).resolve() for mount in mounts}
        return {str(Path(source).relative_to(tmp_path)) for source in shared_sources(mounts, resolved, mountinfo=table)}

    return sources


def test_a_directory_is_as_shared_as_the_nearest_mount_above_it(sources):
    asked = ("cvmfs", "cvmfs/atlas/22", "net/home", "scratch/run", "elsewhere")
    assert sources(*asked) == {"cvmfs", "cvmfs/atlas/22", "net/home"}
    assert sources(*asked, root="shared:1") == {"cvmfs", "cvmfs/atlas/22", "net/home", "elsewhere"}


def test_a_symbolic_link_is_as_shared_as_what_it_leads_to(sources, tmp_path):
    (tmp_path / "cvmfs").mkdir()
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "software").symlink_to(tmp_path / "cvmfs")
    assert sources("scratch/software") == {"scratch/software"}


def test_what_may_be_written_is_never_shared(sources):
    assert sources("cvmfs", read_only=False) == set()


def test_the_table_is_not_read_where_there_is_nothing_to_ask(tmp_path):
    assert shared_sources((), {}, mountinfo=tmp_path / "absent") == frozenset()


def test_a_directory_that_no_mount_holds_is_not_shared(tmp_path):
    (tmp_path / "mountinfo").write_text("")
    mounts = [Mount(source="/data", target="/data")]
    assert shared_sources(mounts, {"/data": Path("/data")}, mountinfo=tmp_path / "mountinfo") == frozenset()
