"""CPU time of a process and its children."""

import os
import subprocess
import sys

from bench.cpu import cpu_us

BUSY = "import time\nwhile time.process_time() < 0.2: pass\nprint('done', flush=True)\ninput()"


def test_a_childs_time_is_its_parents_too_and_grows():
    before = cpu_us(os.getpid())
    with subprocess.Popen([sys.executable, "-c", BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"done\n"
        assert cpu_us(child.pid) >= 150_000
        assert cpu_us(os.getpid()) - before >= 150_000
        child.communicate(b"\n")
