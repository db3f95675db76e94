"""Rows CRUD: create, read, update, delete and list in each collection."""

HELLO = {"exec": {"kind": "python:3", "code": "def main(args): return args"}}


async def test_CRUD_01_an_action_is_created_and_updated_with_the_next_version(site):
    created = await site.ask("PUT", "actions/hello", HELLO)
    assert (created.status, created.json["version"]) == (200, "0.0.1")
    updated = await site.ask("PUT", "actions/hello?overwrite=true", {"publish": True})
    assert (updated.status, updated.json["version"]) == (200, "0.0.2")
