"""A registry on loopback that gives one image to whoever has its password, and can stall in the midst of giving it.

It speaks what an engine needs in order to pull (Distribution's API, version 2: manifests and blobs), nothing of pushing.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import io
import json
import secrets
import tarfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

USER, PASSWORD = "puller", "let-me-in"
_DOCKER = "application/vnd.docker."
_MANIFEST = _DOCKER + "distribution.manifest.v2+json"
_GZIP = b"\x1f\x8b"


class Registry:
    """Serves one repository, `foreign`, while the block runs.

    Attributes:
        host: `127.0.0.1:PORT`; engines speak plain HTTP to it, for it is on loopback.
        given: documents that were asked for with the right password, by digest.
        refused: requests without the right password.
    """

    def __init__(self) -> None:
        self.given: Counter[str] = Counter()
        self.refused = 0
        self._documents: dict[str, tuple[str, bytes]] = {}
        #: Reference -> digest of the layer that no engine has seen.
        self._new_layer: dict[str, str] = {}
        self._goes_on = threading.Event()
        self._goes_on.set()
        self._stalling = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"registry": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="registry")
        self.host = f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._goes_on.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def credentials(self, password: str = PASSWORD) -> str:
        """Return the text of a `config.json` with a password for it."""
        return json.dumps({"auths": {self.host: {"auth": base64.b64encode(f"{USER}:{password}".encode()).decode()}}})

    def offer(self, saved: bytes) -> str:
        """Offer an image that no engine has seen: a saved one, with a layer more. Returns its reference, by digest."""
        with tarfile.open(fileobj=io.BytesIO(saved)) as archive:
            (about,) = json.loads(_read(archive, "manifest.json"))
            config = json.loads(_read(archive, about["Config"]))
            layers = [_unpacked(_read(archive, name)) for name in about["Layers"]]
        layers.append(_layer_of_one_file(secrets.token_hex(16)))
        config["rootfs"]["diff_ids"] = [_digest(layer) for layer in layers]
        config["history"] = []
        packed = [gzip.compress(layer, 1) for layer in layers]
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": self._keep(_DOCKER + "container.image.v1+json", json.dumps(config).encode()),
            "layers": [self._keep(_DOCKER + "image.rootfs.diff.tar.gzip", layer) for layer in packed],
        }
        reference = f"{self.host}/foreign@{self._keep(_MANIFEST, json.dumps(manifest).encode())['digest']}"
        self._new_layer[reference] = _digest(packed[-1])
        return reference

    def _keep(self, media_type: str, document: bytes) -> dict[str, Any]:
        digest = _digest(document)
        self._documents[digest] = (media_type, document)
        return {"mediaType": media_type, "size": len(document), "digest": digest}

    def times_given(self, reference: str) -> int:
        """How often the layer that no engine has seen was asked for. Those who pull at the same time ask once."""
        return self.given[self._new_layer[reference]]

    @property
    def is_stalling(self) -> bool:
        """Somebody waits for the rest of a blob."""
        return self._stalling > 0

    @contextlib.contextmanager
    def stalled(self) -> Iterator[None]:
        """Give half of each blob, and the rest when the block is over, to those who still wait then."""
        self._goes_on.clear()
        try:
            yield
        finally:
            self._goes_on.set()

    def send(self, digest: str, write: Callable[[bytes], object]) -> None:
        """Send a document, a blob in two halves; called in the thread of its request."""
        media_type, document = self._documents[digest]
        self.given[digest] += 1
        half = len(document) if media_type == _MANIFEST else len(document) // 2
        write(document[:half])
        if half < len(document):
            self._stalling += 1
            self._goes_on.wait()
            self._stalling -= 1
            write(document[half:])

    def find(self, digest: str) -> tuple[str, bytes] | None:
        """Find a document: its media type and itself."""
        return self._documents.get(digest)


class _Handler(BaseHTTPRequestHandler):
    """Answers one connection of an engine."""

    protocol_version = "HTTP/1.1"
    #: An engine with containerd's image store tries TLS first, and plain HTTP only after an answer that begins like HTTP.
    default_request_version = "HTTP/1.1"
    registry: Registry
    _expected = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.do_GET(with_body=False)

    def do_GET(self, *, with_body: bool = True) -> None:
        digest = self.path.rpartition("/")[2]
        found = self.registry.find(digest)
        if self.headers.get("Authorization") != self._expected:
            self.registry.refused += 1
            self._answer(401, {"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]})
        elif self.path == "/v2/":
            self._answer(200, {})
        elif found is None:
            self._answer(404, {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]})
        else:
            self._head(200, found[0], len(found[1]), digest)
            if with_body:
                with contextlib.suppress(ConnectionError):
                    self.registry.send(digest, self.wfile.write)

    def _answer(self, status: int, value: Any) -> None:
        body = json.dumps(value).encode()
        self._head(status, "application/json", len(body))
        self.wfile.write(body)

    def _head(self, status: int, media_type: str, length: int, digest: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(length))
        self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
        if status == 401:
            self.send_header("Www-Authenticate", 'Basic realm="of the tests"')
        if digest:
            self.send_header("Docker-Content-Digest", digest)
        self.end_headers()


def _digest(document: bytes) -> str:
    return "sha256:" + hashlib.sha256(document).hexdigest()


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None, name
    return file.read()


def _unpacked(layer: bytes) -> bytes:
    """An engine with containerd's image store saves layers as it has them, packed; others save them unpacked."""
    return gzip.decompress(layer) if layer.startswith(_GZIP) else layer


def _layer_of_one_file(text: str) -> bytes:
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        entry = tarfile.TarInfo("unlike-any-other")
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text.encode()))
    return layer.getvalue()
