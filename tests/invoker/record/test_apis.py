import sqlite3
from contextlib import closing

import pytest

from invoker.gateway import swagger
from invoker.gateway.model import Api
from invoker.record.apis import ApiStore
from invoker.record.damage import read_damage
from invoker.record.store import StoreBroken


def api(uuid="u1", base="/demo", name="Demo", updated=1):
    return Api.of_document(uuid, swagger.new_document(base, name), updated=updated)


@pytest.fixture
async def reopen(tmp_path):
    """Opens the store; again, as the next daemon would."""
    stores = []

    async def open_again(namespaces=("u1", "u2")):
        while stores:
            await stores.pop().close()
        stores.append(await ApiStore.open(tmp_path / "apis.db", namespaces=namespaces))
        return stores[0]

    yield open_again
    for store in stores:
        await store.close()


async def test_apis_are_there_after_a_restart(reopen):
    store = await reopen()
    written = [api(base="/b"), api(base="/a"), api("u2")]
    for each in written:
        await store.put(each)
    store = await reopen()
    assert [each.base_path for each in store.list("u1")] == ["/a", "/b"]
    assert store.get("u2", "/demo") == written[2]
    assert store.get("u1", "/demo") is None


async def test_an_api_is_replaced_and_deleted(reopen):
    store = await reopen()
    await store.put(api())
    await store.put(api(name="New", updated=2))
    store = await reopen()
    assert store.get("u1", "/demo").name == "New"
    await store.delete(api())
    await store.delete(api())
    assert not (await reopen()).list("u1")


async def test_what_belonged_to_a_namespace_that_is_gone_is_deleted(reopen):
    await (await reopen()).put(api())
    assert not (await reopen(namespaces=["u2"])).list("u1")
    assert not (await reopen()).list("u1")


async def test_a_write_that_fails_leaves_memory_as_before(reopen):
    store = await reopen()
    await store.put(api())

    async def fail(*_):
        raise StoreBroken("disk full")

    store._writer.execute = fail
    with pytest.raises(StoreBroken):
        await store.put(api(name="New"))
    with pytest.raises(StoreBroken):
        await store.put(api(base="/other"))
    with pytest.raises(StoreBroken):
        await store.delete(api())
    assert [each.name for each in store.list("u1")] == ["Demo"]


async def test_an_api_that_cannot_be_read_is_set_aside_and_the_others_are_served(reopen, tmp_path):
    store = await reopen()
    for base in ("/a", "/b"):
        await store.put(api(base=base))
    with closing(sqlite3.connect(tmp_path / "apis.db")) as connection, connection:
        connection.execute("UPDATE apis SET document = CAST(x'7bff' AS TEXT) WHERE base_path = '/a'")
    store = await reopen()
    assert [each.base_path for each in store.list("u1")] == ["/b"]
    assert [(row.store, row.key, row.content) for row in read_damage(tmp_path).values()] == [("apis", "u1 /a", b"{\xff")]


async def test_nothing_is_deleted_while_it_is_not_known_of_all_namespaces_whether_they_exist(reopen):
    store = await reopen()
    await store.put(api())
    assert (await reopen(None)).list("u1") == [api()]
    assert (await reopen([])).list("u1") == []
