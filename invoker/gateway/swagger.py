"""The documents of the API gateway: OpenAPI 2.0 with the extensions that OpenWhisk's clients read and write. Pure.

`x-openwhisk` of an operation names its action; `x-ibm-configuration` says how a gateway calls it. Both are kept up together.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from invoker.errors import DocumentError
from invoker.web.target import DEFAULT_PACKAGE, Extension, parse_web_target, split_extension

METHODS = ("get", "put", "post", "delete", "patch", "head", "options")
#: At the end of a target's URL: the gateway appends the path of the request there.
PASS_PATH = "$(request.path)"  # noqa: S105 - "pass" is no word to come in by
_SECRET = "message.headers.X-Require-Whisk-Auth"  # noqa: S105 - the name of a header
_PARAMETER = re.compile(r"\{([^{}/]+)\}")

Document = dict[str, Any]


class Endpoint(NamedTuple):
    """An operation to be added.

    Attributes:
        method: in lower case.
        path: within the API.
        namespace, package, action: of the web action; the package is empty for the default one.
        extension: of its URL.
        parameters: what the client says of the path's parameters.
        secret: for `X-Require-Whisk-Auth`.
    """

    method: str
    path: str
    namespace: str
    package: str
    action: str
    extension: Extension
    parameters: tuple[Mapping[str, Any], ...] = ()
    secret: str | None = None


class Target(NamedTuple):
    """Which web action an operation calls, by its document."""

    namespace: str
    package: str
    action: str
    extension: Extension
    passes_path: bool


def new_document(base_path: str, name: str | None) -> Document:
    """Make an API without operations."""
    return {
        "swagger": "2.0",
        "info": {"title": name or base_path, "version": "1.0.0"},
        "basePath": base_path,
        "paths": {},
        "x-ibm-configuration": {"cors": {"enabled": True}, "assembly": {"execute": [{"operation-switch": {"case": []}}]}},
    }


def with_endpoint(document: Mapping[str, Any], endpoint: Endpoint, api_url: str) -> Document:
    """Add an operation, or replace it.

    Args:
        document: stays as it is.
        endpoint: the operation.
        api_url: public URL of this server.
    """
    changed = copy.deepcopy(dict(document))
    path = changed["paths"].setdefault(endpoint.path, {})
    old = path.pop(endpoint.method, None)
    if old is not None:
        _drop_case(changed, old.get("operationId"))
    operation_id = _free_operation_id(changed, endpoint)
    package = endpoint.package or DEFAULT_PACKAGE
    url = f"{api_url}/api/v1/web/{endpoint.namespace}/{package}/{endpoint.action}.{endpoint.extension.value}"
    names = _PARAMETER.findall(endpoint.path)
    if names:
        url += PASS_PATH
        path["parameters"] = list(endpoint.parameters) or [_path_parameter(name) for name in names]
    path[endpoint.method] = {
        "operationId": operation_id,
        "responses": {"default": {"description": "Default response"}},
        "x-openwhisk": {
            "action": endpoint.action,
            "namespace": endpoint.namespace,
            "package": package,
            "url": url.removesuffix(PASS_PATH),
        },
    }
    steps: list[dict[str, Any]] = [{"invoke": {"target-url": url, "verb": "keep"}}]
    if endpoint.secret is not None:
        steps.append({"set-variable": {"actions": [{"set": _SECRET, "value": endpoint.secret}]}})
    _cases(changed).append({"operations": [operation_id], "execute": steps})
    return changed


def without_endpoint(document: Mapping[str, Any], path: str, method: str | None) -> Document:
    """Take an operation out, or with None a path with all of its operations.

    Raises:
        DocumentError: it is not there; says so.
    """
    changed = copy.deepcopy(dict(document))
    item = changed["paths"].get(path)
    if item is None or (method is not None and method not in item):
        operation = f" with operation {method}" if method is not None else ""
        raise DocumentError(f"path {path}{operation} does not exist in the API")
    for name in [method] if method is not None else [each for each in METHODS if each in item]:
        _drop_case(changed, item.pop(name).get("operationId"))
    if not any(name in item for name in METHODS):
        del changed["paths"][path]
    return changed


def check_import(document: Mapping[str, Any], namespace: str) -> Document:
    """Take over a document that a client wrote whole.

    An operation is completed where it leaves out what the clients ask for: an id, responses, whose the action is.

    Raises:
        DocumentError: it says something that this gateway cannot do, or would have to leave undone; says what, where.
    """
    taken = copy.deepcopy(dict(document))
    _refuse_what_would_be_left_undone(taken)
    taken.setdefault("swagger", "2.0")
    if not isinstance(taken["info"], dict):
        raise DocumentError("info is no object")
    taken["info"].setdefault("title", taken["basePath"])
    taken["info"].setdefault("version", "1.0.0")
    taken.setdefault("x-ibm-configuration", {"cors": {"enabled": True}})
    for path, method, operation in _operations(taken):
        target = backend_of(taken, path, method, operation, default_namespace=namespace)
        operation.setdefault("operationId", _operation_id(method, path))
        operation.setdefault("responses", {"default": {"description": "Default response"}})
        operation["x-openwhisk"] = {"package": target.package or DEFAULT_PACKAGE} | operation.get("x-openwhisk", {})
        operation["x-openwhisk"] |= {"namespace": target.namespace, "action": target.action}
    return taken


def backend_of(
    document: Mapping[str, Any], path: str, method: str, operation: Mapping[str, Any], *, default_namespace: str = ""
) -> Target:
    """Find the web action behind an operation, by its `x-openwhisk`, else by the target of its assembly.

    Raises:
        DocumentError: neither names one.
    """
    named = operation.get("x-openwhisk")
    named = named if isinstance(named, dict) else {}
    case = _case_of(document, operation.get("operationId"))
    url = _target_url(case) or (named.get("url") if isinstance(named.get("url"), str) else "") or ""
    passes_path = url.endswith(PASS_PATH)
    target = parse_web_target("/" + url.removesuffix(PASS_PATH).partition("://")[2].partition("/")[2])
    action = named.get("action")
    if isinstance(action, str) and action:
        package, namespace = named.get("package") or "", named.get("namespace") or default_namespace
        if not (isinstance(package, str) and isinstance(namespace, str)):
            raise DocumentError(f"{method} {path}: namespace and package of x-openwhisk must be strings")
        namespace = default_namespace if namespace == "_" and default_namespace else namespace
        extension = target.extension if target is not None else split_extension(url)[1]
        return Target(namespace, "" if package == DEFAULT_PACKAGE else package, action, extension, passes_path)
    if target is None:
        raise DocumentError(f"{method} {path} names no action: give its x-openwhisk with namespace, package and action")
    namespace = default_namespace if target.namespace == "_" and default_namespace else target.namespace
    return Target(namespace, target.package, target.action, target.extension, passes_path)


def secret_of(document: Mapping[str, Any], operation: Mapping[str, Any]) -> str | None:
    """Find what the gateway sends as `X-Require-Whisk-Auth` with an operation."""
    case = _case_of(document, operation.get("operationId"))
    for step in _list(case.get("execute")):
        for action in _list(_dict(_dict(step).get("set-variable")).get("actions")):
            if _dict(action).get("set") == _SECRET:
                return str(_dict(action).get("value"))
    return None


def cors_enabled(document: Mapping[str, Any]) -> bool:
    """Tell whether any page may call the API."""
    return _dict(_dict(document.get("x-ibm-configuration")).get("cors")).get("enabled") is True


# --- parts ------------------------------------------------------------------------------------------------------------


def _refuse_what_would_be_left_undone(document: Mapping[str, Any]) -> None:
    if document.get("swagger", "2.0") != "2.0":
        raise DocumentError(f"swagger is {document['swagger']!r}: this gateway takes documents of version '2.0'")
    if not isinstance(document["paths"], dict):
        raise DocumentError("paths is no object")
    _check_configuration(document.get("x-ibm-configuration", {}))
    ids = [operation["operationId"] for _, _, operation in _operations(document) if "operationId" in operation]
    if not all(isinstance(each, str) for each in ids) or len(set(ids)) < len(ids):
        raise DocumentError("each operationId must be a string, and another one")
    if document.get("security") or any(operation.get("security") for _, _, operation in _operations(document)):
        raise DocumentError(
            "security is not enforced by this gateway: give the action the annotation require-whisk-auth, or check in the action"
        )


def _check_configuration(configuration: object) -> None:
    """Refuse a configuration for the gateway that is not of the form that `_cases` goes on with."""
    assembly = _dict(configuration).get("assembly", {})
    steps = _dict(assembly).get("execute", [])
    objects = [configuration, assembly, *_list(steps)]
    switches = [_dict(step)["operation-switch"] for step in _list(steps) if "operation-switch" in _dict(step)]
    objects += switches
    lists = [steps, *(_dict(switch).get("case", []) for switch in switches)]
    if not (all(isinstance(each, dict) for each in objects) and all(isinstance(each, list) for each in lists)):
        raise DocumentError("x-ibm-configuration: assembly.execute must be a list of steps, each an object")


def _operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        if not path.startswith("/"):
            raise DocumentError(f"the path '{path}' does not begin with a slash")
        if not isinstance(item, dict):
            raise DocumentError(f"the path '{path}' is no object")
        for method in METHODS:
            if method in item:
                if not isinstance(item[method], dict):
                    raise DocumentError(f"{method} {path} is no object")
                yield path, method, item[method]


def _operation_id(method: str, path: str) -> str:
    """Name an operation as `wsk` does: `get` and `/users/by_name` make `getUsersBy_name`."""
    words = [re.sub(r"[^0-9A-Za-z_]", "", word) for word in path.split("/")]
    return method + "".join(word[:1].upper() + word[1:] for word in words)


def _free_operation_id(document: Mapping[str, Any], endpoint: Endpoint) -> str:
    taken = {operation.get("operationId") for _, _, operation in _operations(document)}
    wanted = _operation_id(endpoint.method, endpoint.path)
    number = 2
    found = wanted
    while found in taken:
        found, number = f"{wanted}_{number}", number + 1
    return found


def _path_parameter(name: str) -> dict[str, Any]:
    description = f"Default description for '{name}'"
    return {"name": name, "in": "path", "description": description, "required": True, "type": "string"}


def _cases(document: Document) -> list[Any]:
    """Find the list of cases, or make it."""
    assembly = document.setdefault("x-ibm-configuration", {}).setdefault("assembly", {})
    steps: list[Any] = assembly.setdefault("execute", [])
    for step in steps:
        if "operation-switch" in step:
            cases: list[Any] = step["operation-switch"].setdefault("case", [])
            return cases
    cases = []
    steps.append({"operation-switch": {"case": cases}})
    return cases


def _case_of(document: Mapping[str, Any], operation_id: object) -> Mapping[str, Any]:
    """Find the case of an operation; tolerant, because clients write these documents too."""
    assembly = _dict(_dict(document.get("x-ibm-configuration")).get("assembly"))
    for step in _list(assembly.get("execute")):
        for case in _list(_dict(_dict(step).get("operation-switch")).get("case")):
            if operation_id is not None and operation_id in _list(_dict(case).get("operations")):
                return _dict(case)
    return {}


def _drop_case(document: Document, operation_id: object) -> None:
    cases = _cases(document)
    cases[:] = [case for case in cases if operation_id not in _list(_dict(case).get("operations"))]


def _target_url(case: Mapping[str, Any]) -> str | None:
    for step in _list(case.get("execute")):
        url = _dict(_dict(step).get("invoke")).get("target-url")
        if isinstance(url, str):
            return url
    return None


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
