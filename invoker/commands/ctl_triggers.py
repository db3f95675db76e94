"""Users' verbs of `invokerctl` for events: triggers, their feeds, and rules. Feeds are driven from here, as `wsk` does."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from invoker.commands.cli import examples
from invoker.commands.ctl_client import Client, Exit, Failure, Reply, refusal
from invoker.commands.ctl_code import action_path, make_parameters
from invoker.commands.ctl_context import Target
from invoker.commands.ctl_options import parameter_options, user_verb
from invoker.commands.ctl_output import local_time, print_json, print_table

_PAIR: dict[str, Any] = {"type": (str, str), "multiple": True, "metavar": "KEY VALUE"}
_TRIGGERS = "/api/v1/namespaces/_/triggers"
_RULES = "/api/v1/namespaces/_/rules"


def _annotation_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("-a", "--annotation", "annotations", help="An annotation; JSON, else text. May be repeated.", **_PAIR)(
        function
    )


def _page_options(function: Callable[..., Any]) -> Callable[..., Any]:
    options = (
        click.option("--limit", type=int, default=30, show_default=True, help="At most so many; 0 is the most."),
        click.option("--skip", type=int, default=0, help="Leave out so many."),
    )
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), function)


# ---- triggers


@click.group(
    epilog=examples(
        "invokerctl trigger create image-arrived",
        "invokerctl trigger fire image-arrived -p file /data/run17/frame_0001.h5",
        "invokerctl trigger list",
    )
)
def trigger() -> None:
    """Create, fire, list and delete triggers, fed by alarms or other feeds (users)."""


@trigger.command("create")
@click.argument("name")
@user_verb
@click.option("-f", "--feed", help="Action that feeds it, such as /whisk.system/alarms/alarm; -p and -P go to that.")
@parameter_options
@_annotation_option
def trigger_create(
    target: Target,
    *,
    name: str,
    feed: str | None,
    params: tuple[tuple[str, str], ...],
    param_file: Path | None,
    annotations: tuple[tuple[str, str], ...],
    as_json: bool,
) -> None:
    """Create trigger NAME. What its feed refuses leaves no trigger.

    \b
    Examples:
      invokerctl trigger create image-arrived
      invokerctl trigger create nightly --feed /whisk.system/alarms/alarm -p cron "30 2 * * *" -p timezone Europe/Berlin
    """  # noqa: D301 - \b is click's mark for a block that keeps its lines
    client, given = target.user(), make_parameters(params, param_file)
    told = make_parameters(annotations, None) | ({"feed": feed} if feed else {})
    body = {"annotations": _entries(told), "parameters": [] if feed else _entries(given)}
    document = _put(client, _path(_TRIGGERS, name), body, overwrite=False)
    if feed:
        reply = _drive(client, feed, "CREATE", name, given)
        if reply.status != 200:
            _drive(client, feed, "DELETE", name, {})
            client.ask("DELETE", _path(_TRIGGERS, name))
            raise _feed_failure(reply, feed, "the trigger was not created")
    _tell(document, "created", as_json=as_json)


@trigger.command(
    "update",
    epilog=examples(
        "invokerctl trigger update image-arrived -p beamline p11", 'invokerctl trigger update nightly -p cron "0 3 * * *"'
    ),
)
@click.argument("name")
@user_verb
@parameter_options
@_annotation_option
def trigger_update(
    target: Target,
    *,
    name: str,
    params: tuple[tuple[str, str], ...],
    param_file: Path | None,
    annotations: tuple[tuple[str, str], ...],
    as_json: bool,
) -> None:
    """Replace what is given of trigger NAME; parameters of one that has a feed go to the feed."""
    client, given = target.user(), make_parameters(params, param_file)
    document = client.ask("GET", _path(_TRIGGERS, name)).json()
    feed = _feed_of(document)
    body: dict[str, Any] = {}
    if annotations:
        kept = {"feed": feed} if feed else {}
        body["annotations"] = _entries(kept | make_parameters(annotations, None))
    if given and not feed:
        body["parameters"] = _entries(given)
    if body:
        document = _put(client, _path(_TRIGGERS, name), body, overwrite=True)
    if given and feed:
        reply = _drive(client, feed, "UPDATE", name, given)
        if reply.status != 200:
            raise _feed_failure(reply, feed, "the feed was not updated")
    _tell(document, "updated", as_json=as_json)


@trigger.command("get", epilog=examples("invokerctl trigger get nightly"))
@click.argument("name")
@user_verb
def trigger_get(target: Target, *, name: str, as_json: bool) -> None:
    """Print a trigger as JSON, with its rules; and what its feed says of it, as `feed`."""
    del as_json  # it is JSON anyway
    client = target.user()
    document = client.ask("GET", _path(_TRIGGERS, name)).json()
    if feed := _feed_of(document):
        reply = _drive(client, feed, "READ", name, {})
        if reply.status != 200:
            raise _feed_failure(reply, feed, "the feed could not be read")
        document["feed"] = reply.json()["response"]["result"]
    print_json(document)


@trigger.command(
    "fire",
    epilog=examples(
        "invokerctl trigger fire image-arrived -p file /data/run17/frame_0001.h5",
        "invokerctl trigger fire image-arrived -P event.json",
    ),
)
@click.argument("name")
@user_verb
@parameter_options
def trigger_fire(
    target: Target, *, name: str, params: tuple[tuple[str, str], ...], param_file: Path | None, as_json: bool
) -> None:
    """Fire a trigger. Prints the id of its activation; nothing when no rule of it is active."""
    body = json.dumps(make_parameters(params, param_file)).encode()
    reply = target.user().ask("POST", _path(_TRIGGERS, name), body=body)
    if reply.status == 204:
        print_json({}) if as_json else click.echo(f"{name} has no active rule: nothing runs", err=True)
        return
    print_json(reply.json()) if as_json else click.echo(reply.json()["activationId"])


@trigger.command("list", epilog=examples("invokerctl trigger list"))
@user_verb
@_page_options
def trigger_list(target: Target, *, limit: int, skip: int, as_json: bool) -> None:
    """List triggers, the latest first."""
    documents = target.user().ask("GET", _TRIGGERS, query={"limit": limit, "skip": skip}).json()
    if as_json:
        print_json(documents)
        return
    rows = ((_full_name(each), each["version"], _feed_of(each) or "", local_time(each["updated"])) for each in documents)
    print_table(("TRIGGER", "VERSION", "FEED", "UPDATED"), rows)


@trigger.command("delete", epilog=examples("invokerctl trigger delete nightly"))
@click.argument("name")
@user_verb
def trigger_delete(target: Target, *, name: str, as_json: bool) -> None:
    """Delete a trigger, and tell its feed. Its rules stay, inactive."""
    client = target.user()
    if feed := _feed_of(client.ask("GET", _path(_TRIGGERS, name)).json()):
        reply = _drive(client, feed, "DELETE", name, {})
        if reply.status != 200:
            click.echo(f"invokerctl: the feed {feed} did not take it: {refusal_text(reply)}", err=True)
    _tell(client.ask("DELETE", _path(_TRIGGERS, name)).json(), "deleted", as_json=as_json)


# ---- rules


@click.group(
    epilog=examples(
        "invokerctl rule create index-it image-arrived indexer", "invokerctl rule disable index-it", "invokerctl rule list"
    )
)
def rule() -> None:
    """Have actions run when triggers fire (users)."""


@rule.command("create", epilog=examples("invokerctl rule create index-it image-arrived indexer"))
@click.argument("name")
@click.argument("trigger_name", metavar="TRIGGER")
@click.argument("action_name", metavar="ACTION")
@user_verb
@_annotation_option
def rule_create(target: Target, *, name: str, trigger_name: str, action_name: str, as_json: bool, **options: Any) -> None:
    """Create rule NAME: when TRIGGER fires, ACTION runs."""
    _put_rule(target, name, trigger_name, action_name, overwrite=False, as_json=as_json, **options)


@rule.command("update", epilog=examples("invokerctl rule update index-it image-arrived tools/indexer"))
@click.argument("name")
@click.argument("trigger_name", metavar="TRIGGER")
@click.argument("action_name", metavar="ACTION")
@user_verb
@_annotation_option
def rule_update(target: Target, *, name: str, trigger_name: str, action_name: str, as_json: bool, **options: Any) -> None:
    """Point rule NAME at another TRIGGER or ACTION. It stays as active as it was."""
    _put_rule(target, name, trigger_name, action_name, overwrite=True, as_json=as_json, **options)


def _put_rule(
    target: Target,
    name: str,
    trigger_name: str,
    action_name: str,
    *,
    overwrite: bool,
    as_json: bool,
    annotations: tuple[tuple[str, str], ...],
) -> None:
    body: dict[str, Any] = {"trigger": _qualified(trigger_name), "action": _qualified(action_name)}
    if annotations:
        body["annotations"] = _entries(make_parameters(annotations, None))
    document = _put(target.user(), _path(_RULES, name), body, overwrite=overwrite)
    _tell(document, "updated" if overwrite else "created", as_json=as_json)


def _set_status(target: Target, name: str, status: str, *, as_json: bool) -> None:
    document = target.user().ask("POST", _path(_RULES, name), body=json.dumps({"status": status}).encode()).json()
    print_json(document) if as_json else click.echo(f"{name} is {status}")


@rule.command("enable", epilog=examples("invokerctl rule enable index-it"))
@click.argument("name")
@user_verb
def rule_enable(target: Target, *, name: str, as_json: bool) -> None:
    """Make a rule active: it runs after those that are."""
    _set_status(target, name, "active", as_json=as_json)


@rule.command("disable", epilog=examples("invokerctl rule disable index-it"))
@click.argument("name")
@user_verb
def rule_disable(target: Target, *, name: str, as_json: bool) -> None:
    """Make a rule inactive."""
    _set_status(target, name, "inactive", as_json=as_json)


@rule.command("get", epilog=examples("invokerctl rule get index-it"))
@click.argument("name")
@user_verb
def rule_get(target: Target, *, name: str, as_json: bool) -> None:
    """Print a rule as JSON."""
    del as_json  # it is JSON anyway
    print_json(target.user().ask("GET", _path(_RULES, name)).json())


@rule.command("list", epilog=examples("invokerctl rule list"))
@user_verb
@_page_options
def rule_list(target: Target, *, limit: int, skip: int, as_json: bool) -> None:
    """List rules, the latest first. Each is asked for its status, which a list does not tell."""
    client = target.user()
    listed = client.ask("GET", _RULES, query={"limit": limit, "skip": skip}).json()
    documents = [client.ask("GET", _path(_RULES, each["name"])).json() for each in listed]
    if as_json:
        print_json(documents)
        return
    rows = (
        (_full_name(each), each["status"], _reference(each["trigger"]), _reference(each["action"]), local_time(each["updated"]))
        for each in documents
    )
    print_table(("RULE", "STATUS", "TRIGGER", "ACTION", "UPDATED"), rows)


@rule.command("delete", epilog=examples("invokerctl rule delete index-it"))
@click.argument("name")
@user_verb
def rule_delete(target: Target, *, name: str, as_json: bool) -> None:
    """Delete a rule."""
    _tell(target.user().ask("DELETE", _path(_RULES, name)).json(), "deleted", as_json=as_json)


# ---- what they share


def _path(collection: str, name: str) -> str:
    """Build the path of a trigger or a rule: one's own, `name` or `/namespace/name`.

    Raises:
        Failure: it has too many or too few parts.
    """
    namespace, _, rest = name[1:].partition("/") if name.startswith("/") else ("_", "", name)
    if not rest or not namespace or "/" in rest:
        raise Failure(f"{name!r} is no name", Exit.USAGE, "write NAME or /NAMESPACE/NAME")
    return collection.replace("/_/", f"/{quote(namespace, safe='')}/") + f"/{quote(rest, safe='')}"


def _qualified(name: str) -> str:
    return name if name.startswith("/") else f"/_/{name}"


def _put(client: Client, path: str, body: dict[str, Any], *, overwrite: bool) -> Any:
    query = {"overwrite": str(overwrite).lower()}
    return client.ask("PUT", path, query=query, body=json.dumps(body).encode()).json()


def _drive(client: Client, feed: str, event: str, name: str, parameters: dict[str, Any]) -> Reply:
    """Tell a feed what happens to a trigger, and wait for its answer."""
    trigger_name = name if name.startswith("/") else f"/_/{name}"
    told = {"lifecycleEvent": event, "triggerName": trigger_name, "authKey": client.auth}
    body = json.dumps(parameters | told).encode()
    return client.request("POST", action_path(_qualified(feed)), query={"blocking": "true"}, body=body)


def _feed_failure(reply: Reply, feed: str, consequence: str) -> Failure:
    if reply.status == 202:
        return Failure(f"the feed {feed} has not answered in time: {consequence}", Exit.NOT_FINISHED)
    code = Exit.ACTION_FAILED if reply.status == 502 else Exit.REFUSED
    return Failure(f"the feed {feed} refused: {refusal_text(reply)}", code, consequence)


def refusal_text(reply: Reply) -> str:
    """Find the sentence of an answer that is no success: the error of the request, or of the activation."""
    document = reply.json()
    if isinstance(document, dict) and "response" in document:
        result = document["response"].get("result") or {}
        return str(result.get("error", result))
    return refusal(reply).message


def _feed_of(document: dict[str, Any]) -> str | None:
    return next((each["value"] for each in document.get("annotations", []) if each["key"] == "feed"), None)


def _entries(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": value} for key, value in values.items()]


def _reference(told: dict[str, str]) -> str:
    return f"/{told['path']}/{told['name']}"


def _full_name(document: dict[str, Any]) -> str:
    return f"/{document['namespace']}/{document['name']}"


def _tell(document: dict[str, Any], done: str, *, as_json: bool) -> None:
    print_json(document) if as_json else click.echo(f"{done} {_full_name(document)}")
