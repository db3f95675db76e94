"""How clients manage APIs: what OpenWhisk has as the web actions `whisk.system/apimgmt/createApi`, `getApi` and `deleteApi`.

`wsk api` and the `routes` of the JavaScript client call them. Failures are 502 with a sentence and no code, as those actions'
are; credentials are asked for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from invoker.errors import DocumentError
from invoker.gateway import swagger
from invoker.gateway.model import PREFIX, UNSERVABLE_NAMESPACES, Api, normal_base_path
from invoker.http.exchange import Reply, read_body
from invoker.http.parsing import split_target
from invoker.http.services import Services
from invoker.model import Identity, Namespace
from invoker.web.handler import WebCall, caller_of, cors_headers
from invoker.web.target import Extension, WebTarget

NAMESPACE, PACKAGE = "whisk.system", "apimgmt"
#: APIs of one namespace.
MOST_APIS = 200

_Query = Mapping[str, str]


def is_management(target: WebTarget) -> bool:
    """Tell whether a web action is one of those that manage APIs."""
    return (target.namespace, target.package) == (NAMESPACE, PACKAGE) and target.action in _OPERATIONS


async def manage_apis(services: Services, call: WebCall) -> Reply:
    """Answer a request of a client that manages its namespace's APIs.

    Raises:
        TooLarge, BodyTooSlow, BadHttp: as `read_body`.
    """
    cors = cors_headers(call.http.headers)
    if call.http.method == "OPTIONS":
        return Reply(b"", content_type="", headers=cors, cors=False)
    body = await read_body(call.http, services.limits().payload_bytes)
    try:
        caller = _require_caller(services, call.http.headers.get("authorization"))
        # The JavaScript client writes `undefined` for what its caller leaves out.
        query = {name: text for name, text in split_target(call.http.target)[1].items() if text != "undefined"}
        answer = await _OPERATIONS[call.target.action](services, caller, query, body)
    except DocumentError as error:
        return Reply(msgspec.json.encode({"error": str(error)}), 502, headers=cors, cors=False)
    return Reply(msgspec.json.encode(answer), headers=cors, cors=False)


def _require_caller(services: Services, authorization: str | None) -> Identity:
    caller = caller_of(services.authenticator, authorization)
    if caller is None:
        invalid = "" if authorization is None else " The supplied authentication is invalid."
        raise DocumentError(f"A valid auth key is required.{invalid}")
    return caller


async def _create(services: Services, caller: Identity, query: _Query, body: bytes) -> Any:
    """`createApi`: add an operation to an API, or take over a whole document."""
    doc = _object(_body(body).get("apidoc"), "apidoc")
    if not doc:
        raise DocumentError("apidoc is required.")
    if not doc.get("namespace"):
        raise DocumentError("apidoc is missing the namespace field")
    if doc.get("swagger") and doc.get("gatewayBasePath"):
        raise DocumentError("swagger and gatewayBasePath are mutually exclusive and cannot be specified together.")
    imported = _object(doc.get("swagger"), "swagger")
    if not imported:
        _check_path_form(doc)
    for field in ("basePath", "paths", "info") if imported else ():
        if not imported.get(field):
            raise DocumentError(f"swagger is missing the {field} field.")
    try:
        api = _make(services, caller.namespace, doc, imported, query)
    except DocumentError as error:
        raise DocumentError(f"API creation failure: {error}") from None
    await services.apis.put(api)
    return _value(api, caller.namespace.name, services.public_url)


def _make(services: Services, namespace: Namespace, doc: Mapping[str, Any], imported: Mapping[str, Any], query: _Query) -> Api:
    """Make what an API becomes. From here to `Apis.put` nothing waits: nobody else's change is lost."""
    if namespace.name in UNSERVABLE_NAMESPACES:
        raise DocumentError(f"/{PREFIX}/{namespace.name} is the REST API: the APIs of this namespace cannot be served")
    base_path = normal_base_path(_text(imported, "basePath", "swagger") if imported else doc["gatewayBasePath"])
    old = services.apis.get(namespace.uuid, base_path)
    if old is None and len(services.apis.list(namespace.uuid)) >= MOST_APIS:
        raise DocumentError(f"a namespace may have {MOST_APIS} APIs: delete one, or add to one")
    if imported:
        made = swagger.check_import(imported, namespace.name)
    else:
        before = swagger.new_document(base_path, _text(doc, "apiName", optional=True)) if old is None else old.document
        made = swagger.with_endpoint(before, _endpoint(doc, query, namespace.name), services.public_url)
    return Api.of_document(namespace.uuid, made, updated=int(services.wall_clock() * 1000))


async def _get(services: Services, caller: Identity, query: _Query, _body: bytes) -> Any:
    """`getApi`: all APIs, or those of a base path or a name; of each all operations, or those of a path and a method."""
    namespace = caller.namespace
    apis = [api for api in services.apis.list(namespace.uuid) if _is_meant(api, query.get("basepath"))]
    skip, limit = _number(query, "skip"), _number(query, "limit")
    shown = apis[skip : skip + limit] if limit else apis[skip:]
    return {
        "apis": [
            {
                "id": f"API:{namespace.name}:{api.base_path}",
                "key": f"/{namespace.name}{api.base_path}",
                "value": _value(api, namespace.name, services.public_url, _only(api.document, query)),
            }
            for api in shown
        ]
    }


async def _delete(services: Services, caller: Identity, query: _Query, _body: bytes) -> Any:
    """`deleteApi`: an API, one of its paths, or one operation; with its last one it goes as a whole."""
    named, path, method = query.get("basepath"), query.get("relpath"), query.get("operation")
    if not named:
        raise DocumentError("basepath is required.")
    if method and not path:
        raise DocumentError("When specifying an operation, the path is required.")
    uuid = caller.namespace.uuid
    api = next((api for api in services.apis.list(uuid) if _is_meant(api, named)), None)
    if api is None:
        raise DocumentError(f"API deletion failure: API '{named}' does not exist.")
    if path:
        try:
            rest = swagger.without_endpoint(api.document, path, method.lower() if method else None)
        except DocumentError as error:
            raise DocumentError(f"API deletion failure: {error}") from None
        if rest["paths"]:
            await services.apis.put(Api.of_document(uuid, rest, updated=int(services.wall_clock() * 1000)))
            return {}
    await services.apis.delete(api)
    return {}


_OPERATIONS: dict[str, Callable[[Services, Identity, _Query, bytes], Awaitable[Any]]] = {
    "createApi": _create,
    "getApi": _get,
    "deleteApi": _delete,
}

# --- what is answered -------------------------------------------------------------------------------------------------


def _value(api: Api, namespace: str, public_url: str, document: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Show an API as `wsk` reads it."""
    base = "" if api.base_path == "/" else api.base_path
    return {
        "namespace": namespace,
        "gwApiActivated": True,
        "tenantId": api.namespace_uuid,
        "gwApiUrl": f"{public_url}/{PREFIX}/{quote(namespace, safe='@&')}{base}",
        "apidoc": api.document if document is None else document,
    }


def _is_meant(api: Api, named: str | None) -> bool:
    """Tell whether an API is meant by a base path or a name; None means all."""
    if not named:
        return True
    if named.startswith("/"):
        return api.base_path == "/" + named.strip("/")
    return api.name == named


def _only(document: Mapping[str, Any], query: _Query) -> Mapping[str, Any]:
    """Keep the operations of one path, or one operation of it, where the client asks for these."""
    path, method = query.get("relpath"), query.get("operation", "").lower()
    if not path:
        return document
    item = document["paths"].get(path, {})
    kept = {name: value for name, value in item.items() if not method or name == method or name not in swagger.METHODS}
    return {**document, "paths": {path: kept} if any(name in swagger.METHODS for name in kept) else {}}


# --- what is asked ----------------------------------------------------------------------------------------------------


def _body(body: bytes) -> Mapping[str, Any]:
    try:
        value = msgspec.json.decode(body) if body else {}
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise DocumentError(f"The request cannot be parsed. Ensure it is valid JSON: {error}") from None
    return value if isinstance(value, dict) else {}


def _object(value: Any, name: str) -> dict[str, Any]:
    """Take an object, or the JSON text of one."""
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            raise DocumentError(f"{name} field cannot be parsed. Ensure it is valid JSON.") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise DocumentError(f"{name} field is of type {type(value).__name__} and should be a JSON object or a JSON string.")
    return value


def _check_path_form(doc: Mapping[str, Any]) -> None:
    for field in ("gatewayBasePath", "gatewayPath", "gatewayMethod"):
        _text(doc, field, "apidoc")
    action = doc.get("action")
    if not action or not isinstance(action, dict):
        raise DocumentError("apidoc is missing the action field.")
    for field in ("backendMethod", "backendUrl", "namespace", "name", "authkey"):
        _text(action, field, "action")


def _text(document: Mapping[str, Any], field: str, of: str = "apidoc", *, optional: bool = False) -> str:
    value = document.get(field)
    if not value and not optional:
        raise DocumentError(f"{of} is missing the {field} field.")
    if value is not None and not isinstance(value, str):
        raise DocumentError(f"{of}: the field {field} is no string.")
    return value or ""


def _endpoint(doc: Mapping[str, Any], query: _Query, own: str) -> swagger.Endpoint:
    """Read the path form. A namespace `_`, or the caller's as the client believes it to be, is the caller's."""
    action = doc["action"]
    method, path = doc["gatewayMethod"].lower(), doc["gatewayPath"]
    if method not in swagger.METHODS:
        raise DocumentError(f"'{method}' is no operation: it may be one of {', '.join(swagger.METHODS)}")
    if not path.startswith("/"):
        raise DocumentError(f"the path '{path}' does not begin with a slash")
    extension = query.get("responsetype") or (Extension.HTTP if "{" in path else Extension.JSON).value
    if extension not in {each.value for each in Extension}:
        raise DocumentError(f"'{extension}' is no response type: it may be one of {', '.join(each.value for each in Extension)}")
    if "{" in path and extension != Extension.HTTP.value:
        raise DocumentError("a path with parameters needs the response type 'http'")
    namespace = own if action["namespace"] in {"_", doc["namespace"]} else action["namespace"]
    package, _, name = action["name"].strip("/").rpartition("/")
    if package.count("/") == 1:
        namespace, _, package = package.partition("/")
    if "/" in package or not name:
        raise DocumentError(f"'{action['name']}' is no name of an action: write [package/]action")
    parameters, secret = doc.get("pathParameters") or [], action.get("secureKey")
    if not (isinstance(parameters, list) and all(isinstance(each, dict) for each in parameters)):
        raise DocumentError("pathParameters is no list of objects")
    return swagger.Endpoint(
        method=method,
        path=path,
        namespace=namespace,
        package="" if package == "default" else package,
        action=name,
        extension=Extension(extension),
        parameters=tuple(parameters),
        secret=None if secret is None else str(secret),
    )


def _number(query: _Query, name: str) -> int:
    text = query.get(name) or "0"
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise DocumentError(f"{name} is no number: '{text}'")
    return int(text)
