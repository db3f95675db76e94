"""What `wsk sdk install` fetches from the API host itself."""

from __future__ import annotations

from invoker.http.exchange import Reply
from invoker.http.services import Services
from invoker.sdk import kit_archive

GZIP = "application/gzip"


def get_docker_kit(_: Services) -> Reply:
    """`GET /blackbox.tar.gz`: the kit to build an action image of one's own."""
    return Reply(kit_archive(), content_type=GZIP, cors=False)
