"""What a test of the checklist stands on: the API in process with a store on the disk, or a real daemon (mark it `docker`)."""

import pytest
from api_site import Site, SiteEntities, make_activation, running
from real_daemon import client, daemon, make_user

__all__ = ["client", "daemon", "make_activation", "make_user", "site"]


@pytest.fixture
async def site(tmp_path):
    """The API of a site with OpenWhisk's limits, one namespace `guest`, and its key; entities are on the disk."""
    entities = await SiteEntities.open(tmp_path / "entities.db", tmp_path / "code")
    await entities._writer.execute("PRAGMA synchronous = OFF", {})  # nothing here outlives its process
    try:
        async with running(Site(entities=entities)) as site:
            yield site
    finally:
        await entities.close()
