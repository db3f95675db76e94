"""Look at one directory, as a program of its own: look.py DIRECTORY.

Prints where its symbolic links lead. Run by `pool/sources.py` and `invokerd doctor` as a child, which may hang in their
place; it imports nothing that would make its start slow.

Exit codes: 0 it is there and its file system answers; 1 not, with the reason on standard error.
"""

import os
import stat
import sys


def look(path: str) -> str:
    """Ask the file system itself, which a stat alone might answer from what it remembers; the path without symbolic links.

    Raises:
        OSError: it is not there, cannot be reached by this user, or is no directory.
    """
    os.statvfs(path)
    if not stat.S_ISDIR(os.stat(path).st_mode):  # noqa: PTH116 - pathlib would double the time that this program takes
        raise NotADirectoryError(0, "it is no directory")
    return os.path.realpath(path)


if __name__ == "__main__":
    try:
        print(look(sys.argv[1]))  # noqa: T201 - its answer
    except OSError as error:
        sys.exit(error.strerror)
