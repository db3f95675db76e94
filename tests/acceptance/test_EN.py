"""Rows EN: what one namespace may see and run of another's."""

import pytest
from rows import CODE, refuse

from invoker.config.model import LimitsConfig

OWNER = "/api/v1/namespaces/owner"


@pytest.fixture
async def owner(site):
    """Ask as `owner`, who has one of everything in a private package and outside of it."""
    key = site.add_namespace("owner")

    async def ask(method, path, body=None):
        return await site.ask(method, path, body, auth=key)

    for path, body in (
        ("packages/p", {"parameters": [{"key": "a", "value": 1}]}),
        ("actions/p/x", CODE),
        ("actions/x", CODE | {"publish": True}),
        ("triggers/t", {"publish": True}),
        ("rules/r", {"trigger": "/_/t", "action": "/_/x", "publish": True}),
    ):
        assert (await ask("PUT", path, body)).status == 200
    return ask


async def publish(owner, published):
    assert (await owner("PUT", "packages/p?overwrite=true", {"publish": published})).status == 200


@pytest.mark.parametrize("path", ["packages/p", "actions/p/x", "actions/x", "triggers/t", "rules/r"])
async def test_EN_01_what_is_private_is_403_for_every_method_and_stays_as_it_was(site, owner, path):
    before = site.entities.everything()
    for method in ("GET", "PUT", "DELETE", "POST"):
        if (method, path) == ("POST", "packages/p"):
            continue  # no route at all: row PK-05
        answered = await site.ask(method, f"{OWNER}/{path}?overwrite=true", {} if method in {"PUT", "POST"} else None)
        assert answered.status == 403
        assert f"is not authorized to access 'owner/{path.partition('/')[2]}'" in answered.error
    assert site.entities.everything() == before
    assert site.invoker.calls == []


@pytest.mark.parametrize("collection", ["actions", "triggers", "rules", "activations", "limits", "actions/p/"])
async def test_EN_01_other_collections_than_packages_are_403(site, owner, collection):
    answered = await site.ask("GET", f"{OWNER}/{collection}")
    assert answered.status == 403
    assert "is not authorized to access 'owner/" in answered.error


async def test_EN_01_what_does_not_exist_is_403_too_so_that_nothing_is_told(site, owner):
    for path in ("packages/missing", "actions/missing/x", "actions/missing", "triggers/missing", "rules/missing"):
        assert (await site.ask("GET", f"{OWNER}/{path}")).status == 403


async def test_EN_01_published_is_the_package_and_all_in_it_for_reading_and_running(site, owner):
    await publish(owner, True)
    package = (await site.ask("GET", f"{OWNER}/packages/p")).json
    assert [each["name"] for each in package["actions"]] == ["x"]
    action = (await site.ask("GET", f"{OWNER}/actions/p/x")).json
    assert (action["namespace"], action["parameters"]) == ("owner/p", [{"key": "a", "value": 1}])
    assert (await site.ask("POST", f"{OWNER}/actions/p/x", {})).status == 202
    assert (await site.ask("GET", f"{OWNER}/actions/p/missing")).status == 404
    for method, path in (("PUT", "packages/p"), ("DELETE", "packages/p"), ("PUT", "actions/p/x"), ("DELETE", "actions/p/x")):
        before = site.entities.everything()
        answered = await site.ask(method, f"{OWNER}/{path}?overwrite=true", {} if method == "PUT" else None)
        assert answered.status == 403
        assert "is not authorized to access" in answered.error
        assert site.entities.everything() == before


async def test_EN_02_actions_are_listed_and_invoked_through_a_shared_package_and_a_binding(site, owner):
    await publish(owner, True)
    assert [each["name"] for each in (await site.ask("GET", f"{OWNER}/actions/p/")).json] == ["x"]
    assert (await site.ask("PUT", "packages/mine", {"binding": {"namespace": "owner", "name": "p"}})).status == 200
    (listed,) = (await site.ask("GET", "actions/mine/")).json
    assert (listed["namespace"], listed["name"]) == ("owner/p", "x")
    assert (await site.ask("GET", "actions/mine/?count=true")).json == {"actions": 1}
    assert (await site.ask("GET", "actions")).json == []
    for path in (f"{OWNER}/actions/p/x", "actions/mine/x"):
        assert (await site.ask("POST", path, {})).status == 202
    direct, through = site.invoker.calls
    assert direct.identity.namespace.name == through.identity.namespace.name == "guest"
    assert direct.action.full_path == through.action.full_path == "owner/p/x"
    assert (direct.binding, through.binding) == (None, "guest/mine")


async def test_EN_02_a_binding_is_its_owners_alone_though_it_be_published(site, owner):
    await publish(owner, True)
    body = {"publish": True, "binding": {"namespace": "owner", "name": "p"}}
    assert (await site.ask("PUT", "packages/mine", body)).status == 200
    for path in ("packages/mine", "actions/mine/x", "actions/mine/"):
        assert (await owner("GET", f"/api/v1/namespaces/guest/{path}")).status == 403
    assert (await owner("POST", "/api/v1/namespaces/guest/actions/mine/x", {})).status == 403
    assert site.invoker.calls == []


async def test_EN_03_unpublishing_revokes_what_was_bound(site, owner):
    await publish(owner, True)
    assert (await site.ask("PUT", "packages/mine", {"binding": {"namespace": "owner", "name": "p"}})).status == 200
    await publish(owner, False)
    for method, path in (
        ("GET", "packages/mine"),
        ("GET", "actions/mine/x"),
        ("GET", "actions/mine/"),
        ("POST", "actions/mine/x"),
    ):
        answered = await site.ask(method, path)
        assert answered.status == 403
        assert "is not authorized to access 'guest/mine" in answered.error
    assert site.invoker.calls == []
    await publish(owner, True)
    assert (await site.ask("POST", "actions/mine/x")).status == 202


async def test_EN_02_a_site_may_have_shared_packages_run_but_not_read(site, owner):
    await publish(owner, True)
    assert (await site.ask("PUT", "packages/mine", {"binding": {"namespace": "owner", "name": "p"}})).status == 200
    site.limits = LimitsConfig.of_profile("openwhisk", shared_packages_execute_only=True)
    for path in (f"{OWNER}/packages/p", f"{OWNER}/actions/p/x", "packages/mine", "actions/mine/x"):
        await refuse(site, "GET", path, status=403, words="is not authorized to access")
    for path in (f"{OWNER}/actions/p/x", "actions/mine/x"):
        assert (await site.ask("POST", path, {})).status == 202
    assert (await owner("GET", "packages/p")).status == (await owner("GET", "actions/p/x")).status == 200
