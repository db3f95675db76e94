"""Rows PK: packages, bindings, and what others may see of them."""

import asyncio

import pytest
from rows import CODE, as_dict, pairs, put, refuse


@pytest.fixture
async def other(site):
    """Credentials of another namespace, `other`."""
    return site.add_namespace("other")


async def test_PK_01_a_package_is_created_updated_and_bound(site):
    created = await put(site, "packages/p", {"parameters": pairs(a=1), "annotations": pairs(d="x"), "binding": {}})
    assert created["binding"] == {}
    assert (created["version"], created["publish"], created["parameters"]) == ("0.0.1", False, pairs(a=1))
    assert "actions" not in created
    updated = await put(site, "packages/p?overwrite=true", {"annotations": pairs(e="y"), "publish": True})
    assert (updated["version"], updated["publish"], updated["parameters"]) == ("0.0.2", True, pairs(a=1))
    assert as_dict(updated["annotations"]) == {"e": "y"}
    bound = await put(site, "packages/b", {"binding": {"namespace": "_", "name": "p"}, "annotations": pairs(binding="mine")})
    assert bound["binding"] == {"namespace": "guest", "name": "p"}
    assert as_dict(bound["annotations"]) == {"binding": {"namespace": "guest", "name": "p"}}
    deleted = await site.ask("DELETE", "packages/b")
    assert (deleted.status, deleted.json) == (200, bound)
    assert (await site.ask("GET", "packages/p")).status == 200


async def test_PK_01_parameters_are_inherited_and_overridden_package_binding_action_payload(site):
    await put(site, "packages/p", {"parameters": pairs(a="package", b="package", c="package", d="package")})
    await put(site, "packages/b", {"binding": {"namespace": "guest", "name": "p"}, "parameters": pairs(b="binding", c="binding")})
    await put(site, "actions/p/x", CODE | {"parameters": pairs(c="action")})
    direct = (await site.ask("GET", "actions/p/x")).json
    assert as_dict(direct["parameters"]) == {"a": "package", "b": "package", "c": "action", "d": "package"}
    assert "binding" not in direct
    through = (await site.ask("GET", "actions/b/x")).json
    assert as_dict(through["parameters"]) == {"a": "package", "b": "binding", "c": "action", "d": "package"}
    assert (through["namespace"], through["name"], through["binding"]) == ("guest/p", "x", "guest/b")
    assert (await site.ask("POST", "actions/b/x", {"d": "payload"})).status == 202
    (call,) = site.invoker.calls
    assert {each.key: bytes(each.value) for each in call.action.parameters} == {
        "a": b'"package"', "b": b'"binding"', "c": b'"action"', "d": b'"package"',
    }  # fmt: skip
    assert (call.action.full_path, call.binding, bytes(call.payload)) == ("guest/p/x", "guest/b", b'{"d":"payload"}')


async def test_PK_01_a_binding_may_be_pointed_elsewhere_and_stays_one(site):
    await put(site, "packages/p")
    await put(site, "packages/q")
    await put(site, "packages/b", {"binding": {"namespace": "_", "name": "p"}})
    moved = await put(site, "packages/b?overwrite=true", {"binding": {"namespace": "_", "name": "q"}})
    assert moved["binding"] == as_dict(moved["annotations"])["binding"] == {"namespace": "guest", "name": "q"}
    kept = await put(site, "packages/b?overwrite=true", {"publish": True, "binding": {}})
    assert kept["binding"] == {"namespace": "guest", "name": "q"}


async def test_PK_02_a_package_shows_its_actions_and_feeds_with_their_annotations(site):
    await put(site, "packages/p", {"parameters": pairs(a=1, b=1), "annotations": pairs(description="all of it")})
    await put(site, "actions/p/x", CODE | {"annotations": pairs(description="does x")})
    await put(site, "actions/p/f", CODE | {"annotations": pairs(feed=True)})
    await put(site, "packages/b", {"binding": {"namespace": "_", "name": "p"}, "parameters": pairs(b=2, c=2)})
    package = (await site.ask("GET", "packages/p")).json
    assert set(package) == {
        *("namespace", "name", "binding", "parameters", "version", "publish", "annotations", "updated", "actions", "feeds")
    }
    (action,), (feed,) = package["actions"], package["feeds"]
    assert set(action) == set(feed) == {"name", "version", "annotations"}
    assert (action["name"], as_dict(action["annotations"])["description"]) == ("x", "does x")
    assert (feed["name"], as_dict(feed["annotations"])["feed"]) == ("f", True)
    binding = (await site.ask("GET", "packages/b")).json
    assert (binding["name"], binding["binding"]) == ("b", {"namespace": "guest", "name": "p"})
    assert as_dict(binding["parameters"]) == {"a": 1, "b": 2, "c": 2}
    assert (binding["actions"], binding["feeds"]) == (package["actions"], package["feeds"])


async def test_PK_03_a_package_that_is_not_empty_is_deleted_only_by_force(site):
    await put(site, "packages/p")
    await put(site, "actions/p/x", CODE)
    await refuse(site, "DELETE", "packages/p", status=409, words="not empty (contains 1 entity)")
    await put(site, "actions/p/y", CODE)
    await refuse(site, "DELETE", "packages/p?force=false", status=409, words="not empty (contains 2 entities)")
    await refuse(site, "DELETE", "packages/p?force=perhaps", status=400, words="'force' was malformed")
    assert (await site.ask("DELETE", "packages/p?force=true")).status == 200
    assert site.entities.everything() == {}
    assert (await site.ask("GET", "actions/p/x")).status == 404


async def test_PK_03_a_missing_package_is_named_to_a_reader_only(site):
    assert "'guest/p' does not exist" in (await refuse(site, "GET", "packages/p", status=404, words="does not exist")).error
    generic = "The requested resource does not exist."
    assert (await refuse(site, "DELETE", "packages/p", status=404, words=generic)).error == generic
    for method in ("GET", "POST", "DELETE"):
        assert (await refuse(site, method, "actions/p/x", status=404, words=generic)).error == generic


async def test_PK_03_a_binding_of_what_is_gone_leads_to_nothing(site):
    await put(site, "packages/p")
    await put(site, "actions/p/x", CODE)
    await put(site, "packages/b", {"binding": {"namespace": "_", "name": "p"}})
    assert (await site.ask("DELETE", "packages/p?force=true")).status == 200
    for path in ("packages/b", "actions/b/x", "actions/b/"):
        await refuse(site, "GET", path, status=404, words="does not exist")
    assert (await site.ask("DELETE", "packages/b")).status == 200


async def test_PK_04_a_binding_needs_a_real_package_that_may_be_read(site, other):
    await put(site, "actions/x", CODE)
    await put(site, "packages/p")
    await put(site, "packages/b", {"binding": {"namespace": "_", "name": "p"}})
    await put(site, "/api/v1/namespaces/other/packages/private", auth=other)

    async def bind(namespace, name, status, words):
        body = {"binding": {"namespace": namespace, "name": name}}
        await refuse(site, "PUT", "packages/new", body, status=status, words=words)

    await bind("_", "missing", 400, "references a package that does not exist")
    await bind("_", "new", 400, "references a package that does not exist")
    await bind("_", "x", 409, "exists but is not in this collection")
    await bind("_", "b", 400, "bind to another package binding")
    await bind("other", "private", 403, "is not authorized to access 'other/private'")
    await bind("other", "missing", 403, "is not authorized to access 'other/missing'")
    await bind("_", "a+b", 400, "illegal characters")
    half = {"binding": {"namespace": "_"}}
    await refuse(site, "PUT", "packages/new", half, status=400, words="The request content was malformed:\n")


async def test_PK_05_default_is_reserved_and_a_package_does_not_become_a_binding(site):
    await refuse(site, "PUT", "packages/default", {}, status=400, words="is reserved")
    await put(site, "packages/p")
    await put(site, "packages/q")
    binding = {"binding": {"namespace": "_", "name": "q"}}
    await refuse(site, "PUT", "packages/p?overwrite=true", binding, status=409, words="cannot be converted into a binding")


async def test_PK_05_a_package_cannot_be_invoked_nor_refreshed(site):
    await put(site, "packages/p")
    for path in ("packages/p", "packages/refresh"):
        await refuse(site, "POST", path, {}, status=404, words="could not be found")


async def test_PK_06_others_see_published_packages_and_no_bindings(site, other):
    await put(site, "packages/private")
    await put(site, "packages/shared", {"publish": True})
    await put(site, "packages/second", {"publish": True})
    await put(site, "packages/bound", {"publish": True, "binding": {"namespace": "_", "name": "shared"}})
    there = "/api/v1/namespaces/guest/packages"
    listed = await site.ask("GET", there, auth=other)
    assert [each["name"] for each in listed.json] == ["second", "shared"]
    assert {each["binding"] for each in listed.json} == {False}
    assert (await site.ask("GET", f"{there}?count=true&skip=1", auth=other)).json == {"packages": 1}
    assert [each["name"] for each in (await site.ask("GET", "packages")).json] == ["bound", "second", "shared", "private"]
    assert (await site.ask("GET", "/api/v1/namespaces/nobody/packages", auth=other)).json == []
    await put(site, "packages/shared?overwrite=true", {"publish": False})
    assert [each["name"] for each in (await site.ask("GET", there, auth=other)).json] == ["second"]


async def test_PK_07_nothing_is_written_through_a_binding_nor_into_a_missing_package(site, other):
    await put(site, "packages/p", {"publish": True})
    await put(site, "actions/p/x", CODE)
    await put(site, "packages/b", {"binding": {"namespace": "_", "name": "p"}})
    await refuse(site, "PUT", "actions/b/x?overwrite=true", CODE, status=400, words="not permitted on package binding")
    await refuse(site, "PUT", "actions/b/new", CODE, status=400, words="not permitted on package binding")
    await refuse(site, "DELETE", "actions/b/x", status=400, words="not permitted on package binding")
    await refuse(site, "PUT", "actions/missing/x", CODE, status=404, words="does not exist")
    there = "/api/v1/namespaces/guest/actions"
    for path in ("missing/x", "p/x?overwrite=true"):
        await refuse(site, "PUT", f"{there}/{path}", CODE, status=403, words="not authorized to access 'guest/", auth=other)
    await refuse(site, "DELETE", f"{there}/p/x", status=403, words="not authorized to access 'guest/p/x'", auth=other)
    for method in ("GET", "POST"):
        await refuse(site, method, f"{there}/missing/x", status=403, words="not authorized", auth=other)


async def test_PK_03_an_action_that_is_written_while_its_package_goes_does_not_stay_behind(site, monkeypatch):
    await put(site, "packages/p")
    await put(site, "actions/p/x", CODE)
    store_code, stored = site.entities.code.put, asyncio.Event()

    async def put_late(text):
        digest = await store_code(text)
        stored.set()
        await deleted.wait()
        return digest

    deleted = asyncio.Event()
    monkeypatch.setattr(site.entities.code, "put", put_late)
    async with asyncio.TaskGroup() as group:
        late = group.create_task(site.ask("PUT", "actions/p/y", CODE))
        await stored.wait()
        assert (await site.ask("DELETE", "packages/p?force=true")).status == 200
        deleted.set()
    assert late.result().status == 404
    assert site.entities.everything() == {}
