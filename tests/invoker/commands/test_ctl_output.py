import io
import json
import sys
from datetime import datetime

import pytest

from invoker.commands.ctl_client import Exit, Failure
from invoker.commands.ctl_output import local_time, parse_when, plain_table, print_json, print_table, progress, span


def test_plain_columns_are_aligned_and_empty_cells_stay_visible() -> None:
    assert plain_table(("NAME", "UID>"), [("alice", 4711), ("", 1)]) == "NAME    UID\nalice  4711\n-         1\n"
    assert plain_table(("NAME",), []) == "NAME\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_table_and_indented_json_a_pipe_gets_neither(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    print_table(("NAME", "UID>"), [("alice", 4711)])
    print_json({"ü": [1]})
    assert capsys.readouterr().out == 'NAME    UID\nalice  4711\n{"ü": [1]}\n'
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    print_table(("NAME", "UID>"), [("[bold]alice", 4711)])
    print_json({"a": [1]})
    shown = terminal.getvalue()
    assert "─" in shown
    assert "[bold]alice" in shown  # a name is no markup
    assert json.dumps({"a": [1]}, indent=2) in shown


def test_what_is_copied_into_the_next_command_is_never_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    row = ("2026-11-30 02:37:53", "0123456789abcdef" * 2, "nodejs:20", "/beamline/an-action-with-a-long-name:0.0.1")
    print_table(("BEGAN", "ACTIVATION", "KIND", "ACTION"), [row])
    assert row[1] in terminal.getvalue()
    assert row[3] not in terminal.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (59.9, "59s"), (65, "1m05s"), (3600, "1h00m"), (7260, "2h01m"), (90_000, "1d01h")]
)
def test_spans(seconds: float, text: str) -> None:
    assert span(seconds) == text


NOW_S = 1_800_000_000.0


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("90s", 1_799_999_910_000),
        ("24h", 1_799_913_600_000),
        ("7d", 1_799_395_200_000),
        ("1700000000000", 1_700_000_000_000),
        ("2026-11-01T10:00:00+01:00", 1_793_523_600_000),
        ("2026-11-01", round(datetime(2026, 11, 1).timestamp() * 1000)),  # noqa: DTZ001 - local time is what is promised
    ],
)
def test_moments(text: str, ms: int) -> None:
    assert parse_when(text, NOW_S) == ms


@pytest.mark.parametrize("text", ["", "yesterday", "5", "7x", "2026-13-01"])
def test_what_is_no_moment_is_a_usage_error(text: str) -> None:
    with pytest.raises(Failure, match="is no moment") as failed:
        parse_when(text, NOW_S)
    assert failed.value.exit_code is Exit.USAGE


def test_local_time_is_the_machines() -> None:
    assert local_time(1_700_000_000_999) == datetime.fromtimestamp(1_700_000_000).strftime("%Y-%m-%d %H:%M:%S")  # noqa: DTZ006


@pytest.mark.parametrize(("value", "printed"), [({"a": "\u00e4"}, '{"a": "\u00e4"}\n'), ({"a": "\ud800"}, '{"a": "\\ud800"}\n')])
def test_any_json_can_be_printed_half_a_surrogate_pair_too(
    value: object, printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    print_json(value)
    assert capsys.readouterr().out == printed


def test_progress_is_shown_to_a_terminal_and_to_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    for screen, shown in ((Terminal(), "\r\x1b[K3 activations still run\r\x1b[K"), (io.StringIO(), "")):
        monkeypatch.setattr(sys, "stderr", screen)
        with progress() as show:
            show("3 activations still run")
        assert screen.getvalue() == shown
