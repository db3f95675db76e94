"""What clients ask of `whisk.system/apimgmt`: refusals, and what is left as it was then. What works is in tests/acceptance."""

import msgspec
import pytest

from invoker.gateway import management

URL = "/api/v1/web/whisk.system/apimgmt"
ACTION = {
    "name": "hello",
    "namespace": "_",
    "backendMethod": "POST",
    "backendUrl": "https://node.example/api/v1/web/_/default/hello.http",
    "authkey": "u:k",
}
DOC = {"namespace": "_", "gatewayBasePath": "/demo", "gatewayPath": "/hello", "gatewayMethod": "GET", "action": ACTION}
SWAGGER = {"basePath": "/demo", "info": {}, "paths": {"/a": {"get": {"x-openwhisk": {"action": "hello"}}}}}


async def create(site, doc=None, query="", **changes):
    body = {"apidoc": {**(doc or DOC), **changes}}
    return await site.ask("POST", f"{URL}/createApi.http{query}", body)


def refusal(answered):
    assert answered.status == 502
    assert list(answered.json) == ["error"]
    return answered.json["error"]


def stored(site):
    return site.apis.list(site.entities.get_namespace("guest").uuid)


@pytest.mark.parametrize("operation", ["createApi", "getApi", "deleteApi"])
@pytest.mark.parametrize("extension", ["", ".http", ".json"])
async def test_without_good_credentials_nothing_is_managed(site, operation, extension):
    for auth, words in ((False, "A valid auth key is required."), ("Basic bm86Ym9keQ==", "authentication is invalid")):
        answered = await site.ask("POST", f"{URL}/{operation}{extension}", {"apidoc": DOC}, auth=auth)
        assert words in refusal(answered)
    assert not stored(site)


@pytest.mark.parametrize("field", ["namespace", "gatewayBasePath", "gatewayPath", "gatewayMethod", "action"])
async def test_each_field_of_the_path_form_is_needed(site, field):
    answered = await create(site, {key: value for key, value in DOC.items() if key != field})
    assert f"missing the {field} field" in refusal(answered)
    assert not stored(site)


@pytest.mark.parametrize("field", ["name", "namespace", "backendMethod", "backendUrl", "authkey"])
async def test_each_field_of_the_action_is_needed(site, field):
    answered = await create(site, action={key: value for key, value in ACTION.items() if key != field})
    assert f"action is missing the {field} field" in refusal(answered)


@pytest.mark.parametrize(
    ("changes", "query", "words"),
    [
        ({"gatewayMethod": "FETCH"}, "", "'fetch' is no operation"),
        ({"gatewayPath": "hello"}, "", "does not begin with a slash"),
        ({"gatewayPath": "/{a}{b}"}, "", "may hold one parameter"),
        ({"gatewayPath": "/{a}"}, "?responsetype=json", "needs the response type 'http'"),
        ({"gatewayBasePath": "demo"}, "", "does not begin with a slash"),
        ({}, "?responsetype=pdf", "'pdf' is no response type"),
        ({"action": {**ACTION, "name": "a/b/c/d"}}, "", "no name of an action"),
        ({"pathParameters": "x"}, "", "pathParameters"),
        ({"gatewayPath": 7}, "", "gatewayPath is no string"),
    ],
)
async def test_what_cannot_be_an_operation_is_refused(site, changes, query, words):
    assert words in refusal(await create(site, query=query, **changes))
    assert not stored(site)


@pytest.mark.parametrize(
    ("swagger", "words"),
    [
        ("{", "swagger field cannot be parsed"),
        ([1], "swagger field is of type"),
        ({**SWAGGER, "basePath": None}, "swagger is missing the basePath field."),
        ({**SWAGGER, "paths": {}}, "swagger is missing the paths field."),
        ({key: value for key, value in SWAGGER.items() if key != "info"}, "swagger is missing the info field."),
        ({**SWAGGER, "info": {"a": 1}, "paths": {"/a": {"get": {}}}}, "API creation failure: get /a names no action"),
    ],
)
async def test_a_document_that_cannot_be_taken_over_is_refused(site, swagger, words):
    answered = await site.ask("POST", f"{URL}/createApi.http", {"apidoc": {"namespace": "_", "swagger": swagger}})
    assert words in refusal(answered)
    assert not stored(site)


async def test_both_forms_at_once_are_refused(site):
    assert "mutually exclusive" in refusal(await create(site, swagger={"a": 1}))


@pytest.mark.parametrize("body", ["{", "[]", "", '{"apidoc": 1}', '{"apidoc": "{"}', "[" * 99_999])
async def test_a_body_that_is_none_is_refused(site, body):
    refusal(await site.ask("POST", f"{URL}/createApi.http", body))


async def test_a_document_as_text_is_taken(site):
    answered = await site.ask("POST", f"{URL}/createApi", {"apidoc": msgspec.json.encode(DOC).decode()})
    assert answered.status == 200


async def test_a_namespace_whose_apis_could_not_be_told_from_the_rest_api_has_none(site):
    answered = await site.ask("POST", f"{URL}/createApi", {"apidoc": DOC}, auth=site.add_namespace("v1"))
    assert "/api/v1 is the REST API" in refusal(answered)


async def test_a_namespace_may_not_fill_the_store(site, monkeypatch):
    monkeypatch.setattr(management, "MOST_APIS", 3)
    for number in range(3):
        assert (await create(site, gatewayBasePath=f"/{number}")).status == 200
    assert "may have 3 APIs" in refusal(await create(site, gatewayBasePath="/more"))
    assert (await create(site, gatewayBasePath="/0", gatewayPath="/more")).status == 200


async def test_what_is_too_large_is_413(site):
    answered = await create(site, padding="x" * 2**20)
    assert answered.status == 413
    assert not stored(site)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("", "basepath is required."),
        ("?basepath=/none", "API deletion failure: API '/none' does not exist."),
        ("?basepath=/demo&operation=get", "the path is required"),
        ("?basepath=/demo&relpath=/none", "API deletion failure: path /none does not exist"),
        ("?basepath=/demo&relpath=/hello&operation=post", "API deletion failure: path /hello with operation post"),
    ],
)
async def test_what_is_not_there_is_not_deleted(site, query, words):
    assert (await create(site)).status == 200
    before = stored(site)
    assert words in refusal(await site.ask("DELETE", f"{URL}/deleteApi.http{query}"))
    assert stored(site) == before


async def test_another_namespace_sees_and_deletes_nothing(site):
    await create(site)
    other = site.add_namespace("other")
    assert (await site.ask("GET", f"{URL}/getApi.http", auth=other)).json == {"apis": []}
    refusal(await site.ask("DELETE", f"{URL}/deleteApi.http?basepath=/demo", auth=other))
    assert len(stored(site)) == 1


async def test_the_secret_of_the_client_is_not_kept(site):
    await create(site)
    assert "u:k" not in msgspec.json.encode(stored(site)[0].document).decode()


async def test_limit_and_skip_are_numbers(site):
    await create(site)
    assert len((await site.ask("GET", f"{URL}/getApi.http?limit=0&skip=0")).json["apis"]) == 1
    assert (await site.ask("GET", f"{URL}/getApi.http?limit=30&skip=1")).json["apis"] == []
    assert "limit is no number" in refusal(await site.ask("GET", f"{URL}/getApi.http?limit=-1"))


async def test_what_the_javascript_client_leaves_undefined_is_not_given(site):
    await site.put_hello(annotations=[{"key": "web-export", "value": True}])
    assert (await create(site)).status == 200
    answered = await site.ask(
        "GET", f"{URL}/getApi?basepath=undefined&relpath=undefined&operation=undefined&limit=undefined&skip=undefined"
    )
    assert (answered.status, len(answered.json["apis"])) == (200, 1)


async def test_the_url_of_an_api_can_be_asked_as_it_stands_whatever_the_namespaces_name(site):
    other = site.add_namespace("a b@c & d")
    code = {"exec": {"kind": "python:3", "code": "x"}, "annotations": [{"key": "web-export", "value": True}]}
    assert (await site.ask("PUT", "actions/hello", code, auth=other)).status == 200
    made = await site.ask("POST", f"{URL}/createApi.http", {"apidoc": DOC}, auth=other)
    path = made.json["gwApiUrl"].partition("://")[2].partition("/")[2]
    assert path == "api/a%20b@c%20&%20d/demo"
    assert (await site.ask("GET", f"/{path}/hello", auth=False)).status == 202
    assert site.invoker.calls[-1].action.full_path == "a b@c & d/hello"
