"""The units as systemd sees them. Without systemd these are skipped, or fail where INVOKERD_TEST_SYSTEMD=1 promises it."""

import configparser
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from invoker.commands.cli import EXIT_BAD_CONFIG
from invoker.config.model import Config

ROOT = Path(__file__).parents[2]
SYSTEMD = ROOT / "systemd"
#: What `systemd-analyze security` of systemd 252 says is 3.5; a directive lost shows here.
EXPOSURE_AT_MOST = 3.6


@pytest.fixture
def analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        if os.environ.get("INVOKERD_TEST_SYSTEMD") == "1":
            pytest.fail("INVOKERD_TEST_SYSTEMD=1 promises systemd-analyze, and it is not there")
        pytest.skip("no systemd-analyze: apt-get install systemd")
    return found


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units, with a command that exists: systemd-analyze looks for it."""
    for name in ("invokerd.service", "invokerd.socket"):
        text = (SYSTEMD / name).read_text()
        (tmp_path / name).write_text(text.replace("/opt/invokerd/venv/bin/invokerd", "/bin/true"))
    return tmp_path


def test_systemd_finds_no_fault_in_the_units(analyze: str, units: Path) -> None:
    command = [analyze, "verify", "--man=no", str(units / "invokerd.service"), str(units / "invokerd.socket")]
    verified = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")


def test_the_exposure_of_the_service_is_bounded(analyze: str, units: Path) -> None:
    command = [analyze, "security", "--offline=true", "--no-pager", str(units / "invokerd.service")]
    report = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    level = re.search(r"Overall exposure level for invokerd.service: ([\d.]+)", report)
    assert level is not None, report
    assert float(level[1]) <= EXPOSURE_AT_MOST


def service() -> configparser.RawConfigParser:
    return read_unit(SYSTEMD / "invokerd.service")


def read_unit(path: Path) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False)  # systemd lets a directive stand twice
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(path)
    return parser


def test_the_service_and_the_daemon_agree() -> None:
    unit = service()["Service"]
    assert str(EXIT_BAD_CONFIG) in unit["RestartPreventExitStatus"].split()
    assert float(unit["TimeoutStopSec"]) > Config().http.drain_s
    assert Path("/var/lib") / unit["StateDirectory"] == Config().state_dir
    assert unit["ExecStart"] == "/opt/invokerd/venv/bin/invokerd serve --config /etc/invokerd/invokerd.toml"
    socket = read_unit(SYSTEMD / "invokerd.socket")["Socket"]
    assert socket["ListenStream"] == str(Config().http.listen)
    assert int(socket["Backlog"]) == Config().http.backlog


def test_the_engine_is_wanted_and_not_required() -> None:
    text = (SYSTEMD / "invokerd.service").read_text()
    assert re.search(r"^Wants=docker.service$", text, re.MULTILINE)
    assert re.search(r"^After=docker.service$", text, re.MULTILINE)
    assert not re.search(r"^(Requires|BindsTo|PartOf)=", text, re.MULTILINE)


@pytest.mark.parametrize(
    "name",
    [
        "invokerd.service",
        "invokerd.socket",
        "sysusers.d/invokerd.conf",
        "tmpfiles.d/invokerd.conf",
        "engine.service.d/invokerd.conf",
    ],
)
def test_every_directive_stands_below_a_reason(name: str) -> None:
    blocks = re.split(r"\n\s*\n|^\[\w+\]$", (SYSTEMD / name).read_text(), flags=re.MULTILINE)
    names_speak_for_themselves = {"Description", "Documentation", "WantedBy", "Also", "ExecStart", "ExecReload"}
    for block in blocks:
        lines = [line for line in block.splitlines() if line and not line.startswith(("#", "["))]
        if lines and not {line.partition("=")[0] for line in lines} <= names_speak_for_themselves:
            assert "#" in block, block


def test_nothing_is_used_that_systemd_252_does_not_know() -> None:
    text = (SYSTEMD / "invokerd.service").read_text() + (SYSTEMD / "invokerd.socket").read_text()
    for later in ("Type=notify-reload", "FileDescriptorStorePreserve=", "RestartSteps=", "MemoryPressureWatch="):
        assert later not in re.sub(r"^#.*$", "", text, flags=re.MULTILINE)


def test_accounts_and_directories_are_understood(tmp_path: Path) -> None:
    sysusers, tmpfiles = shutil.which("systemd-sysusers"), shutil.which("systemd-tmpfiles")
    if sysusers is None or tmpfiles is None:
        if os.environ.get("INVOKERD_TEST_SYSTEMD") == "1":
            pytest.fail("INVOKERD_TEST_SYSTEMD=1 promises systemd-sysusers and systemd-tmpfiles")
        pytest.skip("no systemd-sysusers or systemd-tmpfiles")
    if os.geteuid() != 0:
        pytest.skip("owners of files can be set by root only")
    (tmp_path / "etc").mkdir()
    subprocess.run([sysusers, f"--root={tmp_path}", str(SYSTEMD / "sysusers.d/invokerd.conf")], check=True)
    assert (tmp_path / "etc/group").read_text().startswith("invokerd:")
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    with (tmp_path / "etc/group").open("a") as group:
        group.write("root:x:0:\n")
    subprocess.run([tmpfiles, "--create", f"--root={tmp_path}", str(SYSTEMD / "tmpfiles.d/invokerd.conf")], check=True)
    assert (tmp_path / "etc/invokerd").stat().st_mode & 0o7777 == 0o750
    assert (tmp_path / "var/lib/invokerd").stat().st_mode & 0o7777 == 0o700


def test_the_daemons_modules_and_kernel_calls_work_without_writable_code() -> None:
    """MemoryDenyWriteExecute= of the unit, set by the kernel's own prctl in a child."""
    code = """
        import ctypes, os, sys
        libc = ctypes.CDLL(None, use_errno=True)
        PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1
        if libc.prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) != 0:
            sys.exit(77)
        import aiodocker, aiohttp, aiosqlite, httptools, msgspec, prometheus_client, uvloop
        from pathlib import Path
        from invoker.control import server as control
        from invoker.commands import doctor_kernel
        from invoker.commands import doctor_node
        from invoker.config.model import Config
        from invoker.commands.doctor import Node
        for check in (doctor_kernel.check_namespaces, doctor_node.check_state_dir):
            list(check(Node(config=Config(state_dir=Path(os.environ["STATE"])))))
        async def nothing():
            pass
        uvloop.run(nothing())
    """
    environ = os.environ | {"STATE": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=environ, capture_output=True, text=True, check=False)
    if done.returncode == 77:
        pytest.skip("this kernel has no PR_SET_MDWE (Linux 6.3)")
    assert (done.returncode, done.stderr) == (0, "")
