"""All operations of the API, each once. A test holds that the router and this list name the same ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from invoker.http.description.schemas import NAME_PATTERN, Schema, ref
from invoker.http.limits import BLOCKING_WAIT_MS, KEY_LENGTH, LIST_DEFAULT, LIST_MAXIMUM, NAME_LENGTH

JSON = "application/json"
_TEXT = "text/plain"
NS = "/api/v1/namespaces/{namespace}"
WEB = "/api/v1/web/{namespace}/{packageName}/{actionName}"
APIMGMT = "/api/v1/web/whisk.system/apimgmt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer.

    Attributes:
        description: when it comes.
        schema: of the body; None for none.
        media: its type.
        has_activation: it bears the header `x-openwhisk-activation-id`.
    """

    description: str
    schema: Schema | None = None
    media: str = JSON
    has_activation: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path.

    Attributes:
        method: in lower case.
        path: with parameters in braces; what they are, says `PARAMETERS`.
        name: unique; clients generated from the description call it by this.
        tag: of what it is about.
        summary: one line.
        query, headers: names in `PARAMETERS`.
        body: schema of the body; None takes none.
        body_required: an empty body is refused.
        answers: by status, or `default`.
        errors: statuses whose body is `ErrorMessage`.
        authenticated: it needs credentials.
    """

    method: str
    path: str
    name: str
    tag: str
    summary: str
    query: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    body: Schema | None = None
    body_required: bool = False
    answers: Mapping[str, Answer]
    errors: tuple[int, ...] = ()
    authenticated: bool = True


def _name(description: str) -> Schema:
    return {"description": description, "schema": {"type": "string", "pattern": NAME_PATTERN, "maxLength": NAME_LENGTH}}


def _boolean(description: str, *, default: bool = False) -> Schema:
    return {"description": description, "schema": {"type": "boolean", "default": default}}


def _epoch(description: str) -> Schema:
    return {"description": f"{description}, milliseconds since the epoch.", "schema": {"type": "integer", "minimum": 0}}


#: Parameters of paths and queries, by name.
PARAMETERS: dict[str, Schema] = {
    "namespace": {
        "description": "The namespace; `_` is the one that the credentials open.",
        "schema": {"type": "string", "minLength": 1, "maxLength": NAME_LENGTH, "default": "_"},
        "example": "_",
    },
    "packageName": _name("Name of the package; in the URL of a web action `default` is none."),
    "actionName": _name("Name of the action; in the URL of a web action with an extension: .json .html .text .svg .http."),
    "triggerName": _name("Name of the trigger."),
    "ruleName": _name("Name of the rule."),
    "activationId": {"description": "Id of the activation.", "schema": ref("ActivationId")},
    "limit": {
        "description": "Entries at most; 0 is the maximum.",
        "schema": {"type": "integer", "minimum": 0, "maximum": LIST_MAXIMUM, "default": LIST_DEFAULT},
    },
    "skip": {"description": "Entries left out at the beginning.", "schema": {"type": "integer", "minimum": 0, "default": 0}},
    "count": _boolean("Tell the number of entries instead."),
    "overwrite": _boolean("Replace what is there."),
    "force": _boolean("Delete what is in the package, too."),
    "code": _boolean("Show the code.", default=True),
    "blocking": _boolean("Answer when the activation has ended, or the time is up."),
    "result": _boolean("Answer with the result alone; only when blocking."),
    "timeout": {
        "description": "How long a blocking invocation waits, milliseconds.",
        "schema": {"type": "integer", "minimum": 1, "maximum": BLOCKING_WAIT_MS, "default": BLOCKING_WAIT_MS},
    },
    "Idempotency-Key": {
        "description": "The same key and body again get the first activation, and run nothing. This server's own.",
        "schema": {"type": "string", "pattern": f"^[!-~]{{1,{KEY_LENGTH}}}$"},
    },
    "name": {
        "description": "Only activations of this `action` or `package/action`.",
        "schema": {"type": "string", "pattern": "^[^/]*(/[^/]+)?$"},
    },
    "since": _epoch("Only what started then or later"),
    "upto": _epoch("Only what started then or earlier"),
    "docs": _boolean("Whole records."),
    "basepath": {"description": "Base path or name of an API.", "schema": {"type": "string"}},
    "relpath": {"description": "A path within the API.", "schema": {"type": "string"}},
    "operation": {"description": "A method of that path.", "schema": {"type": "string"}},
    "responsetype": {
        "description": "Extension of the web action's URL.",
        "schema": {"type": "string", "enum": ["json", "http", "html", "svg", "text"], "default": "json"},
    },
}

#: Any request may be no HTTP, as by a length that is no number.
_NO_HTTP = (400,)
_DOOR = (400, 401, 403, 404, 406)
_BODY = (408, 413, 415)
_PAGE = ("limit", "skip", "count")


def _ok(schema: Schema, description: str = "Done.") -> dict[str, Answer]:
    return {"200": Answer(description=description, schema=schema)}


def _list_of(collection: str, entry: str, path: str = "") -> Operation:
    plural = collection.capitalize()
    return Operation(
        method="get",
        path=f"{NS}/{collection}{path}",
        name=f"list{plural}" + ("OfPackage" if path else ""),
        tag=plural,
        summary=f"List {collection}" + (" of a package." if path else ", last written first."),
        query=_PAGE,
        answers=_ok({"anyOf": [{"type": "array", "items": ref(entry)}, ref("Count")]}, "The list, or the count."),
        errors=_DOOR if not path else (*_DOOR, 409),
    )


def _crud(collection: str, path: str, entity: str, suffix: str = "") -> tuple[Operation, ...]:
    """Make the operations that each collection has: get, put, delete."""
    plural, full = collection.capitalize(), f"{NS}/{collection}/{path}"
    get = Operation(
        method="get",
        path=full,
        name=f"get{entity}{suffix}",
        tag=plural,
        summary=f"Get a {entity.lower()}.",
        query=("code",) if entity == "Action" else (),
        answers=_ok(ref(entity), "The whole document."),
        errors=(*_DOOR, 409),
    )
    put = Operation(
        method="put",
        path=full,
        name=f"update{entity}{suffix}",
        tag=plural,
        summary=f"Create a {entity.lower()}, or with `overwrite` write it anew.",
        query=("overwrite",),
        body=ref(f"{entity}Put"),
        body_required=True,
        answers=_ok(ref(entity), "The document as it is now."),
        errors=(*_DOOR, 409, *_BODY, *((422,) if entity == "Package" else ())),
    )
    delete = Operation(
        method="delete",
        path=full,
        name=f"delete{entity}{suffix}",
        tag=plural,
        summary=f"Delete a {entity.lower()}.",
        query=("force",) if entity == "Package" else (),
        answers=_ok(ref(entity), "The document as it was."),
        errors=(*_DOOR, 409),
    )
    return get, put, delete


def _invoke(path: str, suffix: str = "") -> Operation:
    ended: Schema = {"description": "The activation's record; with `result`, and for arrays, the result alone."}
    return Operation(
        method="post",
        path=f"{NS}/actions/{path}",
        name=f"invokeAction{suffix}",
        tag="Actions",
        summary="Invoke an action.",
        query=("blocking", "result", "timeout"),
        headers=("Idempotency-Key",),
        body=ref("Payload"),
        answers={
            "200": Answer(description="It succeeded.", schema=ended, has_activation=True),
            "202": Answer(description="It was accepted, or has not ended in time.", schema=ref("Accepted"), has_activation=True),
            "500": Answer(description="The platform failed; the record says how.", schema=ended, has_activation=True),
            "502": Answer(description="The action failed; the record says how.", schema=ended, has_activation=True),
        },
        errors=(*_DOOR, 409, *_BODY, 429, 503),
    )


def _public(path: str, name: str, summary: str, answer: Answer, **more: Answer) -> Operation:
    return Operation(
        method="get",
        path=path,
        name=name,
        tag="Node",
        summary=summary,
        answers={"200": answer} | {status.removeprefix("status_"): each for status, each in more.items()},
        errors=_NO_HTTP,
        authenticated=False,
    )


def _web(method: str) -> Operation:
    return Operation(
        method=method,
        path=WEB,
        name=f"{method}WebAction",
        tag="Web actions",
        summary="Run a web action, as the owner of its namespace.",
        body={} if method in {"post", "put", "patch", "delete"} else None,
        answers={
            "default": Answer(description="What the action says; failures of the request are an ErrorMessage.", media="*/*")
        },
        authenticated=False,
    )


def _gateway(method: str, name: str, summary: str, *, query: tuple[str, ...], answer: str, body: str | None = None) -> Operation:
    return Operation(
        method=method,
        path=f"{APIMGMT}/{name}.http",
        name=name,
        tag="Routes",
        summary=summary,
        query=query,
        body=None if body is None else ref(body),
        body_required=body is not None,
        answers={
            "200": Answer(description="Done.", schema=ref(answer)),
            "502": Answer(description="It was refused.", schema=ref("ApiError")),
        },
        errors=(400, 408, 413),
    )


OPERATIONS: tuple[Operation, ...] = (
    _public("/", "getRoot", "Limits, and the kinds of action there are.", Answer(description="Both.", schema=ref("Root"))),
    _public("/ping", "ping", "The process answers.", Answer(description="`pong`.", schema={"type": "string"}, media=_TEXT)),
    *(
        _public(
            f"/{name}",
            name,
            summary,
            Answer(description="All is well.", schema=ref("Health")),
            status_503=Answer(description="It is not; the checks say why.", schema=ref("Health")),
        )
        for name, summary in (("health", "Whether an operator is needed."), ("ready", "Whether calls are accepted."))
    ),
    _public(
        "/invokers",
        "getInvokers",
        "The invokers, as OpenWhisk's operators know them: there is one.",
        Answer(
            description="By name, how it is.", schema={"type": "object", "additionalProperties": {"enum": ["up", "unhealthy"]}}
        ),
    ),
    _public(
        "/invokers/healthy/count",
        "countHealthyInvokers",
        "How many of them accept calls.",
        Answer(description="1 or 0.", schema={"type": "integer"}),
    ),
    _public(
        "/invokers/ready",
        "getInvokersReady",
        "Whether enough of them accept calls.",
        Answer(description="Yes.", schema={"type": "object", "properties": {"healthy": {"type": "string"}}}),
        status_500=Answer(description="No.", schema={"type": "object", "properties": {"unhealthy": {"type": "string"}}}),
    ),
    _public(
        "/activation",
        "listInFlight",
        "Ids of the activations that have not ended, of all namespaces.",
        Answer(description="They.", schema={"type": "array", "items": {"type": "string"}}),
    ),
    _public(
        "/activation/count",
        "countInFlight",
        "How many activations have not ended.",
        Answer(description="So many.", schema={"type": "integer"}),
    ),
    _public(
        "/blackbox.tar.gz",
        "getDockerKit",
        "The kit for action images of one's own.",
        Answer(description="A gzipped tar archive.", schema={}, media="application/gzip"),
    ),
    _public("/api/v1", "getApiInfo", "Version of this server.", Answer(description="It.", schema=ref("ApiInfo"))),
    _public(
        "/api/v1/api-docs",
        "getSwagger",
        "This description, as Swagger 2.0.",
        Answer(description="It.", schema={"type": "object"}),
    ),
    _public(
        "/api/v1/openapi.json",
        "getOpenApi",
        "This description, as OpenAPI 3.1.",
        Answer(description="It.", schema={"type": "object"}),
    ),
    Operation(
        method="get",
        path="/api/v1/docs",
        name="getDocs",
        tag="Node",
        summary="To the page of this description.",
        answers={"308": Answer(description="There.")},
        authenticated=False,
    ),
    _public(
        "/api/v1/docs/index.html",
        "getDocsPage",
        "This description, as a page.",
        Answer(description="It.", schema={"type": "string"}, media="text/html; charset=UTF-8"),
    ),
    Operation(
        method="get",
        path="/api/v1/namespaces",
        name="listNamespaces",
        tag="Namespaces",
        summary="The namespace that the credentials open.",
        answers=_ok({"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 1}),
        errors=(400, 401, 406),
    ),
    Operation(
        method="get",
        path=f"{NS}/limits",
        name="getLimits",
        tag="Namespaces",
        summary="What its actions may ask for, and how often it may call.",
        answers=_ok(ref("UserLimits")),
        errors=_DOOR,
    ),
    _list_of("actions", "ActionMeta"),
    _list_of("actions", "ActionMeta", "/{packageName}/"),
    *_crud("actions", "{actionName}", "Action"),
    _invoke("{actionName}"),
    *_crud("actions", "{packageName}/{actionName}", "Action", "InPackage"),
    _invoke("{packageName}/{actionName}", "InPackage"),
    _list_of("packages", "PackageMeta"),
    *_crud("packages", "{packageName}", "Package"),
    _list_of("triggers", "TriggerMeta"),
    *_crud("triggers", "{triggerName}", "Trigger"),
    Operation(
        method="post",
        path=f"{NS}/triggers/{{triggerName}}",
        name="fireTrigger",
        tag="Triggers",
        summary="Fire a trigger.",
        body=ref("Payload"),
        answers={
            "202": Answer(description="Its rules run.", schema=ref("Accepted"), has_activation=True),
            "204": Answer(description="No rule is active: nothing was done."),
        },
        errors=(*_DOOR, 409, *_BODY, 429, 503),
    ),
    _list_of("rules", "RuleMeta"),
    *_crud("rules", "{ruleName}", "Rule"),
    Operation(
        method="post",
        path=f"{NS}/rules/{{ruleName}}",
        name="setRuleStatus",
        tag="Rules",
        summary="Enable or disable a rule.",
        body=ref("RuleStatusPut"),
        body_required=True,
        answers={"200": Answer(description="`OK`.", schema={"type": "string"}, media=_TEXT)},
        errors=(*_DOOR, 409, *_BODY),
    ),
    Operation(
        method="get",
        path=f"{NS}/activations",
        name="listActivations",
        tag="Activations",
        summary="List activations, latest start first.",
        query=(*_PAGE, "name", "since", "upto", "docs"),
        answers=_ok(
            {
                "anyOf": [
                    {"type": "array", "items": {"anyOf": [ref("ActivationMeta"), ref("Activation")]}},
                    ref("Count"),
                ]
            },
            "The list, or the count.",
        ),
        errors=_DOOR,
    ),
    *(
        Operation(
            method="get",
            path=f"{NS}/activations/{{activationId}}{part}",
            name=name,
            tag="Activations",
            summary=summary,
            answers=_ok(ref(schema)),
            errors=_DOOR,
        )
        for part, name, summary, schema in (
            ("", "getActivation", "Get the record of an activation.", "Activation"),
            ("/logs", "getActivationLogs", "Get what it wrote.", "ActivationLogs"),
            ("/result", "getActivationResult", "Get how it ended, with its result.", "ActivationResponse"),
        )
    ),
    Operation(
        method="post",
        path="/invokerd/v1/activations/{activationId}/cancel",
        name="cancelActivation",
        tag="Activations",
        summary="End an activation now. This server's own: OpenWhisk has none.",
        answers=_ok(ref("Cancelled")),
        errors=(400, 401, 404),
    ),
    Operation(
        method="post",
        path="/disable",
        name="disable",
        tag="Node",
        summary="Refuse all calls until the daemon is started anew. With credentials of its own, not those of a namespace.",
        answers={"200": Answer(description="It does.", schema={"type": "string"}, media=_TEXT)},
        errors=(*_NO_HTTP, 401),
    ),
    *(_web(method) for method in ("get", "put", "post", "delete", "options", "head", "patch")),
    _gateway("get", "getApi", "List APIs.", query=("basepath", "relpath", "operation", "limit", "skip"), answer="Apis"),
    _gateway(
        "post", "createApi", "Add an operation to an API, or import one.", query=("responsetype",), answer="Api", body="ApiPut"
    ),
    _gateway(
        "delete", "deleteApi", "Delete an API, or a part of it.", query=("basepath", "relpath", "operation"), answer="Nothing"
    ),
)


def path_parameters(path: str) -> list[str]:
    """Name the parameters of a path, in its order."""
    return [part.partition("}")[0] for part in path.split("{")[1:]]


def parameters_of(operation: Operation) -> list[tuple[str, str]]:
    """Name the parameters of an operation, and where each one is: `path`, `query` or `header`."""
    return [
        *((name, "path") for name in path_parameters(operation.path)),
        *((name, "query") for name in operation.query),
        *((name, "header") for name in operation.headers),
    ]


def security_of(operation: Operation) -> list[Any]:
    """Tell what an operation needs, as both formats write it. Web actions take credentials, and need none."""
    return [{"basicAuth": []}] if operation.authenticated else []
