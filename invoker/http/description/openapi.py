"""The description as OpenAPI 3.1."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from invoker.http.description.operations import JSON, OPERATIONS, PARAMETERS, Operation, parameters_of, security_of
from invoker.http.description.schemas import SCHEMAS, ref

_ACTIVATION_HEADER = {"x-openwhisk-activation-id": {"$ref": "#/components/headers/ActivationId"}}


def build_openapi(public_url: str, version: str) -> dict[str, Any]:
    """Build the document.

    Args:
        public_url: of this server.
        version: of this server.
    """
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "invokerd",
            "version": version,
            "description": "OpenWhisk's REST API. APIs of the gateway have documents of their own: see `getApi`.",
            "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": public_url}],
        "tags": [{"name": tag} for tag in dict.fromkeys(operation.tag for operation in OPERATIONS)],
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "headers": {"ActivationId": {"description": "Id of the activation.", "schema": ref("ActivationId")}},
            "responses": {
                str(status): {
                    "description": HTTPStatus(status).phrase,
                    "content": {JSON: {"schema": ref("ErrorMessage")}},
                }
                for status in sorted({status for operation in OPERATIONS for status in operation.errors})
            },
            "securitySchemes": {
                "basicAuth": {"type": "http", "scheme": "basic", "description": "The key of a namespace, `uuid:key`."}
            },
        },
    }


def _operation(operation: Operation) -> dict[str, Any]:
    made: dict[str, Any] = {
        "operationId": operation.name,
        "tags": [operation.tag],
        "summary": operation.summary,
        "parameters": [
            {"name": name, "in": place, **({"required": True} if place == "path" else {}), **PARAMETERS[name]}
            for name, place in parameters_of(operation)
        ],
        "security": security_of(operation),
    }
    if operation.body is not None:
        media = JSON if operation.body else "*/*"
        made["requestBody"] = {"required": operation.body_required, "content": {media: {"schema": operation.body}}}
    responses: dict[str, Any] = {}
    for status, answer in operation.answers.items():
        responses[status] = {"description": answer.description}
        if answer.schema is not None:
            responses[status]["content"] = {answer.media: {"schema": answer.schema}}
        if answer.has_activation:
            responses[status]["headers"] = _ACTIVATION_HEADER
    responses |= {str(status): {"$ref": f"#/components/responses/{status}"} for status in operation.errors}
    made["responses"] = dict(sorted(responses.items()))
    return made
