"""Rows CRUD: create, read, update, delete and list, in each collection alike."""

import msgspec
import pytest
from rows import CODE, as_dict, get, pairs, put, reference, refuse

from invoker.model import MIB
from invoker.record.store import StoreBroken

BODIES = {
    "actions": CODE,
    "packages": {},
    "triggers": {},
    "rules": {"trigger": "/_/the trigger", "action": "/_/the action"},
}
COLLECTIONS = tuple(BODIES)
GONE = "The requested resource does not exist."


@pytest.fixture
async def site(site):
    """With a trigger and an action that rules can name."""
    await put(site, "triggers/the%20trigger")
    await put(site, "actions/the%20action", CODE)
    return site


@pytest.mark.parametrize("collection", COLLECTIONS)
async def test_CRUD_01_an_entity_is_created_read_listed_updated_and_deleted(site, collection):
    path, body = f"{collection}/x", BODIES[collection]
    created = await put(site, path, body)
    assert (created["namespace"], created["name"], created["version"], created["publish"]) == ("guest", "x", "0.0.1", False)
    assert (await get(site, path)).items() >= created.items()
    assert "x" in [each["name"] for each in await get(site, f"{collection}/")]
    updated = await put(site, f"{path}?overwrite=true", {"publish": True})
    assert (updated["version"], updated["publish"]) == ("0.0.2", True)
    deleted = await site.ask("DELETE", path)
    assert deleted.status == 200
    assert deleted.json | {"status": "active"} == updated | {"status": "active"}
    assert "x" not in [each["name"] for each in await get(site, collection)]
    assert (await put(site, path, body))["version"] == "0.0.1"


@pytest.mark.parametrize("collection", COLLECTIONS)
async def test_CRUD_01_a_version_that_is_given_is_taken(site, collection):
    path, body = f"{collection}/x", BODIES[collection]
    assert (await put(site, path, body | {"version": "1.2"}))["version"] == "1.2.0"
    assert (await put(site, f"{path}?overwrite=true", {}))["version"] == "1.2.1"
    for version in ("", "0.0.0", "x"):
        sent = {"version": version}
        await refuse(site, "PUT", f"{path}?overwrite=true", sent, status=400, words="The request content was malformed:\n")


@pytest.mark.parametrize("collection", COLLECTIONS)
async def test_CRUD_02_a_name_is_taken_once_whatever_has_it(site, collection):
    await put(site, f"{collection}/x", BODIES[collection])
    await refuse(site, "PUT", f"{collection}/x", BODIES[collection], status=409, words="resource already exists")
    for other in COLLECTIONS:
        if other != collection:
            words = "exists but is not in this collection"
            for query in ("", "?overwrite=true"):
                await refuse(site, "PUT", f"{other}/x{query}", BODIES[other], status=409, words=words)
            await refuse(site, "GET", f"{other}/x", status=409, words=words)
            await refuse(site, "DELETE", f"{other}/x", status=409, words=words)
            if other == "actions":
                await refuse(site, "POST", f"{other}/x", {}, status=409, words=words)
            if other == "rules":
                await refuse(site, "POST", f"{other}/x", {"status": "active"}, status=409, words=words)


@pytest.mark.parametrize("collection", COLLECTIONS)
async def test_CRUD_02_a_lost_race_is_409_in_the_words_that_clients_retry_on(site, collection):
    await put(site, f"{collection}/x", BODIES[collection])

    def overtake(entity):
        site.entities.before_put = lambda _: None
        site.entities.add(msgspec.structs.replace(site.entities.get(entity.namespace, entity.path), revision="other"))

    site.entities.before_put = overtake
    answered = await site.ask("PUT", f"{collection}/x?overwrite=true", {})
    assert (answered.status, answered.error) == (409, "Concurrent modification to resource detected.")


@pytest.mark.parametrize("name", ["a%20b", "a@b.c&d-e", "_x", "0", "X" * 256, "h%C3%A9"])
@pytest.mark.parametrize("collection", COLLECTIONS)
async def test_CRUD_03_names_may_have_these_characters(site, collection, name):
    path = f"{collection}/{name}"
    if "%C3" in name:  # as upstream: letters are those of ASCII
        await refuse(site, "PUT", path, BODIES[collection], status=400, words="illegal characters")
        return
    created = await put(site, path, BODIES[collection])
    assert created["name"] == name.replace("%20", " ")
    assert (await get(site, path))["name"] == created["name"]
    assert (await site.ask("GET", path.swapcase() if name[0] == "X" else f"{path}z")).status in {400, 404}


@pytest.mark.parametrize("name", ["%20", "hi+there", "$hola", "dora%3F", "|dora|dora%3F", "a%2Fb", "%00", "a%20", "-a"])
@pytest.mark.parametrize("collection", COLLECTIONS)
async def test_CRUD_03_and_no_others(site, collection, name):
    for method, body in (("PUT", BODIES[collection]), ("GET", None), ("DELETE", None)):
        await refuse(site, method, f"{collection}/{name}", body, status=400, words="illegal characters")


@pytest.mark.parametrize("collection", COLLECTIONS)
async def test_CRUD_03_a_name_that_is_too_long_is_measured(site, collection):
    for method, body in (("PUT", BODIES[collection]), ("GET", None), ("DELETE", None)):
        await refuse(site, method, f"{collection}/{'x' * 300}", body, status=400, words="longer than allowed: 300 > 256.")


@pytest.mark.parametrize("collection", COLLECTIONS)
async def test_CRUD_03_an_empty_name_is_no_route(site, collection):
    for method, body in (("PUT", BODIES[collection]), ("DELETE", None)):
        await refuse(site, method, f"{collection}/", body, status=404, words="could not be found")


@pytest.mark.parametrize("collection", ["packages", "triggers", "rules"])
async def test_CRUD_03_a_slash_behind_an_entity_is_no_route(site, collection):
    await put(site, f"{collection}/x", BODIES[collection])
    await refuse(site, "GET", f"{collection}/x/", status=404, words="could not be found")


async def test_CRUD_04_names_in_bodies_are_qualified_with_slash_or_without(site):
    await put(site, "packages/p")
    await put(site, "actions/p/a", CODE)
    for number, action in enumerate(
        ("/_/p/a", "/guest/p/a", "guest/p/a", "_/p/a", reference("_/p", "a"), reference("guest/p", "a"))
    ):
        created = await put(site, f"rules/r{number}", {"trigger": "/guest/the trigger", "action": action})
        assert created["action"] == reference("guest/p", "a")
    for action in ("a", "/a", "/guest/p/a/b", ""):
        body = {"trigger": "/_/the trigger", "action": action}
        await refuse(site, "PUT", "rules/x", body, status=400, words="fully qualified entity name")


async def test_CRUD_04_an_action_is_found_by_its_namespace_as_lists_show_it(site):
    """`NS%2FPACKAGE`: what `aio rt package delete --recursive` makes of an entry of the list."""
    await put(site, "packages/p")
    await put(site, "actions/p/a", CODE)
    (listed,) = [each for each in await get(site, "actions") if each["name"] == "a"]
    path = f"/api/v1/namespaces/{listed['namespace'].replace('/', '%2F')}/actions/a"
    shown = await site.ask("GET", path)
    assert (shown.status, shown.json) == (200, await get(site, "actions/p/a"))
    other = site.add_namespace("other")
    await refuse(site, "DELETE", path, status=403, words="is not authorized to access 'guest/p/a'", auth=other)
    assert (await site.ask("DELETE", path)).status == 200
    await refuse(site, "GET", "actions/p/a", status=404, words=GONE)
    for odd in ("guest%2Fp%2Fq/actions/a", "guest%2Fp/triggers/a", "%2Fp/actions/a", "guest%2F/actions/a", "guest%2Fp/actions"):
        answer = await site.ask("GET", f"/api/v1/namespaces/{odd}")
        assert answer.status in {400, 404}, odd


VALUES = [
    *(0, -1, 1.5, True, False, None, "", "text", "<&>\"'\\/", "é€\U0001f600", "{}", [], {}),
    *([1, [2, {"a": None}]], {"a": {"b": [1, "<&>"]}}, {"__proto__": 1}),
]


@pytest.mark.parametrize("collection", COLLECTIONS)
async def test_CRUD_05_values_of_every_json_type_come_back_as_they_were(site, collection):
    entries = [{"key": f"k{number}", "value": value} for number, value in enumerate(VALUES)]
    body = BODIES[collection] | {"annotations": entries, "parameters": entries}
    created = await put(site, f"{collection}/x", body)
    for document in (created, await get(site, f"{collection}/x")):
        assert as_dict(document["annotations"]).items() >= as_dict(entries).items()
        if collection != "rules":
            assert document["parameters"] == entries


async def test_CRUD_05_text_is_not_escaped_and_numbers_keep_their_digits(site):
    text = '{"parameters": [{"key": "a", "value": {"big": 123456789012345678901234567890, "x": "<&>é"}}]}'
    await put(site, "triggers/x", text.encode())
    shown = (await site.ask("GET", "triggers/x")).text
    assert '"value":{"big":123456789012345678901234567890,"x":"<&>é"}' in shown


@pytest.mark.parametrize("collection", ["actions", "packages", "triggers"])
async def test_CRUD_06_of_a_key_given_twice_the_last_wins_and_parameters_are_replaced_whole(site, collection):
    twice = [{"key": "a", "value": 1}, {"key": "b", "value": None}, {"key": "a", "value": 2}]
    created = await put(site, f"{collection}/x", BODIES[collection] | {"parameters": twice})
    assert as_dict(created["parameters"]) == {"a": 2, "b": None}
    kept = await put(site, f"{collection}/x?overwrite=true", {"parameters": None})
    assert kept["parameters"] == created["parameters"]
    replaced = await put(site, f"{collection}/x?overwrite=true", {"parameters": pairs(c=3)})
    assert replaced["parameters"] == pairs(c=3)
    assert (await put(site, f"{collection}/x?overwrite=true", {"parameters": []}))["parameters"] == []


@pytest.mark.parametrize("entries", [{}, [1], [{"key": "a"}], [{"value": 1}], [{"key": 1, "value": 1}], "x"])
@pytest.mark.parametrize("field", ["parameters", "annotations"])
async def test_CRUD_06_other_shapes_are_malformed(site, field, entries):
    for collection in COLLECTIONS:
        body = BODIES[collection] | {field: entries}
        await refuse(site, "PUT", f"{collection}/x", body, status=400, words="parameters malformed!")


async def test_CRUD_07_annotations_of_actions_are_merged_and_deleted_by_name(site):
    await put(site, "actions/x", CODE | {"annotations": pairs(a=1, b=2, c=3)})
    body = {"annotations": pairs(b=4, d=5), "delAnnotations": ["a", "missing"]}
    updated = await put(site, "actions/x?overwrite=true", body)
    assert as_dict(updated["annotations"]) == {
        "b": 4, "c": 3, "d": 5, "exec": "python:3", "provide-api-key": False,
    }  # fmt: skip


@pytest.mark.parametrize("collection", ["packages", "triggers", "rules"])
async def test_CRUD_07_annotations_of_others_are_replaced(site, collection):
    await put(site, f"{collection}/x", BODIES[collection] | {"annotations": pairs(a=1, b=2)})
    updated = await put(site, f"{collection}/x?overwrite=true", {"annotations": pairs(c=3), "delAnnotations": ["c"]})
    assert as_dict(updated["annotations"]) == {"c": 3}
    assert as_dict((await put(site, f"{collection}/x?overwrite=true", {}))["annotations"]) == {"c": 3}


async def test_CRUD_08_fields_have_these_defaults(site):
    action = await put(site, "actions/x", CODE)
    assert action["limits"] == {"timeout": 60000, "memory": 256, "logs": 10, "concurrency": 1}
    assert (action["publish"], action["parameters"]) == (False, [])
    package = await put(site, "packages/p")
    assert (package["binding"], package["publish"], package["annotations"]) == ({}, False, [])
    trigger = await put(site, "triggers/t")
    assert (trigger["limits"], trigger["publish"], trigger["annotations"]) == ({}, False, [])
    (entry,) = [each for each in await get(site, "packages") if each["name"] == "p"]
    assert entry["binding"] is False


async def test_CRUD_09_a_docker_action_has_no_code_and_code_is_left_out_on_request(site):
    box = await put(site, "actions/box", {"exec": {"kind": "blackbox", "image": "example/none:1"}})
    assert box["exec"] == {"kind": "blackbox", "image": "example/none:1", "binary": False}
    assert (await get(site, "actions/box"))["exec"] == box["exec"]
    await put(site, "actions/x", CODE)
    assert (await get(site, "actions/x?code=false"))["exec"] == {"kind": "python:3", "binary": False}
    assert (await get(site, "actions/x?code=true"))["exec"]["code"] == CODE["exec"]["code"]
    await refuse(site, "GET", "actions/x?code=perhaps", status=400, words="The query parameter 'code' was malformed:\n")


@pytest.mark.parametrize("collection", COLLECTIONS)
async def test_CRUD_10_lists_have_pages(site, collection):
    for number in range(35):
        await put(site, f"{collection}/x{number}", BODIES[collection])
    total = (await get(site, f"{collection}?count=TRUE"))[collection]
    assert total == 35 + (collection in {"actions", "triggers"})

    async def names(query=""):
        return [each["name"] for each in await get(site, f"{collection}{query}")]

    everything = await names("?limit=200")
    assert (len(everything), everything[0]) == (total, "x34")
    assert await names() == everything[:30]
    assert await names("?limit=0") == everything
    assert await names("?limit=2&skip=3&docs=true&since=1&public=x") == everything[3:5]
    assert await names("?skip=1000") == []
    assert (await get(site, f"{collection}?count=true&limit=1&skip=10"))[collection] == total - 10
    assert (await get(site, f"{collection}?count=yes&skip=1000"))[collection] == 0
    for query in ("limit=201", "limit=-1", "limit=x", "limit=", "limit=1.5", "skip=-1", "skip=x", "count=perhaps"):
        name = query.partition("=")[0]
        words = f"The query parameter '{name}' was malformed:\n"
        answered = await refuse(site, "GET", f"{collection}?{query}", status=400, words=words)
        assert name == "count" or collection in answered.error


@pytest.mark.parametrize("collection", COLLECTIONS)
async def test_CRUD_11_the_last_written_is_listed_first(site, collection):
    for name in ("a", "b", "c"):
        site.now += 1
        await put(site, f"{collection}/{name}", BODIES[collection])
    site.now += 1
    await put(site, f"{collection}/a?overwrite=true", {})
    listed = await get(site, collection)
    assert [each["name"] for each in listed[:3]] == ["a", "c", "b"]
    assert [each["updated"] for each in listed] == sorted((each["updated"] for each in listed), reverse=True)


async def test_CRUD_11_the_list_of_actions_includes_packaged_ones(site):
    await put(site, "packages/p")
    await put(site, "actions/p/x", CODE)
    await put(site, "actions/x", CODE)
    listed = await get(site, "actions?limit=2")
    assert [(each["namespace"], each["name"]) for each in listed] == [("guest", "x"), ("guest/p", "x")]
    assert set(listed[0]) == {"namespace", "name", "version", "publish", "annotations", "limits", "exec", "updated"}
    assert listed[0]["exec"] == {"binary": False}
    assert [each["namespace"] for each in await get(site, "actions/p/?limit=30&skip=0")] == ["guest/p"]
    assert await get(site, "actions/p/?count=true") == {"actions": 1}


@pytest.mark.parametrize("collection", COLLECTIONS)
async def test_CRUD_12_what_is_missing_is_404_and_what_is_no_json_415(site, collection):
    assert (await refuse(site, "DELETE", f"{collection}/x", status=404, words=GONE)).error == GONE
    for headers in ({"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"}):
        await refuse(site, "PUT", f"{collection}/x", "{}", status=415, words="is not supported", headers=headers)
    typed = {"Content-Type": "application/json; charset=UTF-8"}
    assert (await site.ask("PUT", f"{collection}/x", BODIES[collection], headers=typed)).status == 200


@pytest.mark.parametrize("field", ["parameters", "annotations"])
@pytest.mark.parametrize("collection", COLLECTIONS)
async def test_CRUD_13_what_is_too_large_is_413_with_both_sizes(site, collection, field):
    body = BODIES[collection] | {field: pairs(a="x" * (MIB - 3))}
    await put(site, f"{collection}/x", body)
    body[field] = pairs(a="x" * (MIB - 2))
    words = f"{field} larger than allowed: {MIB + 1} > {MIB} bytes."
    await refuse(site, "PUT", f"{collection}/y", body, status=413, words=words)
    await refuse(site, "PUT", f"{collection}/x?overwrite=true", body, status=413, words=words)


async def test_CRUD_13_code_that_is_too_large_is_413(site):
    body = {"exec": {"kind": "python:3", "code": "x" * (48 * MIB + 1)}}
    await refuse(
        site, "PUT", "actions/x", body, status=413, words=f"exec larger than allowed: {48 * MIB + 1} > {48 * MIB} bytes."
    )


async def test_CRUD_14_kinds_are_resolved_or_refused(site):
    assert (await put(site, "actions/x", {"exec": {"kind": " Python:DEFAULT ", "code": ""}}))["exec"]["kind"] == "python:3"
    for kind, words in (
        ("cobol:1", "runtime 'cobol:1' is not supported by this platform. Valid values are"),
        ("python", "is not supported by this platform"),
        ("python:2", "runtime is no longer supported"),
    ):
        for path in ("actions/y", "actions/x?overwrite=true"):
            await refuse(site, "PUT", path, {"exec": {"kind": kind, "code": ""}}, status=400, words=words)


async def test_CRUD_14_a_deprecated_action_is_read_and_deleted_only(site):
    await put(site, "actions/x", CODE)
    action = site.entities.get("guest", "x")
    site.entities.add(msgspec.structs.replace(action, exec=msgspec.structs.replace(action.exec, kind="python:2")))
    for method, body in (("PUT", {"publish": True}), ("POST", {})):
        await refuse(site, method, "actions/x?overwrite=true", body, status=400, words="runtime is no longer supported")
    assert (await get(site, "actions/x"))["exec"]["kind"] == "python:2"
    assert (await site.ask("DELETE", "actions/x")).status == 200


async def test_CRUD_14_kinds_that_a_namespace_may_not_have_are_403(site):
    site.grant(allowed_kinds=("nodejs:20", "blackbox"))
    await refuse(site, "PUT", "actions/x", CODE, status=403, words="actions of kind 'python:3'")
    await put(site, "actions/y", {"exec": {"kind": "nodejs:default", "code": ""}})
    await refuse(site, "PUT", "actions/y?overwrite=true", CODE, status=403, words="actions of kind 'python:3'")
    await put(site, "actions/the%20action?overwrite=true", {"publish": True})
    sequence = {"exec": {"kind": "sequence", "components": ["/_/y"]}}
    await refuse(site, "PUT", "actions/z", sequence, status=403, words="actions of kind 'sequence'")
    assert (await site.ask("POST", "actions/the%20action", {})).status == 202


async def test_CRUD_15_java_needs_main_an_image_a_name_and_binary_is_found_out(site):
    java = {"kind": "java:8", "code": "AAAA"}
    answered = await refuse(site, "PUT", "actions/x", {"exec": java}, status=400, words="'main'")
    assert "java:8" in answered.error
    assert (await put(site, "actions/x", {"exec": java | {"main": "Main"}}))["exec"]["binary"] is True
    assert (await put(site, "actions/y", {"exec": {"kind": "python:3", "code": "x = 1"}}))["exec"]["binary"] is False
    for image in ("UPPER/case", "a b", "x:y:z"):
        box = {"exec": {"kind": "blackbox", "image": image}}
        await refuse(site, "PUT", "actions/z", box, status=400, words="could not parse image name")
    await refuse(site, "PUT", "actions/z", {"exec": {"kind": "blackbox"}}, status=400, words="'image'")
    digest = {"exec": {"kind": "blackbox", "image": f"example/none@sha256:{'a' * 64}"}}
    assert (await put(site, "actions/z", digest))["exec"]["image"] == "example/none"


@pytest.mark.parametrize("collection", COLLECTIONS)
async def test_CRUD_16_the_time_of_a_write_is_the_servers_and_grows(site, collection):
    created = await put(site, f"{collection}/x", BODIES[collection] | {"updated": 5})
    assert created["updated"] == int(site.now * 1000)
    site.now -= 100
    assert (await put(site, f"{collection}/x?overwrite=true", {}))["updated"] == created["updated"] + 1


@pytest.mark.parametrize("collection", COLLECTIONS)
async def test_CRUD_17_a_store_that_fails_is_500_and_changes_nothing(site, monkeypatch, collection):
    await put(site, f"{collection}/x", BODIES[collection])
    before = site.entities.everything()

    async def broken(*_):
        raise StoreBroken

    monkeypatch.setattr(site.entities._writer, "execute", broken)
    for method, path in (("PUT", "x?overwrite=true"), ("PUT", "y"), ("DELETE", "x")):
        answered = await site.ask(method, f"{collection}/{path}", BODIES[collection] if method == "PUT" else None)
        assert (answered.status, answered.error) == (500, "The database cannot be read or written.")
        assert site.entities.everything() == before


async def test_CRUD_17_code_that_is_damaged_on_the_disk_is_500_and_said(site):
    await put(site, "actions/x", CODE)
    site.entities.code.path(site.entities.get("guest", "x").exec.code).write_text("something else")
    answered = await site.ask("GET", "actions/x")
    assert answered.status == 500
    assert "is damaged" in answered.error
    assert (await site.ask("GET", "actions/x?code=false")).status == 200
