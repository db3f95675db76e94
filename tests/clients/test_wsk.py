"""`wsk` replayed: the requests of each command, in their order, and what it reads of the answers (§7.2 of the reference)."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest
from go_client import USER_AGENT, Read, note, read

from invoker.activation import Status
from invoker.invocation import Accepted202
from pool.model import ActivationId

HEADERS = {"User-Agent": USER_AGENT, "Content-Type": "application/json"}
SOURCE = "def main(args): return args"


class Wsk:
    """The command line: sends, reads, and has the exit code of what came last."""

    def __init__(self, site: Any) -> None:
        self.site = site

    async def __call__(self, method: str, path: str, what: str, body: Any = None, *, auth: bool = True) -> Read:
        """One request; most of its commands are one."""
        answer = await self.site.ask(method, path, body, auth=auth, headers=HEADERS)
        return read(answer, what, blocking="blocking=true" in path)

    async def value(self, *request: Any, **options: Any) -> Any:
        """The document of a request that succeeds."""
        got = await self(*request, **options)
        assert got.exit_code == 0, got
        return got.value

    async def create(self, name: str, *, overwrite: str = "false", **fields: Any) -> Any:
        """`wsk action create NAME FILE`."""
        body = {"name": name, "exec": {"kind": "python:default", "code": SOURCE}, **fields}
        return await self.value("PUT", f"actions/{name}?overwrite={overwrite}", "action", body)


@pytest.fixture
def wsk(site):
    return Wsk(site)


async def test_CL_01_properties_are_told_before_anybody_has_logged_in(wsk):
    about = await wsk.value("GET", "/api/v1", "api info", auth=False)
    assert about["build"]
    assert about["buildno"]
    assert (await wsk("GET", "/api/v1/namespaces", "names", auth=False)).exit_code == 145
    assert await wsk.value("GET", "/api/v1/namespaces", "names") == ["guest"]


async def test_CL_02_the_list_of_an_empty_namespace_is_empty(wsk):
    for collection in ("actions", "packages", "triggers", "rules"):
        assert await wsk.value("GET", f"{collection}?limit=0&skip=0", f"list of {collection[:-1]}") == []


async def test_action_create_and_update_which_asks_first_what_there_is(wsk):
    assert (await wsk("GET", "actions/hello?code=false", "action")).exit_code == 148
    created = await wsk.create("hello")
    assert (created["exec"]["kind"], created["version"], note(created, "exec")) == ("python:3", "0.0.1", "python:3")
    known = await wsk.value("GET", "actions/hello?code=false", "action")
    assert "code" not in known["exec"]
    body = {"exec": {"kind": "python:default", "code": SOURCE + " or {}"}, "namespace": "_", "name": "hello", "publish": None}
    updated = await wsk.value("PUT", "actions/hello?overwrite=true", "action", body)
    assert (updated["version"], updated["namespace"]) == ("0.0.2", "guest")


async def test_action_create_web_and_web_secure_and_no_more(wsk):
    await wsk.create("web", annotations=[{"key": "web-export", "value": True}, {"key": "raw-http", "value": False}])
    secured = await wsk.create("web", overwrite="true", annotations=[{"key": "require-whisk-auth", "value": 7031926}])
    assert (note(secured, "web-export"), note(secured, "require-whisk-auth")) == (True, 7031926)
    opened = await wsk.value("PUT", "actions/web?overwrite=true", "action", {"delAnnotations": ["require-whisk-auth"]})
    assert (note(opened, "web-export"), note(opened, "require-whisk-auth")) == (True, None)


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ({"kind": "blackbox", "image": "openwhisk/dockerskeleton", "code": SOURCE}, {"binary": False, "code": SOURCE}),
        ({"kind": "blackbox", "image": "example/mine:1"}, {"binary": False}),
        ({"kind": "nodejs:20", "code": b64encode(b"PK\3\4zip").decode()}, {"binary": True}),
        (
            {"kind": "java:default", "code": b64encode(b"PK\3\4jar").decode(), "main": "Hello"},
            {"main": "Hello", "kind": "java:8"},
        ),
        ({"kind": "sequence", "components": ["/_/hello", "/guest/hello"]}, {"components": ["/guest/hello"] * 2}),
    ],
    ids=["--native", "--docker", "zip", "--main", "--sequence"],
)
async def test_action_create_of_each_form(wsk, given, stored):
    await wsk.create("hello")
    created = await wsk.create("other", exec=given)
    assert stored.items() <= created["exec"].items()
    assert note(created, "exec") == created["exec"]["kind"]


async def test_action_create_copy_and_get_save(wsk):
    original = await wsk.create("hello", parameters=[{"key": "a", "value": 1}], limits={"memory": 128})
    saved = await wsk.value("GET", "actions/hello?code=true", "action")
    assert (saved["exec"]["binary"], saved["exec"]["code"]) == (False, SOURCE)
    copied = await wsk.create("copy", **{field: saved[field] for field in ("exec", "parameters", "annotations", "limits")})
    for field in ("exec", "parameters", "annotations", "limits"):
        assert copied[field] == original[field]


async def test_action_list_has_the_columns_also_of_one_package(wsk):
    await wsk.create("hello")
    await wsk.value("PUT", "packages/p?overwrite=false", "package", {"namespace": "_", "name": "p"})
    await wsk.create("p/inner")
    listed = await wsk.value("GET", "actions?limit=30&skip=0", "list of action")
    assert [(each["namespace"], each["name"]) for each in listed] == [("guest/p", "inner"), ("guest", "hello")]
    assert all(isinstance(note(each, "exec"), str) for each in listed), "the client panics otherwise"
    inside = await wsk.value("GET", "actions/p/?limit=30&skip=0", "list of action")
    assert [each["name"] for each in inside] == ["inner"]


async def test_action_delete_and_what_is_deleted_is_gone(wsk):
    await wsk.create("hello")
    await wsk.value("DELETE", "actions/hello", "action")
    for method, path in (("DELETE", "actions/hello"), ("GET", "actions/hello?code=false")):
        assert (await wsk(method, path, "action")).exit_code == 148


async def test_action_invoke_prints_an_id_a_record_or_a_result(wsk, make_activation):
    await wsk.create("hello")
    wsk.site.invoker.answer = lambda call: (
        make_activation() if call.blocking else Accepted202(activation_id=ActivationId("0" * 32))
    )
    assert await wsk.value("POST", "actions/hello?blocking=false&result=false", "id", {}) == {"activationId": "0" * 32}
    record = await wsk.value("POST", "actions/hello?blocking=true&result=false", "activation", {})
    assert record["response"]["status"] == "success"
    assert (await wsk.value("POST", "actions/hello?blocking=true&result=true", "anything", {}))["text"] == "é"


async def test_activation_list_has_its_columns_and_last_is_the_newest(wsk, make_activation):
    older = [make_activation(status=Status.DEVELOPER_ERROR), make_activation()]
    cold = make_activation(init_ms=5, path="guest/p/inner")
    wsk.site.activations.records = [*older, cold]
    wsk.site.activations.logs = {cold.activation_id: ["2024-01-01T00:00:00.000000000Z stdout: hi"]}
    listed = await wsk.value("GET", "activations?limit=30&skip=0", "list of activation")
    assert [(note(each, "kind"), note(each, "initTime"), each["statusCode"]) for each in listed] == [
        ("python:3", 5, 0),
        ("python:3", None, 0),
        ("python:3", None, 2),
    ]
    assert all(each["end"] - each["start"] == each["duration"] for each in listed)
    (last,) = await wsk.value("GET", "activations?limit=1&skip=0", "list of activation")
    assert last["activationId"] == cold.activation_id
    path = f"activations/{last['activationId']}"
    assert (await wsk.value("GET", path, "activation"))["response"]["status"] == "success"
    assert (await wsk.value("GET", f"{path}/logs", "logs"))["logs"] == wsk.site.activations.logs[cold.activation_id]
    assert (await wsk.value("GET", f"{path}/result", "anything"))["success"] is True


async def test_activation_poll_begins_with_the_newest_and_goes_on_from_its_start(wsk, make_activation):
    first = make_activation()
    wsk.site.activations.records = [first]
    (newest,) = await wsk.value("GET", "activations?limit=1&docs=true", "list of activation")
    later = make_activation()
    wsk.site.activations.records += [later]
    wsk.site.activations.logs = {later.activation_id: ["2024-01-01T00:00:00.000000000Z stdout: hi"]}
    since = newest["start"] + 1
    found = await wsk.value("GET", f"activations?docs=true&limit=0&skip=0&since={since}", "list of activation")
    assert [(each["activationId"], len(each["logs"])) for each in found] == [(later.activation_id, 1)]


async def test_package_create_bind_get_list_and_delete(wsk):
    body = {"namespace": "_", "name": "p", "publish": True, "parameters": [{"key": "a", "value": 1}]}
    assert (await wsk.value("PUT", "packages/p?overwrite=false", "package", body))["publish"] is True
    bind = {"name": "bound", "binding": {"namespace": "_", "name": "p"}, "parameters": [{"key": "b", "value": 2}]}
    bound = await wsk.value("PUT", "packages/bound?overwrite=false", "package", bind)
    assert bound["binding"] == {"namespace": "guest", "name": "p"}
    await wsk.create("p/inner")
    got = await wsk.value("GET", "packages/bound", "package")
    assert [each["name"] for each in got["actions"]] == ["inner"]
    assert {each["key"]: each["value"] for each in got["parameters"]} == {"a": 1, "b": 2}
    listed = await wsk.value("GET", "packages?limit=30&skip=0", "list of package")
    assert {each["name"]: each["binding"] for each in listed} == {"p": False, "bound": {"namespace": "guest", "name": "p"}}
    assert (await wsk("DELETE", "packages/p", "package")).exit_code == 153
    for path in ("packages/bound", "actions/p/inner", "packages/p"):
        await wsk.value("DELETE", path, "anything")


async def test_trigger_create_update_get_and_delete(wsk):
    assert (await wsk("GET", "triggers/t", "trigger")).exit_code == 148
    await wsk.value("PUT", "triggers/t?overwrite=false", "trigger", {"name": "t", "parameters": [{"key": "a", "value": 1}]})
    await wsk.value("GET", "triggers/t", "trigger")
    updated = await wsk.value(
        "PUT", "triggers/t?overwrite=true", "trigger", {"name": "t", "annotations": [{"key": "k", "value": 1}]}
    )
    assert (updated["version"], updated["parameters"], updated["limits"]) == ("0.0.2", [{"key": "a", "value": 1}], {})
    assert [each["name"] for each in await wsk.value("GET", "triggers?limit=30&skip=0", "list of trigger")] == ["t"]
    await wsk.value("GET", "triggers/t", "trigger")
    await wsk.value("DELETE", "triggers/t", "trigger")


async def test_trigger_create_with_a_feed_that_fails_takes_the_trigger_back(wsk):
    await wsk.value("PUT", "triggers/t?overwrite=false", "trigger", {"annotations": [{"key": "feed", "value": "/_/nobody"}]})
    told = {"lifecycleEvent": "CREATE", "triggerName": "/_/t", "authKey": "u:k"}
    assert (await wsk("POST", "actions/nobody?blocking=true&result=false", "activation", told)).exit_code == 148
    known = await wsk.value("GET", "triggers/t", "trigger")
    assert note(known, "feed") == "/_/nobody"
    assert (await wsk("POST", "actions/nobody?blocking=true&result=false", "activation", told)).exit_code == 148
    await wsk.value("DELETE", "triggers/t", "trigger")
    assert (await wsk("GET", "triggers/t", "trigger")).exit_code == 148


async def test_rule_create_disable_enable_status_list_and_delete(wsk):
    await wsk.create("a")
    await wsk.value("PUT", "triggers/t?overwrite=false", "trigger", {})
    body = {"name": "r", "status": "", "trigger": "/_/t", "action": "/_/a"}
    created = await wsk.value("PUT", "rules/r?overwrite=false", "rule", body)
    assert (created["status"], created["trigger"], created["action"]) == (
        "active",
        {"path": "guest", "name": "t"},
        {"path": "guest", "name": "a"},
    )
    for status in ("inactive", "active", "inactive"):
        await wsk.value("POST", "rules/r", "", {"status": status, "trigger": None, "action": None})
        assert (await wsk.value("GET", "rules/r", "rule"))["status"] == status
    assert (await wsk.value("PUT", "rules/r?overwrite=true", "rule", body))["status"] == "inactive"
    (listed,) = await wsk.value("GET", "rules?limit=30&skip=0", "list of rule")
    assert "status" not in listed, "which is why the client asks for each"
    assert (await wsk.value("GET", f"rules/{listed['name']}", "rule"))["status"] == "inactive"
    await wsk.value("DELETE", "rules/r", "rule")
    assert (await wsk.value("GET", "triggers/t", "trigger")).get("rules", {}) == {}


async def test_api_create_and_list_have_all_that_the_client_shows(wsk):
    await wsk.create("web", annotations=[{"key": "web-export", "value": True}])
    known = await wsk.value("GET", "actions/web?code=false", "action")
    assert note(known, "web-export") is True
    action = {
        "name": "web",
        "namespace": "guest",
        "backendMethod": "POST",
        "backendUrl": "https://node.example/api/v1/web/guest/default/web.json",
        "authkey": "u:k",
    }
    doc = {
        "namespace": "guest",
        "gatewayBasePath": "/demo",
        "gatewayPath": "/path",
        "gatewayMethod": "GET",
        "id": "API:guest:/demo",
        "action": action,
    }
    url = "/api/v1/web/whisk.system/apimgmt"
    await wsk.value("POST", f"{url}/createApi.http?responsetype=json&accesstoken=none&spaceguid=u", "anything", {"apidoc": doc})
    got = await wsk.value("GET", f"{url}/getApi.http?accesstoken=none&spaceguid=u", "anything")
    (api,) = got["apis"]
    operation = api["value"]["apidoc"]["paths"]["/path"]["get"]
    assert operation["operationId"]
    assert {"action": "web", "namespace": "guest", "package": "default"}.items() <= operation["x-openwhisk"].items()
    assert api["value"]["gwApiUrl"].endswith("/demo")
    await wsk.value("DELETE", f"{url}/deleteApi.http?basepath=/demo&accesstoken=none&spaceguid=u", "anything")
    assert (await wsk.value("GET", f"{url}/getApi.http?accesstoken=none&spaceguid=u", "anything"))["apis"] == []
