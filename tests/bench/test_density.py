from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bench import density


def test_a_family_is_a_process_with_those_it_started():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert {os.getpid(), child.pid} <= set(density._family(os.getpid()))
    finally:
        child.communicate(b"\n")


def test_memory_threads_and_cpu_are_read_from_the_kernel():
    assert density._status(os.getpid(), "VmRSS") > 1000
    assert density._status(os.getpid(), "Threads") >= 1
    assert density._cpu_s(os.getpid()) > 0


def test_a_line_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="VmNothing"):
        density._status(os.getpid(), "VmNothing")
