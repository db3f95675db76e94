"""The command `invokerctl`: operators' verbs over the control socket, users' verbs over the API.

Exit codes are those of `ctl_client.Exit`.
"""

from __future__ import annotations

from pathlib import Path

import click

from invoker.commands import ctl_action, ctl_activation, ctl_billing, ctl_operator, ctl_triggers
from invoker.commands.cli import CONTEXT_SETTINGS, completion_command, config_option, version_option
from invoker.commands.ctl_api import api
from invoker.commands.ctl_context import Target
from invoker.commands.ctl_map import action_map
from invoker.commands.ctl_package import package
from invoker.commands.ctl_policy import policy
from invoker.commands.ctl_poll import activation_poll
from invoker.commands.ctl_property import namespace_get, property_


@click.group(
    context_settings=CONTEXT_SETTINGS,
    epilog="""\b
Exit codes: 0 done, 1 refused or failed, 2 usage, 3 nobody answers, 4 the activation failed,
5 not finished in time, 78 bad configuration.""",
)
@config_option
@click.option("--socket", type=click.Path(path_type=Path), help="Control socket. Default: control.sock in state_dir.")
@click.option("--apihost", envvar="INVOKERCTL_APIHOST", help="Address of the API, for users' verbs.")
@click.option("-u", "--auth", envvar="INVOKERCTL_AUTH", help="Key, UUID:KEY, for users' verbs.")
@click.option("-i", "--insecure", is_flag=True, help="Take any TLS certificate.")
@version_option
@click.pass_context
def main(
    ctx: click.Context, *, config_path: Path | None, socket: Path | None, apihost: str | None, auth: str | None, insecure: bool
) -> None:
    """Operate an invokerd node, and use it.

    Operators (over the control socket, as the daemon's user): namespace, pool, status, drain, usage, bill, ledger, correct,
    policy.
    Users (over the API, with a key from --auth, INVOKERCTL_AUTH or ~/.wskprops): action, activation, trigger, rule, package,
    api, property, namespace get.

    \b
    Examples:
      invokerctl --config invokerd.toml namespace create alice --uid 4711 --gid 4711
      invokerctl --config invokerd.toml pool --watch
      invokerctl property set --apihost http://127.0.0.1:3233 --auth "$KEY"
      invokerctl action create hello hello.py
      invokerctl action invoke hello --result --param name Ada
    """  # noqa: D301 - \b is click's mark for a block that keeps its lines
    ctx.obj = Target(config_path=config_path, socket=socket, apihost=apihost, auth=auth, insecure=insecure)


main.add_command(package)
main.add_command(property_)
ctl_operator.namespace.add_command(namespace_get)
ctl_action.action.add_command(action_map)
ctl_activation.activation.add_command(activation_poll)

for _command in (
    policy,
    ctl_operator.namespace,
    ctl_operator.pool,
    ctl_operator.status,
    ctl_billing.usage,
    ctl_billing.bill,
    ctl_billing.ledger,
    ctl_billing.correct,
    ctl_operator.drain,
    ctl_action.action,
    ctl_activation.activation,
    ctl_triggers.trigger,
    ctl_triggers.rule,
    completion_command("invokerctl"),
):
    main.add_command(_command)
main.add_command(api)


if __name__ == "__main__":
    main(prog_name="invokerctl")
