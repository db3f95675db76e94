"""Save an image of the engine as a tar file that `docker load` reads: image.py ENGINE-URL IMAGE FILE."""

from __future__ import annotations

import http.client
import shutil
import socket
import sys
from pathlib import Path


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("engine")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


def main(url: str, image: str, file: str) -> None:
    """Copy it."""
    connection = _UnixConnection(url.removeprefix("unix://"))
    connection.request("GET", f"/images/{image}/get")
    response = connection.getresponse()
    if response.status != 200:
        sys.exit(f"{image} cannot be saved: {response.read().decode(errors='replace')}")
    with Path(file).open("wb") as target:
        shutil.copyfileobj(response, target, 1 << 20)


if __name__ == "__main__":
    main(*sys.argv[1:])
