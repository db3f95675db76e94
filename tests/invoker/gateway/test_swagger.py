import copy

import pytest

from invoker.errors import DocumentError
from invoker.gateway import swagger
from invoker.web.target import Extension

URL = "https://node.example"


def endpoint(method="get", path="/hello", **fields):
    values = {"namespace": "guest", "package": "", "action": "hello", "extension": Extension.JSON}
    return swagger.Endpoint(method=method, path=path, **(values | fields))


def built(*endpoints):
    document = swagger.new_document("/demo", "Demo")
    for each in endpoints:
        document = swagger.with_endpoint(document, each, URL)
    return document


def cases(document):
    return document["x-ibm-configuration"]["assembly"]["execute"][0]["operation-switch"]["case"]


def test_an_operation_has_what_the_clients_read():
    document = built(endpoint(package="tools"))
    assert document == {
        "swagger": "2.0",
        "info": {"title": "Demo", "version": "1.0.0"},
        "basePath": "/demo",
        "paths": {
            "/hello": {
                "get": {
                    "operationId": "getHello",
                    "responses": {"default": {"description": "Default response"}},
                    "x-openwhisk": {
                        "action": "hello",
                        "namespace": "guest",
                        "package": "tools",
                        "url": f"{URL}/api/v1/web/guest/tools/hello.json",
                    },
                }
            }
        },
        "x-ibm-configuration": {
            "cors": {"enabled": True},
            "assembly": {
                "execute": [
                    {
                        "operation-switch": {
                            "case": [
                                {
                                    "operations": ["getHello"],
                                    "execute": [
                                        {"invoke": {"target-url": f"{URL}/api/v1/web/guest/tools/hello.json", "verb": "keep"}}
                                    ],
                                }
                            ]
                        }
                    }
                ]
            },
        },
    }


@pytest.mark.parametrize(
    ("path", "wanted"),
    [("/path_with/sub_paths_in/it", "getPath_withSub_paths_inIt"), ("/a-b/{id}", "getAbId"), ("/", "get"), ("/x/", "getX")],
)
def test_an_operation_is_named_after_its_method_and_path(path, wanted):
    assert built(endpoint(path=path))["paths"][path]["get"]["operationId"] == wanted


def test_two_operations_never_have_one_name():
    document = built(endpoint(path="/a-b"), endpoint(path="/ab"), endpoint(path="/a.b"))
    ids = [item["get"]["operationId"] for item in document["paths"].values()]
    assert ids == ["getAb", "getAb_2", "getAb_3"]


def test_an_operation_given_again_is_replaced_and_the_first_document_stays_as_it_was():
    first = built(endpoint(), endpoint("post"))
    before = copy.deepcopy(first)
    second = swagger.with_endpoint(first, endpoint(action="other"), URL)
    assert first == before
    assert second["paths"]["/hello"]["get"]["x-openwhisk"]["action"] == "other"
    assert sorted(case["operations"][0] for case in cases(second)) == ["getHello", "postHello"]


def test_a_path_with_parameters_declares_them_and_passes_the_path_on():
    document = built(endpoint(path="/users/{id}/{part}", extension=Extension.HTTP))
    item = document["paths"]["/users/{id}/{part}"]
    assert [each["name"] for each in item["parameters"]] == ["id", "part"]
    assert all(each["in"] == "path" and each["required"] for each in item["parameters"])
    (case,) = cases(document)
    assert case["execute"][0]["invoke"]["target-url"] == f"{URL}/api/v1/web/guest/default/hello.http$(request.path)"
    given = {"name": "id", "in": "path", "required": True, "type": "integer"}
    assert built(endpoint(path="/{id}", parameters=(given,)))["paths"]["/{id}"]["parameters"] == [given]


def test_a_secret_is_injected_and_found_again():
    document = built(endpoint(secret="s3cret"), endpoint("post"))
    operations = document["paths"]["/hello"]
    assert swagger.secret_of(document, operations["get"]) == "s3cret"
    assert swagger.secret_of(document, operations["post"]) is None


def test_operations_are_taken_out_one_by_one_or_with_their_path():
    document = built(endpoint(path="/{id}"), endpoint("post", "/{id}"), endpoint(path="/other"))
    without = swagger.without_endpoint(document, "/{id}", "post")
    assert "post" not in without["paths"]["/{id}"]
    assert len(cases(without)) == 2
    assert "/{id}" not in swagger.without_endpoint(without, "/{id}", "get")["paths"]
    both = swagger.without_endpoint(document, "/{id}", None)
    assert list(both["paths"]) == ["/other"]
    assert len(cases(both)) == 1
    for path, method in (("/none", None), ("/other", "post")):
        with pytest.raises(DocumentError, match=f"path {path}.* does not exist in the API"):
            swagger.without_endpoint(document, path, method)


# --- documents of clients


def imported(**operation):
    return {"basePath": "/demo", "info": {"title": "Demo", "version": "2"}, "paths": {"/a": {"get": operation}}}


def test_an_imported_operation_is_completed():
    taken = swagger.check_import(imported(**{"x-openwhisk": {"action": "hello", "namespace": "_"}}), "guest")
    operation = taken["paths"]["/a"]["get"]
    assert operation["operationId"] == "getA"
    assert operation["x-openwhisk"] == {"action": "hello", "namespace": "guest", "package": "default"}
    assert swagger.cors_enabled(taken)
    assert taken["info"]["version"] == "2"


def test_an_exported_document_is_imported_as_it_was():
    document = built(endpoint(path="/{id}", extension=Extension.HTTP, secret="s"), endpoint("post", package="tools"))
    assert swagger.check_import(document, "guest") == document


@pytest.mark.parametrize(
    ("operation", "backend"),
    [
        (
            {"x-openwhisk": {"action": "a", "namespace": "n", "package": "p", "url": "https://x/api/v1/web/n/p/a.html"}},
            ("n", "p", "a", "html"),
        ),
        ({"x-openwhisk": {"action": "a"}}, ("guest", "", "a", "http")),
        ({"x-openwhisk": {"url": "http://x:1/api/v1/web/_/default/a.svg"}}, ("guest", "", "a", "svg")),
    ],
)
def test_the_action_is_told_by_the_extension_or_by_its_url(operation, backend):
    document = imported(**operation)
    found = swagger.backend_of(document, "/a", "get", document["paths"]["/a"]["get"], default_namespace="guest")
    assert (found.namespace, found.package, found.action, found.extension.value) == backend


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"swagger": "3.0"}, "version '2.0'"),
        ({"paths": []}, "paths is no object"),
        ({"paths": {"a": {}}}, "does not begin with a slash"),
        ({"paths": {"/a": []}}, "is no object"),
        ({"paths": {"/a": {"get": []}}}, "get /a is no object"),
        ({"paths": {"/a": {"get": {}}}}, "get /a names no action"),
        ({"paths": {"/a": {"get": {"x-openwhisk": {"action": "a", "package": 1}}}}}, "must be strings"),
        ({"paths": {"/a": {"get": {"operationId": ["x"]}}}}, "operationId"),
        ({"paths": {"/a": {"get": {"operationId": "x"}, "put": {"operationId": "x"}}}}, "operationId"),
        ({"info": "x"}, "info is no object"),
        ({"security": [{"key": []}]}, "security is not enforced"),
        ({"paths": {"/a": {"get": {"security": [{}]}}}}, "security is not enforced"),
        ({"x-ibm-configuration": []}, "x-ibm-configuration"),
        ({"x-ibm-configuration": {"assembly": {"execute": ["x"]}}}, "x-ibm-configuration"),
        ({"x-ibm-configuration": {"assembly": {"execute": [{"operation-switch": {"case": {}}}]}}}, "x-ibm-configuration"),
    ],
)
def test_a_document_that_cannot_be_served_is_refused_with_the_place(change, words):
    with pytest.raises(DocumentError, match=words):
        swagger.check_import(imported(**{"x-openwhisk": {"action": "hello"}}) | change, "guest")
