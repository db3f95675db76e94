from openapi_spec_validator import OpenAPIV31SpecValidator

from invoker.http.description.openapi import build_openapi
from invoker.http.description.operations import OPERATIONS

DOCUMENT = build_openapi("https://node.example", "1")


def test_the_document_is_valid_openapi_3_1():
    OpenAPIV31SpecValidator(DOCUMENT).validate()


def test_every_failure_has_the_body_of_failures():
    for status, response in DOCUMENT["components"]["responses"].items():
        assert response["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/ErrorMessage"}, status


def test_every_operation_is_there():
    assert sum(len(item) for item in DOCUMENT["paths"].values()) == len(OPERATIONS)
    assert DOCUMENT["servers"] == [{"url": "https://node.example"}]
