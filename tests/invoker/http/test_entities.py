import msgspec
import pytest
from rows import CODE, get, put, refuse

from invoker.model import Parameter
from invoker.vault import KEY_BYTES, Vault

SECRET = [{"key": "password", "value": "hush", "encryption": "aes-256"}]


@pytest.mark.parametrize("path", ["actions/x", "packages/x", "triggers/x"])
async def test_a_parameter_that_asks_for_it_is_kept_encrypted_and_shown_to_its_owner(site, path):
    created = await put(site, path, CODE | {"parameters": SECRET})
    assert created["parameters"] == (await get(site, path))["parameters"] == SECRET
    (kept,) = site.entities.get("guest", "x").parameters
    assert b"hush" not in bytes(kept.value)
    assert bytes(site.vault.open((kept,))[0].value) == b'"hush"'
    assert "hush" not in (await site.ask("GET", path.removesuffix("/x"))).text
    deleted = await site.ask("DELETE", path)
    assert deleted.json["parameters"] == SECRET


@pytest.mark.parametrize("path", ["actions/x", "packages/x", "triggers/x"])
@pytest.mark.parametrize("client", ["sends all back", "knows nothing of encryption", "sends null", "changes the value"])
async def test_a_round_trip_keeps_a_secret_and_encrypts_it_once(site, path, client):
    await put(site, path, CODE | {"parameters": SECRET})
    (sent,) = (await get(site, path))["parameters"]
    if client == "knows nothing of encryption":
        del sent["encryption"]
    elif client == "sends null":
        sent["encryption"] = None
    elif client == "changes the value":
        sent = {"key": "password", "value": "other"}
    written = await put(site, f"{path}?overwrite=true", {"parameters": [sent]})
    assert written["parameters"] == [{**sent, "encryption": "aes-256"}]
    (kept,) = site.entities.get("guest", "x").parameters
    assert b"hush" not in bytes(kept.value)
    assert b"other" not in bytes(kept.value)
    again = await put(site, f"{path}?overwrite=true", {"annotations": []})
    assert again["parameters"] == written["parameters"]
    assert site.entities.get("guest", "x").parameters == (kept,)


async def test_through_a_binding_its_owner_sees_his_own_secrets_and_not_the_providers(site):
    other = site.add_namespace("other")
    provider = "/api/v1/namespaces/other"
    theirs = [{"key": "theirs", "value": "their hush", "encryption": "aes-256"}]
    await put(site, f"{provider}/packages/p", {"publish": True, "parameters": theirs}, auth=other)
    await put(site, f"{provider}/actions/p/x", CODE | {"parameters": SECRET}, auth=other)
    mine = [{"key": "mine", "value": "my hush", "encryption": "aes-256"}]
    await put(site, "packages/b", {"binding": {"namespace": "other", "name": "p"}, "parameters": mine})
    for path in ("packages/b", "actions/b/x", f"{provider}/packages/p", f"{provider}/actions/p/x"):
        answered = await site.ask("GET", path)
        shown = {each["key"]: each["value"] for each in answered.json["parameters"]}
        assert shown.get("mine", "my hush") == "my hush"
        assert "their hush" not in answered.text
        assert '"hush"' not in answered.text
        assert all(shown[key].startswith("invokerd:1:other:") for key in {"theirs", "password"} & shown.keys())
    for path in (f"{provider}/packages/p", f"{provider}/actions/p/x"):
        shown = {each["key"]: each["value"] for each in (await get(site, path, auth=other))["parameters"]}
        assert shown["theirs"] == "their hush"


async def test_what_cannot_be_opened_any_more_is_shown_as_it_is_kept(site):
    stranger = Vault(b"x" * KEY_BYTES)
    await put(site, "actions/x", CODE)
    action = site.entities.get("guest", "x")
    sealed = stranger.seal("guest", (Parameter(key="s", value=msgspec.Raw(b'"hush"'), encryption="aes-256"),))
    site.entities.add(msgspec.structs.replace(action, parameters=sealed))
    (shown,) = (await get(site, "actions/x"))["parameters"]
    assert shown["value"] == msgspec.json.decode(sealed[0].value)


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
        assert shown == {"key": "a", "value": "visible", "encryption": "aes-256"}
        (kept,) = site.entities.get("guest", path.partition("/")[2]).parameters
        assert b"visible" not in bytes(kept.value)
    sequence = await put(site, "actions/s", {"exec": {"kind": "sequence", "components": ["/_/x"]}})
    assert sequence["parameters"] == [{"key": "_actions", "value": ["/guest/x"]}]
