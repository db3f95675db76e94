"""Users' verbs of `invokerctl` for the API gateway: routes to web actions, as `wsk api` has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from invoker.commands.cli import examples
from invoker.commands.ctl_client import Client, Exit, Failure, Reply, refusal
from invoker.commands.ctl_code import action_path, read_json_object
from invoker.commands.ctl_context import Target
from invoker.commands.ctl_options import user_verb
from invoker.commands.ctl_output import print_json, print_table

_APIMGMT = "/api/v1/web/whisk.system/apimgmt"
_METHODS = ("get", "put", "post", "delete", "patch", "head", "options")
_RESPONSE_TYPES = ("json", "http", "html", "svg", "text")


@click.group(
    epilog=examples("invokerctl api create /library /books get list-books", "invokerctl api list", "invokerctl api get /library")
)
def api() -> None:
    """Serve web actions under paths of one's own (users)."""


@api.command("create")
@click.argument("base_path", required=False)
@click.argument("path", required=False)
@click.argument("method", required=False, type=click.Choice(_METHODS, case_sensitive=False))
@click.argument("action", required=False)
@click.option("--name", help="Name of the API. Default: its base path.")
@click.option("--response-type", type=click.Choice(_RESPONSE_TYPES), help="Default: json; http for a path with parameters.")
@click.option(
    "--config-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A whole API instead, as `api get` writes it: Swagger 2.0 in JSON.",
)
@user_verb
def api_create(
    target: Target,
    *,
    base_path: str | None,
    path: str | None,
    method: str | None,
    action: str | None,
    name: str | None,
    response_type: str | None,
    config_file: Path | None,
    as_json: bool,
) -> None:
    """Add METHOD of PATH to the API at BASE_PATH; ACTION, a web action, answers it.

    \b
    Examples:
      invokerctl api create /library /books get list-books
      invokerctl api create /library /books/{id} get find-book --response-type http
      invokerctl api create --config-file library.json
    """  # noqa: D301 - \b is click's mark for a block that keeps its lines
    client = target.user()
    if config_file is not None:
        if base_path:
            raise Failure("--config-file says everything: leave out the arguments", Exit.USAGE)
        doc = {"namespace": "_", "swagger": read_json_object(config_file)}
    elif base_path and path and method and action:
        doc = _endpoint(client, base_path, path, method, action) | ({"apiName": name} if name else {})
    else:
        raise Failure("BASE_PATH, PATH, METHOD and ACTION are needed", Exit.USAGE, "or give --config-file FILE")
    body = json.dumps({"apidoc": doc}).encode()
    made = _ask(client, "POST", "createApi", {"responsetype": response_type}, body)
    if as_json:
        print_json(made)
    else:
        click.echo(f"{made['gwApiUrl']}{path or ''}")


@api.command("list", epilog=examples("invokerctl api list", "invokerctl api list /library"))
@click.argument("base_path", required=False)
@user_verb
def api_list(target: Target, *, base_path: str | None, as_json: bool) -> None:
    """List the routes of all APIs, or of the one with this base path or name."""
    apis = _get(target.user(), base_path)
    if as_json:
        print_json(apis)
        return
    rows = [
        (method.upper(), f"{each['value']['gwApiUrl']}{path}", _action_of(operation), each["value"]["apidoc"]["info"]["title"])
        for each in apis
        for path, item in each["value"]["apidoc"]["paths"].items()
        for method, operation in item.items()
        if method in _METHODS
    ]
    print_table(("METHOD", "URL", "ACTION", "API"), rows)


@api.command("get", epilog=examples("invokerctl api get /library >library.json"))
@click.argument("base_path")
@user_verb
def api_get(target: Target, *, base_path: str, as_json: bool) -> None:
    """Print the document of an API, Swagger 2.0: for other tools, or for `api create --config-file`."""
    apis = _get(target.user(), base_path)
    if not apis:
        raise Failure(f"there is no API {base_path!r}", hint="list what there is: invokerctl api list")
    print_json(apis[0]["value"] if as_json else apis[0]["value"]["apidoc"])


@api.command("delete", epilog=examples("invokerctl api delete /library", "invokerctl api delete /library /books get"))
@click.argument("base_path")
@click.argument("path", required=False)
@click.argument("method", required=False, type=click.Choice(_METHODS, case_sensitive=False))
@user_verb
def api_delete(target: Target, *, base_path: str, path: str | None, method: str | None, as_json: bool) -> None:
    """Delete an API, or one of its paths, or one METHOD of a path."""
    query = {"basepath": base_path, "relpath": path, "operation": method}
    deleted = _ask(target.user(), "DELETE", "deleteApi", query)
    click.echo(json.dumps(deleted) if as_json else f"deleted {base_path}{path or ''} {(method or '').upper()}".rstrip())


def _endpoint(client: Client, base_path: str, path: str, method: str, action: str) -> dict[str, Any]:
    """Describe a route, as `wsk` does; the action must be there and be a web action.

    Raises:
        Failure: it is not.
    """
    found = client.ask("GET", action_path(action), query={"code": "false"}).json()
    annotations = {entry["key"]: entry["value"] for entry in found.get("annotations", ())}
    if annotations.get("web-export") is not True:
        raise Failure(f"{action!r} is no web action", hint=f"invokerctl action update {action} -a web-export true")
    namespace, _, package = found["namespace"].partition("/")
    name = f"{package}/{found['name']}" if package else found["name"]
    url = f"{client.url}/api/v1/web/{quote(namespace)}/{quote(package or 'default')}/{quote(found['name'])}.http"
    described = {"name": name, "namespace": namespace, "backendMethod": "POST", "backendUrl": url, "authkey": "-"}
    secret = annotations.get("require-whisk-auth")
    if isinstance(secret, (str, int)) and not isinstance(secret, bool):
        described["secureKey"] = secret
    return {
        "namespace": "_",
        "gatewayBasePath": base_path,
        "gatewayPath": path,
        "gatewayMethod": method,
        "id": f"API:_:{base_path}",
        "action": described,
    }


def _get(client: Client, base_path: str | None) -> list[dict[str, Any]]:
    apis: list[dict[str, Any]] = _ask(client, "GET", "getApi", {"basepath": base_path})["apis"]
    return apis


def _ask(client: Client, method: str, operation: str, query: dict[str, str | None], body: bytes | None = None) -> Any:
    reply: Reply = client.request(method, f"{_APIMGMT}/{operation}.http", query=query, body=body)
    if reply.status != 200:
        raise refusal(reply)
    return reply.json()


def _action_of(operation: dict[str, Any]) -> str:
    named = operation["x-openwhisk"]
    package = named.get("package", "default")
    inner = named["action"] if package == "default" else f"{package}/{named['action']}"
    return f"/{named['namespace']}/{inner}"
