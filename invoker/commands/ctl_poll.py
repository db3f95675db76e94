"""`invokerctl activation poll`: what ends from now on, with its logs, as it comes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import click

from invoker.commands.ctl_client import Client
from invoker.commands.ctl_context import Target
from invoker.commands.ctl_options import user_verb
from invoker.commands.ctl_output import local_time, parse_when, print_json

_PATH = "/api/v1/namespaces/_/activations"
_PAGE = 200
#: Records are listed by when their action began, and written when it ended: look back so far for late ones, ms.
LATE_MS = 10 * 60 * 1000
#: Between two looks, s.
PAUSE_S = 2.0


@click.command("poll")
@click.argument("name", required=False)
@click.option(
    "--since", help="Begin with those that started then or later: 24h, 7d, 2026-11-01. Default: what comes from now on."
)
@click.option("--exit", "exit_s", type=float, metavar="SECONDS", help="End after so long. Default: on Ctrl-C.")
@user_verb
def activation_poll(target: Target, *, name: str | None, since: str | None, exit_s: float | None, as_json: bool) -> None:
    """Print activations with their logs as they end; those of action NAME only, if it is given.

    \b
    Examples:
      invokerctl activation poll
      invokerctl activation poll index --since 1h --exit 60
    """  # noqa: D301 - \b is click's mark for a block that keeps its lines
    client, began = target.user(), time.monotonic()
    try:
        for record in _records(client, name, since, None if exit_s is None else began + exit_s):
            print_json(record) if as_json else _show(record)
    except KeyboardInterrupt:
        return


def _records(client: Client, name: str | None, since: str | None, until: float | None) -> Iterator[dict[str, Any]]:
    """Whole records in the order of their start, each once.

    Args:
        client: of the API.
        name: of an action, or None.
        since: as the user wrote it; None leaves out all that is there now.
        until: end then, s of the monotonic clock; at least one look is taken.
    """
    seen: set[str] = set()
    if since is None:
        newest = client.ask("GET", _PATH, query={"name": name, "limit": 1, "skip": 0}).json()
        start_ms = newest[0]["start"] if newest else 0
        seen.update(each["activationId"] for each in _since(client, name, start_ms - LATE_MS))
    else:
        start_ms = parse_when(since, time.time()) + LATE_MS
    while True:
        fresh = [each for each in _since(client, name, start_ms - LATE_MS) if each["activationId"] not in seen]
        for each in sorted(fresh, key=lambda each: each["start"]):
            seen.add(each["activationId"])
            start_ms = max(start_ms, each["start"])
            yield each
        rest_s = PAUSE_S if until is None else min(PAUSE_S, until - time.monotonic())
        if rest_s <= 0:
            return
        time.sleep(rest_s)


def _since(client: Client, name: str | None, since_ms: int) -> list[dict[str, Any]]:
    """All records that began then or later, page by page."""
    found: list[dict[str, Any]] = []
    while True:
        query = {"name": name, "docs": "true", "limit": _PAGE, "skip": len(found), "since": max(0, since_ms)}
        page = client.ask("GET", _PATH, query=query).json()
        found += page
        if len(page) < _PAGE:
            return found


def _show(record: dict[str, Any]) -> None:
    ended = f"{record['response']['status']}, {record.get('duration', 0)} ms"
    click.echo(f"{local_time(record['start'])}  {record['activationId']}  /{record['namespace']}/{record['name']}  {ended}")
    for line in record["logs"]:
        click.echo(f"    {line}")
