"""JSON Schemas (2020-12) of all bodies, by the names that OpenWhisk's own description has for them, where it has one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from invoker.http.limits import NAME_LENGTH

Schema = dict[str, Any]

NAME_PATTERN = "^[A-Za-z0-9_]([A-Za-z0-9_@ .&-]*[A-Za-z0-9_@.&-])?$"


def _object(
    properties: dict[str, Schema], required: Sequence[str] | None = None, description: str = "", *, closed: bool = False
) -> Schema:
    """An object; without `required` all of its properties are."""
    schema: Schema = {"type": "object"}
    if description:
        schema["description"] = description
    schema["properties"] = properties
    if needed := list(properties if required is None else required):
        schema["required"] = needed
    if closed:
        schema["additionalProperties"] = False
    return schema


def _array(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def ref(name: str) -> Schema:
    """Refer to a schema of this module."""
    return {"$ref": f"#/components/schemas/{name}"}


def _text(description: str = "", **more: Any) -> Schema:
    return {"type": "string", **({"description": description} if description else {}), **more}


def _integer(description: str = "", **more: Any) -> Schema:
    return {"type": "integer", **({"description": description} if description else {}), **more}


def _nullable(schema: Schema) -> Schema:
    """What a client may send as null, which is the same as leaving it out."""
    if "$ref" in schema:
        return {"anyOf": [schema, {"type": "null"}]}
    return {**schema, "type": [schema["type"], "null"]}


_BOOLEAN: Schema = {"type": "boolean"}
_ANY: Schema = {"description": "Any JSON value."}
_MOMENT = _integer("Milliseconds since the epoch.", minimum=0)
_NAMESPACE = _text("Namespace; of what is in a package, `namespace/package`.")
_NAME = _text(pattern=NAME_PATTERN, maxLength=NAME_LENGTH)
_KEY_VALUES = _array(ref("KeyValue"))

#: What all entities show, in lists too.
_HEAD: dict[str, Schema] = {
    "namespace": _NAMESPACE,
    "name": _text(),
    "version": _text("`major.minor.patch`.", pattern=r"^\d+\.\d+\.\d+$"),
    "publish": _BOOLEAN,
    "annotations": _KEY_VALUES,
    "updated": _MOMENT,
}
#: What all entities take, each optional.
_PUT: dict[str, Schema] = {
    "version": _nullable(_text("Up to three numbers. Without it the patch is the next one.")),
    "publish": _nullable(_BOOLEAN),
    "annotations": _nullable(_array(ref("KeyValuePut"))),
}
_CHECK = {"name": _text(), "ok": _BOOLEAN, "detail": _text(), "warning": _BOOLEAN}
_ACTION_LIMITS = {
    "timeout": _integer("Milliseconds."),
    "memory": _integer("MB of 2**20 bytes."),
    "logs": _integer("MB of 2**20 bytes."),
    "concurrency": _integer("Activations in one container."),
    "instances": _integer("Containers at most; absent when not set."),
}
_USER_LIMITS = (
    "invocationsPerMinute",
    "concurrentInvocations",
    "firesPerMinute",
    "minActionMemory",
    "maxActionMemory",
    "minActionLogs",
    "maxActionLogs",
    "minActionTimeout",
    "maxActionTimeout",
    "minActionConcurrency",
    "maxActionConcurrency",
    "maxActionInstances",
)
_ACTIVATION_HEAD: dict[str, Schema] = {
    "namespace": _text("Whose activation it is: the caller's, of a web action the owner's."),
    "name": _text(),
    "version": _text(),
    "publish": _BOOLEAN,
    "annotations": _KEY_VALUES,
    "activationId": ref("ActivationId"),
    "start": _MOMENT,
    "end": _MOMENT,
    "duration": _integer("Milliseconds of init and run.", minimum=0),
    "cause": ref("ActivationId"),
}
#: The record of a trigger has neither; `cause` belongs to what ran in a sequence or a composition.
_OFTEN_ABSENT = ("end", "duration", "cause")
_ACTIVATION_REQUIRED = [name for name in _ACTIVATION_HEAD if name not in _OFTEN_ABSENT]

_EXEC_PUT = _object(
    {
        "kind": _text(
            "`family:version`, `family:default`, `blackbox` or `sequence`.", examples=["python:default", "nodejs:default"]
        ),
        "code": _nullable(_text("Source text, or a zip in base64.")),
        "main": _nullable(_text("Entry point.")),
        "image": _nullable(_text("Of a black box.")),
        "components": _nullable(_array(_text("`/namespace/[package/]action`."))),
    },
    ["kind"],
)

SCHEMAS: dict[str, Schema] = {
    # --- of all
    "ErrorMessage": _object(
        {"error": _text("What was wrong, for people."), "code": _text("Id of the request, as in `X-Request-ID`.")},
        description="The body of every failure of a request. `X-Invokerd-Reason` has the stable name of what went wrong.",
        closed=True,
    ),
    "KeyValue": _object(
        {"key": _text(), "value": _ANY, "init": _BOOLEAN, "encryption": _text("Cipher at rest.")}, ["key", "value"], closed=True
    ),
    "KeyValuePut": _object(
        {
            "key": _text(),
            "value": _ANY,
            "init": _nullable({**_BOOLEAN, "description": "Goes to the environment at /init."}),
            "encryption": _nullable(_text()),
        },
        ["key", "value"],
    ),
    "Count": {
        "type": "object",
        "additionalProperties": {"type": "integer", "minimum": 0},
        "minProperties": 1,
        "maxProperties": 1,
    },
    # --- actions
    "ActionExec": _object(
        {
            "kind": _text(),
            "code": _text(),
            "binary": {**_BOOLEAN, "description": "The code is base64."},
            "main": _text(),
            "image": _text("Of a black box."),
            "components": _array(_text("`/namespace/[package/]action`.")),
        },
        ["kind"],
        closed=True,
    ),
    "ActionExecMeta": _object({"binary": _BOOLEAN}, closed=True),
    "ActionExecPut": _EXEC_PUT,
    "ActionLimits": _object(_ACTION_LIMITS, [name for name in _ACTION_LIMITS if name != "instances"], closed=True),
    "ActionLimitsPut": _object({name: _nullable(schema) for name, schema in _ACTION_LIMITS.items()}, []),
    "Action": _object(
        {
            **_HEAD,
            "exec": ref("ActionExec"),
            "parameters": _KEY_VALUES,
            "limits": ref("ActionLimits"),
            "binding": _text("Through which binding it was found."),
        },
        [*_HEAD, "exec", "parameters", "limits"],
    ),
    "ActionMeta": _object(
        {**_HEAD, "limits": ref("ActionLimits"), "exec": ref("ActionExecMeta")}, description="An action of a list."
    ),
    "ActionPut": _object(
        {
            **_PUT,
            "exec": _nullable(ref("ActionExecPut")),
            "parameters": _nullable(_array(ref("KeyValuePut"))),
            "limits": _nullable(ref("ActionLimitsPut")),
            "delAnnotations": _nullable(_array(_text())),
        },
        [],
    ),
    "Payload": {"type": "object", "description": "The arguments."},
    # --- packages
    "PackageBinding": _object({"namespace": _text(), "name": _text()}, closed=True),
    "PackageAction": _object({"name": _text(), "version": _text(), "annotations": _KEY_VALUES}),
    "Package": _object(
        {
            **_HEAD,
            "binding": {"anyOf": [ref("PackageBinding"), {"type": "object", "maxProperties": 0}]},
            "parameters": _KEY_VALUES,
            "actions": _array(ref("PackageAction")),
            "feeds": _array(ref("PackageAction")),
        },
        [*_HEAD, "binding", "parameters"],
    ),
    "PackageMeta": _object(
        {**_HEAD, "binding": {"anyOf": [ref("PackageBinding"), {"const": False}]}}, description="A package of a list."
    ),
    "PackagePut": _object(
        {
            **_PUT,
            "parameters": _nullable(_array(ref("KeyValuePut"))),
            "binding": _nullable(_object({"namespace": _text(), "name": _text()}, [], "The package that this is a name for.")),
        },
        [],
    ),
    # --- triggers and rules
    "Trigger": _object(
        {
            **_HEAD,
            "parameters": _KEY_VALUES,
            "limits": {"type": "object"},
            "rules": {"type": "object", "description": "By `namespace/rule`.", "additionalProperties": ref("TriggerRule")},
        },
        [*_HEAD, "parameters", "limits"],
    ),
    "TriggerRule": _object({"action": ref("PathName"), "status": ref("RuleStatus")}),
    "TriggerMeta": _object(_HEAD, description="A trigger of a list."),
    "TriggerPut": _object(
        {**_PUT, "parameters": _nullable(_array(ref("KeyValuePut"))), "limits": _nullable({"type": "object"})}, []
    ),
    "PathName": _object({"path": _text("`namespace[/package]`."), "name": _text()}),
    "RuleStatus": {"type": "string", "enum": ["active", "inactive"]},
    "Rule": _object({**_HEAD, "trigger": ref("PathName"), "action": ref("PathName"), "status": ref("RuleStatus")}),
    "RuleMeta": _object({**_HEAD, "trigger": ref("PathName"), "action": ref("PathName")}, description="A rule of a list."),
    "RulePut": _object(
        {
            **_PUT,
            "trigger": {"anyOf": [_text(), ref("PathName"), {"type": "null"}]},
            "action": {"anyOf": [_text(), ref("PathName"), {"type": "null"}]},
        },
        [],
    ),
    "RuleStatusPut": _object({"status": ref("RuleStatus")}),
    # --- activations
    "ActivationId": _text(pattern="^[0-9a-f]{32}$"),
    "Accepted": _object({"activationId": ref("ActivationId")}, closed=True),
    "ActivationResponse": _object(
        {
            "status": {
                "type": "string",
                "enum": ["success", "application error", "action developer error", "whisk internal error"],
            },
            "success": _BOOLEAN,
            "result": _ANY,
            "size": _integer("Length of the result as it came, bytes."),
        },
        ["status", "success"],
    ),
    "Activation": _object(
        {**_ACTIVATION_HEAD, "subject": _text(), "response": ref("ActivationResponse"), "logs": _array(_text())},
        [*_ACTIVATION_REQUIRED, "subject", "response", "logs"],
    ),
    "ActivationMeta": _object(
        {**_ACTIVATION_HEAD, "statusCode": _integer("0 success, 1 application error, 2 developer error, 3 internal error.")},
        _ACTIVATION_REQUIRED,
        "An activation of a list.",
    ),
    "ActivationLogs": _object({"logs": _array(_text("`time stream: line`."))}, closed=True),
    "Cancelled": _object({"activation_id": ref("ActivationId"), "was": {"type": "string", "enum": ["queued", "running"]}}),
    # --- the namespace and the node
    "UserLimits": _object(
        {
            **{name: _integer(minimum=0) for name in _USER_LIMITS},
            "maxParameterSize": _text("With its unit."),
            "cpuSecondsPerWindow": _integer("Absent without such a limit.", minimum=0),
            "cpuWindowSeconds": _integer("Length of that window.", minimum=0),
        },
        [*_USER_LIMITS, "maxParameterSize"],
    ),
    "Root": _object(
        {
            "description": _text(),
            "support": _object({"github": _text(), "slack": _text()}),
            "api_paths": _array(_text()),
            "limits": {"type": "object", "additionalProperties": {"type": "integer"}},
            "runtimes": {"type": "object", "additionalProperties": _array(ref("Runtime"))},
        }
    ),
    "Runtime": _object(
        {
            "kind": _text(),
            "image": _text(),
            "deprecated": _BOOLEAN,
            "default": _BOOLEAN,
            "attached": _BOOLEAN,
            "requireMain": _BOOLEAN,
        },
        closed=True,
    ),
    "ApiInfo": _object(
        {
            "description": _text(),
            "api_version": _text(),
            "api_version_path": _text(),
            "build": _text(),
            "buildno": _text(),
            "swagger_paths": _object({"ui": _text(), "api-docs": _text()}),
        }
    ),
    "Health": _object({"ok": _BOOLEAN, "checks": _array(_object(_CHECK, ["name", "ok"]))}),
    # --- the API gateway
    "ApiError": _object({"error": _text()}, closed=True, description="A failure of the API gateway has no code, as upstream's."),
    "ApiPut": _object(
        {
            "apidoc": _object(
                {
                    "namespace": _text(),
                    "apiName": _nullable(_text()),
                    "gatewayBasePath": _text(),
                    "gatewayPath": _text(),
                    "gatewayMethod": _text(),
                    "action": {"type": "object"},
                    "swagger": {"description": "A whole document, or its JSON text.", "type": ["object", "string"]},
                },
                ["namespace"],
            )
        }
    ),
    "Api": _object(
        {
            "namespace": _text(),
            "gwApiActivated": _BOOLEAN,
            "tenantId": _text(),
            "gwApiUrl": _text("Public URL of the API, base path included."),
            "apidoc": {"type": "object", "description": "Swagger 2.0."},
        }
    ),
    "Apis": _object({"apis": _array(_object({"id": _text(), "key": _text(), "value": ref("Api")}))}),
    "Nothing": {"type": "object", "maxProperties": 0},
}
