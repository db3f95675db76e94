"""Rows RU: rules, from a trigger to an action. What they do when the trigger fires is told by the rows TR."""

import pytest
from rows import CODE, as_dict, get, pairs, put, reference, refuse

RULE = {"trigger": "/_/t", "action": "/_/a"}


@pytest.fixture
async def made(site):
    """A trigger `t` and an action `a`."""
    await put(site, "triggers/t")
    await put(site, "actions/a", CODE)
    return site


async def rules_of(site, trigger):
    rules = (await get(site, f"triggers/{trigger}")).get("rules", {})
    return [(name, rule["status"]) for name, rule in rules.items()]


async def set_status(site, rule, status):
    answered = await site.ask("POST", f"rules/{rule}", {"status": status, "trigger": None, "action": None})
    assert (answered.status, answered.text, answered.headers["Content-Type"]) == (200, "OK", "text/plain")


async def test_RU_01_a_rule_links_a_trigger_to_an_action(made):
    created = await put(made, "rules/r", RULE | {"status": "", "annotations": pairs(d=1)})
    assert set(created) == {*("namespace", "name", "trigger", "action", "status", "version", "publish", "annotations", "updated")}
    assert (created["status"], created["version"]) == ("active", "0.0.1")
    assert (created["trigger"], created["action"]) == (reference("guest", "t"), reference("guest", "a"))
    assert await get(made, "rules/r") == created
    assert (await get(made, "triggers/t"))["rules"] == {"guest/r": {"action": reference("guest", "a"), "status": "active"}}


async def test_RU_01_one_trigger_has_many_rules_and_one_action_is_in_many(made):
    await put(made, "actions/b", CODE)
    for name, action in (("r1", "a"), ("r2", "b"), ("r3", "a")):
        await put(made, f"rules/{name}", {"trigger": "/_/t", "action": f"/guest/{action}"})
    assert await rules_of(made, "t") == [("guest/r1", "active"), ("guest/r2", "active"), ("guest/r3", "active")]


async def test_RU_01_a_name_freed_by_deletion_names_another_rule(made):
    await put(made, "triggers/u")
    await put(made, "rules/r", RULE)
    assert (await made.ask("DELETE", "rules/r")).status == 200
    await put(made, "rules/r", {"trigger": "/_/u", "action": "/_/a"})
    assert await rules_of(made, "t") == []
    assert await rules_of(made, "u") == [("guest/r", "active")]


async def test_RU_01_names_with_spaces_packages_and_bindings_work(made):
    await put(made, "triggers/my%20trigger")
    await put(made, "packages/my%20package")
    await put(made, "actions/my%20package/my%20action", CODE)
    await put(made, "packages/bound", {"binding": {"namespace": "_", "name": "my package"}})
    spaces = {"trigger": "/_/my trigger", "action": "/_/my package/my action"}
    assert (await put(made, "rules/my%20rule", spaces))["action"] == reference("guest/my package", "my action")
    through = await put(
        made, "rules/through", {"trigger": reference("_", "my trigger"), "action": reference("_/bound", "my action")}
    )
    assert through["action"] == reference("guest/bound", "my action")
    assert await rules_of(made, "my%20trigger") == [("guest/my rule", "active"), ("guest/through", "active")]


async def test_RU_02_a_rule_is_made_inactive_and_active_again(made):
    for rule in ("r1", "r2"):
        await put(made, f"rules/{rule}", RULE)
    before = await get(made, "rules/r1")
    await set_status(made, "r1", "inactive")
    await set_status(made, "r1", "inactive")
    assert await get(made, "rules/r1") == before | {"status": "inactive"}
    assert await rules_of(made, "t") == [("guest/r1", "inactive"), ("guest/r2", "active")]
    await set_status(made, "r1", "active")
    await set_status(made, "r1", "active")
    assert await get(made, "rules/r1") == before
    assert await rules_of(made, "t") == [("guest/r2", "active"), ("guest/r1", "active")]
    assert [each["name"] for each in await get(made, "rules")] == ["r2", "r1"]


async def test_RU_02_the_status_is_kept_by_an_update_of_either(made):
    await put(made, "rules/r", RULE)
    await set_status(made, "r", "inactive")
    updated = await put(made, "rules/r?overwrite=true", {"annotations": pairs(e=2), "trigger": None, "action": None})
    assert (updated["status"], updated["version"], as_dict(updated["annotations"])) == ("inactive", "0.0.2", {"e": 2})
    await put(made, "triggers/t?overwrite=true", {"parameters": pairs(x=1)})
    assert await rules_of(made, "t") == [("guest/r", "inactive")]
    await put(made, "triggers/u")
    moved = await put(made, "rules/r?overwrite=true", {"trigger": "/_/u", "action": "/_/a"})
    assert moved["status"] == "inactive"
    assert await rules_of(made, "t") == []
    assert await rules_of(made, "u") == [("guest/r", "inactive")]


async def test_RU_02_an_active_rule_can_be_updated(made):
    await put(made, "rules/r", RULE)
    await put(made, "actions/b", CODE)
    updated = await put(made, "rules/r?overwrite=true", {"action": "/_/b"})
    assert (updated["action"], updated["status"]) == (reference("guest", "b"), "active")
    assert await rules_of(made, "t") == [("guest/r", "active")]


@pytest.mark.parametrize("body", [{"status": "activating"}, {"status": ""}, {"status": 1}, {"status": None}, {}, b"[]", b"{"])
async def test_RU_02_another_status_is_refused(made, body):
    await put(made, "rules/r", RULE)
    await refuse(made, "POST", "rules/r", body, status=400, words="The request content was malformed:\n")


async def test_RU_03_without_its_trigger_a_rule_is_inactive_and_cannot_be_activated(made):
    created = await put(made, "rules/r", RULE)
    assert (await made.ask("DELETE", "triggers/t")).status == 200
    assert await get(made, "rules/r") == created | {"status": "inactive"}
    for status in ("active", "inactive"):
        await refuse(made, "POST", "rules/r", {"status": status}, status=404, words="rules with existing triggers")


async def test_RU_03_a_trigger_made_again_has_no_rules_until_they_are_activated(made):
    await put(made, "rules/r", RULE)
    await made.ask("DELETE", "triggers/t")
    await put(made, "triggers/t")
    assert "rules" not in await get(made, "triggers/t")
    assert (await get(made, "rules/r"))["status"] == "inactive"
    await set_status(made, "r", "active")
    assert (await get(made, "rules/r"))["status"] == "active"
    assert await rules_of(made, "t") == [("guest/r", "active")]


async def test_RU_03_without_its_action_a_rule_stays_but_cannot_be_written(made):
    await put(made, "rules/r", RULE)
    await made.ask("DELETE", "actions/a")
    assert (await get(made, "rules/r"))["status"] == "active"
    await refuse(made, "PUT", "rules/r?overwrite=true", {"annotations": []}, status=400, words="action /guest/a does not exist")
    await put(made, "actions/a", CODE)
    await put(made, "rules/r?overwrite=true", {"annotations": []})


async def test_RU_03_a_deleted_rule_is_answered_inactive_and_unlinked(made):
    created = await put(made, "rules/r", RULE)
    deleted = await made.ask("DELETE", "rules/r")
    assert (deleted.status, deleted.json) == (200, created | {"status": "inactive"})
    assert await rules_of(made, "t") == []
    for method in ("GET", "DELETE", "POST"):
        await refuse(made, method, "rules/r", {"status": "active"} if method == "POST" else None, status=404, words="not exist")


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 400, "requires a valid trigger and a valid action"),
        ({"trigger": "/_/t"}, 400, "requires a valid trigger and a valid action"),
        ({"action": "/_/a"}, 400, "requires a valid trigger and a valid action"),
        ({"trigger": None, "action": None}, 400, "requires a valid trigger and a valid action"),
        ({"trigger": "/_/missing", "action": "/_/a"}, 400, "trigger /guest/missing does not exist"),
        ({"trigger": "/_/t", "action": "/_/missing"}, 400, "action /guest/missing does not exist"),
        ({"trigger": "/_/t", "action": "/_/missing/a"}, 400, "action /guest/missing/a does not exist"),
        ({"trigger": "/_/a", "action": "/_/a"}, 400, "trigger /guest/a does not exist"),
        ({"trigger": "/_/t", "action": "/_/t"}, 400, "action /guest/t does not exist"),
        ({"trigger": "/other/t", "action": "/_/a"}, 403, "not authorized to access 'other/t'"),
        ({"trigger": "/_/t", "action": "/other/a"}, 403, "not authorized to access 'other/a'"),
        ({"trigger": "/_/t", "action": "/other/private/a"}, 403, "not authorized to access 'other/private/a'"),
        ({"trigger": "t", "action": "/_/a"}, 400, "fully qualified entity name"),
        ({"trigger": "/_/t", "action": "/_/a+b"}, 400, "illegal characters"),
        ({"trigger": {"path": "_"}, "action": "/_/a"}, 400, "The request content was malformed:\n"),
    ],
)
async def test_RU_04_what_a_rule_refers_to_must_be_there_and_may_be_read(made, body, status, words):
    other = made.add_namespace("other")
    for path, there in (("triggers/t", None), ("actions/a", CODE), ("packages/private", None), ("actions/private/a", CODE)):
        await put(made, f"/api/v1/namespaces/other/{path}", there, auth=other)
    await refuse(made, "PUT", "rules/r", body, status=status, words=words)
    await put(made, "rules/r", RULE)
    if body.keys() == {"trigger", "action"} and all(body.values()):
        await refuse(made, "PUT", "rules/r?overwrite=true", body, status=status, words=words)


async def test_RU_04_a_shared_action_of_another_may_be_run_by_a_rule(made):
    other = made.add_namespace("other")
    await put(made, "/api/v1/namespaces/other/packages/shared", {"publish": True}, auth=other)
    await put(made, "/api/v1/namespaces/other/actions/shared/a", CODE, auth=other)
    created = await put(made, "rules/r", {"trigger": "/_/t", "action": "/other/shared/a"})
    assert created["action"] == reference("other/shared", "a")
