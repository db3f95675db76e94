"""Rows NS: which namespaces a caller has."""

import pytest
from rows import refuse


@pytest.mark.parametrize("path", ["/api/v1/namespaces", "/api/v1/namespaces/"])
async def test_NS_01_the_list_has_the_callers_namespace_alone(site, path):
    site.add_namespace("other")
    answered = await site.ask("GET", path)
    assert (answered.status, answered.json) == (200, ["guest"])


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST"])
@pytest.mark.parametrize("name", ["guest", "_", "nobody", "guest/"])
async def test_NS_02_a_namespace_is_no_resource(site, method, name):
    body = {} if method in {"PUT", "POST"} else None
    await refuse(site, method, f"/api/v1/namespaces/{name}", body, status=404, words="could not be found")


async def test_NS_01_an_underscore_is_the_callers_own(site):
    other = site.add_namespace("other")
    for path in ("/api/v1/namespaces/_/packages/p", "/api/v1/namespaces/other/packages/q"):
        assert (await site.ask("PUT", path, {}, auth=other)).json["namespace"] == "other"
