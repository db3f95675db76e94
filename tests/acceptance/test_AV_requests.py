"""Rows AV, as far as they need no run: which requests for records are refused, and which records are found."""

import pytest
from rows import refuse


@pytest.mark.parametrize("method", ["PUT", "DELETE", "POST", "PATCH"])
@pytest.mark.parametrize("path", ["activations", f"activations/{'0' * 32}", f"activations/{'0' * 32}/logs"])
async def test_AV_08_records_are_only_read(site, method, path):
    body = {} if method in {"PUT", "POST", "PATCH"} else None
    await refuse(site, method, path, body, status=404, words="could not be found")


@pytest.mark.parametrize("rest", ["", f"/{'0' * 31}1", f"/{'0' * 31}1/logs", f"/{'0' * 31}1/result"])
async def test_AV_08_another_namespaces_records_are_403(site, make_activation, rest):
    site.activations.records.append(make_activation())
    other = site.add_namespace("other")
    path = f"/api/v1/namespaces/guest/activations{rest}"
    await refuse(site, "GET", path, status=403, words="is not authorized to access 'guest/", auth=other)
    assert (await site.ask("GET", path)).status == 200


async def test_AV_03_a_packaged_action_is_found_by_package_and_name_its_binding_told_beside(site, make_activation):
    site.activations.records += [
        make_activation(path="guest/a"),
        make_activation(path="guest/p/a"),
        make_activation(path="guest/p/a", binding="guest/b"),
    ]

    async def found(query):
        return [each["activationId"][-1] for each in (await site.ask("GET", f"activations?{query}")).json]

    assert await found("name=p/a") == ["3", "2"]
    assert await found("name=a") == ["1"]
    assert await found("name=b/a") == []
    assert await found("name=") == ["3", "2", "1"]
    (bound,) = (await site.ask("GET", "activations?limit=1")).json
    annotations = {each["key"]: each["value"] for each in bound["annotations"]}
    assert (annotations["path"], annotations["binding"]) == ("guest/p/a", "guest/b")
