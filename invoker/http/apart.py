"""Large bodies are read by a process of their own: decoding 48 MB holds the interpreter's lock, and with it every other caller.

The process lives for one body. It runs the same functions as the daemon runs on a small one, so that what is answered,
refused and said does not depend on the size. Both sides speak through one anonymous file in memory:

    what to run (pickle), the body         ->       what came of it (pickle), the long strings of it as they are

so that no copy of 48 MB is made while the interpreter's lock is held: reading and writing a file lets it go.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from pool.errors import InvokerError

#: A body from this length on, bytes, is read apart. A shorter one holds the loop for some 10 ms; a process takes 200 to start.
APART_FROM_BYTES = 2 * 1024 * 1024
#: Bodies read at the same time; further ones wait, each with its 50 MB.
_AT_ONCE = 2
#: For one body; ten times what 50 MB take on a slow machine.
_DEADLINE_S = 60.0

_LENGTH = struct.Struct("<Q")
T = TypeVar("T")


class Apart:
    """Reads bodies; has the threads that wait for the processes."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="read-apart")

    async def read(self, parse: Callable[[bytes], T], check: Callable[[T], None] | None, body: bytes) -> T:
        """Make a value of a body: here when it is short, in a process of its own when it is long.

        Args:
            parse: makes it; a function of a module, so that the process finds it.
            check: refuses it; the same. None: nothing is to be checked.
            body: as it came.

        Raises:
            InvokerError: what `parse` and `check` raise.
            OSError, subprocess.SubprocessError: the process could not be started, failed, or took too long.
        """
        if len(body) < APART_FROM_BYTES:
            return _run(parse, check, body)
        outcome = await asyncio.get_running_loop().run_in_executor(self._threads, _in_a_process, (parse, check), body)
        if isinstance(outcome, InvokerError):
            raise outcome
        return outcome  # type: ignore[no-any-return]


def _run(parse: Callable[[bytes], T], check: Callable[[T], None] | None, body: bytes) -> T:
    value = parse(body)
    if check is not None:
        check(value)
    return value


def _in_a_process(job: object, body: bytes) -> Any:
    """Return what came of a job, or the `InvokerError` it was refused with."""
    file = os.memfd_create("invokerd-body", os.MFD_CLOEXEC)
    try:
        _write(file, [pickle.dumps(job), body])
        command = (sys.executable, "-m", "invoker.http.apart", str(file))
        subprocess.run(command, pass_fds=[file], stdin=subprocess.DEVNULL, check=True, timeout=_DEADLINE_S)
        head, *strings = _read(file)
        return pickle.loads(head, buffers=strings)  # noqa: S301 - of our own child
    finally:
        os.close(file)


def _write(file: int, parts: Sequence[bytes]) -> None:
    """Fill the file: the length of each part, then the parts."""
    os.ftruncate(file, 0)
    os.lseek(file, 0, os.SEEK_SET)
    lengths = b"".join(_LENGTH.pack(len(part)) for part in (*parts, b""))
    for part in (lengths, *parts):
        rest = memoryview(part)
        while rest:
            rest = rest[os.write(file, rest) :]


def _read(file: int) -> list[bytes]:
    """Return the parts that the file was filled with; none of them may have been empty."""
    os.lseek(file, 0, os.SEEK_SET)
    lengths = []
    while length := _LENGTH.unpack(os.read(file, _LENGTH.size))[0]:
        lengths.append(length)
    return [os.read(file, length) for length in lengths]


def main() -> None:
    """Do the job in the file whose descriptor is the only argument, and put in its place what came of it."""
    file = int(sys.argv[1])
    head, body = _read(file)
    (parse, check) = pickle.loads(head)  # noqa: S301 - the daemon's own
    outcome: object
    try:
        outcome = _run(parse, check, body)
    except InvokerError as error:
        outcome = error
    strings: list[pickle.PickleBuffer] = []
    told = pickle.dumps(outcome, protocol=5, buffer_callback=strings.append)
    _write(file, [told, *(bytes(string) for string in strings)])


if __name__ == "__main__":
    main()
