import subprocess
import sys

import click.testing
import pytest

from invoker.commands.ctl import main


def test_every_verb_tells_what_it_is_for_and_offers_json() -> None:
    groups = [(name, main.commands[name]) for name in sorted(main.commands)]
    verbs = [(f"{name} {sub}", each) for name, group in groups for sub, each in getattr(group, "commands", {"": group}).items()]
    assert {"namespace create", "namespace rotate-key", "pool ", "usage ", "activation cancel"} <= {name for name, _ in verbs}
    for name, verb in verbs:
        assert verb.help, name
        if not name.startswith("completion"):
            assert any("--json" in option.opts for option in verb.params), name


def test_help_names_the_exit_codes() -> None:
    shown = click.testing.CliRunner().invoke(main, ["--help"]).output
    assert "3 nobody answers, 4 the activation failed" in shown


@pytest.mark.parametrize("heavy", ["aiohttp", "asyncio", "rich", "uvloop", "http.client", "ssl", "tomllib"])
def test_the_command_starts_without_what_it_needs_only_later(heavy: str) -> None:
    code = f"import sys, invoker.commands.ctl; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
