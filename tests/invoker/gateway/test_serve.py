"""Requests to the gateway's APIs: which operation, with which headers, and what is refused."""

import msgspec
import pytest

from invoker.gateway import swagger
from invoker.gateway.model import Api
from invoker.web.target import Extension

ORIGIN = "Access-Control-Allow-Origin"


@pytest.fixture
async def demo(site, make_activation):
    """An API of `guest`, `/demo`: GET and POST `/hello`, GET `/users/{id}`; its action answers `hi`."""
    document = swagger.new_document("/demo", "Demo")
    for method, path, extension in (("get", "/hello", "http"), ("post", "/hello", "http"), ("get", "/users/{id}", "http")):
        endpoint = swagger.Endpoint(method, path, "guest", "", "hello", Extension(extension))
        document = swagger.with_endpoint(document, endpoint, "https://node.example")
    await site.put_hello(annotations=[{"key": "web-export", "value": True}])
    site.invoker.answer = lambda _: make_activation(result=msgspec.Raw(b'{"body":"hi"}'))
    await put(site, document)
    return document


async def put(site, document):
    await site.apis.put(Api.of_document(site.entities.get_namespace("guest").uuid, document, updated=1))


def arguments(site):
    return msgspec.json.decode(site.invoker.calls[-1].payload)


async def test_a_request_reaches_the_action_with_query_and_body(site, demo):
    answered = await site.ask("POST", "/api/guest/demo/hello?a=1", {"b": 2}, auth=False)
    assert (answered.status, answered.text, answered.headers["Content-Type"]) == (200, "hi", "text/html; charset=UTF-8")
    told = arguments(site)
    assert (told["a"], told["b"], told["__ow_method"], told["__ow_path"]) == ("1", 2, "post", "")
    assert site.invoker.calls[-1].identity.namespace.name == "guest"


async def test_path_parameters_reach_the_action_as_its_path(site, demo):
    assert (await site.ask("GET", "/api/guest/demo/users/a%20b?x=1", auth=False)).status == 200
    assert arguments(site)["__ow_path"] == "/users/a%20b"


async def test_a_path_that_the_api_has_not_is_404(site, demo):
    answered = await site.ask("GET", "/api/guest/demo/none", auth=False)
    assert (answered.status, answered.error) == (404, "The API 'Demo' has no path '/none'.")
    assert answered.headers[ORIGIN] == "*"
    assert not site.invoker.calls


async def test_a_method_that_the_path_has_not_is_405_and_says_which_it_has(site, demo):
    answered = await site.ask("DELETE", "/api/guest/demo/hello", auth=False)
    assert (answered.status, answered.headers["Allow"]) == (405, "GET, POST")
    assert answered.headers[ORIGIN] == "*"
    assert not site.invoker.calls


async def test_a_path_outside_of_all_apis_is_404(site, demo):
    answered = await site.ask("GET", "/api/guest/other/hello", auth=False)
    assert (answered.status, answered.error) == (404, "No API is served under this path.")


@pytest.mark.parametrize("path", ["/api/nobody/demo/hello", "/api/other/demo/hello"])
async def test_a_namespace_without_apis_is_as_any_other_path(site, demo, path):
    site.add_namespace("other")
    assert (await site.ask("GET", path, auth=False)).status == 405


async def test_the_longest_base_path_counts(site, demo):
    await put(site, swagger.with_endpoint(swagger.new_document("/", "Root"), _get("/demo/x"), ""))
    await put(site, swagger.with_endpoint(swagger.new_document("/demo/v2", "New"), _get("/hello"), ""))
    assert "'Demo'" in (await site.ask("GET", "/api/guest/demo/x")).error
    assert (await site.ask("GET", "/api/guest/demo/v2/hello")).status == 200
    assert "'Root'" in (await site.ask("GET", "/api/guest/x")).error


def _get(path):
    return swagger.Endpoint("get", path, "guest", "", "hello", Extension.HTTP)


# --- CORS


async def test_a_preflight_is_answered_without_the_action(site, demo):
    asked = {"Origin": "https://page", "Access-Control-Request-Headers": "x-mine"}
    answered = await site.ask("OPTIONS", "/api/guest/demo/hello", auth=False, headers=asked)
    assert (answered.status, answered.text) == (200, "")
    assert answered.headers[ORIGIN] == "*"
    assert answered.headers["Access-Control-Allow-Methods"] == "GET, OPTIONS, POST"
    assert answered.headers["Access-Control-Allow-Headers"] == "x-mine"
    assert not site.invoker.calls


async def test_cors_headers_come_once_and_the_actions_own_go_before(site, demo, make_activation):
    answered = await site.ask("GET", "/api/guest/demo/hello")
    assert answered.headers.getall(ORIGIN) == ["*"]
    own = msgspec.Raw(b'{"body":"hi","headers":{"access-control-allow-origin":"https://page"}}')
    site.invoker.answer = lambda _: make_activation(result=own)
    answered = await site.ask("GET", "/api/guest/demo/hello")
    assert answered.headers.getall(ORIGIN) == ["https://page"]


async def test_without_cors_no_page_may_call_it(site, demo):
    demo["x-ibm-configuration"]["cors"]["enabled"] = False
    await put(site, demo)
    assert ORIGIN not in (await site.ask("GET", "/api/guest/demo/hello")).headers
    assert (await site.ask("OPTIONS", "/api/guest/demo/hello")).status == 405


async def test_an_operation_options_is_the_actions(site, demo):
    endpoint = swagger.Endpoint("options", "/hello", "guest", "", "hello", Extension.HTTP)
    await put(site, swagger.with_endpoint(demo, endpoint, ""))
    assert (await site.ask("OPTIONS", "/api/guest/demo/hello", auth=False)).text == "hi"
    assert arguments(site)["__ow_method"] == "options"


# --- what the action asks for


async def test_an_action_that_is_gone_or_not_exported_is_404(site, demo):
    await site.put_hello(annotations=[{"key": "web-export", "value": False}])
    answered = await site.ask("GET", "/api/guest/demo/hello")
    assert answered.status == 404
    assert answered.headers[ORIGIN] == "*"


async def test_the_api_knows_the_secret_of_its_action(site, demo):
    await site.put_hello(annotations=[{"key": "web-export", "value": True}, {"key": "require-whisk-auth", "value": "s3cret"}])
    assert (await site.ask("GET", "/api/guest/demo/hello", auth=False)).status == 401
    endpoint = swagger.Endpoint("get", "/hello", "guest", "", "hello", Extension.HTTP, (), "s3cret")
    await put(site, swagger.with_endpoint(demo, endpoint, ""))
    assert (await site.ask("GET", "/api/guest/demo/hello", auth=False)).status == 200
    assert (await site.ask("POST", "/api/guest/demo/hello", auth=False)).status == 401
