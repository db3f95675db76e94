"""Users' verbs of `invokerctl` for packages and bindings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from invoker.commands.cli import examples
from invoker.commands.ctl_client import Exit, Failure
from invoker.commands.ctl_code import make_parameters
from invoker.commands.ctl_context import Target
from invoker.commands.ctl_options import parameter_options, user_verb
from invoker.commands.ctl_output import local_time, print_json, print_table

_PAIR: dict[str, Any] = {"type": (str, str), "multiple": True, "metavar": "KEY VALUE"}


def split_package(name: str) -> tuple[str, str]:
    """Split `NAME` or `/NAMESPACE/NAME`; `_` is the caller's own namespace.

    Raises:
        Failure: it is neither.
    """
    namespace, slash, package = name[1:].partition("/") if name.startswith("/") else ("_", "/", name)
    if not namespace or not slash or not package or "/" in package:
        raise Failure(f"{name!r} is no name of a package", Exit.USAGE, "write NAME or /NAMESPACE/NAME")
    return namespace, package


def package_path(name: str) -> str:
    """Build the path of a package. Raises Failure as `split_package`."""
    namespace, package = split_package(name)
    return f"/api/v1/namespaces/{quote(namespace, safe='')}/packages/{quote(package, safe='')}"


@click.group(
    epilog=examples(
        "invokerctl package create tools --shared yes -p threshold 4.5",
        "invokerctl package bind /whisk.system/utils utils",
        "invokerctl package get utils --summary",
    )
)
def package() -> None:
    """Create, share, bind, list and delete packages (users)."""


def _entries(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": value} for key, value in values.items()]


def _write(target: Target, name: str, body: dict[str, Any], done: str, *, overwrite: bool, as_json: bool) -> None:
    query = {"overwrite": str(overwrite).lower()}
    document = target.user().ask("PUT", package_path(name), query=query, body=json.dumps(body).encode()).json()
    if as_json:
        print_json(document)
    else:
        click.echo(f"{done} /{document['namespace']}/{document['name']}")


def _body(
    params: tuple[tuple[str, str], ...], param_file: Path | None, annotations: tuple[tuple[str, str], ...], shared: str | None
) -> dict[str, Any]:
    body: dict[str, Any] = {
        "parameters": _entries(make_parameters(params, param_file)),
        "annotations": _entries(make_parameters(annotations, None)),
    }
    body = {name: value for name, value in body.items() if value}
    return body if shared is None else body | {"publish": shared == "yes"}


_annotation = click.option("-a", "--annotation", "annotations", help="An annotation; JSON, else text. May be repeated.", **_PAIR)
_shared = click.option("--shared", type=click.Choice(["yes", "no"]), help="Whether everybody may read it and run what is in it.")


@package.command("create")
@click.argument("name")
@user_verb
@parameter_options
@_annotation
@_shared
def package_create(target: Target, *, name: str, as_json: bool, **options: Any) -> None:
    """Create package NAME. Its parameters are those of all actions in it.

    \b
    Examples:
      invokerctl package create tools --shared yes -p threshold 4.5
      invokerctl action create tools/find find.py
    """  # noqa: D301 - \b is click's mark for a block that keeps its lines
    _write(target, name, _body(**options), "created", overwrite=False, as_json=as_json)


@package.command("update", epilog=examples("invokerctl package update tools -p threshold 5 -p detector eiger"))
@click.argument("name")
@user_verb
@parameter_options
@_annotation
@_shared
def package_update(target: Target, *, name: str, as_json: bool, **options: Any) -> None:
    """Replace what is given of package NAME; create it if it does not exist. Parameters are replaced as a whole."""
    _write(target, name, _body(**options), "updated", overwrite=True, as_json=as_json)


@package.command("bind")
@click.argument("provider")
@click.argument("name")
@user_verb
@parameter_options
@_annotation
def package_bind(target: Target, *, provider: str, name: str, as_json: bool, **options: Any) -> None:
    """Make NAME stand for another package, PROVIDER, with parameters of one's own before its.

    \b
    Example:
      invokerctl package bind /whisk.system/utils utils
      invokerctl action invoke utils/echo -r -p hello world
    """  # noqa: D301 - \b is click's mark for a block that keeps its lines
    namespace, bound = split_package(provider)
    body = _body(**options, shared=None) | {"binding": {"namespace": namespace, "name": bound}}
    _write(target, name, body, f"bound {provider} as", overwrite=False, as_json=as_json)


@package.command("get", epilog=examples("invokerctl package get /whisk.system/utils --summary", "invokerctl package get tools"))
@click.argument("name")
@click.option("--summary", is_flag=True, help="The names of what is in it, a line each.")
@user_verb
def package_get(target: Target, *, name: str, summary: bool, as_json: bool) -> None:
    """Print a package with the actions in it, as JSON."""
    document = target.user().ask("GET", package_path(name)).json()
    if as_json or not summary:
        print_json(document)
        return
    rows = [(kind, each["name"], each["version"]) for kind in ("actions", "feeds") for each in document.get(kind, [])]
    print_table(("KIND", "NAME", "VERSION"), ((kind.removesuffix("s"), *rest) for kind, *rest in rows))


@package.command("list", epilog=examples("invokerctl package list", "invokerctl package list whisk.system"))
@click.argument("namespace", required=False)
@click.option("--limit", type=int, default=30, show_default=True, help="At most so many; 0 is as many as the server gives.")
@click.option("--skip", type=int, default=0, help="Leave out so many.")
@user_verb
def package_list(target: Target, *, namespace: str | None, limit: int, skip: int, as_json: bool) -> None:
    """List packages, the latest first; of another NAMESPACE those that it shares."""
    owner = (namespace or "_").strip("/")
    path = f"/api/v1/namespaces/{quote(owner, safe='')}/packages"
    documents = target.user().ask("GET", path, query={"limit": limit, "skip": skip}).json()
    if as_json:
        print_json(documents)
        return
    print_table(("PACKAGE", "SHARED", "BOUND TO", "VERSION", "UPDATED"), (_row(each) for each in documents))


def _row(document: dict[str, Any]) -> tuple[str, ...]:
    bound = document["binding"]
    return (
        f"/{document['namespace']}/{document['name']}",
        "yes" if document["publish"] else "no",
        f"/{bound['namespace']}/{bound['name']}" if bound else "-",
        document["version"],
        local_time(document["updated"]),
    )


@package.command("delete", epilog=examples("invokerctl package delete tools", "invokerctl package delete tools --force"))
@click.argument("name")
@click.option("--force", is_flag=True, help="With the actions in it.")
@user_verb
def package_delete(target: Target, *, name: str, force: bool, as_json: bool) -> None:
    """Delete a package that is empty, or a binding."""
    query = {"force": "true" if force else None}
    document = target.user().ask("DELETE", package_path(name), query=query).json()
    if as_json:
        print_json(document)
    else:
        click.echo(f"deleted /{document['namespace']}/{document['name']}")
