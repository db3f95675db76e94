"""Row SQ-02, as far as sequences are documents: what they may be made of. What happens when they run: test_SQ.py."""

import pytest
from rows import CODE, as_dict, get, pairs, put, refuse


def sequence(*components):
    return {"exec": {"kind": "sequence", "components": list(components)}}


@pytest.fixture
async def site(site):
    """With actions `a` and `p/a`, and a shared one of `other`."""
    other = site.add_namespace("other")
    for path in ("packages/p", "packages/private"):
        await put(site, path)
    for path in ("actions/a", "actions/p/a"):
        await put(site, path, CODE)
    for name, published in (("shared", True), ("private", False)):
        await put(site, f"/api/v1/namespaces/other/packages/{name}", {"publish": published}, auth=other)
        await put(site, f"/api/v1/namespaces/other/actions/{name}/a", CODE, auth=other)
    return site


async def test_SQ_02_a_sequence_shows_its_components_and_has_them_as_its_only_parameter(site):
    body = sequence("/_/a", "/guest/p/a", "other/shared/a") | {"parameters": pairs(x=1), "limits": {"timeout": 1000}}
    created = await put(site, "actions/s", body)
    components = ["/guest/a", "/guest/p/a", "/other/shared/a"]
    assert created["exec"] == {"kind": "sequence", "components": components}
    assert as_dict(created["parameters"]) == {"_actions": components}
    assert as_dict(created["annotations"]) == {"exec": "sequence", "provide-api-key": False}
    assert created["limits"]["timeout"] == 1000
    assert await get(site, "actions/s") == created
    entry = next(each for each in await get(site, "actions") if each["name"] == "s")
    assert entry["exec"] == {"binary": False}
    assert (await site.ask("DELETE", "actions/s")).json == created


async def test_SQ_02_an_update_without_components_keeps_them_and_one_with_replaces_them(site):
    await put(site, "actions/s", sequence("/_/a") | {"annotations": pairs(d=1)})
    kept = await put(site, "actions/s?overwrite=true", {"parameters": pairs(x=1), "delAnnotations": ["d"]})
    assert as_dict(kept["parameters"]) == {"_actions": ["/guest/a"]}
    assert "d" not in as_dict(kept["annotations"])
    body = sequence("/_/p/a") | {"annotations": pairs(e=1), "delAnnotations": ["e"]}
    await put(site, "actions/s?overwrite=true", {"annotations": pairs(e=0)})
    replaced = await put(site, "actions/s?overwrite=true", body)
    assert as_dict(replaced["parameters"]) == {"_actions": ["/guest/p/a"]}
    assert as_dict(replaced["annotations"])["e"] == 1


async def test_SQ_02_a_sequence_becomes_code_without_parameters_and_back(site):
    await put(site, "actions/s", sequence("/_/a"))
    assert (await put(site, "actions/s?overwrite=true", CODE))["parameters"] == []
    await put(site, "actions/s?overwrite=true", {"parameters": pairs(x=1)})
    again = await put(site, "actions/s?overwrite=true", sequence("/_/a"))
    assert (as_dict(again["parameters"]), again["exec"]["kind"]) == ({"_actions": ["/guest/a"]}, "sequence")
    code = await put(site, "actions/s?overwrite=true", CODE | {"parameters": pairs(y=1)})
    assert code["parameters"] == pairs(y=1)


@pytest.mark.parametrize(
    ("components", "status", "words"),
    [
        ([], 400, "No component specified"),
        (None, 400, "'components' must be an array"),
        ("x", 400, "The request content was malformed:\n"),
        ([1], 400, "The request content was malformed:\n"),
        (["a"], 400, "fully qualified entity name"),
        (["/_/a+b"], 400, "illegal characters"),
        (["/_/missing"], 400, "Sequence component does not exist"),
        (["/_/a", "/_/p/missing"], 400, "Sequence component does not exist"),
        (["/_/p"], 400, "Sequence component does not exist"),
        (["/_/missing/a"], 404, "does not exist"),
        (["/other/private/a"], 403, "not authorized to access 'other/private/a'"),
        (["/other/a"], 403, "not authorized to access 'other/a'"),
        (["/_/s"], 400, "may not refer to itself"),
        (["/_/outer"], 400, "may not refer to itself"),
        (["/_/a"] * 51, 400, "Too many actions in the sequence"),
    ],
)
async def test_SQ_02_what_a_sequence_cannot_be_made_of(site, components, status, words):
    await put(site, "actions/s", sequence("/_/a"))
    await put(site, "actions/outer", sequence("/_/a", "/_/s"))
    body = {"exec": {"kind": "sequence", "components": components}}
    await refuse(site, "PUT", "actions/s?overwrite=true", body, status=status, words=words)
    if components not in (["/_/s"], ["/_/outer"]):
        await refuse(site, "PUT", "actions/new", body, status=status, words=words)


async def test_SQ_02_a_new_sequence_may_not_refer_to_itself_either(site):
    body = {"exec": {"kind": "sequence", "components": ["/_/a", "/_/new"]}}
    await refuse(site, "PUT", "actions/new", body, status=400, words="may not refer to itself")


async def test_SQ_02_a_component_may_go_and_the_sequence_stays(site):
    created = await put(site, "actions/s", sequence("/_/a", "/_/p/a"))
    assert (await site.ask("DELETE", "actions/a")).status == 200
    assert await get(site, "actions/s") == created
    words = "Sequence component does not exist"
    await refuse(site, "PUT", "actions/outer", sequence("/_/s"), status=400, words=words)
