"""What users' verbs of `invokerctl` share: whom to ask, how to print, and how parameters are given."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from invoker.commands.cli import json_option
from invoker.commands.ctl_context import Target

#: An option that takes a key and a value, as often as it is given.
PAIR: dict[str, Any] = {"type": (str, str), "multiple": True, "metavar": "KEY VALUE"}


def user_verb(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a verb of a function: with the options that say whom to ask and how to print."""

    def verb(target: Target, /, *, apihost: str | None, auth: str | None, insecure: bool, **rest: Any) -> Any:
        own = dataclasses.replace(
            target, apihost=apihost or target.apihost, auth=auth or target.auth, insecure=insecure or target.insecure
        )
        return function(own, **rest)

    functools.update_wrapper(verb, function)
    options = (
        click.option("--apihost", help="Address of the API. Default: APIHOST of ~/.wskprops, else http.listen of --config."),
        click.option("-u", "--auth", help="Key, UUID:KEY. Better kept in ~/.wskprops: others see a command line."),
        click.option("-i", "--insecure", is_flag=True, help="Take any TLS certificate."),
        json_option,
    )
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), click.pass_obj(verb))


def parameter_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that give parameters."""
    with_pairs = click.option("-p", "--param", "params", help="A parameter; JSON, else text. May be repeated.", **PAIR)
    with_file = click.option(
        "-P", "--param-file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="JSON object of parameters."
    )
    return with_pairs(with_file(function))
