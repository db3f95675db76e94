"""Operators' verbs of `invokerctl`, over the control socket: namespaces, the pool, drain."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from invoker.commands.cli import examples, json_option
from invoker.commands.ctl_client import Client, Exit, Failure
from invoker.commands.ctl_output import local_time, plain_table, print_json, print_table, progress, rich_table, span
from invoker.control import messages
from invoker.control.messages import path_to

if TYPE_CHECKING:
    from invoker.commands.ctl_context import Target

_POOL_COLUMNS = ("CONTAINER", "ACTION", "NAMESPACE", "UID>", "STATE", "AGE>", "MEMORY>", "LEASES>")


def get(client: Client, path: str, kind: type[Any], query: dict[str, Any] | None = None) -> Any:
    """Ask the control socket and decode its answer. Raises Failure as `Client.ask` and `decode`."""
    return decode(client.ask("GET", path, query=query).body, kind)


def decode(body: bytes, kind: type[Any]) -> Any:
    """Decode an answer of the control socket. Raises Failure where the daemon is of another version."""
    try:
        return messages.decode(body, kind)
    except ValueError as error:
        raise Failure(
            f"the daemon's answer is not understood: {error}", hint="is it of another version? invokerctl status"
        ) from error


def print_message(message: messages.Message) -> None:
    """Print an answer as JSON."""
    print_json(messages.to_builtins(message))


@click.group(
    epilog=examples(
        "invokerctl namespace create alice --uid 4711 --gid 4711 --mount data",
        "invokerctl namespace limits alice",
        "invokerctl namespace rotate-key alice",
    )
)
def namespace() -> None:
    """Create, list and delete namespaces, and change their keys (operators)."""


@namespace.command("create")
@click.argument("name")
@click.option("--uid", type=int, required=True, help="User id that its functions run as.")
@click.option("--gid", type=int, required=True, help="Group id that its functions run as.")
@click.option("--group", "groups", type=int, multiple=True, help="A supplementary group id; may be repeated.")
@click.option("--mount", "mounts", multiple=True, help="Name of a site mount it may use; may be repeated.")
@json_option
@click.pass_obj
def namespace_create(
    target: Target, *, name: str, uid: int, gid: int, groups: tuple[int, ...], mounts: tuple[str, ...], as_json: bool
) -> None:
    """Create a namespace and print its key, UUID:KEY, alone.

    The key is shown only this once: the daemon keeps no more than a keyed hash of it.

    \b
    Example:
      invokerctl namespace create alice --uid 4711 --gid 4711 --mount data
    """  # noqa: D301 - \b is click's mark for a block that keeps its lines
    wanted = messages.CreateNamespace(name=name, uid=uid, gid=gid, groups=groups, mounts=mounts)
    reply = target.operator().ask("POST", messages.NAMESPACES, body=messages.encode(wanted))
    _print_key(decode(reply.body, messages.KeyReply), as_json)


def _print_key(reply: messages.KeyReply, as_json: bool) -> None:
    if as_json:
        print_message(reply)
    else:
        click.echo(reply.key)


@namespace.command("list", epilog=examples("invokerctl namespace list", "invokerctl namespace list --json"))
@json_option
@click.pass_obj
def namespace_list(target: Target, as_json: bool) -> None:
    """List the namespaces with their identities."""
    reply = get(target.operator(), messages.NAMESPACES, messages.NamespacesReply)
    if as_json:
        print_message(reply)
        return
    print_table(
        ("NAMESPACE", "UID>", "GID>", "GROUPS", "MOUNTS", "CREATED", "BLOCKED"),
        (
            (
                each.name,
                each.uid,
                each.gid,
                ",".join(map(str, each.groups)),
                ",".join(each.mounts),
                local_time(each.created_ms),
                "yes" if each.blocked else "",
            )
            for each in reply.namespaces
        ),
    )


@namespace.command("delete", epilog=examples("invokerctl namespace delete alice", "invokerctl namespace delete alice --yes"))
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_obj
def namespace_delete(target: Target, name: str, yes: bool, as_json: bool) -> None:
    """Delete a namespace with its actions. What it has used stays in the ledger."""
    if not yes and sys.stdin.isatty():
        click.confirm(f"Delete namespace {name} and all of its actions?", abort=True, err=True)
    reply = target.operator().ask("DELETE", path_to(messages.NAMESPACE, name=name))
    if as_json:
        print_json(reply.json())


@namespace.command(
    "update",
    epilog=examples(
        "invokerctl namespace update alice --mount data --mount scratch",
        "invokerctl namespace update alice --group 3000 --group 3001",
        "invokerctl namespace update alice --no-mounts --no-groups",
    ),
)
@click.argument("name")
@click.option("--group", "groups", type=int, multiple=True, help="A supplementary group id; may be repeated. Replaces all.")
@click.option("--no-groups", is_flag=True, help="No supplementary group.")
@click.option("--mount", "mounts", multiple=True, help="Name of a site mount it may use; may be repeated. Replaces all.")
@click.option("--no-mounts", is_flag=True, help="No site mount.")
@json_option
@click.pass_obj
def namespace_update(
    target: Target,
    *,
    name: str,
    groups: tuple[int, ...],
    no_groups: bool,
    mounts: tuple[str, ...],
    no_mounts: bool,
    as_json: bool,
) -> None:
    """Change groups or mounts of a namespace. Key, actions and uid stay; its next calls get new containers.

    Calls that run now end as they began. What is not given stays as it is.
    """
    if (groups and no_groups) or (mounts and no_mounts):
        raise Failure("--group and --no-groups, --mount and --no-mounts exclude each other", Exit.USAGE)
    wanted = messages.ChangeNamespace(
        groups=groups if groups or no_groups else None, mounts=mounts if mounts or no_mounts else None
    )
    if wanted.groups is None and wanted.mounts is None:
        raise Failure("there is nothing to change", Exit.USAGE, "give --group, --no-groups, --mount or --no-mounts")
    reply = target.operator().ask("PUT", path_to(messages.NAMESPACE, name=name), body=messages.encode(wanted))
    if as_json:
        print_json(reply.json())


@namespace.command("rotate-key", epilog=examples("invokerctl namespace rotate-key alice >alice.key"))
@click.argument("name")
@json_option
@click.pass_obj
def namespace_rotate_key(target: Target, name: str, as_json: bool) -> None:
    """Give a namespace a new key and print it, alone. The old one is refused from then on."""
    reply = target.operator().ask("POST", path_to(messages.NAMESPACE_KEY, name=name), body=b"{}")
    _print_key(decode(reply.body, messages.KeyReply), as_json)


@namespace.command("limits")
@click.argument("name")
@click.option("--invocations-per-minute", type=click.IntRange(min=0), help="Invocations in a clock minute; 0 allows none.")
@click.option("--concurrent-invocations", type=click.IntRange(min=0), help="Activations in flight.")
@click.option("--fires-per-minute", type=click.IntRange(min=0), help="Triggers fired in a clock minute.")
@click.option(
    "--cpu-seconds-per-window",
    type=click.IntRange(min=0),
    help="CPU seconds that its activations may use within `limits.cpu_window_s`; 0 allows none.",
)
@click.option(
    "--kind",
    "allowed_kinds",
    multiple=True,
    help="A kind that it may write actions of, such as python:3, blackbox or sequence; may be repeated.",
)
@click.option("--store-activations/--no-store-activations", default=None, help="Whether records, results and logs are kept.")
@click.option("--reset", is_flag=True, help="Begin with the site's limits; else what is not named stays as it is.")
@json_option
@click.pass_obj
def namespace_limits(
    target: Target, /, name: str, *, allowed_kinds: tuple[str, ...], reset: bool, as_json: bool, **limits: int | bool | None
) -> None:
    """Show the limits of a namespace, or give it limits of its own beside `[limits]` of the configuration.

    \b
    Examples:
      invokerctl namespace limits alice
      invokerctl namespace limits alice --invocations-per-minute 6000 --concurrent-invocations 200
      invokerctl namespace limits alice --reset
    """  # noqa: D301 - \b is click's mark for a block that keeps its lines
    client, path = target.operator(), path_to(messages.NAMESPACE_LIMITS, name=name)
    present: messages.NamespaceLimits = get(client, path, messages.NamespaceLimits)
    given = {key: value for key, value in (limits | {"allowed_kinds": allowed_kinds or None}).items() if value is not None}
    if given or reset:
        kept = {} if reset else messages.to_builtins(present)
        wanted = messages.limits_of(kept | given)
        present = decode(client.ask("PUT", path, body=messages.encode(wanted)).body, messages.NamespaceLimits)
    if as_json:
        print_message(present)
        return
    values = messages.to_builtins(present).items()
    print_table(("LIMIT", "VALUE"), ((key, "the site's" if value is None else _words(value)) for key, value in values))


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(value) if isinstance(value, (list, tuple)) else str(value)


@click.command(epilog=examples("invokerctl pool", "invokerctl pool --watch", "invokerctl pool --json --interval 10 --count 6"))
@click.option("--watch", is_flag=True, help="Go on until interrupted.")
@click.option("--interval", type=click.FloatRange(min=0.1), default=1.0, show_default=True, help="Seconds between two looks.")
@click.option("--count", type=click.IntRange(min=1), help="End after so many looks.")
@json_option
@click.pass_obj
def pool(target: Target, watch: bool, interval: float, count: int | None, as_json: bool) -> None:
    """Show every container: its action, user, state, age and memory (operators)."""
    client = target.operator()

    def look() -> messages.PoolReply:
        reply: messages.PoolReply = get(client, messages.POOL, messages.PoolReply)
        return reply

    if not watch and count is None:
        _print_pool(look(), as_json)
    elif as_json or not sys.stdout.isatty():
        _repeat(lambda: _print_pool(look(), as_json), interval, count)
    else:
        from rich.console import Group
        from rich.live import Live

        with Live(screen=True, auto_refresh=False) as screen:

            def refresh() -> None:
                reply = look()
                screen.update(Group(_summary(reply), rich_table(_POOL_COLUMNS, _pool_rows(reply))), refresh=True)

            _repeat(refresh, interval, count)


def _repeat(show: Callable[[], None], interval_s: float, count: int | None) -> None:
    """Show at a steady pace; an interrupt is how one leaves, not a failure."""
    shown = 0
    try:
        while True:
            show()
            shown += 1
            if shown == count:
                return
            time.sleep(interval_s)
    except KeyboardInterrupt:
        return


def _print_pool(reply: messages.PoolReply, as_json: bool) -> None:
    if as_json:
        print_message(reply)
    elif sys.stdout.isatty():
        click.echo(_summary(reply))
        print_table(_POOL_COLUMNS, _pool_rows(reply))
    else:
        click.echo(plain_table(_POOL_COLUMNS, _pool_rows(reply)), nl=False)


def _summary(reply: messages.PoolReply) -> str:
    return (
        f"{len(reply.containers)} containers, {reply.memory_used_mib} of {reply.memory_budget_mib} MiB, "
        f"{reply.waiting} activations waiting"
    )


def _pool_rows(reply: messages.PoolReply) -> list[tuple[object, ...]]:
    return [
        (
            each.container,
            each.action,
            each.namespace,
            each.uid,
            each.state,
            span(each.age_s),
            f"{each.memory_mib} MiB",
            each.leases,
        )
        for each in sorted(reply.containers, key=lambda row: (row.namespace, row.action, row.container))
    ]


@click.command(epilog=examples("invokerctl status", "invokerctl status --json"))
@json_option
@click.pass_obj
def status(target: Target, as_json: bool) -> None:
    """Tell how the daemon fares (operators). Exits with 1 when something is not as it should be."""
    reply = get(target.operator(), messages.STATUS, messages.StatusReply)
    if as_json:
        print_message(reply)
    else:
        containers = ", ".join(f"{count} {state}" for state, count in reply.containers.items() if count) or "none"
        click.echo(
            f"{reply.node}: {reply.state}, invokerd {reply.version}, pid {reply.pid}, since {local_time(reply.started_ms)}"
        )
        click.echo(f"activations: {reply.running} running, {reply.waiting} waiting")
        click.echo(f"containers:  {containers}")
        click.echo(f"memory:      {reply.memory_used_mib} of {reply.memory_budget_mib} MiB")
        for problem in reply.problems:
            click.echo(f"problem:     {problem}")
    if reply.problems:
        sys.exit(Exit.REFUSED)


@click.command(epilog=examples("invokerctl drain", "invokerctl drain --wait --timeout 600 && systemctl restart invokerd"))
@click.option("--wait", is_flag=True, help="Return when nothing runs any more.")
@click.option("--timeout", type=click.FloatRange(min=0), default=300.0, show_default=True, help="Seconds to wait at most.")
@json_option
@click.pass_obj
def drain(target: Target, wait: bool, timeout: float, as_json: bool) -> None:
    """Refuse new work from now on and let what runs end (operators). The daemon goes on until it is stopped."""
    client = target.operator()
    running = decode(client.ask("POST", messages.DRAIN, body=b"{}").body, messages.DrainReply).running
    deadline = time.monotonic() + timeout
    with progress() as show:
        while wait and running:
            if time.monotonic() >= deadline:
                raise Failure(
                    f"{running} activations still run after {timeout:g} s", hint="wait on, or cancel them: activation cancel ID"
                )
            show(f"{running} activations still run")
            time.sleep(0.2)
            now = get(client, messages.STATUS, messages.StatusReply)
            running = now.running + now.waiting
    if as_json:
        print_message(messages.DrainReply(running=running))
    else:
        click.echo("drained" if not running else f"draining: {running} activations still run")
