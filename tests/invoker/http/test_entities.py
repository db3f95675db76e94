import pytest
from rows import CODE, get, put, refuse

SECRET = [{"key": "password", "value": "hush", "encryption": "aes-256"}]


@pytest.mark.parametrize("path", ["actions/x", "packages/x"])
async def test_a_parameter_that_asks_for_it_is_encrypted_and_never_shown_plain(site, path):
    created = await put(site, path, CODE | {"parameters": SECRET})
    (shown,) = created["parameters"]
    assert (shown["key"], shown["encryption"]) == ("password", "aes-256")
    assert "hush" not in (await site.ask("GET", path)).text
    assert b"hush" not in bytes(site.entities.get("guest", "x").parameters[0].value)
    (opened,) = site.vault.open(site.entities.get("guest", "x").parameters)
    assert bytes(opened.value) == b'"hush"'
    copied = await put(site, path.replace("x", "copy"), CODE | {"parameters": created["parameters"]})
    assert copied["parameters"] == created["parameters"]


async def test_an_encrypted_parameter_of_a_shared_package_is_of_no_use_to_others(site):
    other = site.add_namespace("other")
    await put(site, "/api/v1/namespaces/other/packages/p", {"publish": True, "parameters": SECRET}, auth=other)
    seen = (await get(site, "/api/v1/namespaces/other/packages/p"))["parameters"]
    await refuse(
        site, "PUT", "actions/mine", CODE | {"parameters": seen}, status=400, words="'password' was encrypted with another key"
    )


async def test_without_being_asked_nothing_is_encrypted_unless_the_site_wants_it(site):
    plain = [{"key": "a", "value": 1}]
    assert (await put(site, "actions/x", CODE | {"parameters": plain}))["parameters"] == plain


async def test_a_site_may_have_all_encrypted_but_components(site):
    site.seals_all = True
    plain = [{"key": "a", "value": "visible"}]
    for path in ("actions/x", "packages/p", "triggers/t"):
        (shown,) = (await put(site, path, CODE | {"parameters": plain}))["parameters"]
        assert shown["encryption"] == "aes-256"
    sequence = await put(site, "actions/s", {"exec": {"kind": "sequence", "components": ["/_/x"]}})
    assert sequence["parameters"] == [{"key": "_actions", "value": ["/guest/x"]}]
