"""`invokerctl activation`: list, show and cancel activations, over the API with a user's key."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click

from invoker.commands.cli import examples
from invoker.commands.ctl_client import Exit, Failure
from invoker.commands.ctl_context import Target
from invoker.commands.ctl_options import user_verb
from invoker.commands.ctl_output import annotation_of, local_time, parse_when, print_json, print_table
from invoker.control import messages
from invoker.control.messages import path_to

_ACTIVATIONS = "/api/v1/namespaces/_/activations"
_STATUS_WORDS = ("success", "application error", "developer error", "internal error")


@click.group(
    epilog=examples(
        "invokerctl activation list --limit 10",
        "invokerctl activation logs --last",
        "invokerctl activation get 0123456789abcdef0123456789abcdef",
    )
)
def activation() -> None:
    """List, show and cancel activations (users; cancel also for operators)."""


@activation.command(
    "list",
    epilog=examples(
        "invokerctl activation list",
        "invokerctl activation list index --since 24h --limit 0",
        "invokerctl activation list --since 2026-11-01 --until 2026-11-02 --json",
    ),
)
@click.argument("name", required=False)
@click.option("--limit", type=int, default=30, show_default=True, help="At most so many; 0 is as many as the server gives.")
@click.option("--skip", type=int, default=0, help="Leave out so many.")
@click.option("--since", help="Started then or later: 24h, 7d, 2026-11-01, 2026-11-01T10:00.")
@click.option("--until", help="Started then or earlier.")
@user_verb
def activation_list(
    target: Target, *, name: str | None, limit: int, skip: int, since: str | None, until: str | None, as_json: bool
) -> None:
    """List activations, the latest first; those of action NAME only, if it is given."""
    import time

    now_s = time.time()
    query = {
        "name": name,
        "limit": limit,
        "skip": skip,
        "since": parse_when(since, now_s) if since else None,
        "upto": parse_when(until, now_s) if until else None,
    }
    documents = target.user().ask("GET", _ACTIVATIONS, query=query).json()
    if as_json:
        print_json(documents)
        return
    print_table(
        ("BEGAN", "ACTIVATION", "KIND", "START", "TIME>", "STATUS", "ACTION"),
        (
            (
                local_time(each["start"]),
                each["activationId"],
                annotation_of(each, "kind"),
                annotation_of(each, "startKind"),
                f"{each.get('duration', 0)} ms",
                _STATUS_WORDS[each.get("statusCode", 0)],
                f"/{each['namespace']}/{each['name']}:{each['version']}",
            )
            for each in documents
        ),
    )


def _id_argument(function: Callable[..., Any]) -> Callable[..., Any]:
    last = click.option("--last", is_flag=True, help="The latest activation.")
    return click.argument("activation_id", metavar="ID", required=False)(last(function))


def _fetch(target: Target, activation_id: str | None, last: bool, part: str = "") -> Any:
    client = target.user()
    if bool(activation_id) == last:
        raise Failure("give an activation's ID, or --last", Exit.USAGE)
    if last:
        found = client.ask("GET", _ACTIVATIONS, query={"limit": 1, "skip": 0}).json()
        if not found:
            raise Failure("there is no activation yet")
        activation_id = found[0]["activationId"]
    return client.ask("GET", path_to(_ACTIVATIONS + "/{id}", id=activation_id or "") + part).json()


@activation.command(
    "get", epilog=examples("invokerctl activation get --last", "invokerctl activation get 0123456789abcdef0123456789abcdef")
)
@_id_argument
@user_verb
def activation_get(target: Target, *, activation_id: str | None, last: bool, as_json: bool) -> None:
    """Print an activation's record as JSON."""
    del as_json  # it is JSON anyway
    print_json(_fetch(target, activation_id, last))


@activation.command(
    "logs",
    epilog=examples("invokerctl activation logs --last", "invokerctl activation logs 0123456789abcdef0123456789abcdef --strip"),
)
@_id_argument
@click.option("--strip", is_flag=True, help="Without time and stream.")
@user_verb
def activation_logs(target: Target, *, activation_id: str | None, last: bool, strip: bool, as_json: bool) -> None:
    """Print what an activation wrote to stdout and stderr."""
    document = _fetch(target, activation_id, last, "/logs")
    lines = [line.partition(": ")[2] if strip else line for line in document["logs"]]
    if as_json:
        print_json(document | {"logs": lines})
        return
    for line in lines:
        click.echo(line)


@activation.command("result", epilog=examples("invokerctl activation result --last"))
@_id_argument
@user_verb
def activation_result(target: Target, *, activation_id: str | None, last: bool, as_json: bool) -> None:
    """Print an activation's result. Exits with 4 when it did not succeed."""
    response = _fetch(target, activation_id, last, "/result")
    print_json(response if as_json else response.get("result"))
    if not response.get("success", True):
        sys.exit(Exit.ACTION_FAILED)


@activation.command("cancel", epilog=examples("invokerctl activation cancel 0123456789abcdef0123456789abcdef"))
@click.argument("activation_id", metavar="ID")
@user_verb
def activation_cancel(target: Target, *, activation_id: str, as_json: bool) -> None:
    """Cancel an activation: what is queued never runs, what runs is killed, recorded and billed to that moment.

    With a key one's own activations only. Without one, operators cancel anybody's over the control socket.
    """
    if target.acts_as_operator:
        reply = target.operator().ask("POST", path_to(messages.CANCEL, id=activation_id), body=b"{}")
    else:
        reply = target.user().ask("POST", path_to(messages.USER_CANCEL, id=activation_id), body=b"{}")
    cancelled = messages.decode(reply.body, messages.CancelReply)
    if as_json:
        print_json(messages.to_builtins(cancelled))
    else:
        click.echo(f"cancelled {cancelled.activation_id}, which was {cancelled.was}")
