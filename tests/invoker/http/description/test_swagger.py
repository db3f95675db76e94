import pytest
from openapi_spec_validator import OpenAPIV2SpecValidator

from invoker.http.description.swagger import build_swagger, convert

DOCUMENT = build_swagger("1")


def test_the_document_is_valid_swagger_2():
    OpenAPIV2SpecValidator(DOCUMENT).validate()


def test_the_definitions_that_upstreams_test_looks_for_are_there():
    assert {"ActionMeta", "ActionExecMeta", "RuleMeta", "TriggerMeta"} <= DOCUMENT["definitions"].keys()


def test_paths_are_below_the_base_path():
    assert DOCUMENT["basePath"] == "/api/v1"
    assert "/namespaces/{namespace}/actions/{actionName}" in DOCUMENT["paths"]
    assert not any(path.startswith("/api/v1") for path in DOCUMENT["paths"])


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": ["string", "null"]}, {"type": "string"}),
        ({"type": ["object", "string"]}, {}),
        ({"const": False}, {"type": "boolean"}),
        ({"anyOf": [{"type": "string"}]}, {}),
        ({"$ref": "#/components/schemas/Action"}, {"$ref": "#/definitions/Action"}),
        ({"properties": {"type": {"type": "string"}}}, {"properties": {"type": {"type": "string"}}}),
        ({"items": {"type": ["integer", "null"]}}, {"items": {"type": "integer"}}),
    ],
)
def test_a_schema_says_what_this_version_can_say(schema, said):
    assert convert(schema) == said
