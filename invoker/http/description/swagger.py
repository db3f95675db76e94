"""The description as Swagger 2.0, which OpenWhisk's own clients and tests read. It says less: null, and *one of*, it cannot."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from invoker.http.description.operations import JSON, OPERATIONS, PARAMETERS, Operation, parameters_of, security_of
from invoker.http.description.schemas import SCHEMAS

BASE_PATH = "/api/v1"
#: Keywords that this version does not know; what they say is lost.
_UNKNOWN = frozenset({"anyOf", "const", "examples"})


def build_swagger(version: str) -> dict[str, Any]:
    """Build the document. Paths outside of the base path are not in it.

    Args:
        version: of this server.
    """
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        if operation.path.startswith(f"{BASE_PATH}/"):
            paths.setdefault(operation.path.removeprefix(BASE_PATH), {})[operation.method] = _operation(operation)
    return {
        "swagger": "2.0",
        "info": {"title": "OpenWhisk", "version": version, "description": "OpenWhisk's REST API, served by invokerd."},
        "basePath": BASE_PATH,
        "securityDefinitions": {"basicAuth": {"type": "basic"}},
        "consumes": [JSON],
        "produces": [JSON],
        "tags": [{"name": tag} for tag in dict.fromkeys(operation.tag for operation in OPERATIONS)],
        "paths": paths,
        "definitions": {name: convert(schema) for name, schema in SCHEMAS.items()},
    }


def convert(schema: Any) -> Any:
    """Say of a schema what this version can say."""
    if isinstance(schema, list):
        return [convert(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: convert(value) for key, value in schema.items() if key not in _UNKNOWN}
    if isinstance(made.get("$ref"), str):
        made["$ref"] = made["$ref"].replace("#/components/schemas/", "#/definitions/")
    kinds = made.get("type")
    if isinstance(kinds, list):  # a schema's own type; a property of that name is an object
        known = [kind for kind in kinds if kind != "null"]
        if len(known) == 1:
            made["type"] = known[0]
        else:
            del made["type"]
    if schema.get("const") is False:
        made["type"] = "boolean"
    return made


def _operation(operation: Operation) -> dict[str, Any]:
    parameters = [_parameter(name, place) for name, place in parameters_of(operation)]
    if operation.body is not None:
        parameters.append({"name": "body", "in": "body", "required": operation.body_required, "schema": convert(operation.body)})
    responses: dict[str, Any] = {}
    for status, answer in operation.answers.items():
        responses[status] = {"description": answer.description}
        if answer.schema is not None:
            responses[status]["schema"] = convert(answer.schema)
    error = {"$ref": "#/definitions/ErrorMessage"}
    responses |= {str(status): {"description": HTTPStatus(status).phrase, "schema": error} for status in operation.errors}
    return {
        "operationId": operation.name,
        "tags": [operation.tag],
        "summary": operation.summary,
        "parameters": parameters,
        "produces": sorted({answer.media for answer in operation.answers.values()} | {JSON}),
        "responses": dict(sorted(responses.items())),
        "security": security_of(operation),
    }


def _parameter(name: str, place: str) -> dict[str, Any]:
    """Write a parameter: what its schema says stands here in the parameter itself."""
    described = PARAMETERS[name]
    schema = described["schema"]
    if "$ref" in schema:
        schema = SCHEMAS[schema["$ref"].rpartition("/")[2]]
    made = {"name": name, "in": place, "description": described["description"], **convert(schema)}
    if place == "path":
        made.pop("default", None)
        made["required"] = True
    return made
