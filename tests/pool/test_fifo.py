import fcntl
import os
import stat

import pytest

from pool.fifo import FIFO_NAME, PIPE_BYTES, create_fifo, is_seen_by, open_fifo, remove_fifo
from pool.model import ContainerId

NAME = ContainerId("invokerd-n-000000000001")
ME = os.getuid(), os.getgid()


def test_the_fifo_belongs_to_the_containers_user_alone(tmp_path):
    uid, gid = (54321, 54322) if os.getuid() == 0 else ME
    directory = create_fifo(tmp_path, NAME, uid, gid)
    found = (directory / FIFO_NAME).stat()
    assert stat.S_ISFIFO(found.st_mode)
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o600, uid, gid)


def test_the_containers_user_can_neither_list_nor_change_the_directory_whatever_the_umask(tmp_path):
    before = os.umask(0o077)
    try:
        directory = create_fifo(tmp_path, NAME, *ME)
    finally:
        os.umask(before)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o711
    assert directory.stat().st_uid == os.getuid()


def test_what_is_written_can_be_read_and_reading_never_waits(tmp_path):
    create_fifo(tmp_path, NAME, *ME)
    reader = open_fifo(tmp_path, NAME)
    writer = os.open(tmp_path / NAME / FIFO_NAME, os.O_RDWR | os.O_NONBLOCK)
    try:
        with pytest.raises(BlockingIOError):
            os.read(reader, 100)
        os.write(writer, b"line\n")
        assert os.read(reader, 100) == b"line\n"
    finally:
        os.close(reader)
        os.close(writer)


def test_the_pipe_holds_a_mebibyte_where_the_kernel_grants_it(tmp_path):
    create_fifo(tmp_path, NAME, *ME)
    reader = open_fifo(tmp_path, NAME)
    try:
        size = fcntl.fcntl(reader, fcntl.F_GETPIPE_SZ)
    finally:
        os.close(reader)
    assert size == PIPE_BYTES or os.getuid() != 0


def test_a_fifo_that_was_put_in_the_place_of_another_is_not_taken_for_it(tmp_path):
    path = create_fifo(tmp_path, NAME, *ME) / FIFO_NAME
    reader = open_fifo(tmp_path, NAME)
    try:
        assert is_seen_by(os.getpid(), str(path), reader)
        path.rename(path.with_name("old"))
        assert not is_seen_by(os.getpid(), str(path), reader)
        os.mkfifo(path)
        assert not is_seen_by(os.getpid(), str(path), reader)
    finally:
        os.close(reader)


def test_a_second_container_of_the_same_name_is_refused(tmp_path):
    create_fifo(tmp_path, NAME, *ME)
    with pytest.raises(FileExistsError):
        create_fifo(tmp_path, NAME, *ME)


def test_a_symbolic_link_in_its_place_is_not_followed(tmp_path):
    directory = create_fifo(tmp_path, NAME, *ME)
    (directory / FIFO_NAME).unlink()
    (directory / FIFO_NAME).symlink_to("/dev/null")
    with pytest.raises(OSError, match="symbolic"):
        open_fifo(tmp_path, NAME)


def test_removal_leaves_nothing_and_can_be_repeated(tmp_path):
    create_fifo(tmp_path, NAME, *ME)
    remove_fifo(tmp_path, NAME)
    remove_fifo(tmp_path, NAME)
    assert list(tmp_path.iterdir()) == []
