import re
import subprocess
import sys
from pathlib import Path

import pytest

from invoker.config.load import load

ROOT = Path(__file__).parents[2]
INSTALL = ROOT / "scripts" / "install"
#: The environment that runs these tests has invokerd in it; making another takes minutes on a slow line.
VENV = Path(sys.executable).parent.parent


def install(root: Path, *options: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [str(INSTALL), "--root", str(root), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def files_below(root: Path) -> dict[str, bytes | str]:
    found: dict[str, bytes | str] = {}
    for path in sorted(root.rglob("*")):
        if path.is_symlink():
            found[str(path.relative_to(root))] = str(path.readlink())
        elif path.is_file():
            found[str(path.relative_to(root))] = path.read_bytes()
    return found


@pytest.fixture(autouse=True)
def venv_has_the_commands() -> None:
    if not (VENV / "bin" / "invokerd").exists():
        pytest.skip("invokerd is not installed in the environment of these tests: pip install -e .")


def test_everything_is_put_in_its_place(tmp_path: Path) -> None:
    install(tmp_path, "--venv", str(VENV))
    found = files_below(tmp_path)
    assert set(found) == {
        "etc/systemd/system/invokerd.service",
        "etc/systemd/system/invokerd.socket",
        "etc/sysusers.d/invokerd.conf",
        "etc/tmpfiles.d/invokerd.conf",
        "etc/invokerd/invokerd.toml",
        "etc/invokerd/invokerd.example.toml",
        "usr/local/bin/invokerd",
        "usr/local/bin/invokerctl",
    }
    assert found["usr/local/bin/invokerd"] == f"{VENV}/bin/invokerd"
    assert f"ExecStart={VENV}/bin/invokerd serve ".encode() in found["etc/systemd/system/invokerd.service"]  # type: ignore[operator]
    assert load(tmp_path / "etc/invokerd/invokerd.toml", {}).config == load(None, {}).config


def test_the_second_time_changes_nothing_and_keeps_the_sites_configuration(tmp_path: Path) -> None:
    install(tmp_path, "--venv", str(VENV))
    (tmp_path / "etc/invokerd/invokerd.toml").write_text("# the site's own\n")
    before = files_below(tmp_path)
    done = install(tmp_path, "--venv", str(VENV))
    assert files_below(tmp_path) == before
    assert "kept: " in done.stdout


def test_uninstall_leaves_only_what_is_the_sites(tmp_path: Path) -> None:
    install(tmp_path, "--venv", str(VENV))
    (tmp_path / "usr/local/bin/other").write_text("somebody else's")
    install(tmp_path, "--uninstall")
    assert set(files_below(tmp_path)) == {"etc/invokerd/invokerd.toml", "usr/local/bin/other"}
    install(tmp_path, "--uninstall")


def test_a_dry_run_says_what_it_would_do_and_does_nothing(tmp_path: Path) -> None:
    done = install(tmp_path, "--dry-run")
    assert files_below(tmp_path) == {}
    assert "-m venv" in done.stdout
    assert "/etc/systemd/system/invokerd.service" in done.stdout or "invokerd.service" in done.stdout
    install(tmp_path, "--venv", str(VENV))
    before = files_below(tmp_path)
    install(tmp_path, "--uninstall", "--dry-run")
    assert files_below(tmp_path) == before


def test_what_it_does_not_understand_changes_nothing(tmp_path: Path) -> None:
    assert "usage" in install(tmp_path, "--prefixx", "/x", code=2).stderr
    assert "absolute" in install(tmp_path, "--prefix", "x", code=1).stderr
    assert "pip install" in install(tmp_path, "--venv", str(tmp_path / "nowhere"), code=1).stderr
    assert files_below(tmp_path) == {}


@pytest.mark.parametrize("change", ["none", "upgraded", "gone"])
def test_an_environment_is_kept_unless_the_python_that_it_was_made_with_is_gone(tmp_path: Path, change: str) -> None:
    venv = tmp_path / "srv" / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    made = (venv / "pyvenv.cfg").read_text()
    if change == "upgraded":  # the system's python3 is another version now
        (venv / "pyvenv.cfg").write_text(re.sub(r"(?m)^version = .*$", "version = 3.9.2", made))
    elif change == "gone":
        (venv / "bin" / "python").unlink()
        (venv / "bin" / "python").symlink_to("/usr/bin/python3.99")
    said = install(tmp_path, "--prefix", "/srv", "--dry-run").stdout
    assert ("upgrading in the environment" in said) is (change == "none")
    assert (f"-m venv --clear {venv}" in said) is (change != "none")


@pytest.mark.long
def test_an_environment_of_its_own_runs_from_the_final_prefix(tmp_path: Path) -> None:
    checkout = set(ROOT.iterdir())
    install(tmp_path, "--prefix", "/srv/invokerd")
    assert set(ROOT.iterdir()) <= checkout  # nothing is built in the checkout
    command = tmp_path / "srv/invokerd/venv/bin/invokerd"
    assert command.read_text().startswith("#!/srv/invokerd/venv/bin/python")
    python = tmp_path / "srv/invokerd/venv/bin/python"
    shown = subprocess.run([python, "-m", "invoker", "--version"], capture_output=True, text=True, check=True, cwd="/")
    assert shown.stdout.startswith("invokerd ")
    install(tmp_path, "--prefix", "/srv/invokerd", "--uninstall")
    assert not (tmp_path / "srv/invokerd").exists()
