"""The demo driver against a fake server that runs the real examples: it passes when all is well, and says what is not."""

import json
import re
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import demo
import pytest
from aiohttp.test_utils import TestServer
from fake_openwhisk import GRACE_S, FakeOpenWhisk

pytestmark = pytest.mark.usefixtures("executable")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory, kept between tests: frames are written once."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
async def fake(data: Path, run_async, monkeypatch):
    monkeypatch.setattr(demo, "IDLE_S", 1.4 * GRACE_S)
    return FakeOpenWhisk(data=str(data), run=run_async)


@pytest.fixture
def play(fake: FakeOpenWhisk, capsys):
    """Run the demo against the fake; returns (exit code, stdout, stderr)."""

    async def run(*extra: str, keys: tuple[str, str] = ("a:1", "b:2")) -> tuple[int, str, str]:
        async with TestServer(fake.app()) as server:
            address = ["--apihost", f"127.0.0.1:{server.port}", "--auth-a", keys[0], "--auth-b", keys[1]]
            small = ["--data", fake.data, "--frames", "4", "--size", "512", "--concurrency", "2"]
            code = await demo.run(demo.parse([*address, *small, *extra]))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


async def test_everything_right_passes_and_is_told_plainly_when_piped(play):
    code, out, _ = await play("--uid-a", "2001", "--uid-b", "2002")
    assert code == 0, out
    assert "\x1b[" not in out
    assert re.search(r"First result \d+\.\d s after the command: resolution \(Python, stem start", out)
    for kind in ("cold", "stem", "warm", "frozen"):
        assert re.search(rf"^ *\S* +{kind} ", out, re.MULTILINE), kind
    assert "recall" in out
    assert re.search(r"Cost of the run: 0\.\d+ EUR for \d+ activations \(plan default@1\)", out)
    assert re.search(r"(\d+) of \1 checks passed", out)
    assert max(map(len, out.splitlines())) < 400


async def test_first_result_is_timed_from_when_the_command_was_typed(play):
    _, out, _ = await play("--json", "--began", str(time.time() - 100))
    assert 100 < json.loads(out)["first_result_s"] < 160


def check_named(out: str, part: str) -> dict[str, Any]:
    (check,) = [check for check in json.loads(out)["checks"] if part in check["check"]]
    return check


@pytest.mark.parametrize(("more", "passed"), [(Decimal(0), True), (Decimal("0.0000000001"), False)])
async def test_bill_is_compared_with_the_ledger_to_the_last_digit(play, fake, monkeypatch, more, passed):
    def read_ledger(_config: Path, at_least: int) -> tuple[int, Decimal]:
        notes = [
            note["value"]["amount"] for record in fake.records.values() for note in record["annotations"] if note["key"] == "cost"
        ]
        return at_least, sum(map(Decimal, notes), more)

    monkeypatch.setattr(demo, "read_ledger", read_ledger)
    code, out, _ = await play("--json", "--config", "invokerd.toml")
    assert check_named(out, "the same sum")["passed"] is passed
    assert code == (0 if passed else 1)


async def test_ledger_that_cannot_be_read_is_a_failed_check(play, tmp_path):
    code, out, _ = await play("--json", "--config", str(tmp_path / "none.toml"))
    check = check_named(out, "ledger can be read")
    assert (code, check["passed"]) == (1, False)
    assert "none.toml" in check["detail"]


async def test_keys_are_read_from_files_too(play, tmp_path):
    (tmp_path / "a").write_text("a:1\n")
    (tmp_path / "b").write_text("b:2\n")
    code, out, _ = await play(keys=(f"@{tmp_path / 'a'}", f"@{tmp_path / 'b'}"))
    assert code == 0, out
    with pytest.raises(SystemExit) as refused:
        await play(keys=("@/no/such/file", "b:2"))
    assert refused.value.code == 2


async def test_json_holds_exact_costs_that_add_up(play, fake):
    code, out, err = await play("--json")
    report = json.loads(out)
    assert code == 0, err
    assert "First result" in err
    assert sum(Decimal(row["cost"]) for row in report["table"]) == Decimal(report["cost"]["amount"])
    costs = [entry["value"]["amount"] for r in fake.records.values() for entry in r["annotations"] if entry["key"] == "cost"]
    assert sum(map(Decimal, costs)) == Decimal(report["cost"]["amount"])
    assert sum(row["calls"] for row in report["table"]) == len(fake.records)
    assert {row["action"] for row in report["table"]} == {
        *("resolution", "hitrate", "rings", "ball", "checksum", "whoami", "hitfinder"),
    }
    assert report["frames"] == 4
    assert {check["passed"] for check in report["checks"]} == {True}


async def test_hit_finder_runs_in_the_science_image_with_code_inline(play, fake):
    await play()
    execution = fake.actions["a:1", "hitfinder"]["exec"]
    assert (execution["kind"], execution["image"]) == ("blackbox", "invokerd/python3-science:latest")
    assert "def main(" in execution["code"]
    assert fake.actions["a:1", "ball"]["exec"]["image"] == "openwhisk/dockerskeleton"


def lose_peaks(record: dict[str, Any]) -> None:
    record["response"]["result"].get("peaks", [])[20:] = []


def invent_peaks(record: dict[str, Any]) -> None:
    result = record["response"]["result"]
    if result.get("peaks"):
        result["peaks"] += [{**result["peaks"][0], "fs": 20.0 * n, "ss": 7.0} for n in range(20)]


def forget_cost(record: dict[str, Any]) -> None:
    if record["name"] == "rings":
        record["annotations"] = [entry for entry in record["annotations"] if entry["key"] != "cost"]


def never_warm(record: dict[str, Any]) -> None:
    for entry in record["annotations"]:
        if entry["key"] == "startKind" and entry["value"] == "warm":
            entry["value"] = "frozen"


def miscalculate(record: dict[str, Any]) -> None:
    if record["name"] == "ball":
        record["response"]["result"]["volume"] = 4.0


def crash(record: dict[str, Any]) -> None:
    if record["name"] == "rings":
        record["response"] = {"status": "action developer error", "success": False, "result": {"error": "command exited"}}


def writable(record: dict[str, Any]) -> None:
    if record["name"] == "whoami":
        record["response"]["result"]["mount"]["writable"] = True


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lose_peaks, "recall 0."),
        (invent_peaks, "precision 0."),
        (forget_cost, "an activation of rings has no cost"),
        (never_warm, "a warm start was seen: start kinds seen: cold, frozen, stem"),
        (miscalculate, "the volume 4.0 is"),
        (crash, "command exited"),
        (writable, "A sees /data, read-only"),
    ],
)
async def test_what_is_wrong_fails_the_demo_and_is_named(play, fake, spoil, said):
    fake.spoil = spoil
    code, out, _ = await play()
    assert code == 1
    assert said in out
    assert "What failed:" in out


async def test_equal_uids_fail(play, fake):
    fake.uids["b:2"] = 2001
    code, out, _ = await play("--uid-b", "2002")
    assert code == 1
    assert "different users" in out
    assert "namespace B runs as uid 2002" in out


async def test_full_server_is_asked_again(play, fake):
    fake.refusals = [429, 503, 429]
    code, out, _ = await play()
    assert code == 0, out


async def test_call_that_outlives_the_blocking_wait_is_looked_up(play, fake):
    fake.slow = ("checksum",)
    code, out, _ = await play()
    assert code == 0, out


async def test_wrong_key_ends_with_the_servers_own_words(play):
    code, out, _ = await play(keys=("a:wrong", "b:2"))
    assert code == 1
    assert "the demo runs to its end: action resolution was not accepted (401): The supplied authentication is invalid." in out


async def test_no_server_ends_with_a_sentence(tmp_path: Path, capsys, unused_tcp_port):
    arguments = ["--apihost", f"127.0.0.1:{unused_tcp_port}", "--auth-a", "a:1", "--auth-b", "b:2", "--data", str(tmp_path)]
    assert await demo.run(demo.parse(arguments)) == 1
    out = capsys.readouterr().out
    assert "Cannot connect" in out
    assert "Traceback" not in out


@pytest.mark.parametrize("extra", [["--frames", "0"], ["--size", "7"], ["--concurrency", "0"], ["--data"]])
def test_bad_arguments_are_refused(tmp_path: Path, capsys, extra):
    with pytest.raises(SystemExit) as stopped:
        demo.parse(["--apihost", "x", "--auth-a", "a:1", "--auth-b", "b:2", "--data", str(tmp_path), *extra])
    assert stopped.value.code == 2
    assert "error:" in capsys.readouterr().err


async def test_second_run_reuses_the_frames(play, data: Path):
    await play()
    before = (data / "run0001" / "frame_000000.h5").stat().st_mtime_ns
    code, out, _ = await play()
    assert code == 0
    assert "already" in out
    assert (data / "run0001" / "frame_000000.h5").stat().st_mtime_ns == before
