import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click.testing
import pytest

from invoker.__main__ import main as daemon
from invoker.commands.ctl import main


def test_every_verb_tells_what_it_is_for_and_offers_json() -> None:
    groups = [(name, main.commands[name]) for name in sorted(main.commands)]
    verbs = [(f"{name} {sub}", each) for name, group in groups for sub, each in getattr(group, "commands", {"": group}).items()]
    assert {"namespace create", "namespace rotate-key", "pool ", "usage ", "activation cancel"} <= {name for name, _ in verbs}
    for name, verb in verbs:
        assert verb.help, name
        if not name.startswith("completion"):
            assert any("--json" in option.opts for option in verb.params), name


def walk(command: click.Command, *names: str) -> Iterator[tuple[str, click.Command, str]]:
    """Every command below and including this one, with its whole name and its help."""
    context = click.Context(command, info_name=" ".join(names))
    yield " ".join(names), command, command.get_help(context)
    for name, each in getattr(command, "commands", {}).items():
        yield from walk(each, *names, name)


COMMANDS = [*walk(main, "invokerctl"), *walk(daemon, "invokerd")]
LINES = [line.strip() for _, _, text in COMMANDS for line in text.splitlines() if re.match(r" +(invoker\w+ |id=|ls )", line)]
#: Files that the examples name.
FILES = [
    "hello.py",
    "index.zip",
    "page.py",
    "indexer.zip",
    "find.py",
    "frame.json",
    "event.json",
    "library.json",
    "calls.csv",
    "inputs.jsonl",
    "functions.csv",
]


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, _, text in COMMANDS])
def test_every_commands_help_has_an_example_of_itself(name: str, text: str) -> None:
    assert re.search(rf"^ +.*\b{name}\b", text.split("Example")[1], re.MULTILINE) if "Example" in text else False, text


@pytest.mark.parametrize("line", LINES)
def test_every_example_in_a_help_is_a_command_line_that_is_understood(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for each in FILES:
        Path(each).write_text("{}")
    Path("build").mkdir()
    Path("build/indexer").write_text("")
    done = []
    for _, command, _ in COMMANDS:
        if not isinstance(command, click.Group):
            monkeypatch.setattr(command, "callback", lambda *_args, **_options: done.append(True))
    text = re.split(r" {2,}|[>;)]| && ", re.sub(r"^id=\$\(|^ls .* \| ", "", line))[0]
    program, *arguments = shlex.split(text)
    ran = click.testing.CliRunner().invoke(daemon if program == "invokerd" else main, arguments)
    assert (ran.exit_code, done) == (0, [True]), (line, ran.output)


def test_help_names_the_exit_codes() -> None:
    shown = click.testing.CliRunner().invoke(main, ["--help"]).output
    assert "3 nobody answers, 4 the activation failed" in shown


@pytest.mark.parametrize("heavy", ["aiohttp", "asyncio", "rich", "uvloop", "http.client", "ssl", "tomllib"])
def test_the_command_starts_without_what_it_needs_only_later(heavy: str) -> None:
    code = f"import sys, invoker.commands.ctl; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
