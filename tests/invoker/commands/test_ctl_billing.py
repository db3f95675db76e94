import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click.testing
import pytest

from invoker.commands.ctl import main
from invoker.control.fake import FakeControl, serving
from invoker.control.messages import BillRow, UsageRow
from invoker.record.entries import TailEntry, encode_entry
from invoker.record.focus import COLUMNS
from invoker.record.ledger import Ledger, LedgerItem
from tests.support.bill_rows import PLANS, fill


@pytest.fixture
def control(tmp_path: Path) -> Iterator[FakeControl]:
    control = FakeControl()
    control.usages = [usage_row(), usage_row(action="alice/find")]
    with serving(control, tmp_path / "control.sock"):
        yield control


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "invokerd.toml"
    path.write_text('state_dir = "."\n')
    return path


def run(config: Path, *arguments: str, code: int = 0) -> click.testing.Result:
    result = click.testing.CliRunner().invoke(main, ["--config", str(config), *arguments])
    assert result.exit_code == code, result.output
    return result


def usage_row(**changes: str) -> UsageRow:
    return UsageRow(
        namespace="alice",
        activations=3,
        failed=1,
        billed_us=1_500_000,
        cpu_us=900_000,
        memory_byte_us=2**30 * 1_500_000,
        cost="0.000000123",
        currency="EUR",
        plan="default-1",
        charged_invocations=2,
        **changes,
    )


def test_usage_is_asked_for_a_span_and_shown_in_readable_units(config: Path, control: FakeControl) -> None:
    shown = run(config, "usage", "--since", "1700000000000", "--until", "1700000001000", "--namespace", "alice").stdout
    assert control.asked == [("alice", 1_700_000_000_000, 1_700_000_001_000)]
    header, line = shown.splitlines()
    assert len(header.split("  ")) > 5
    assert "CURRENCY" in header.split()
    assert line.split() == ["alice", "3", "1", "1.500", "0.900", "1.500", "0.000000123", "EUR", "default-1"]
    assert json.loads(run(config, "usage", "--json").stdout)["rows"][0]["cost"] == "0.000000123"
    assert "is no moment" in run(config, "usage", "--since", "once", code=2).stderr


@pytest.mark.parametrize("verb", ["usage", "ledger"])
def test_a_span_that_is_the_wrong_way_round_is_refused(config: Path, verb: str) -> None:
    refused = run(config, verb, "--since", "5m", "--until", "1h", code=2)
    assert "--since 5m is not before --until 1h" in refused.stderr


def test_usage_by_action_names_the_actions(config: Path, control: FakeControl) -> None:
    header, line = run(config, "usage", "--by", "action").stdout.splitlines()
    assert header.split()[:2] == ["NAMESPACE", "ACTION"]
    assert line.split()[:3] == ["alice", "alice/find", "3"]


def test_usage_as_csv_has_every_figure_unrounded(config: Path, control: FakeControl) -> None:
    (row,) = csv.DictReader(run(config, "usage", "--csv").stdout.splitlines())
    assert (row["namespace"], row["billed_us"], row["cost"], row["charged_invocations"]) == (
        "alice",
        "1500000",
        "0.000000123",
        "2",
    )
    assert list(row) == list(UsageRow.__struct_fields__)
    assert "exclude each other" in run(config, "usage", "--csv", "--json", code=2).stderr


def test_a_bill_shows_its_lines_and_says_when_the_month_is_not_over(config: Path, control: FakeControl) -> None:
    control.lines = [
        BillRow(
            namespace="alice", plan="default@1", currency="EUR", invocations=7, memory_mib_us=1024 * 2_000_000, cpu_us=500_000,
            idle_byte_us=0, free_invocations=1, free_memory_mib_us=0, free_cpu_us=0, exact="1.2345", amount="1.23",
        )
    ]  # fmt: skip
    shown = run(config, "bill", "2026-11")
    assert shown.stdout.splitlines()[1].split() == ["alice", "7", "2.000", "0.500", "0.000", "1.2345", "1.23", "EUR", "default@1"]
    assert "2026-11 is not over yet" in shown.stderr
    told = json.loads(run(config, "bill", "2026-11", "--json").stdout)
    assert (told["month"], told["complete"], told["rows"][0]["amount"]) == ("2026-11", False, "1.23")
    (row,) = csv.DictReader(run(config, "bill", "2026-11", "--csv").stdout.splitlines())
    assert row["free_invocations"] == "1"


def test_a_bill_in_focus_is_read_from_the_files_without_a_daemon(config: Path) -> None:
    fill(config.parent / "ledger")
    config.write_text('state_dir = "."\n[prices]\nfile = "prices.toml"\n')
    (config.parent / "prices.toml").write_text(PLANS)
    rows = list(csv.DictReader(run(config, "bill", "2026-11", "--focus", "--issuer", "Site").stdout.splitlines()))
    assert list(rows[0]) == list(COLUMNS)
    assert {row["SubAccountId"] for row in rows} == {"anna", "ben"}
    assert {row["InvoiceIssuerName"] for row in rows} == {"Site"}
    mine = run(config, "bill", "2026-11", "--focus", "--issuer", "Site", "--namespace", "ben").stdout.splitlines()
    assert list(csv.DictReader(mine)) == [row for row in rows if row["SubAccountId"] == "ben"]
    assert "is not over yet" in run(config, "bill", "2999-12", "--focus").stderr
    assert "is not over yet" not in run(config, "bill", "2020-02", "--focus").stderr


def test_what_a_bill_in_focus_cannot_be_made_of_is_named(config: Path) -> None:
    assert f"{config.parent / 'ledger'} is not there" in run(config, "bill", "2026-11", "--focus", code=1).stderr
    fill(config.parent / "ledger")
    refused = run(config, "bill", "2026-13", "--focus", code=1)
    assert "'2026-13' is no month" in refused.stderr
    assert refused.stdout == ""
    assert "--focus and --json exclude each other" in run(config, "bill", "2026-11", "--focus", "--json", code=2).stderr
    config.write_text('state_dir = "."\n[prices]\nfile = "prices.toml"\n')
    (config.parent / "prices.toml").write_text("[[plan]]\n")
    assert "prices.file: price plans: " in run(config, "bill", "2026-11", "--focus", code=78).stderr


def test_a_correction_names_its_reason_and_its_author(
    config: Path, control: FakeControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUDO_USER", "ada")
    told = run(config, "correct", "a" * 32, "--cpu-us", "-250000", "--key", "2", "--reason", "the node was slow").stdout
    assert told.startswith(f"corrected {'a' * 32} of alice, filed with 2026-")
    (asked,) = control.corrections
    assert (asked.key, asked.cpu_us, asked.memory_mib_us, asked.author) == (2, -250_000, 0, "ada")
    assert "--reason" in run(config, "correct", "a" * 32, code=2).stderr


def fill_ledger(directory: Path, count: int) -> None:
    ledger = Ledger(directory / "ledger", "n1")
    tails = [TailEntry(str(n), "anna" if n % 2 else "ben", "anna/a", n, 1_790_000_000_000 + n, 1) for n in range(count)]
    ledger.apply([LedgerItem("tail", each.at_ms, each.activation_id, encode_entry(each)) for each in tails], 1)
    ledger.close()


def test_the_ledgers_rows_are_printed_without_a_daemon(config: Path, tmp_path: Path) -> None:
    fill_ledger(tmp_path, 9)
    rows = list(csv.DictReader(run(config, "ledger").stdout.splitlines()))
    assert [row["cpu_us"] for row in rows] == [str(n) for n in range(9)]
    lines = run(config, "ledger", "--json", "--namespace", "anna", "--since", "1790000000002", "--until", "1790000000007").stdout
    assert [json.loads(line)["cpu_us"] for line in lines.splitlines()] == [3, 5]


def test_who_reads_no_further_than_the_first_rows_gets_no_traceback(config: Path, tmp_path: Path) -> None:
    fill_ledger(tmp_path, 5000)
    program = f"{sys.executable} -m invoker.commands.ctl --config {config} ledger | head -n 2"
    piped = subprocess.run(program, shell=True, capture_output=True, text=True, check=False)
    assert len(piped.stdout.splitlines()) == 2
    assert piped.stderr == ""


def test_a_state_dir_without_a_ledger_is_named(config: Path, tmp_path: Path) -> None:
    refused = run(config, "ledger", code=1)
    assert f"{tmp_path}/ledger is not there" in refused.stderr
    assert "--config FILE" in refused.stderr
