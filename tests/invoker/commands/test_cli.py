import shutil
import subprocess

import click
import click.testing
import pytest

from invoker.commands.cli import completion_command, installed_version, version_option


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_for_the_program(shell: str) -> None:
    group = click.Group("invokerctl", commands=[completion_command("invokerctl")])
    script = click.testing.CliRunner().invoke(group, ["completion", shell]).output
    assert "_INVOKERCTL_COMPLETE" in script
    if shutil.which(shell):
        assert subprocess.run([shell, "-n"], input=script, text=True, check=False).returncode == 0


def test_an_unknown_shell_is_a_usage_error() -> None:
    group = click.Group("invokerctl", commands=[completion_command("invokerctl")])
    assert click.testing.CliRunner().invoke(group, ["completion", "tcsh"]).exit_code == 2


def test_the_version_is_the_installed_one() -> None:
    @click.command("thing")
    @version_option
    def thing() -> None:
        raise AssertionError("not reached")

    assert click.testing.CliRunner().invoke(thing, ["--version"]).output == f"thing {installed_version()}\n"
    assert installed_version()[0].isdigit()
