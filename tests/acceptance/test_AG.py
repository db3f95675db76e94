"""Rows AG: the API gateway as `wsk api` and the JavaScript client use it, and the APIs as they are then served."""

import msgspec
import pytest

APIMGMT = "/api/v1/web/whisk.system/apimgmt"
CODE = {"kind": "python:3", "code": "def main(args): return args"}


@pytest.fixture
async def gateway(site, make_activation):
    """A site with the web action `hello`, that answers `{"body": "hi"}`."""
    annotations = [{"key": "web-export", "value": True}]
    assert (await site.ask("PUT", "actions/hello", {"exec": CODE, "annotations": annotations})).status == 200
    site.invoker.answer = lambda _: make_activation(result=msgspec.Raw(b'{"body":"hi"}'))
    return site


def path_form(site, path="/hello", method="GET", base="/demo", **action):
    """The body that `wsk api create` sends."""
    return {
        "apidoc": {
            "namespace": "_",
            "gatewayBasePath": base,
            "gatewayPath": path,
            "gatewayMethod": method,
            "id": f"API:_:{base}",
            "apiName": "Demo",
            "action": {
                "name": "hello",
                "namespace": "_",
                "backendMethod": "POST",
                "backendUrl": f"{site.url}/api/v1/web/_/default/hello.http",
                "authkey": "u:k",
                **action,
            },
        }
    }


async def create(site, *arguments, query="?responsetype=http", **options):
    answered = await site.ask("POST", f"{APIMGMT}/createApi.http{query}", path_form(site, *arguments, **options))
    assert answered.status == 200, answered.text
    return answered.json


async def listed(site, query=""):
    answered = await site.ask("GET", f"{APIMGMT}/getApi.http{query}")
    assert (answered.status, answered.headers["Content-Type"]) == (200, "application/json")
    return answered.json["apis"]


def operations(api):
    paths = api["value"]["apidoc"]["paths"]
    return {(path, method) for path, item in paths.items() for method in item if method != "parameters"}


async def test_AG_01_an_api_is_created_served_listed_and_deleted(gateway):
    created = await create(gateway)
    assert created["gwApiUrl"] == "https://node.example/api/guest/demo"
    assert created["gwApiActivated"] is True
    assert created["namespace"] == "guest"
    answered = await gateway.ask("GET", "/api/guest/demo/hello?a=1", auth=False)
    assert (answered.status, answered.text) == (200, "hi")
    assert msgspec.json.decode(gateway.invoker.calls[-1].payload)["a"] == "1"
    (api,) = await listed(gateway)
    assert api["value"] == created
    answered = await gateway.ask("DELETE", f"{APIMGMT}/deleteApi.http?basepath=/demo")
    assert (answered.status, answered.json) == (200, {})
    assert await listed(gateway) == []
    assert (await gateway.ask("GET", "/api/guest/demo/hello", auth=False)).status == 405


async def test_AG_01_the_javascript_client_calls_without_an_extension_and_deletes_with_force(gateway):
    body = path_form(gateway)
    body["apidoc"]["action"]["backendMethod"] = "GET"
    assert (await gateway.ask("POST", f"{APIMGMT}/createApi", body)).status == 200
    assert len((await gateway.ask("GET", f"{APIMGMT}/getApi")).json["apis"]) == 1
    assert (await gateway.ask("DELETE", f"{APIMGMT}/deleteApi?basepath=/demo&force=true")).json == {}


async def test_AG_01_operations_are_added_and_removed_one_by_one(gateway):
    await create(gateway)
    await create(gateway, method="POST")
    await create(gateway, path="/other")
    (api,) = await listed(gateway)
    assert operations(api) == {("/hello", "get"), ("/hello", "post"), ("/other", "get")}
    await gateway.ask("DELETE", f"{APIMGMT}/deleteApi.http?basepath=/demo&relpath=/hello&operation=POST")
    assert (await gateway.ask("POST", "/api/guest/demo/hello", auth=False)).status == 405
    await gateway.ask("DELETE", f"{APIMGMT}/deleteApi.http?basepath=/demo&relpath=/hello")
    assert operations((await listed(gateway))[0]) == {("/other", "get")}
    await gateway.ask("DELETE", f"{APIMGMT}/deleteApi.http?basepath=/demo&relpath=/other")
    assert await listed(gateway) == []


async def test_AG_01_apis_are_found_by_base_path_or_by_name(gateway):
    await create(gateway)
    await create(gateway, base="/second")
    assert [api["value"]["apidoc"]["basePath"] for api in await listed(gateway)] == ["/demo", "/second"]
    assert len(await listed(gateway, "?basepath=/demo")) == 1
    assert len(await listed(gateway, "?basepath=Demo")) == 2
    assert await listed(gateway, "?basepath=/none") == []
    assert len(await listed(gateway, "?limit=1&skip=1")) == 1
    (api,) = await listed(gateway, "?basepath=/demo&relpath=/hello&operation=GET")
    assert operations(api) == {("/hello", "get")}


async def test_AG_01_a_swagger_document_is_imported_and_what_is_exported_can_be_imported_again(gateway):
    document = {
        "swagger": "2.0",
        "basePath": "/book",
        "info": {"title": "Books", "version": "3"},
        "paths": {"/all": {"get": {"x-openwhisk": {"namespace": "_", "package": "default", "action": "hello"}}}},
    }
    for form in (document, msgspec.json.encode(document).decode()):
        body = {"apidoc": {"namespace": "_", "swagger": form}}
        assert (await gateway.ask("POST", f"{APIMGMT}/createApi.http", body)).status == 200
        assert (await gateway.ask("GET", "/api/guest/book/all", auth=False)).text == "hi"
    exported = (await listed(gateway, "?basepath=Books"))[0]["value"]["apidoc"]
    await gateway.ask("DELETE", f"{APIMGMT}/deleteApi.http?basepath=/book")
    await gateway.ask("POST", f"{APIMGMT}/createApi.http", {"apidoc": {"namespace": "_", "swagger": exported}})
    assert (await listed(gateway))[0]["value"]["apidoc"] == exported


async def test_AG_01_path_parameters_reach_the_action_as_its_path(gateway):
    await create(gateway, "/users/{id}/files/{name}")
    answered = await gateway.ask("GET", "/api/guest/demo/users/7/files/a.txt", auth=False)
    assert answered.status == 200
    assert msgspec.json.decode(gateway.invoker.calls[-1].payload)["__ow_path"] == "/users/7/files/a.txt"
    assert (await gateway.ask("GET", "/api/guest/demo/users/7/files", auth=False)).status == 404


@pytest.mark.parametrize(("kind", "media"), [("json", "application/json"), ("text", "text/plain; charset=UTF-8")])
async def test_AG_01_the_response_type_is_that_of_the_web_action(gateway, kind, media):
    await create(gateway, query=f"?responsetype={kind}")
    assert (await gateway.ask("GET", "/api/guest/demo/hello", auth=False)).headers["Content-Type"] == media


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gatewayMethod": "BAD"}, "API creation failure: 'bad' is no operation"),
        ({"gatewayPath": "hello"}, "API creation failure: the path 'hello'"),
        ({"gatewayBasePath": ""}, "missing the gatewayBasePath field"),
        ({"swagger": "{}x", "gatewayBasePath": None}, "swagger field cannot be parsed"),
        ({"swagger": {"paths": {"/a": {}}}, "gatewayBasePath": None}, "swagger is missing the basePath field"),
        ({"swagger": {"basePath": "/a"}}, "mutually exclusive"),
    ],
)
async def test_AG_01_a_bad_verb_path_or_configuration_is_502_with_a_sentence_and_no_code(gateway, changes, words):
    body = path_form(gateway)
    body["apidoc"] |= changes
    answered = await gateway.ask("POST", f"{APIMGMT}/createApi.http", body)
    assert answered.status == 502
    assert list(answered.json) == ["error"]
    assert words in answered.json["error"]
    assert await listed(gateway) == []


async def test_AG_01_what_does_not_exist_is_not_deleted(gateway):
    answered = await gateway.ask("DELETE", f"{APIMGMT}/deleteApi.http?basepath=/none")
    assert (answered.status, answered.json) == (502, {"error": "API deletion failure: API '/none' does not exist."})


@pytest.mark.parametrize("operation", [("POST", "createApi"), ("GET", "getApi"), ("DELETE", "deleteApi")])
async def test_AG_01_a_key_is_required(gateway, operation):
    method, name = operation
    answered = await gateway.ask(method, f"{APIMGMT}/{name}.http?basepath=/demo", path_form(gateway), auth=False)
    assert answered.status == 502
    assert "A valid auth key is required" in answered.json["error"]
    answered = await gateway.ask(method, f"{APIMGMT}/{name}.http", path_form(gateway), auth="Basic bm86Ym9keQ==")
    assert "The supplied authentication is invalid" in answered.json["error"]
    assert await listed(gateway) == []


async def test_AG_01_a_secured_action_is_reached_through_its_api_only(gateway):
    annotations = [{"key": "web-export", "value": True}, {"key": "require-whisk-auth", "value": 4711}]
    await gateway.ask("PUT", "actions/hello?overwrite=true", {"annotations": annotations})
    await create(gateway, secureKey=4711)
    assert (await gateway.ask("GET", "/api/v1/web/guest/default/hello.http", auth=False)).status == 401
    assert (await gateway.ask("GET", "/api/guest/demo/hello", auth=False)).status == 200


async def test_AG_02_an_api_has_every_field_that_wsk_requires(gateway):
    await create(gateway)
    await create(gateway, path="/users/{id}")
    (api,) = await listed(gateway)
    assert set(api) == {"id", "key", "value"}
    assert set(api["value"]) == {"namespace", "gwApiActivated", "tenantId", "gwApiUrl", "apidoc"}
    document = api["value"]["apidoc"]
    assert (document["swagger"], document["basePath"]) == ("2.0", "/demo")
    assert document["info"] == {"title": "Demo", "version": "1.0.0"}
    for path, method in operations(api):
        operation = document["paths"][path][method]
        assert operation["operationId"]
        assert operation["responses"]
        assert set(operation["x-openwhisk"]) == {"action", "namespace", "package", "url"}
        assert all(operation["x-openwhisk"].values())
    configuration = document["x-ibm-configuration"]
    assert configuration["cors"]["enabled"] is True
    cases = configuration["assembly"]["execute"][0]["operation-switch"]["case"]
    assert {case["operations"][0] for case in cases} == {"getHello", "getUsersId"}
    assert all(case["execute"][0]["invoke"]["verb"] == "keep" for case in cases)


async def test_AG_02_any_page_may_call_an_api(gateway):
    await create(gateway)
    preflight = await gateway.ask("OPTIONS", "/api/guest/demo/hello", auth=False)
    assert (preflight.status, preflight.headers["Access-Control-Allow-Methods"]) == (200, "GET, OPTIONS")
    assert (await gateway.ask("GET", "/api/guest/demo/hello", auth=False)).headers["Access-Control-Allow-Origin"] == "*"
    for path in ("/api/guest/demo/none", "/api/guest/demo/hello/none"):
        answered = await gateway.ask("GET", path, auth=False)
        assert (answered.status, answered.headers["Access-Control-Allow-Origin"]) == (404, "*")
