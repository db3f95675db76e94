"""What the commands `invokerd` and `invokerctl` share: options, the version, completion."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

#: EX_CONFIG of sysexits.h; `RestartPreventExitStatus=` in systemd/invokerd.service names it too.
EXIT_BAD_CONFIG = 78
#: EX_DATAERR: a database is corrupt, and only an operator can say what is to become of it. The unit names it likewise.
EXIT_CORRUPT = 65

_F = TypeVar("_F", bound=Callable[..., object])

CONTEXT_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


def examples(*commands: str) -> str:
    """Write the end of a command's help: command lines to copy, each on a line of its own."""
    return "\n".join(("\b", "Example:" if len(commands) == 1 else "Examples:", *(f"  {each}" for each in commands)))


def config_option(function: _F) -> _F:
    """Add `--config`, which arrives as `config_path`."""
    return click.option(
        "--config",
        "config_path",
        type=click.Path(path_type=Path),
        envvar="INVOKERD_CONFIG",
        help="TOML file of the daemon. Default: /etc/invokerd/invokerd.toml if it exists, else built-in defaults.",
    )(function)


def json_option(function: _F) -> _F:
    """Add `--json`, which arrives as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def installed_version() -> str:
    """Look up the installed version; late, since that costs a tenth of a command's start."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("invokerd")
    except PackageNotFoundError:
        return "(not installed)"


def version_option(function: _F) -> _F:
    """Add `--version`."""

    def show(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
        if wanted and not ctx.resilient_parsing:
            click.echo(f"{ctx.info_name} {installed_version()}")
            ctx.exit()

    return click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=show, help="Print the version.")(
        function
    )


def completion_command(program: str) -> click.Command:
    """Make the subcommand that prints a program's completion script for a shell."""

    @click.command(
        "completion",
        help=f"Print the completion script of {program} for a shell.",
        epilog=examples(
            f'eval "$({program} completion bash)"    # in ~/.bashrc',
            f'eval "$({program} completion zsh)"     # in ~/.zshrc, after compinit',
            f"{program} completion fish >~/.config/fish/completions/{program}.fish",
        ),
    )
    @click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
    @click.pass_context
    def completion(ctx: click.Context, shell: str) -> None:
        from click.shell_completion import get_completion_class

        known = get_completion_class(shell)
        if known is None:
            raise click.UsageError(f"no completion for {shell}")
        # Not `source()`: for bash that runs the bash at hand, only to ask for its version.
        script = known(ctx.find_root().command, {}, program, f"_{program.upper()}_COMPLETE")
        click.echo(script.source_template % script.source_vars())

    return completion
