"""What the scripts do on machines unlike this one: each branch with the real code and small stand-ins for what is outside."""

import importlib.util
import json
import os
import shutil
import socketserver
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "lib"))

import debian  # noqa: E402
import engine_api  # noqa: E402
import ingredients  # noqa: E402


def load(name):
    """Load a script as a module of its own."""
    loader = SourceFileLoader(f"script_{name}", str(ROOT / "scripts" / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


class FakeEngine:
    """An engine's socket: answers each request by the first path that matches, and remembers what was asked."""

    def __init__(self, path, answers):
        self.url = f"unix://{path}"
        self.asked = asked = []

        class Handler(BaseHTTPRequestHandler):
            def answer(self):
                asked.append(f"{self.command} {self.path}")
                self.take_body()
                status, body = next((body for start, body in answers.items() if start in self.path), (404, {"message": "no"}))
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response_only(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def take_body(self):
                if self.headers.get("Transfer-Encoding") != "chunked":
                    self.rfile.read(int(self.headers.get("Content-Length") or 0))
                    return
                while length := int(self.rfile.readline(), 16):
                    self.rfile.read(length + 2)
                self.rfile.readline()

            do_GET = do_POST = do_DELETE = answer  # noqa: N815 - the names that the library calls

            def log_message(self, *words):
                pass

        self.server = socketserver.ThreadingUnixStreamServer(str(path), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def fake_engine(tmp_path):
    engines = []

    def start(name="e.sock", answers=None):
        engines.append(FakeEngine(tmp_path / name, {"/version": (200, {"Arch": "amd64"})} | (answers or {})))
        return engines[-1]

    yield start
    for each in engines:
        each.close()


@pytest.fixture
def short_path():
    """A state directory in which an engine's sockets fit: a longer one has them in /run."""
    path = Path(tempfile.mkdtemp())
    yield path
    shutil.rmtree(path)


@pytest.fixture
def engine_script(monkeypatch, tmp_path):
    script = load("engine")
    monkeypatch.setattr(script, "DEFAULT_URL", f"unix://{tmp_path}/default.sock")
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    return script


# ---- which engine


def test_the_engine_of_docker_host_goes_before_the_default_socket_and_that_before_a_private_one(
    engine_script, fake_engine, monkeypatch
):
    private, default, named = fake_engine("private.sock"), fake_engine("default.sock"), fake_engine("named.sock")
    assert engine_script.find(private.url) == default.url
    monkeypatch.setenv("DOCKER_HOST", named.url)
    assert engine_script.find(private.url) == named.url


def test_docker_host_that_does_not_answer_is_named_and_the_default_socket_is_used(
    engine_script, fake_engine, monkeypatch, tmp_path, capfd
):
    default = fake_engine("default.sock")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    assert engine_script.find("unix:///nonexistent") == default.url
    assert f"nothing answers at DOCKER_HOST=unix://{tmp_path}/nobody.sock" in capfd.readouterr().err


def test_start_uses_the_engine_that_answers_and_changes_nothing(engine_script, fake_engine, monkeypatch, tmp_path, capsys):
    default = fake_engine("default.sock")
    state = tmp_path / "state"
    monkeypatch.setattr(sys, "argv", ["engine", "start", "--state", str(state)])
    assert engine_script.main() == 0
    assert capsys.readouterr().out == f"{default.url}\n"
    assert not state.exists()


@pytest.fixture
def no_dockerd(engine_script, monkeypatch):
    monkeypatch.setattr(engine_script.shutil, "which", lambda *_words, **_options: None)
    monkeypatch.setattr(engine_script.os, "geteuid", lambda: 0)
    return engine_script


def test_without_docker_on_debian_it_says_so_and_installs_the_engine_without_starting_its_services(
    no_dockerd, monkeypatch, short_path, capfd
):
    installed = []
    monkeypatch.setattr(no_dockerd.debian, "is_debian", lambda: True)
    monkeypatch.setattr(no_dockerd.debian, "install", lambda *names, **options: installed.append((names, options)))
    monkeypatch.setattr(no_dockerd.PrivateEngine, "_launch", lambda _self, _driver: None)
    engine = no_dockerd.PrivateEngine(short_path)
    assert engine.start() == engine.url
    ((names, options),) = installed
    assert names == ("docker.io", "iptables", "runc")
    assert options == {"keep_stopped": ("docker.service", "docker.socket", "containerd.service")}
    assert "no container engine here: installing docker.io, iptables and runc" in capfd.readouterr().err


def test_without_docker_on_another_system_it_says_what_to_do_and_installs_nothing(no_dockerd, monkeypatch, short_path):
    monkeypatch.setattr(no_dockerd.debian, "is_debian", lambda: False)
    monkeypatch.setattr(no_dockerd.debian, "install", lambda *_names, **_options: pytest.fail("installed"))
    with pytest.raises(no_dockerd.Refused, match="no Debian: install Docker Engine and start it"):
        no_dockerd.PrivateEngine(short_path).start()


def test_the_private_engine_leaves_network_and_firewall_alone_and_falls_back_to_vfs(engine_script, monkeypatch, short_path):
    launched = []

    class Process:
        def __init__(self, command, **_options):
            launched.append(command)

        def poll(self):
            return 1  # it ends at once

    monkeypatch.setattr(engine_script.subprocess, "Popen", Process)
    monkeypatch.setattr(engine_script, "cpu_group", lambda _name: None)
    state = short_path
    engine = engine_script.PrivateEngine(state)
    engine._launch("overlay2")
    (command,) = launched
    assert {"--bridge=none", "--iptables=false", "--ip-forward=false", "--storage-driver=overlay2"} <= set(command)
    assert f"--host=unix://{state}/docker.sock" in command
    for own in ("--data-root", "--exec-root", "--pidfile"):
        assert next(word for word in command if word.startswith(own)).startswith(f"{own}={state}")

    drivers = []
    monkeypatch.setattr(engine_script.os, "geteuid", lambda: 0)
    monkeypatch.setattr(engine_script.shutil, "which", lambda *_words, **_options: "/usr/sbin/dockerd")
    monkeypatch.setattr(
        engine_script.PrivateEngine,
        "_launch",
        lambda _self, driver: drivers.append(driver) or ("error initializing graphdriver" if driver == "overlay2" else None),
    )
    assert engine_script.PrivateEngine(state).start()
    assert drivers == ["overlay2", "vfs"]


def test_the_private_engine_is_started_in_a_cpu_cgroup_of_its_own(engine_script, monkeypatch, short_path, tmp_path):
    group = tmp_path / "group"
    monkeypatch.setattr(engine_script, "cpu_group", lambda name: group if name.startswith("invokerd-engine-") else None)
    monkeypatch.setattr(engine_script, "make_group", lambda made: made.mkdir() or True)
    # It finds out where it is, and ends.
    here = tmp_path / "here"
    dockerd = tmp_path / "bin" / "dockerd"
    dockerd.parent.mkdir()
    dockerd.write_text(f"#!/bin/sh\necho $$ > {here}\n")
    dockerd.chmod(0o755)
    monkeypatch.setenv("PATH", f"{dockerd.parent}:{os.environ['PATH']}")
    assert engine_script.PrivateEngine(short_path)._launch("overlay2") is not None
    assert (group / "cgroup.procs").read_text() == here.read_text() != ""


def test_a_cgroup_that_cannot_be_idle_is_not_kept(engine_script, tmp_path):
    assert not engine_script.make_group(tmp_path / "old-kernel")
    assert not (tmp_path / "old-kernel").exists()
    assert not engine_script.make_group(tmp_path / "no" / "such" / "hierarchy")


def test_the_weight_of_an_engines_cgroup_is_that_of_several_processes(engine_script, tmp_path):
    (tmp_path / "cpu.idle").write_text("0")
    assert engine_script.make_group(tmp_path)
    assert (tmp_path / "cpu.weight").read_text() == "400"
    (tmp_path / "cpu.shares").write_text("1024")
    assert engine_script.make_group(tmp_path)
    assert (tmp_path / "cpu.shares").read_text() == "4096"


# ---- packages


@pytest.mark.parametrize(
    ("text", "is_debian"),
    [("ID=debian\n", True), ('ID="linuxmint"\nID_LIKE="ubuntu debian"\n', True), ('ID="fedora"\nID_LIKE="rhel"\n', False)],
)
def test_debian_and_what_is_made_from_it_are_known_by_os_release(monkeypatch, text, is_debian):
    monkeypatch.setattr(debian, "Path", lambda _path: SimpleNamespace(read_text=lambda: text))
    assert debian.is_debian() is is_debian


def test_missing_packages_are_told_with_the_command_to_a_user_and_by_name_to_another_system(monkeypatch):
    monkeypatch.setattr(debian, "_run", lambda _command: pytest.fail("changed something"))
    monkeypatch.setattr(debian, "is_debian", lambda: False)
    with pytest.raises(debian.InstallFailed, match="this is no Debian: install runc, or what is like them, by hand"):
        debian.install("runc")
    monkeypatch.setattr(debian, "is_debian", lambda: True)
    monkeypatch.setattr(debian.os, "geteuid", lambda: 1000)
    with pytest.raises(debian.InstallFailed, match="Run: sudo apt-get install --yes --no-install-recommends runc"):
        debian.install("runc")


def test_packages_are_installed_after_an_update_and_the_policy_against_service_starts_is_taken_back(monkeypatch, tmp_path):
    ran, policy = [], tmp_path / "policy-rc.d"
    monkeypatch.setattr(debian, "is_debian", lambda: True)
    monkeypatch.setattr(debian.os, "geteuid", lambda: 0)
    monkeypatch.setattr(debian, "POLICY", policy)
    monkeypatch.setattr(
        debian, "_run", lambda command: ran.append((command[:2], policy.exists() and policy.stat().st_mode & 0o111))
    )
    monkeypatch.setattr(debian.subprocess, "run", lambda *_words, **_options: subprocess.CompletedProcess([], 0))
    debian.install("docker.io", keep_stopped=("docker.service",))
    commands = [command for command, _ in ran]
    assert commands[0] == ["apt-get", "update"]
    assert ["apt-get", "install"] in commands
    assert all(allowed for command, allowed in ran if command[1] == "install")
    assert not policy.exists()


# ---- base images


def test_where_a_registry_answers_the_base_is_pulled_and_built_upon(fake_engine, monkeypatch, capfd):
    pulled = b'{"status": "Pulling from library/debian"}\n{"status": "Status: Downloaded newer image"}\n'
    engine = fake_engine(
        answers={
            "/images/create": (200, pulled),
            "/images/json": (200, []),
            "/build": (200, b'{"stream": "built"}\n'),
            "/images/invokerd": (200, {"Size": 1}),
        }
    )
    images = load("images")
    monkeypatch.setattr(images.ingredients, "root_file_system", lambda _architecture: pytest.fail("built without a registry"))
    images.Builder(engine_api.Engine(engine.url), rebuild=False).ensure("base")
    assert any(f"fromImage={ingredients.PULLED_BASE.partition(':')[0]}" in asked for asked in engine.asked)
    assert any(asked.startswith("POST /build") for asked in engine.asked)


def test_without_a_registry_the_base_is_imported_from_a_system_built_offline(fake_engine, monkeypatch, tmp_path, capfd):
    engine = fake_engine(
        answers={
            "fromImage": (500, {"message": "lookup registry: no such host"}),
            "fromSrc": (200, b'{"status": "sha256:1"}\n'),
            "/images/json": (200, []),
            "/images/invokerd": (200, {"Size": 1}),
        }
    )
    archive = tmp_path / "base.tar"
    archive.write_bytes(b"system")
    images = load("images")
    monkeypatch.setattr(images.ingredients, "root_file_system", lambda _architecture: archive.open("rb"))
    images.Builder(engine_api.Engine(engine.url), rebuild=False).ensure("base")
    assert any("fromSrc=-" in asked for asked in engine.asked)
    assert not any(asked.startswith("POST /build") for asked in engine.asked)
    assert "no registry: " in capfd.readouterr().err


# ---- the environment


def test_the_python_that_is_found_is_new_enough():
    found = subprocess.run(
        ["bash", "-c", ". scripts/lib/setup.sh; find_python"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    asked = [found.stdout.strip(), "-c", "import sys; print(sys.version_info >= (3, 11))"]
    assert subprocess.run(asked, capture_output=True, text=True, check=True).stdout == "True\n"


#: Stands for a Python of some version: what it is asked it answers as such a one, what it shall do it notes.
STAND_IN = """#!/bin/sh
case "$*" in
  "-c import sys; print("*) echo {version} ;;
  "-c import sys; sys.exit("*) exit {is_too_old} ;;
  "-c import ensurepip") exit {has_no_ensurepip} ;;
  "-m venv --clear .venv")
    rm -rf .venv; mkdir -p .venv/bin; cp "$0" .venv/bin/python
    echo "version = {version}.4" >.venv/pyvenv.cfg; echo venv {version} >>done ;;
  "-m pip install "*) echo pip {version} >>done ;;
  *) exit 9 ;;
esac
"""


class Checkout:
    """A directory in which `ensure_venv` works with stand-ins."""

    def __init__(self, path):
        self.path = path
        (path / "pyproject.toml").write_text("[project]\n")

    def python(self, version, *, is_too_old=False, has_no_ensurepip=False):
        stand_in = self.path / f"python{version}"
        values = {"version": version, "is_too_old": int(is_too_old), "has_no_ensurepip": int(has_no_ensurepip)}
        stand_in.write_text(STAND_IN.format(**values))
        stand_in.chmod(0o755)
        return stand_in

    def ensure_venv(self, python, *, code=0, named=True):
        """Return what was done, in order, and what was said."""
        (self.path / "done").write_text("")
        find = "" if named else f"find_python() {{ echo {python}; }}; "
        script = f"set -euo pipefail; . {ROOT}/scripts/lib/setup.sh; {find}"
        script += 'install_packages() { echo "packages $*" >>done; }; ensure_venv test examples'
        environment = dict(os.environ, INVOKERD_PYTHON=str(python) if named else "")
        ran = subprocess.run(["bash", "-c", script], cwd=self.path, env=environment, capture_output=True, text=True, check=False)
        assert ran.returncode == code, ran.stderr
        return (self.path / "done").read_text().splitlines(), ran.stderr


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def test_the_environment_is_made_once_and_installed_into_again_when_the_project_changes(checkout):
    python = checkout.python("3.13")
    assert checkout.ensure_venv(python)[0] == ["venv 3.13", "pip 3.13"]
    assert checkout.ensure_venv(python) == ([], "")
    (checkout.path / "pyproject.toml").write_text("[project]\n# another\n")
    assert checkout.ensure_venv(python)[0] == ["pip 3.13"]


def test_another_python_that_is_named_makes_the_environment_anew_and_one_that_is_only_found_does_not(checkout):
    checkout.ensure_venv(checkout.python("3.11"))
    assert checkout.ensure_venv(checkout.python("3.13"), named=False) == ([], "")
    assert checkout.ensure_venv(checkout.python("3.13"))[0] == ["venv 3.13", "pip 3.13"]


@pytest.mark.parametrize("change", ["upgraded", "gone", "moved", "interrupted"])
def test_an_environment_that_does_not_work_any_more_is_made_anew(checkout, change):
    python = checkout.python("3.13")
    checkout.ensure_venv(python)
    venv = checkout.path / ".venv"
    if change == "upgraded":  # the system's python3 is another one now, and finds no packages
        (venv / "pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.11.2\n")
    elif change == "gone":
        (venv / "bin" / "python").unlink()
        (venv / "bin" / "python").symlink_to("/usr/bin/python3.99")
    elif change == "moved":
        (venv / "made-in").write_text("/elsewhere\n")
    else:
        (venv / "made-in").unlink()
    assert checkout.ensure_venv(python, named=False)[0] == ["venv 3.13", "pip 3.13"]
    assert checkout.ensure_venv(python, named=False)[0] == []


def test_a_python_that_lacks_what_makes_environments_gets_debians_package_for_its_version(checkout):
    python = checkout.python("3.13", has_no_ensurepip=True)
    assert checkout.ensure_venv(python)[0] == ["packages python3.13-venv", "venv 3.13", "pip 3.13"]


@pytest.mark.parametrize("exists", [True, False])
def test_a_python_that_is_named_and_too_old_or_not_there_is_refused_by_name_and_nothing_is_done(checkout, exists):
    checkout.ensure_venv(checkout.python("3.11"))
    python = checkout.python("3.10", is_too_old=True) if exists else checkout.path / "python9"
    done, said = checkout.ensure_venv(python, code=1)
    assert done == []
    assert f"INVOKERD_PYTHON={python} is no Python of at least 3.11" in said
    assert (checkout.path / ".venv" / "made-in").exists()
