"""Rows TR, as far as triggers are documents. What happens when they fire: test_TR.py."""

import pytest
from rows import CODE, get, pairs, put, reference, refuse


async def test_TR_03_a_trigger_shows_its_rules_when_it_has_any_and_keeps_them(site):
    created = await put(site, "triggers/t", {"parameters": pairs(a=1), "limits": {"x": 1}, "rules": {"guest/no": {}}})
    assert set(created) == {*("namespace", "name", "parameters", "limits", "version", "publish", "annotations", "updated")}
    assert (created["limits"], created["parameters"]) == ({}, pairs(a=1))
    await put(site, "packages/p")
    await put(site, "actions/p/a", CODE)
    await put(site, "rules/r", {"trigger": "/_/t", "action": "/_/p/a"})
    rules = {"guest/r": {"action": reference("guest/p", "a"), "status": "active"}}
    assert await get(site, "triggers/t") == created | {"rules": rules}
    updated = await put(site, "triggers/t?overwrite=true", {"annotations": pairs(d=1), "rules": {}})
    assert (updated["rules"], updated["version"], updated["parameters"]) == (rules, "0.0.2", pairs(a=1))
    assert "rules" not in (await get(site, "triggers"))[0]
    assert (await site.ask("DELETE", "triggers/t")).json == updated


async def test_TR_03_a_trigger_that_had_rules_shows_that_there_are_none_left(site):
    for path in ("triggers/t", "triggers/other", "triggers/never"):
        await put(site, path)
    await put(site, "actions/a", CODE)
    await put(site, "rules/r", {"trigger": "/_/t", "action": "/_/a"})
    created = await get(site, "triggers/t")
    await put(site, "rules/r?overwrite=true", {"trigger": "/_/other"})
    moved = await get(site, "triggers/t")
    assert moved == created | {"rules": {}}, "neither version nor time of the trigger is changed by its rules"
    assert list((await get(site, "triggers/other"))["rules"]) == ["guest/r"]
    assert (await site.ask("DELETE", "rules/r")).status == 200
    assert (await get(site, "triggers/other"))["rules"] == {}
    assert (await put(site, "triggers/other?overwrite=true", {"publish": False}))["rules"] == {}
    assert "rules" not in await get(site, "triggers/never")
    assert (await site.ask("POST", "triggers/other", {})).status == 204
    await put(site, "rules/r", {"trigger": "/_/t", "action": "/_/a"})
    assert list((await get(site, "triggers/t"))["rules"]) == ["guest/r"]


async def test_TR_03_a_trigger_that_is_made_anew_never_had_rules(site):
    await put(site, "triggers/t")
    await put(site, "actions/a", CODE)
    await put(site, "rules/r", {"trigger": "/_/t", "action": "/_/a"})
    await site.ask("DELETE", "triggers/t")
    await put(site, "triggers/t")
    await site.ask("DELETE", "rules/r")
    assert "rules" not in await get(site, "triggers/t")


@pytest.mark.parametrize("feed", ["f", "/ns/p/f", "ns/f", "/a/b/c/d", "/_/alarms/alarm"])
async def test_TR_03_a_feed_is_only_a_name(site, feed):
    created = await put(site, "triggers/t", {"annotations": pairs(feed=feed)})
    assert created["annotations"] == pairs(feed=feed)


@pytest.mark.parametrize("feed", ["", 1, None, {"a": 1}, "/ns//f", "a+b", "/"])
async def test_TR_03_a_feed_that_is_no_name_is_refused_when_the_trigger_is_made(site, feed):
    body = {"annotations": pairs(feed=feed)}
    await refuse(site, "PUT", "triggers/t", body, status=400, words="Feed name is not valid")
    await put(site, "triggers/t")
    await put(site, "triggers/t?overwrite=true", body)
