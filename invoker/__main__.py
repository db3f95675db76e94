"""The command `invokerd`: run the daemon, check its configuration, tell what of this node is fit.

Exit codes: 0 done, 1 failed or not fit, 2 usage, 65 a database is corrupt, 78 the configuration is bad (systemd restarts on
neither of these two).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from invoker.commands.cli import (
    CONTEXT_SETTINGS,
    EXIT_BAD_CONFIG,
    EXIT_CORRUPT,
    completion_command,
    config_option,
    examples,
    json_option,
    version_option,
)

if TYPE_CHECKING:
    from invoker.config.load import Loaded

#: What to do about what may keep the daemon from starting, where its message does not say it.
_START_HINTS = {
    "engine-unavailable": ": start the engine (systemctl start docker), or name its socket ([engine] url, or DOCKER_HOST)",
}


@click.group(
    context_settings=CONTEXT_SETTINGS,
    epilog="""\b
Operators' and users' commands are in invokerctl. Documentation: docs/operations.md, docs/configuration.md.
Exit codes: 0 done, 1 failed or not fit, 2 usage, 65 a database is corrupt, 78 the configuration is bad.""",
)
@version_option
def main() -> None:
    """Functions as a service on one bare-metal node.

    \b
    Examples:
      invokerd doctor                                     what of this node is fit, and what to do about the rest
      invokerd check-config --config invokerd.toml        what would be in effect, and where each value comes from
      invokerd serve --config invokerd.toml               run in the foreground; SIGTERM drains, SIGHUP reloads
      invokerd example-config > invokerd.toml             every key with its default
    """  # noqa: D301 - \b is click's mark for a block that keeps its lines


main.add_command(completion_command("invokerd"))


@main.command(
    epilog=examples(
        "invokerd serve --config invokerd.toml",
        "INVOKERD_NODE=try INVOKERD_STATE_DIR=/tmp/try INVOKERD_POOL_MEMORY_MIB=2048 invokerd serve",
    )
)
@config_option
def serve(config_path: Path | None) -> NoReturn:
    """Run the daemon in the foreground.

    The first SIGTERM or SIGINT lets running calls end (http.drain_s), a second one hurries, SIGHUP reloads the limits,
    prices, weights of users, log level and mounts. Under systemd it reports readiness and takes an inherited socket.
    """
    loaded = _load_or_exit(config_path)
    import logging

    from invoker.systemd import configure_logging

    configure_logging(loaded.config.log.level)
    log = logging.getLogger("invokerd")
    log.info("configuration: %s", loaded.path or "no file: defaults and environment")

    import uvloop

    from invoker import daemon
    from invoker.config.keys import ConfigError
    from invoker.record.corruption import StoreCorrupt
    from pool.errors import InvokerError

    try:
        code = uvloop.run(daemon.serve(loaded.config, loaded.path))
    except ConfigError as error:
        # What only the start can find: a price plan or a manifest whose content is no good.
        _exit_bad_config(error.problems)
    except InvokerError as error:
        # An expected refusal, such as another daemon: no traceback.
        log.error("%s (%s)%s", error, error.code, _START_HINTS.get(error.code, ""))  # noqa: TRY400
        sys.exit(EXIT_CORRUPT if isinstance(error, StoreCorrupt) else 1)
    sys.exit(code)


@main.command(
    "check-config",
    epilog=examples("invokerd check-config --config invokerd.toml", "invokerd check-config --json"),
)
@config_option
@json_option
def check_config(config_path: Path | None, as_json: bool) -> None:
    """Check the configuration, price plans and manifest of kinds included, and print what is in effect.

    Exits with 78, and a line for each problem, when the daemon would refuse to start with it.
    """
    loaded = _load_or_exit(config_path)
    from invoker import configured
    from invoker.config.keys import ConfigError
    from invoker.config.text import render_effective, render_effective_json

    try:
        configured.check(loaded.config)
    except ConfigError as error:
        _exit_bad_config(error.problems)

    click.echo(render_effective_json(loaded) if as_json else render_effective(loaded), nl=False)


@main.command("example-config", epilog=examples("invokerd example-config >invokerd.toml"))
@click.option("--reference", is_flag=True, help="Print the tables of docs/configuration.md instead.")
def example_config(reference: bool) -> None:
    """Print a configuration file with every key, its meaning and its default."""
    from invoker.config.text import render_example, render_reference

    click.echo(render_reference() if reference else render_example(), nl=False)


@main.command(epilog=examples("sudo invokerd doctor", "invokerd doctor --config invokerd.toml --json"))
@config_option
@json_option
def doctor(config_path: Path | None, as_json: bool) -> None:
    """Tell what of this node is fit for invokerd and what is not, each with what to do.

    Exits with 0 when the node is fit (warnings or not), with 1 when it is not.
    """
    loaded = _load_or_exit(config_path)
    from invoker.commands import doctor as examination

    findings = examination.examine(loaded.config)
    click.echo(examination.render_json(findings) if as_json else examination.render(findings), nl=False)
    sys.exit(0 if examination.is_fit(findings) else 1)


@main.command(epilog=examples("invokerd rescue entities.db", "invokerd rescue ledger/2026-11.db --config invokerd.toml"))
@click.argument("database", metavar="DATABASE")
@config_option
def rescue(database: str, config_path: Path | None) -> None:
    """Make a corrupt database anew from the rows that can be read.

    DATABASE is its name in the state directory: entities.db, apis.db, alarms.db or ledger/YYYY-MM.db. No daemon may run. The
    old file is kept in damaged/. Exits with 0 when all rows were saved, with 1 when some may be missing, or nothing was changed.
    """
    state_dir = _load_or_exit(config_path).config.state_dir
    from invoker.record import rescue as rescuing
    from invoker.record.damage import Damage
    from invoker.stores import lock_state
    from pool.errors import InvokerError

    known = rescuing.databases(state_dir)
    if database not in known:
        raise click.BadParameter(f"{database!r} is none of {', '.join(known) or 'the databases: there is none'}")
    try:
        lock = lock_state(state_dir)
        try:
            aside, told = rescuing.rescue(known[database], Damage(state_dir))
        finally:
            os.close(lock)
    except (InvokerError, OSError) as error:
        click.echo(f"invokerd: {error}", err=True)
        sys.exit(1)
    for each in told:
        click.echo(f"{each.table}: {each.rows} rows were saved" + "".join(f"; not all: {gap}" for gap in each.gaps))
    click.echo(f"the old file is {aside}")
    sys.exit(1 if any(each.gaps for each in told) else 0)


def _load_or_exit(path: Path | None) -> Loaded:
    from invoker.config.keys import ConfigError
    from invoker.config.load import load

    try:
        return load(path)
    except ConfigError as error:
        _exit_bad_config(error.problems)


def _exit_bad_config(problems: tuple[str, ...]) -> NoReturn:
    for problem in problems:
        click.echo(f"invokerd: {problem}", err=True)
    sys.exit(EXIT_BAD_CONFIG)


if __name__ == "__main__":
    main(prog_name="invokerd")
