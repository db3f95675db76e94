"""The catalog of whisk.system: installed once, renewed when it changes, an operator's own left alone."""

import shutil
import sqlite3
from contextlib import closing

import msgspec
import pytest
from api_site import MANIFEST

from invoker.catalog.deploy import DIRECTORY, SYSTEM, deploy_catalog, read_catalog
from invoker.manifest import BUILTIN, Manifest
from invoker.model import Action, Annotation, Collection, Exec, Package
from invoker.record.entities import EntityStore
from invoker.resolve import resolve_action

KEY = ("uuid-of-system", "0" * 64)


@pytest.fixture
async def store(tmp_path):
    store = await EntityStore.open(tmp_path / "entities.db", tmp_path / "code")
    yield store
    await store.close()


@pytest.fixture
def directory(tmp_path):
    """A copy of the catalog, to be changed."""
    return shutil.copytree(DIRECTORY, tmp_path / "catalog")


async def deploy(store, directory=DIRECTORY, manifest=None):
    return await deploy_catalog(
        store, manifest or Manifest.parse(MANIFEST), make_key=lambda: KEY, now_ms=1000, directory=directory
    )


async def test_packages_are_published_with_their_actions_and_code(store):
    assert await deploy(store) > 20
    for name in ("alarms", "samples", "utils"):
        package = store.get(SYSTEM, name)
        assert isinstance(package, Package)
        assert package.publish
        assert package.annotation("description")
    echo = store.get(SYSTEM, "utils/echo")
    assert (echo.exec.kind, echo.version) == ("python:3", "0.0.1")
    assert "return args" in await store.code.read(echo.exec.code)
    assert store.get(SYSTEM, "samples/helloPromises").exec.kind == "nodejs:20"
    namespace = store.get_namespace(SYSTEM)
    assert (namespace.uid, namespace.uuid) == (65534, KEY[0])


async def test_the_feeds_are_the_daemons_own_and_say_what_they_take(store):
    await deploy(store)
    for name in ("alarm", "interval", "once"):
        found = resolve_action(store, SYSTEM, f"alarms/{name}").action
        assert found.exec == Exec(kind=BUILTIN)
        assert found.annotation("feed") is True
        assert {each["name"] for each in found.annotation("parameters")} >= {"trigger_payload"}
        assert bytes({each.key: each.value for each in found.parameters}["trigger_payload"]) == b'""'


async def test_a_second_time_nothing_is_written(store):
    await deploy(store)
    before = store.list(SYSTEM, Collection.ACTIONS, limit=200)
    assert await deploy(store) == 0
    assert store.list(SYSTEM, Collection.ACTIONS, limit=200) == before


async def test_what_has_changed_is_written_as_the_next_version_and_what_is_gone_is_deleted(store, directory):
    await deploy(store, directory)
    (directory / "utils" / "echo.py").write_text("def main(args):\n    return {'new': True}\n")
    told = directory / "samples" / "package.toml"
    told.write_text(told.read_text().replace("[actions.greeting]", "[actions.salutation]\nfile = 'greeting.py'"))
    shutil.rmtree(directory / "alarms")
    assert await deploy(store, directory) == 1 + 2 + 4
    echo = store.get(SYSTEM, "utils/echo")
    assert echo.version == "0.0.2"
    assert "new" in await store.code.read(echo.exec.code)
    assert store.get(SYSTEM, "samples/greeting") is None
    assert store.get(SYSTEM, "samples/salutation") is not None
    assert store.get(SYSTEM, "alarms") is None


async def test_an_operators_own_entity_is_left_alone(store):
    own = Action(namespace=SYSTEM, path="utils/echo", revision="r", updated=1, exec=Exec(kind="python:3"))
    extra = Package(namespace=SYSTEM, path="ours", revision="r", updated=1, publish=True)
    await store.put(own, expected_revision=None)
    await store.put(extra, expected_revision=None)
    await deploy(store)
    assert store.get(SYSTEM, "utils/echo") == own
    assert store.get(SYSTEM, "ours") == extra


async def test_actions_of_kinds_that_the_node_lacks_are_left_out(store):
    manifest = msgspec.json.decode(MANIFEST)
    del manifest["runtimes"]["nodejs"]
    await deploy(store, manifest=Manifest.parse(msgspec.json.encode(manifest)))
    assert store.get(SYSTEM, "samples/helloPromises") is None
    assert store.get(SYSTEM, "samples/greeting") is not None


async def test_it_is_there_after_a_restart(tmp_path):
    for expected in (True, False):
        store = await EntityStore.open(tmp_path / "entities.db", tmp_path / "code")
        try:
            assert bool(await deploy(store)) is expected
        finally:
            await store.close()


async def test_what_of_it_cannot_be_read_any_more_is_installed_anew(tmp_path):
    for _ in range(2):
        store = await EntityStore.open(tmp_path / "entities.db", tmp_path / "code")
        try:
            await deploy(store)
            assert store.get(SYSTEM, "utils/echo") is not None
        finally:
            await store.close()
        with closing(sqlite3.connect(tmp_path / "entities.db")) as entities, entities:
            entities.execute("UPDATE entities SET value = '{' WHERE path = 'utils/echo'")
            entities.execute("UPDATE namespaces SET value = '{'")


def test_each_action_of_the_catalog_has_a_description_and_bears_the_mark():
    wanted = read_catalog(Manifest.load())
    assert len({each.entity.path for each in wanted}) == len(wanted)
    for each in wanted:
        assert each.entity.annotation("description")
        assert Annotation(key="catalog", value=msgspec.Raw(b"true")) in each.entity.annotations
