"""`wskdeploy` and `wsk project` replayed: what deploy, sync, undeploy and export ask for, and read (§7.5 of the reference)."""

from __future__ import annotations

from typing import Any

import pytest
from go_client import USER_AGENT, note, read

HEADERS = {"User-Agent": USER_AGENT, "Content-Type": "application/json"}
SOURCE = "def main(args): return args"
COLLECTIONS = ("packages", "actions", "triggers", "rules")


class Project:
    """A project as its manifest describes it: deployed with the annotation that tells what belongs to it.

    Attributes:
        documents: (collection, name) -> body, in the order of deployment.
    """

    def __init__(self, site: Any, name: str, documents: dict[tuple[str, str], dict[str, Any]], auth: str | bool = True) -> None:
        self.site = site
        self.managed = {"projectName": name, "projectHash": "0", "file": "manifest.yaml", "projectDeps": []}
        self.documents = documents
        self.auth = auth

    async def ask(self, method: str, path: str, what: str, body: Any = None) -> Any:
        """One request, which must succeed."""
        got = read(await self.site.ask(method, path, body, headers=HEADERS, auth=self.auth), what)
        assert got.exit_code == 0, (method, path, got)
        return got.value

    async def deploy(self) -> None:
        """Packages, actions, triggers and rules, each written over what there is; rules are activated once more."""
        for (collection, name), body in self.documents.items():
            annotations = [*body.get("annotations", []), {"key": "whisk-managed", "value": self.managed}]
            path = f"{collection}/{name}"
            await self.ask("PUT", f"{path}?overwrite=true", collection[:-1], body | {"annotations": annotations})
            if collection == "rules":
                await self.ask("POST", path, "", {"status": "active", "trigger": None, "action": None})

    async def managed_entities(self) -> list[tuple[str, str]]:
        """What the server says belongs to the project, by the annotation in its lists; last deployed first."""
        found = []
        for collection in reversed(COLLECTIONS):
            for each in await self.ask("GET", f"{collection}?limit=0&skip=0", f"list of {collection[:-1]}"):
                managed = note(each, "whisk-managed")
                if managed is not None and managed["projectName"] == self.managed["projectName"]:
                    package = each["namespace"].partition("/")[2]
                    found.append((collection, f"{package}/{each['name']}" if package else each["name"]))
        return found

    async def sync(self) -> None:
        """Deploy, and delete what belonged to the project before and is not in it any more."""
        await self.deploy()
        for collection, name in await self.managed_entities():
            if (collection, name) not in self.documents:
                await self.ask("DELETE", f"{collection}/{name}", collection[:-1])

    async def export(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Read back all that belongs to the project, with code, as documents that can be deployed elsewhere."""
        documents: dict[tuple[str, str], dict[str, Any]] = {}
        for collection, name in reversed(await self.managed_entities()):
            query = "?code=true" if collection == "actions" else ""
            entity = await self.ask("GET", f"{collection}/{name}{query}", collection[:-1])
            fields = {
                "packages": ("parameters",),
                "actions": ("exec", "limits"),
                "triggers": ("parameters",),
                "rules": (),
            }[collection]
            documents[collection, name] = {field: entity[field] for field in fields}
            if collection == "rules":
                documents[collection, name] = {part: f"/_/{entity[part]['name']}" for part in ("trigger", "action")}
        return dict(sorted(documents.items(), key=lambda item: COLLECTIONS.index(item[0][0])))


def documents() -> dict[tuple[str, str], dict[str, Any]]:
    execution = {"kind": "python:3", "code": SOURCE}
    return {
        ("packages", "tools"): {"parameters": [{"key": "a", "value": 1}]},
        ("packages", "lent"): {"binding": {"namespace": "whisk.system", "name": "utils"}},
        ("actions", "tools/one"): {"exec": execution, "limits": {"timeout": 1000, "memory": 128, "logs": 1, "concurrency": 1}},
        ("actions", "two"): {"exec": execution},
        ("actions", "row"): {"exec": {"kind": "sequence", "components": ["/_/tools/one", "/_/two"]}},
        ("triggers", "event"): {"parameters": [{"key": "x", "value": 1}]},
        ("rules", "link"): {"trigger": "/_/event", "action": "/_/row", "status": ""},
    }


@pytest.fixture
async def project(site):
    """One that depends on a shared package of the system's, which becomes a binding."""
    system = site.add_namespace("whisk.system")
    assert (await site.ask("PUT", "packages/utils", {"publish": True}, auth=system)).status == 200
    assert (
        await site.ask("PUT", "actions/utils/echo", {"exec": {"kind": "python:3", "code": SOURCE}}, auth=system)
    ).status == 200
    return Project(site, "mine", documents())


async def test_the_kinds_are_discovered_without_credentials(site):
    answer = await site.ask("GET", "/", auth=False, headers=HEADERS)
    assert answer.headers["Content-Type"] in "application/json; charset=UTF-8", "otherwise a list of 2019 is used"
    assert {"python", "nodejs"} <= set(answer.json["runtimes"])
    for kinds in answer.json["runtimes"].values():
        assert all(isinstance(each["kind"], str) for each in kinds)
        assert all(type(each["default"]) is type(each["deprecated"]) is bool for each in kinds)


async def test_a_project_is_deployed_once_and_again(project):
    for version in ("0.0.1", "0.0.2"):
        await project.deploy()
        one = await project.ask("GET", "actions/tools/one", "action")
        assert (one["version"], note(one, "whisk-managed")) == (version, project.managed)
        assert note(one, "exec") == "python:3"
    assert set(await project.managed_entities()) == set(project.documents)
    rule = await project.ask("GET", "rules/link", "rule")
    assert (rule["status"], rule["action"]) == ("active", {"path": "guest", "name": "row"})
    lent = await project.ask("GET", "packages/lent", "package")
    assert [each["name"] for each in lent["actions"]] == ["echo"]


async def test_sync_takes_away_what_is_in_the_project_no_more_and_nothing_else(project):
    await project.deploy()
    other = Project(project.site, "another", {("actions", "theirs"): {"exec": {"kind": "python:3", "code": SOURCE}}})
    await other.deploy()
    smaller = {key: body for key, body in documents().items() if key[0] == "packages" or key == ("actions", "two")}
    await Project(project.site, "mine", smaller).sync()
    assert set(await project.managed_entities()) == set(smaller)
    assert await other.managed_entities() == [("actions", "theirs")]


async def test_undeploy_leaves_nothing_behind(project):
    await project.deploy()
    await Project(project.site, "mine", {}).sync()
    for collection in COLLECTIONS:
        assert await project.ask("GET", f"{collection}?limit=0&skip=0", f"list of {collection[:-1]}") == []


async def test_what_is_exported_deploys_to_the_same_in_another_namespace(project):
    del project.documents["packages", "lent"]
    await project.deploy()
    exported = await project.export()
    assert set(exported) == set(project.documents)
    exported["actions", "row"]["exec"]["components"] = ["/_/tools/one", "/_/two"]  # as it stands in a manifest
    copy = Project(project.site, "mine", exported, auth=project.site.add_namespace("elsewhere"))
    await copy.deploy()
    again = await copy.export()
    assert again["actions", "row"]["exec"]["components"] == ["/elsewhere/tools/one", "/elsewhere/two"]
    again["actions", "row"] = exported["actions", "row"]
    assert again == exported


async def test_a_write_that_was_overtaken_is_told_in_the_words_that_are_retried(site):
    await site.put_hello()
    entity = site.entities.get("guest", "hello")

    def overtaken(_: Any) -> None:
        site.entities.before_put = lambda entity: None
        site.entities.add(
            type(entity)(**{name: getattr(entity, name) for name in entity.__struct_fields__} | {"revision": "other"})
        )

    site.entities.before_put = overtaken
    answer = await site.ask("PUT", "actions/hello?overwrite=true", {"publish": True}, headers=HEADERS)
    got = read(answer, "action")
    assert (got.exit_code, "Concurrent modification to resource detected" in got.said) == (153, True)
    assert (await site.ask("PUT", "actions/hello?overwrite=true", {"publish": True}, headers=HEADERS)).status == 200
