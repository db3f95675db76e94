import json
from collections.abc import Iterator
from pathlib import Path

import click.testing
import pytest

from invoker.commands.ctl import main
from invoker.control.fake import FakeControl, serving
from invoker.control.messages import PoolRow


@pytest.fixture
def control(tmp_path: Path) -> Iterator[FakeControl]:
    control = FakeControl()
    with serving(control, tmp_path / "control.sock"):
        yield control


class Ctl:
    """Runs `invokerctl --config FILE ...` in this process."""

    def __init__(self, config: Path) -> None:
        self.config = config

    def run(self, *arguments: str, code: int = 0) -> click.testing.Result:
        result = click.testing.CliRunner().invoke(main, ["--config", str(self.config), *arguments])
        assert result.exit_code == code, result.output
        return result


@pytest.fixture
def ctl(tmp_path: Path) -> Ctl:
    config = tmp_path / "invokerd.toml"
    config.write_text('state_dir = "."\n')
    return Ctl(config)


def test_a_new_key_is_alone_on_stdout(ctl: Ctl, control: FakeControl) -> None:
    created = ctl.run(
        "namespace", "create", "alice", "--uid", "4711", "--gid", "4712", "--group", "20", "--group", "44", "--mount", "d"
    )
    assert created.stdout == control.keys["alice"] + "\n"
    alice = control.namespaces["alice"]
    assert (alice.uid, alice.gid, alice.groups, alice.mounts) == (4711, 4712, (20, 44), ("d",))
    rotated = ctl.run("namespace", "rotate-key", "alice")
    assert rotated.stdout == control.keys["alice"] + "\n" != created.stdout
    assert json.loads(ctl.run("namespace", "rotate-key", "alice", "--json").stdout) == {"key": control.keys["alice"]}


def test_a_namespace_is_given_limits_of_its_own_and_the_sites_again(ctl: Ctl, control: FakeControl) -> None:
    ctl.run("namespace", "create", "alice", "--uid", "4711", "--gid", "4712")
    ctl.run("namespace", "limits", "alice", "--invocations-per-minute", "0", "--kind", "python:3", "--no-store-activations")
    limits = control.namespaces["alice"].limits
    assert (limits.invocations_per_minute, limits.allowed_kinds, limits.store_activations) == (0, ("python:3",), False)
    assert limits.concurrent_invocations is None
    lines = ctl.run("namespace", "limits", "alice").stdout.splitlines()
    assert [line.split(None, 1)[1] for line in lines[1:]] == ["0", *["the site's"] * 3, "python:3", "no"]
    assert control.namespaces["alice"].limits == limits  # looking changes nothing
    shown = json.loads(ctl.run("namespace", "limits", "alice", "--fires-per-minute", "5", "--json").stdout)
    assert (shown["fires_per_minute"], shown["invocations_per_minute"], shown["store_activations"]) == (5, 0, False)
    shown = json.loads(ctl.run("namespace", "limits", "alice", "--reset", "--fires-per-minute", "6", "--json").stdout)
    assert (shown["fires_per_minute"], shown["invocations_per_minute"], shown["store_activations"]) == (6, None, None)
    shown = json.loads(ctl.run("namespace", "limits", "alice", "--cpu-seconds-per-window", "36000", "--json").stdout)
    assert (shown["fires_per_minute"], shown["cpu_seconds_per_window"]) == (6, 36_000)
    assert "-1" in ctl.run("namespace", "limits", "alice", "--fires-per-minute", "-1", code=2).stderr
    assert "there is no namespace 'bob'" in ctl.run("namespace", "limits", "bob", code=1).stderr


def test_groups_and_mounts_of_a_namespace_are_replaced_and_what_is_not_given_stays(ctl: Ctl, control: FakeControl) -> None:
    ctl.run("namespace", "create", "alice", "--uid", "4711", "--gid", "4712", "--group", "20", "--mount", "data")
    ctl.run("namespace", "update", "alice", "--mount", "scratch", "--mount", "cvmfs")
    assert (control.namespaces["alice"].groups, control.namespaces["alice"].mounts) == ((20,), ("scratch", "cvmfs"))
    ctl.run("namespace", "update", "alice", "--no-mounts", "--group", "21")
    assert (control.namespaces["alice"].groups, control.namespaces["alice"].mounts) == ((21,), ())
    assert "nothing to change" in ctl.run("namespace", "update", "alice", code=2).stderr
    assert "exclude each other" in ctl.run("namespace", "update", "alice", "--mount", "a", "--no-mounts", code=2).stderr
    assert "does not exist" in ctl.run("namespace", "update", "bob", "--no-groups", code=1).stderr


def test_namespaces_are_listed_and_deleted(ctl: Ctl, control: FakeControl) -> None:
    ctl.run("namespace", "create", "alice", "--uid", "4711", "--gid", "4712")
    lines = ctl.run("namespace", "list").stdout.splitlines()
    assert lines[0].split() == ["NAMESPACE", "UID", "GID", "GROUPS", "MOUNTS", "CREATED", "BLOCKED"]
    assert lines[1].split()[:3] == ["alice", "4711", "4712"]
    assert json.loads(ctl.run("namespace", "list", "--json").stdout)["namespaces"][0]["uid"] == 4711
    assert ctl.run("namespace", "delete", "alice", "--yes").stdout == ""
    assert control.namespaces == {}


def test_a_refusal_goes_to_stderr_with_exit_code_1(ctl: Ctl, control: FakeControl) -> None:
    refused = ctl.run("namespace", "rotate-key", "bob", code=1)
    assert refused.stdout == ""
    assert "Namespace bob does not exist. (code not-found)" in refused.stderr


def test_a_missing_option_is_exit_code_2_and_a_missing_daemon_3(ctl: Ctl) -> None:
    assert "--uid" in ctl.run("namespace", "create", "alice", code=2).stderr
    absent = ctl.run("status", code=3)
    assert "cannot reach unix://" in absent.stderr
    assert "systemctl status invokerd" in absent.stderr
    ctl.config.write_text("nonsense = 1\n")
    assert "unknown key" in ctl.run("status", code=78).stderr


def row(container: str, action: str, leases: int = 0) -> PoolRow:
    return PoolRow(
        container=container,
        action=action,
        namespace="alice",
        uid=4711,
        state="busy" if leases else "frozen",
        age_s=65.2,
        memory_mib=256,
        leases=leases,
    )


def test_the_pool_is_shown_once_or_so_many_times(ctl: Ctl, control: FakeControl) -> None:
    control.rows = [row("c2", "alice/b", 1), row("c1", "alice/a")]
    lines = ctl.run("pool").stdout.splitlines()
    assert lines[0].split() == ["CONTAINER", "ACTION", "NAMESPACE", "UID", "STATE", "AGE", "MEMORY", "LEASES"]
    assert lines[1].split() == ["c1", "alice/a", "alice", "4711", "frozen", "1m05s", "256", "MiB", "0"]
    assert lines[2].split()[4] == "busy"
    looks = ctl.run("pool", "--watch", "--json", "--interval", "0.1", "--count", "3").stdout.splitlines()
    assert [json.loads(look)["memory_used_mib"] for look in looks] == [512] * 3


def test_the_status_complains_by_its_exit_code(ctl: Ctl, control: FakeControl) -> None:
    assert "fake: ready" in ctl.run("status").stdout
    control.problems = ("freezing does not work; see invokerd doctor",)
    assert "problem:     freezing does not work" in ctl.run("status", code=1).stdout
    assert json.loads(ctl.run("status", "--json", code=1).stdout)["problems"] == list(control.problems)


def test_drain_returns_at_once_or_waits_for_the_end(ctl: Ctl, control: FakeControl) -> None:
    control.running = 3
    assert ctl.run("drain").stdout == "draining: 2 activations still run\n"
    assert control.draining
    assert json.loads(ctl.run("drain", "--wait", "--json").stdout) == {"running": 0}
    control.running = 100
    assert "still run after 0 s" in ctl.run("drain", "--wait", "--timeout", "0", code=1).stderr


def test_an_operator_cancels_anybodys_activation(ctl: Ctl, control: FakeControl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INVOKERCTL_AUTH", raising=False)
    control.activations = {"a" * 32: ("alice", "running"), "b" * 32: ("bob", "queued")}
    assert ctl.run("activation", "cancel", "a" * 32).stdout == f"cancelled {'a' * 32}, which was running\n"
    assert json.loads(ctl.run("activation", "cancel", "b" * 32, "--json").stdout) == {"activation_id": "b" * 32, "was": "queued"}
    assert "under way" in ctl.run("activation", "cancel", "c" * 32, code=1).stderr
