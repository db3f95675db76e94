"""`invokerctl action`: create, list, invoke and delete actions, over the API with a user's key."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from invoker.commands.cli import examples
from invoker.commands.ctl_client import Exit, Failure, Reply, refusal
from invoker.commands.ctl_code import (
    WEB_WORDS,
    action_path,
    make_exec,
    make_parameters,
    make_sequence,
    url_of,
    web_annotations,
)
from invoker.commands.ctl_context import Target
from invoker.commands.ctl_options import PAIR, parameter_options, user_verb
from invoker.commands.ctl_output import annotation_of, local_time, print_json, print_table

_ID_HEADER = "x-openwhisk-activation-id"


@click.group(
    epilog=examples(
        "invokerctl action create hello hello.py", "invokerctl action invoke hello -r -p name Ada", "invokerctl action list"
    )
)
def action() -> None:
    """Create, list, invoke and delete actions (users)."""


def _body_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add what create and update have in common."""
    options = (
        click.option("--kind", help="Runtime, such as python:3 or nodejs:20. Default: by the file's extension."),
        click.option("--native", is_flag=True, help="An executable: a script, a binary, or a zip or directory with `exec`."),
        click.option("--docker", metavar="IMAGE", help="Run in this image."),
        click.option("--sequence", metavar="A,B", help="Run these actions in a row, each with the result of the one before."),
        click.option("--web", type=click.Choice(list(WEB_WORDS)), help="Behind a plain URL; raw: with query and body unparsed."),
        click.option("--web-secure", metavar="TEXT", help="What X-Require-Whisk-Auth must be."),
        click.option("--main", help="Entry point. Default: the runtime's."),
        click.option("-m", "--memory", type=int, metavar="MIB", help="Memory limit."),
        click.option("-t", "--timeout", type=int, metavar="MS", help="Time limit."),
        click.option("-l", "--logs", type=int, metavar="MIB", help="Log limit."),
        click.option("-c", "--concurrency", type=int, help="Activations in one container."),
        parameter_options,
        click.option("-e", "--env", "variables", help="A variable of the process, set at its start. May be repeated.", **PAIR),
        click.option("-a", "--annotation", "annotations", help="An annotation; JSON, else text. May be repeated.", **PAIR),
    )
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), function)


@action.command("create")
@click.argument("name")
@click.argument("file", required=False, type=click.Path(path_type=Path, exists=True))
@click.option("--copy", metavar="ACTION", help="Begin with code, parameters, annotations and limits of that one.")
@user_verb
@_body_options
def action_create(target: Target, *, name: str, file: Path | None, copy: str | None, as_json: bool, **options: Any) -> None:
    """Create action NAME from FILE: source text, a zip, an executable, or a directory (which is zipped).

    \b
    Examples:
      invokerctl action create hello hello.py
      invokerctl action create index index.zip --kind python:3 --memory 512 -p threshold 4.5
      invokerctl action create indexer ./build/indexer --native
      invokerctl action create indexer indexer.zip --docker crystfel:0.11
      invokerctl action create pipeline --sequence find,index,tools/merge
      invokerctl action create page page.py --web yes
      invokerctl action create hello-2 --copy hello --memory 512
    """  # noqa: D301 - \b is click's mark for a block that keeps its lines
    form, body = {each: options.pop(each) for each in _FORM}, _rest_of_body(**options)
    if copy is None:
        body["exec"] = _exec(file, **form)
    elif file is not None or any(form.values()):
        raise Failure("--copy takes the code of another action: give no file, kind or form beside it", Exit.USAGE)
    else:
        body = _over(target.user().ask("GET", action_path(copy), query={"code": "true"}).json(), body)
    _put(target, name, body, overwrite=False, as_json=as_json)


#: Options that say what an action is, and not what it may or is given.
_FORM = ("kind", "native", "docker", "sequence", "main")


def _exec(file: Path | None, *, sequence: str | None, **form: Any) -> dict[str, Any]:
    if sequence is None:
        return make_exec(file, **form)
    if file is not None or any(form.values()):
        raise Failure("--sequence names other actions: give no file, kind or image beside it", Exit.USAGE)
    return make_sequence(sequence)


def _over(original: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Lay what was given over what is copied: limits and annotations one by one, parameters as a whole."""
    body = {field: original[field] for field in ("exec", "parameters", "annotations", "limits")} | changes
    body["limits"] = original["limits"] | changes.get("limits", {})
    merged = {each["key"]: each for each in (*original["annotations"], *changes.get("annotations", ()))}
    return body | {"annotations": list(merged.values())}


@action.command(
    "update",
    epilog=examples(
        "invokerctl action update hello hello.py",
        "invokerctl action update hello --memory 512 --timeout 120000",
        "invokerctl action update hello -p name Ada --del-annotation note",
    ),
)
@click.argument("name")
@click.argument("file", required=False, type=click.Path(path_type=Path, exists=True))
@click.option("--del-annotation", "removed", metavar="KEY", multiple=True, help="Take an annotation away. May be repeated.")
@user_verb
@_body_options
def action_update(
    target: Target, *, name: str, file: Path | None, removed: tuple[str, ...], as_json: bool, **options: Any
) -> None:
    """Replace what is given of action NAME; create it if it does not exist. What is not given stays."""
    form, body = {each: options.pop(each) for each in _FORM}, _rest_of_body(**options)
    if file or any(form.values()):
        body["exec"] = _exec(file, **form)
    if removed:
        body["delAnnotations"] = list(removed)
    _put(target, name, body, overwrite=True, as_json=as_json)


def _rest_of_body(
    *,
    params: tuple[tuple[str, str], ...],
    param_file: Path | None,
    variables: tuple[tuple[str, str], ...],
    annotations: tuple[tuple[str, str], ...],
    web: str | None,
    web_secure: str | None,
    **limits: int | None,
) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {"key": key, "value": value} for key, value in make_parameters(params, param_file).items()
    ]
    parameters += [{"key": key, "value": value, "init": True} for key, value in variables]
    body: dict[str, Any] = {
        "parameters": parameters,
        "annotations": [
            {"key": key, "value": value}
            for key, value in (make_parameters(annotations, None) | web_annotations(web, web_secure)).items()
        ],
        "limits": {name: value for name, value in limits.items() if value is not None},
    }
    return {name: value for name, value in body.items() if value}


def _put(target: Target, name: str, body: dict[str, Any], *, overwrite: bool, as_json: bool) -> None:
    query = {"overwrite": "true" if overwrite else "false"}
    client, path = target.user(), action_path(name)
    reply = client.request("PUT", path, query=query, body=json.dumps(body).encode())
    if reply.status == 400 and "exec" not in body and client.request("GET", path, query={"code": "false"}).status == 404:
        raise Failure(f"there is no action {name} to update", hint="give its FILE, and it is created")
    if reply.status != 200:
        raise refusal(reply, path)
    document = reply.json()
    if as_json:
        print_json(document)
    else:
        click.echo(f"{'updated' if overwrite else 'created'} {_full_name(document)} ({document['exec']['kind']})")


def _full_name(document: dict[str, Any]) -> str:
    return f"/{document['namespace']}/{document['name']}"


@action.command(
    "get",
    epilog=examples(
        "invokerctl action get hello", "invokerctl action get page --url", "invokerctl action get tools/find --save find.py"
    ),
)
@click.argument("name")
@click.option("--url", is_flag=True, help="Print where it is reached: a web action's plain URL, or that of the API.")
@click.option("--save", type=click.Path(path_type=Path, dir_okay=False), help="Write the code to this file instead.")
@user_verb
def action_get(target: Target, *, name: str, url: bool, save: Path | None, as_json: bool) -> None:
    """Print an action as JSON, without its code; or its URL; or save its code."""
    if url and save is not None:
        raise Failure("--url and --save exclude each other", Exit.USAGE)
    client = target.user()
    document = client.ask("GET", action_path(name), query={"code": "true" if save else "false"}).json()
    if url:
        where = url_of(client.url, document)
        print_json({"url": where}) if as_json else click.echo(where)
    elif save is None:
        print_json(document)
    else:
        _save(document, save)


def _save(document: dict[str, Any], save: Path) -> None:
    code = document["exec"].get("code")
    if not code:
        raise Failure(f"{_full_name(document)} has no code to save: its kind is {document['exec']['kind']}")
    import base64

    try:
        save.write_bytes(base64.b64decode(code) if document["exec"].get("binary") else code.encode())
    except OSError as error:
        raise Failure(f"{save}: {error.strerror}", Exit.USAGE) from error
    click.echo(f"saved {_full_name(document)} to {save}", err=True)


@action.command("list", epilog=examples("invokerctl action list", "invokerctl action list tools --limit 0"))
@click.argument("package", required=False)
@click.option("--limit", type=int, default=30, show_default=True, help="At most so many; 0 is as many as the server gives.")
@click.option("--skip", type=int, default=0, help="Leave out so many.")
@user_verb
def action_list(target: Target, *, package: str | None, limit: int, skip: int, as_json: bool) -> None:
    """List actions, the latest first; those of PACKAGE only, if it is given."""
    path = "/api/v1/namespaces/_/actions" if package is None else action_path(package) + "/"
    documents = target.user().ask("GET", path, query={"limit": limit, "skip": skip}).json()
    if as_json:
        print_json(documents)
        return
    print_table(
        ("ACTION", "KIND", "VERSION", "MEMORY>", "TIMEOUT>", "UPDATED"),
        (
            (
                _full_name(each),
                annotation_of(each, "exec"),
                each["version"],
                f"{each['limits']['memory']} MiB",
                f"{each['limits']['timeout'] / 1000:g} s",
                local_time(each["updated"]),
            )
            for each in documents
        ),
    )


@action.command("delete", epilog=examples("invokerctl action delete hello"))
@click.argument("name")
@user_verb
def action_delete(target: Target, *, name: str, as_json: bool) -> None:
    """Delete an action. Its activations stay."""
    document = target.user().ask("DELETE", action_path(name)).json()
    if as_json:
        print_json(document)
    else:
        click.echo(f"deleted {_full_name(document)}")


@action.command("invoke")
@click.argument("name")
@parameter_options
@click.option("-b", "--blocking", is_flag=True, help="Wait for the end (60 s at most) and print the activation.")
@click.option("-r", "--result", is_flag=True, help="Wait, and print the result alone.")
@click.option("--timeout", type=int, metavar="MS", help="Wait no longer than this; the activation goes on.")
@user_verb
def action_invoke(
    target: Target,
    *,
    name: str,
    params: tuple[tuple[str, str], ...],
    param_file: Path | None,
    blocking: bool,
    result: bool,
    timeout: int | None,
    as_json: bool,
) -> None:
    """Invoke an action. Prints the activation's id, or what -b and -r say. Exits with 4 when the action failed.

    \b
    Examples:
      invokerctl action invoke hello -r -p name Ada
      id=$(invokerctl action invoke index -P frame.json); invokerctl activation result "$id"
    """  # noqa: D301 - \b is click's mark for a block that keeps its lines
    waits = blocking or result
    query = {"blocking": str(waits).lower(), "result": str(result).lower(), "timeout": timeout if waits else None}
    body = json.dumps(make_parameters(params, param_file)).encode()
    reply = target.user().request("POST", action_path(name), query=query, body=body)
    activation_id = reply.headers.get(_ID_HEADER)
    if activation_id is None and reply.status != 202:
        raise refusal(reply, action_path(name))
    if reply.status == 202:
        print_json(reply.json()) if as_json else click.echo(reply.json()["activationId"])
        if waits:
            raise Failure(
                "it has not ended yet, and goes on", Exit.NOT_FINISHED, f"later: invokerctl activation get {activation_id}"
            )
        return
    print_json(reply.json())
    if reply.status != 200:
        _exit_failed(reply, str(activation_id))


def _exit_failed(reply: Reply, activation_id: str) -> NoReturn:
    hint = f"its logs: invokerctl activation logs {activation_id}"
    if reply.status == 502:
        raise Failure("the action failed", Exit.ACTION_FAILED, hint)
    raise Failure(f"the platform failed (HTTP status {reply.status})", Exit.REFUSED, hint)
