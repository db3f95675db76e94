"""The commands under scripts/: what they say, what they refuse, and that they stop what they have started."""

import fcntl
import json
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(path for path in (ROOT / "scripts").iterdir() if path.is_file())
SHELL = [path for path in [*SCRIPTS, ROOT / ".ci" / "run"] if b"bash" in path.read_bytes().partition(b"\n")[0]]
COMMANDS = ("demo", "test")
DEADLINE_S = 30.0


def call(*command, **options) -> subprocess.CompletedProcess[str]:
    options = {"timeout": DEADLINE_S, **options}
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **options)


def wait_for(holds, what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


def copy_checkout(target: Path) -> Path:
    """A fresh clone, as far as scripts can tell: none of what is made by them, readable by everybody."""
    leave = shutil.ignore_patterns(".git", ".venv", ".state", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis")
    shutil.copytree(ROOT, target, ignore=leave)
    for path in (target, *target.rglob("*")):
        path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
    for parent in target.parents:
        if tempfile.gettempdir() in map(str, parent.parents):
            parent.chmod(0o755)
    return target


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return copy_checkout(tmp_path / "check out")  # a path may have spaces


# ---- what each says


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_script_is_executable_and_explains_itself_with_examples(script):
    assert script.stat().st_mode & stat.S_IXUSR
    for option in ("--help", "-h"):
        told = call(script, option)
        assert (told.returncode, told.stderr) == (0, "")
        assert "xamples:\n" in told.stdout
        assert f"scripts/{script.name}" in told.stdout
        assert max(map(len, told.stdout.splitlines())) <= 130


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_script_refuses_an_unknown_option_with_exit_code_2(script):
    verb = ["status"] if script.name == "engine" else []
    told = call(script, *verb, "--no-such-option")
    assert (told.returncode, told.stdout) == (2, "")
    assert "--no-such-option" in told.stderr
    assert "Traceback" not in told.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("demo", "--frames"), "--frames needs a number"),
        (("demo", "--frames", "0"), "--frames needs a number"),
        (("demo", "--frames", "many"), "--frames needs a number"),
        (("demo", "twice"), "unknown argument twice"),
        (("test", "tests/no/such/test.py"), "there is no tests/no/such/test.py"),
        (("test", "-x"), "pytest's own go after --"),
        (("engine",), "command"),
        (("engine", "pause"), "pause"),
        (("engine", "remove"), "NODE"),
        (("engine", "stop", "NODE"), "NODE"),
        (("images", "nodejs18"), "no such image: nodejs18"),
    ],
)
def test_wrong_usage_is_refused_in_words_before_anything_is_done(words, said):
    told = call(ROOT / "scripts" / words[0], *words[1:])
    assert (told.returncode, told.stdout) == (2, "")
    assert said in told.stderr


def test_ci_runs_what_everybody_runs():
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert (ROOT / ".ci" / "run").stat().st_mode & stat.S_IXUSR
    assert lines[-1] == "exec scripts/test"


def test_shell_scripts_pass_shellcheck():
    if shutil.which("shellcheck") is None:
        if os.environ.get("INVOKERD_TEST_SHELLCHECK") == "1":
            pytest.fail("INVOKERD_TEST_SHELLCHECK=1 promises shellcheck, and it is not there", pytrace=False)
        pytest.skip("no shellcheck here (Debian package shellcheck)")
    told = call("shellcheck", "--external-sources", "--severity=warning", *SHELL, ROOT / "scripts" / "lib" / "setup.sh")
    assert told.returncode == 0, told.stdout


# ---- whom they refuse


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")
@pytest.mark.parametrize("name", COMMANDS)
def test_without_root_the_one_command_is_told_and_nothing_is_changed(checkout, name):
    before = sorted(checkout.rglob("*"))
    told = call(f"scripts/{name}", cwd=checkout, env={"PATH": "/usr/bin:/bin"}, user=65534, group=65534, extra_groups=[])
    assert (told.returncode, told.stdout) == (1, "")
    assert f"Run: sudo scripts/{name}" in told.stderr
    assert sorted(checkout.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="without root they end before")
@pytest.mark.parametrize("name", COMMANDS)
def test_second_one_in_a_checkout_names_the_first_and_leaves_it_alone(checkout, name):
    state = checkout / ".state"
    state.mkdir()
    with (state / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("scripts/demo (process 4711)")
        lock.flush()
        told = call(f"scripts/{name}", cwd=checkout)
    assert (told.returncode, told.stdout) == (1, "")
    assert "scripts/demo (process 4711) works in this checkout" in told.stderr
    assert sorted(path.name for path in state.iterdir()) == ["lock"]
    assert (state / "lock").read_text() == "scripts/demo (process 4711)"


# ---- how they stop: a script of the same make, with something to stop

INTERRUPTIBLE = """
. scripts/lib/setup.sh
at_exit tell first
at_exit tell second
tell() { echo "ended $1"; false; echo "and on"; }
run bash -c 'trap "rm alive; exit 1" INT; touch alive; while :; do sleep 0.05; done' || echo "not reached"
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGPIPE, 141)]
)
@pytest.mark.parametrize("listens", [True, False], ids=["somebody-reads", "nobody-reads"])
def test_signal_ends_what_runs_and_then_what_was_started_last_one_first(checkout, number, code, listens):
    log = checkout / "log"
    with (
        log.open("w") as output,
        subprocess.Popen(
            # In the background of a shell some signals are ignored, and a script can trap none that is so at its start.
            ["env", "--default-signal", "bash", "-euo", "pipefail", "-c", INTERRUPTIBLE],
            cwd=checkout,
            stdout=output,
            stderr=subprocess.PIPE,
            start_new_session=True,
        ) as process,
    ):
        try:
            wait_for((checkout / "alive").exists, "the script to run something")
            if not listens:
                process.stderr.close()  # as when a terminal goes, or `| head` has read enough
            process.send_signal(number)
            assert process.wait(DEADLINE_S) == code
        finally:
            process.kill()
    assert not (checkout / "alive").exists()
    assert log.read_text() == "ended second\nand on\nended first\nand on\n"
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_command_that_was_run_keeps_its_exit_code_and_what_it_prints(checkout):
    script = '. scripts/lib/setup.sh; status=0; run bash -c "echo out; exit 7" > file || status=$?; echo "$status $(cat file)"'
    assert call("bash", "-euo", "pipefail", "-c", script, cwd=checkout).stdout == "7 out\n"


def test_failure_says_which_script_and_ends_with_1(checkout):
    told = call(
        "bash", "-euo", "pipefail", "-c", ". scripts/lib/setup.sh; at_exit echo ended; fail why", "scripts/x", cwd=checkout
    )
    assert (told.returncode, told.stdout, told.stderr) == (1, "ended\n", "scripts/x: why\n")


# ---- the demo itself


@pytest.mark.docker
@pytest.mark.skipif(os.geteuid() != 0, reason="the daemon must be root")
def test_demo_from_a_fresh_clone_passes_its_checks_and_leaves_nothing_behind(tmp_path, engine_url, ask):
    """All of it: environment, images, daemon, actions in containers, hit finder, bill against ledger; then a clean host."""
    checkout = copy_checkout(tmp_path / "c")
    environment = {**os.environ, "DOCKER_HOST": engine_url}
    done = call("scripts/demo", "--json", "--frames", "2", cwd=checkout, env=environment, timeout=400)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert {row["start"] for row in report["table"]} == {"cold", "stem", "warm", "frozen"}
    assert {check["passed"] for check in report["checks"]} == {True}

    state = checkout / ".state" / "demo"
    for key in (state / "beamline.key", state / "guest.key"):
        assert key.read_text().strip() not in done.stderr + done.stdout + (state / "invokerd.log").read_text()
        assert key.stat().st_mode & 0o077 == 0
    (node,) = [line.split('"')[1] for line in (state / "invokerd.toml").read_text().splitlines() if line.startswith("node")]
    filters = quote(json.dumps({"label": [f"invokerd.node={node}"]}))
    status, body = ask("GET", f"/containers/json?all=1&filters={filters}")
    assert (status, json.loads(body)) == (200, [])
    groups = f"functions_{node.replace('-', '_')}*"
    assert not [*Path("/sys/fs/cgroup").glob(groups), *Path("/sys/fs/cgroup").glob(f"*/{groups}")]
    assert str(checkout) not in Path("/proc/self/mountinfo").read_text()
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not [command for command in commands if os.fsencode(checkout) in command]
