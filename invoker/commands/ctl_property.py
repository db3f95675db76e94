"""What a user of `invokerctl` has and is: all entities of a namespace, and the properties that `wsk` reads too."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from invoker.commands.cli import examples, json_option
from invoker.commands.ctl_client import Client, Exit, Failure
from invoker.commands.ctl_context import Target, properties_path, read_wskprops
from invoker.commands.ctl_options import user_verb
from invoker.commands.ctl_output import print_json, print_table

_COLLECTIONS = ("packages", "actions", "triggers", "rules")
#: Command-line name of each property that is kept.
_KEPT = {"apihost": "APIHOST", "auth": "AUTH", "namespace": "NAMESPACE"}
_PAGE = 200


@click.command("get", epilog=examples("invokerctl namespace get", "invokerctl namespace get --json"))
@user_verb
def namespace_get(target: Target, *, as_json: bool) -> None:
    """List all there is in the namespace of a key: packages, actions, triggers, and rules with their status (users)."""
    client = target.user()
    (name,) = client.ask("GET", "/api/v1/namespaces").json()
    found = {collection: _all(client, collection) for collection in _COLLECTIONS}
    for rule in found["rules"]:  # lists do not tell it
        rule["status"] = client.ask("GET", f"/api/v1/namespaces/_/rules/{quote(rule['name'], safe='')}").json()["status"]
    if as_json:
        print_json({"namespace": name} | found)
        return
    rows = [
        (collection.removesuffix("s"), f"/{each['namespace']}/{each['name']}", each["version"], _detail(collection, each))
        for collection, documents in found.items()
        for each in documents
    ]
    print_table(("ENTITY", "NAME", "VERSION", "DETAIL"), rows)


def _all(client: Client, collection: str) -> list[dict[str, Any]]:
    """Read a collection to its end, page by page."""
    documents: list[dict[str, Any]] = []
    while True:
        query = {"limit": _PAGE, "skip": len(documents)}
        page = client.ask("GET", f"/api/v1/namespaces/_/{collection}", query=query).json()
        documents += page
        if len(page) < _PAGE:
            return documents


def _detail(collection: str, document: dict[str, Any]) -> str:
    if collection == "rules":
        trigger, action = document["trigger"], document["action"]
        return f"{document['status']}: {trigger['name']} -> /{action['path']}/{action['name']}"
    if collection == "actions":
        return str(next((each["value"] for each in document["annotations"] if each["key"] == "exec"), ""))
    if collection == "packages":
        bound = document["binding"]
        return f"bound to /{bound['namespace']}/{bound['name']}" if bound else "shared" if document["publish"] else ""
    return ""


@click.group(
    "property",
    epilog=examples('invokerctl property set --apihost http://127.0.0.1:3233 --auth "$KEY"', "invokerctl property get"),
)
def property_() -> None:
    """Show and keep address and key, in the file that wsk reads too: ~/.wskprops, or WSK_CONFIG_FILE (users)."""


@property_.command("get", epilog=examples("invokerctl property get"))
@user_verb
def property_get(target: Target, *, as_json: bool) -> None:
    """Show what is in use, and what answers there."""
    properties = read_wskprops()
    known = {name: properties[key] for name, key in _KEPT.items() if key in properties} | {"file": str(properties_path())}
    known |= {name: value for name, value in (("apihost", target.apihost), ("auth", target.auth)) if value}
    if known.get("auth"):
        client = target.user()
        known["apihost"] = client.url
        about = client.ask("GET", "/api/v1").json()
        known |= {"namespace": client.ask("GET", "/api/v1/namespaces").json()[0]}
        known |= {"build": about["build"], "buildno": about["buildno"]}
    if as_json:
        print_json(known)
    else:
        print_table(("PROPERTY", "VALUE"), known.items())


@property_.command("set")
@click.option("--apihost", help="Address of the API.")
@click.option("--auth", help="Key, UUID:KEY.")
@click.option("--namespace", help="Of no meaning to invokerctl; openwhisk-composer reads it.")
@json_option
def property_set(*, as_json: bool, **given: str | None) -> None:
    """Keep properties; others in the file stay as they are.

    \b
    Example:
      invokerctl property set --apihost http://127.0.0.1:3233 --auth "$KEY"
    """  # noqa: D301 - \b is click's mark for a block that keeps its lines
    changes = {_KEPT[name]: value for name, value in given.items() if value is not None}
    if not changes:
        raise Failure("there is nothing to set", Exit.USAGE, "give --apihost, --auth or --namespace")
    if any("\n" in value or "\r" in value for value in changes.values()):
        raise Failure("a property is one line", Exit.USAGE)
    _tell(_rewrite(changes), as_json=as_json)


@property_.command("unset", epilog=examples("invokerctl property unset auth namespace"))
@click.argument("names", nargs=-1, required=True, type=click.Choice(list(_KEPT)))
@json_option
def property_unset(*, names: tuple[str, ...], as_json: bool) -> None:
    """Forget properties."""
    _tell(_rewrite(dict.fromkeys(_KEPT[name] for name in names)), as_json=as_json)


def _tell(path: Path, *, as_json: bool) -> None:
    if as_json:
        print_json({"file": str(path)})
    else:
        click.echo(f"written to {path}")


def _rewrite(changes: dict[str, Any]) -> Path:
    """Change the file of properties: a value of None takes the line out. It is the user's alone, and never half written."""
    path = properties_path()
    try:
        lines = path.read_text("utf-8").splitlines()
    except FileNotFoundError:
        lines = []
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}", Exit.USAGE) from error
    kept = [line for line in lines if line.partition("=")[0].strip() not in changes]
    kept += [f"{name}={value}" for name, value in changes.items() if value is not None]
    scratch = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:  # noqa: PTH123
            file.write("".join(f"{line}\n" for line in kept))
        scratch.replace(path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise Failure(f"{path}: {error.strerror}", Exit.USAGE) from error
    return path
