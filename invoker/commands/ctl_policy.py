"""`invokerctl policy`: what other policies of keep-alive would have cost, on this node's own history."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from invoker.commands.cli import examples, json_option
from invoker.commands.ctl_client import Failure
from invoker.commands.ctl_output import print_json, print_table, progress

if TYPE_CHECKING:
    from invoker.commands.ctl_context import Target
    from pool.trace import Trace

_DAY_MS = 86_400_000


@click.group(epilog=examples("invokerctl policy simulate --days 30"))
def policy() -> None:
    """Compare policies of what idle containers are kept (operators)."""


@policy.command("simulate")
@click.option("--days", type=click.FloatRange(min=0.01), default=7.0, show_default=True, help="How far back in the ledger.")
@click.option("--calls", type=click.Path(path_type=Path), help="Instead of the ledger: CSV func_name,invoke_time_ms[,run_ms].")
@click.option("--functions", type=click.Path(path_type=Path), help="With it: CSV func_name,cold_dur_ms,warm_dur_ms,mem_mb.")
@click.option("--memory-mib", "sizes", type=click.IntRange(min=64), multiple=True, help="Size of the pool; may be repeated.")
@json_option
@click.pass_obj
def policy_simulate(
    target: Target, *, days: float, calls: Path | None, functions: Path | None, sizes: tuple[int, ...], as_json: bool
) -> None:
    """Play this node's history again under each policy, and tell what it would have cost.

    Reads the ledger, and changes nothing; the daemon need not run. The policies run in the daemon's own state machine.
    Without --memory-mib: this node's pool, and half and twice of it.

    \b
    Example:
      invokerctl --config invokerd.toml policy simulate --days 30
      invokerctl policy simulate --calls calls.csv --functions functions.csv --memory-mib 4096
    """  # noqa: D301 - \b is click's mark for a block that keeps its lines
    from pool.errors import InvokerError
    from pool.simulation import compare

    if (calls is None) != (functions is None):
        raise click.UsageError("--calls and --functions go together")
    config = target.config()
    pool_mib = config.pool.memory_mib
    outcomes = []
    with progress() as show:
        show("reading what there was")
        try:
            trace = _read(calls, functions) if calls and functions else _history(config.state_dir / "ledger", days)
        except OSError as error:
            raise Failure(f"{error.filename}: {error.strerror}") from error
        except InvokerError as error:
            raise Failure(str(error)) from error
        for outcome in compare(trace, sizes or (pool_mib // 2, pool_mib, 2 * pool_mib), config.pool.keep_alive_s):
            outcomes.append(outcome)
            show(f"{outcome.policy} with {outcome.memory_mib} MiB: {outcome.cold} cold starts")
    if as_json:
        import msgspec

        print_json(msgspec.to_builtins(outcomes))
        return
    click.echo(f"{len(trace.calls)} calls of {len(trace.functions)} actions over {trace.calls[-1].at_s / 3600:.1f} h")
    print_table(
        ("MEMORY", "POLICY", "COLD>", "SHARE>", "WAIT MEAN>", "WAIT P99>", "GIB-HOURS>", "REFUSED>"),
        (
            (
                f"{each.memory_mib} MiB",
                each.policy + (" *" if each.policy == config.pool.keep_alive_policy else ""),
                each.cold,
                f"{each.cold_share:.1%}",
                f"{each.mean_wait_ms:.1f} ms",
                f"{each.p99_wait_ms:.0f} ms",
                f"{each.held_mib_s / 1024 / 3600:.2f}",
                each.refused,
            )
            for each in outcomes
        ),
    )
    click.echo("* is pool.keep_alive_policy. The clairvoyant ones know the future: what is left to gain at most, nearly.")


def _read(calls: Path, functions: Path) -> Trace:
    from pool.trace import parse

    return parse(calls.read_text().splitlines(), functions.read_text().splitlines())


def _history(ledger: Path, days: float) -> Trace:
    import asyncio

    from invoker.record.history import read_history

    now_ms = time.time_ns() // 1_000_000
    return asyncio.run(read_history(ledger, since_ms=now_ms - round(days * _DAY_MS), upto_ms=now_ms))
