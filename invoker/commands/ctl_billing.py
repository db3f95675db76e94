"""Operators' verbs of `invokerctl` about money: usage, bills, and the ledger's rows. docs/billing.md has the rules."""

from __future__ import annotations

import csv
import functools
import io
import json
import os
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from invoker.commands.cli import examples, json_option
from invoker.commands.ctl_client import Exit, Failure
from invoker.commands.ctl_operator import decode, get, print_message
from invoker.commands.ctl_output import local_time, parse_when, print_table, progress
from invoker.control import messages
from invoker.control.messages import path_to

if TYPE_CHECKING:
    from invoker.commands.ctl_context import Target

#: The last millisecond that there is: "until now, and whatever comes".
_END_OF_TIME_MS = 2**63 - 1


def _span_options(function: Callable[..., Any]) -> Callable[..., Any]:
    options = (
        click.option("--since", help="From when on: 24h, 7d, 2026-11-01, 2026-11-01T00:00Z. Default: the beginning."),
        click.option("--until", help="Until when, excluded. Default: all there is."),
        click.option("--namespace", "only", help="Only this namespace."),
    )
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), function)


_csv_option = click.option("--csv", "as_csv", is_flag=True, help="Print CSV with a header: exact integers and decimals.")


@click.command(
    epilog=examples(
        "invokerctl usage",
        "invokerctl usage --since 2026-11-01T00:00Z --until 2026-12-01T00:00Z --json",
        "invokerctl usage --since 24h --namespace alice --by action",
        "invokerctl usage --csv >usage.csv",
    )
)
@_span_options
@click.option("--by", type=click.Choice(["namespace", "action"]), default="namespace", show_default=True, help="A row for each.")
@_csv_option
@json_option
@click.pass_obj
def usage(
    target: Target, *, since: str | None, until: str | None, only: str | None, by: str, as_csv: bool, as_json: bool
) -> None:
    """Show what each namespace, or each action, has used, and what that costs (operators).

    A moment without an offset is local time; bills are by months of UTC. What no price plan rates has no plan, and costs
    nothing. Costs are exact: nothing is rounded.
    """
    _only_one(csv=as_csv, json=as_json)
    since_ms, until_ms = _span(since, until)
    query = {"since_ms": since_ms, "until_ms": until_ms, "namespace": only, "by": by}
    reply = get(target.operator(), messages.USAGE, messages.UsageReply, query)
    if as_json:
        print_message(reply)
    elif as_csv:
        _print_csv(messages.UsageRow, reply.rows)
    else:
        names = ("NAMESPACE", "ACTION") if by == "action" else ("NAMESPACE",)
        columns = (*names, "ACTIVATIONS>", "FAILED>", "TIME s>", "CPU s>", "MEMORY GiB s>", "COST>", "CURRENCY", "PLAN")
        print_table(columns, ((*(getattr(each, name.lower()) for name in names), *_measures(each)) for each in reply.rows))


def _span(since: str | None, until: str | None) -> tuple[int | None, int | None]:
    """Read the two ends of a span; None is open.

    Raises:
        Failure: one is no moment, or they are the wrong way round.
    """
    now_s = time.time()
    since_ms, until_ms = (parse_when(each, now_s) if each else None for each in (since, until))
    if since_ms is not None and until_ms is not None and since_ms >= until_ms:
        raise Failure(f"--since {since} is not before --until {until}: there is nothing between", Exit.USAGE)
    return since_ms, until_ms


def _measures(row: messages.UsageRow) -> tuple[object, ...]:
    return (
        row.activations,
        row.failed,
        f"{row.billed_us / 1e6:.3f}",
        f"{row.cpu_us / 1e6:.3f}",
        f"{row.memory_byte_us / 2**30 / 1e6:.3f}",
        row.cost,
        row.currency,
        row.plan,
    )


@click.command(
    epilog=examples(
        "invokerctl bill 2026-11",
        "invokerctl bill 2026-11 --namespace alice --json",
        "invokerctl bill 2026-11 --csv",
        "invokerctl bill 2026-11 --focus --issuer 'Computing Centre' >focus-2026-11.csv",
    )
)
@click.argument("month")
@click.option("--namespace", "only", help="Only this namespace.")
@_csv_option
@click.option("--focus", "as_focus", is_flag=True, help="Print CSV as FOCUS 1.2 has it: a row an hour, action and meter.")
@click.option("--issuer", default="invokerd", show_default=True, help="With --focus: who sends the bill.")
@json_option
@click.pass_obj
def bill(target: Target, *, month: str, only: str | None, as_csv: bool, as_focus: bool, issuer: str, as_json: bool) -> None:
    """Make the bills of a calendar MONTH, such as 2026-11, in UTC (operators).

    A line for each namespace and price plan: what is charged, less what the plan has free, priced exactly and rounded once.
    With --focus what the line consists of, for tools that read the bills of clouds too: read from the files in state_dir with
    the prices of the configuration; the daemon need not run.
    """
    _only_one(csv=as_csv, focus=as_focus, json=as_json)
    if as_focus:
        _print_focus(target, month, only, issuer)
        return
    reply = get(target.operator(), path_to(messages.BILL, month=month), messages.BillReply, {"namespace": only})
    if as_json:
        print_message(reply)
        return
    if as_csv:
        _print_csv(messages.BillRow, reply.rows)
    else:
        columns = ("NAMESPACE", "CALLS>", "MEMORY GiB s>", "CPU s>", "IDLE GiB s>", "EXACT>", "AMOUNT>", "CURRENCY", "PLAN")
        print_table(columns, map(_bill_line, reply.rows))
    if not reply.complete:
        _warn_incomplete(month)


def _warn_incomplete(month: str) -> None:
    click.echo(f"invokerctl: {month} is not over yet: these lines will still grow", err=True)


def _print_focus(target: Target, month: str, only: str | None, issuer: str) -> None:
    from invoker.record.focus import COLUMNS, focus_rows
    from invoker.record.usage import month_span

    directory = _ledger_directory(target)
    prices = target.prices()

    async def print_rows() -> None:
        _, until_ms = month_span(month)
        writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
        with progress() as show:
            async with aclosing(focus_rows(directory, prices, month, namespace=only, issuer=issuer)) as rows:
                writer.writeheader()
                async for row in rows:
                    writer.writerow(row)
                    show(f"up to {row['ChargePeriodEnd']}")
        if until_ms > time.time_ns() // 1_000_000:
            _warn_incomplete(month)

    _run(print_rows())


def _bill_line(row: messages.BillRow) -> tuple[object, ...]:
    return (
        row.namespace,
        row.invocations,
        f"{row.memory_mib_us / 1024 / 1e6:.3f}",
        f"{row.cpu_us / 1e6:.3f}",
        f"{row.idle_byte_us / 2**30 / 1e6:.3f}",
        row.exact,
        row.amount,
        row.currency,
        row.plan,
    )


@click.command(
    epilog=examples(
        "invokerctl ledger --since 2026-11-01T00:00Z --until 2026-12-01T00:00Z >ledger.csv",
        "invokerctl ledger --namespace alice --since 24h --json",
        "invokerctl ledger --all --since 1h",
    )
)
@_span_options
@click.option("--all", "every_type", is_flag=True, help="Also rows that no bill depends on: accepted, begun, container.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, an object a line, instead of CSV.")
@click.pass_obj
def ledger(target: Target, *, since: str | None, until: str | None, only: str | None, every_type: bool, as_json: bool) -> None:
    """Print the ledger's rows as CSV with a header: the facts that usage and bills are computed from (operators).

    Reads the files in state_dir, and changes nothing; the daemon need not run. While it runs, the last second may be missing.
    """
    since_ms, until_ms = _span(since, until)
    _run(
        _print_ledger(
            _ledger_directory(target),
            as_json=as_json,
            namespace=only,
            since_ms=since_ms or 0,
            upto_ms=_END_OF_TIME_MS if until_ms is None else until_ms,
            every_type=every_type,
        )
    )


def _ledger_directory(target: Target) -> Path:
    """Find the ledger's files. Raises Failure where they cannot be read."""
    directory = target.config().state_dir / "ledger"
    try:
        os.scandir(directory).close()
    except FileNotFoundError:
        raise Failure(
            f"{directory} is not there", hint="no daemon has run on this state_dir yet; --config FILE names another"
        ) from None
    except OSError as error:
        raise Failure(
            f"{directory}: {error.strerror}", hint="run this as the daemon's user (root): sudo invokerctl ..."
        ) from error
    return directory


def _run(work: Coroutine[Any, Any, None]) -> None:
    import asyncio

    from pool.errors import InvokerError

    try:
        asyncio.run(work)
    except InvokerError as error:
        raise Failure(str(error)) from error


async def _print_ledger(directory: Path, *, as_json: bool, **span: Any) -> None:
    from invoker.record.export import COLUMNS, read_rows

    writer = csv.writer(sys.stdout, lineterminator="\n")
    if not as_json:
        writer.writerow(COLUMNS)
    async with aclosing(read_rows(directory, **span)) as rows:
        async for row in rows:
            if as_json:
                click.echo(json.dumps(dict(zip(COLUMNS, row, strict=True)), ensure_ascii=False))
            else:
                writer.writerow(row)


@click.command(
    epilog=examples(
        'invokerctl correct 0123456789abcdef0123456789abcdef --cpu-us -250000 --reason "the node was slow"',
        'invokerctl correct 0123456789abcdef0123456789abcdef --key 2 --memory-mib-us -51200000 --reason "agreed with alice"',
    )
)
@click.argument("subject", metavar="ID")
@click.option("--cpu-us", type=int, default=0, help="Difference of charged CPU time, microseconds; negative is a credit.")
@click.option("--memory-mib-us", type=int, default=0, help="Difference of charged memory times time, MiB-microseconds.")
@click.option("--reason", required=True, help="For the reader of the bill.")
@click.option("--key", type=click.IntRange(min=1), default=1, show_default=True, help="Number of this correction of ID.")
@json_option
@click.pass_obj
def correct(target: Target, *, subject: str, cpu_us: int, memory_mib_us: int, reason: str, key: int, as_json: bool) -> None:
    """Correct what activation (or idle container) ID is charged, by a row of its own in the ledger (operators).

    No row of the ledger is ever changed. The same key again changes nothing, so this may be repeated.
    """
    import getpass

    author = os.environ.get("SUDO_USER") or getpass.getuser()
    wanted = messages.MakeCorrection(
        subject=subject, key=key, reason=reason, author=author, cpu_us=cpu_us, memory_mib_us=memory_mib_us
    )
    reply = target.operator().ask("POST", messages.CORRECTIONS, body=messages.encode(wanted))
    made: messages.CorrectionReply = decode(reply.body, messages.CorrectionReply)
    if as_json:
        print_message(made)
    else:
        click.echo(f"corrected {made.subject} of {made.namespace}, filed with {local_time(made.at_ms)}")


def _print_csv(kind: type[messages.Message], rows: Sequence[messages.Message]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(kind.__struct_fields__)
    writer.writerows([getattr(row, name) for name in kind.__struct_fields__] for row in rows)
    click.echo(text.getvalue(), nl=False)


def _only_one(**formats: bool) -> None:
    chosen = [f"--{name}" for name, is_chosen in formats.items() if is_chosen]
    if len(chosen) > 1:
        raise Failure(f"{' and '.join(chosen)} exclude each other", Exit.USAGE)
