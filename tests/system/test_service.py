"""The daemon as a service: what it and the service manager tell each other, reload, and a start that cannot be."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from prices import PLAN

from bench.container import Engine
from bench.daemon import Daemon
from tests.support.cpu_group import cpu_group_of, cpu_weight

pytestmark = pytest.mark.docker

ECHO = "def main(args):\n    return args\n"
SLEEP = "import time\ndef main(args):\n    time.sleep(args['s'])\n    return {'slept': args['s']}\n"
DEADLINE_S = 60.0
#: As systemd does it: the socket becomes descriptor 3, and the variables name the process that is to take it.
PASS_SOCKET = """import os, sys
if int(sys.argv[1]) != 3:
    os.dup2(int(sys.argv[1]), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="http")
os.execv(sys.executable, [sys.executable, "-m", "invoker", "serve", "--config", sys.argv[2]])
"""


class Manager:
    """A service manager: it hears what the daemon says of itself."""

    def __init__(self, path: Path) -> None:
        self.address = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._socket.settimeout(DEADLINE_S)

    def hear(self, field: str, deadline_s: float = DEADLINE_S) -> list[str]:
        """Read messages up to the first that has this field; return its fields."""
        deadline = time.monotonic() + deadline_s
        while (left := deadline - time.monotonic()) > 0:
            self._socket.settimeout(left)
            fields = self._socket.recv(4096).decode().splitlines()
            if field in fields:
                return fields
        raise TimeoutError(field)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with contextlib.closing(Manager(tmp_path / "notify")) as heard:
        yield heard


class Service(Daemon):
    """A daemon that runs in an environment of its own."""

    def launch(self, environment: Mapping[str, str] | None = None, passed: socket.socket | None = None) -> None:
        """Start it without waiting for it."""
        command: tuple[str, ...] = (sys.executable, "-m", "invoker", "serve", "--config", str(self._file))
        inherited: tuple[int, ...] = ()
        if passed is not None:
            command = (sys.executable, "-c", PASS_SOCKET, str(passed.fileno()), str(self._file))
            inherited = (passed.fileno(),)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, **(environment or {})}, pass_fds=inherited
            )

    def wait_ready(self) -> None:
        self.wait(lambda: self._get("/ready") == 200, "to be ready")

    @property
    def log(self) -> str:
        return self._log.read_text()

    def set(self, **keys: Any) -> None:
        """Write the configuration anew with these keys, `http__drain_s=1`."""
        from bench.daemon import to_toml

        changed = {name.replace("__", "."): value for name, value in keys.items()}
        self.keys |= changed
        self._file.write_text(to_toml(self.keys))

    keys: dict[str, Any]


@pytest.fixture
def make(tmp_path: Path, engine_url: str) -> Iterator[Callable[..., Service]]:
    """Write a configuration; start nothing."""
    with contextlib.ExitStack() as stack:

        def make(name: str = "service", **config: Any) -> Service:
            (tmp_path / name).mkdir()
            service = Service(tmp_path / name, engine_url)
            service.keys = {
                "state_dir": str(service.state_dir),
                "node": service.node,
                "http.listen": f"127.0.0.1:{service.port}",
                "metrics.listen": f"127.0.0.1:{service.metrics_port}",
                "engine.url": engine_url,
                "pool.memory_mib": 2048,
            }
            service.set(**config)
            stack.callback(service.stop)
            return service

        yield make


def run_to_its_end(service: Service) -> subprocess.CompletedProcess[str]:
    """Start a daemon that is expected to refuse."""
    command = (sys.executable, "-m", "invoker", "serve", "--config", str(service._file))
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)


# ---- systemd's protocols


def test_the_manager_hears_that_it_is_ready_well_and_stopping(make, manager, make_user):
    service = make()
    service.launch({"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "1000000"})
    manager.hear("READY=1")
    assert service._get("/ping") == 200, "it said that it was ready before it listened"
    service.wait_ready()
    for _ in range(3):
        manager.hear("WATCHDOG=1", 10)
    user = make_user(service, "anna")
    user.deploy("sleep", SLEEP)
    with ThreadPoolExecutor(1) as client:
        call = client.submit(user.invoke, "sleep", {"s": 3})
        service.wait(lambda: '"busy"' in service.control("pool", "--json"), "to run it")
        service._process.terminate()
        manager.hear("STOPPING=1", 10)
        assert not call.done()
        # The manager's watchdog goes on while it drains: silence would be taken for death.
        manager.hear("WATCHDOG=1", 10)
        assert call.result().status == 200
    assert service._process.wait(DEADLINE_S) == 0
    assert "stopped: all that was recorded" in service.log


def test_functions_do_not_inherit_the_managers_variables(make, manager, make_user):
    service = make()
    service.launch({"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "60000000"})
    service.wait_ready()
    environment = Path(f"/proc/{service.pid}/environ").read_text()
    assert "NOTIFY_SOCKET" in environment  # what it was started with
    user = make_user(service, "anna")
    user.deploy("environment", "import os\ndef main(args):\n    return dict(os.environ)\n")
    seen = user.invoke("environment").json["response"]["result"]
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS"} & set(seen)


def test_a_watchdog_for_another_process_is_not_fed(make, manager):
    service = make()
    service.launch({"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"})
    manager.hear("READY=1")
    service.wait_ready()
    with pytest.raises(TimeoutError):
        manager.hear("WATCHDOG=1", 3)


def test_an_inherited_socket_is_served_and_who_connected_before_the_start_is_answered(make, make_user):
    service = make()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as early:
            early.sendall(b"GET /ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            configured, service.port = service.port, port
            service.launch(passed=listening)
            service.wait_ready()
            early.settimeout(DEADLINE_S)
            assert b"pong" in early.makefile("rb").read()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", configured))
        user = make_user(service, "anna")
        user.deploy("echo", ECHO)
        assert user.invoke("echo", {"n": 1}).json["response"]["result"] == {"n": 1}
        service.stop()
        # The socket is the manager's: who connects now waits for the next daemon.
        with socket.create_connection(("127.0.0.1", port)) as patient:
            patient.sendall(b"GET /ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            service.launch(passed=listening)
            service.wait_ready()
            patient.settimeout(DEADLINE_S)
            assert b"pong" in patient.makefile("rb").read()
        service.stop()


# ---- reload


def test_a_reload_takes_over_limits_and_names_what_needs_a_restart(make, manager, make_user):
    service = make()
    service.launch({"NOTIFY_SOCKET": manager.address})
    manager.hear("READY=1")
    service.wait_ready()
    user = make_user(service, "anna")
    user.deploy("echo", ECHO)
    payload = {"text": "x" * 5000}
    assert user.invoke("echo", payload).status == 200
    service.set(limits__payload_bytes=2048, pool__memory_mib=1024, http__drain_s=7.0)
    service._process.send_signal(1)
    fields = manager.hear("RELOADING=1")
    assert any(field.startswith("MONOTONIC_USEC=") for field in fields)
    manager.hear("READY=1")
    refused = user.invoke("echo", payload)
    assert refused.status == 413
    assert "2048" in refused.error
    assert user.invoke("echo", {"n": 1}).status == 200
    [restart] = [line for line in service.log.splitlines() if "need a restart" in line]
    assert "pool.memory_mib" in restart
    assert "http.drain_s" in restart
    assert "limits.payload_bytes" not in restart
    assert '"memory_budget_mib": 2048' in service.control("pool", "--json")
    service.set(limits__cpu_seconds_per_window=0, limits__cpu_window_s=120)
    service._process.send_signal(1)
    manager.hear("RELOADING=1")
    manager.hear("READY=1")
    refused = user.invoke("echo", {"n": 1})
    assert (refused.status, "in the last 120 seconds" in refused.error) == (429, True)


def test_a_reload_weighs_users_anew_while_their_containers_live(make, manager, make_user, engine_url):
    service = make()
    service.launch({"NOTIFY_SOCKET": manager.address})
    manager.hear("READY=1")
    service.wait_ready()
    user = make_user(service, "anna", uid=20_400, gid=20_400)
    user.deploy("echo", ECHO)
    container = user.invoke("echo").annotations["container"]
    with contextlib.closing(Engine(engine_url)) as engine:
        group = cpu_group_of(engine.inspect(container)["State"]["Pid"]).parent
    before = cpu_weight(group)
    service.set(pool__shares=["anna=3"])
    service._process.send_signal(1)
    service.wait(lambda: cpu_weight(group) == 3 * before, "to weigh the user's cgroup anew")
    service.set(pool__shares=[])
    service._process.send_signal(1)
    service.wait(lambda: cpu_weight(group) == before, "to weigh it as usual again")


def test_a_reload_takes_over_prices_and_the_log_level(make, manager, make_user, tmp_path):
    prices = tmp_path / "prices.toml"
    prices.write_text(PLAN.format(name="old", invocation="0.25"))
    service = make(prices__file=str(prices))
    service.launch({"NOTIFY_SOCKET": manager.address})
    manager.hear("READY=1")
    service.wait_ready()
    user = make_user(service, "anna")
    user.deploy("echo", ECHO)
    before = user.invoke("echo").annotations["cost"]
    assert (before["plan"], float(before["amount"])) == ("old@1", 0.25)
    prices.write_text(PLAN.format(name="new", invocation="0.5"))
    service.set(log__level="error")
    service._process.send_signal(1)
    manager.hear("RELOADING=1")
    manager.hear("READY=1")
    after = user.invoke("echo").annotations["cost"]
    assert (after["plan"], float(after["amount"])) == ("new@1", 0.5)
    # What is not an error any more is not written: not even that the level was taken over.
    assert "reload: applied" not in service.log
    prices.write_text("nonsense")
    service._process.send_signal(1)
    manager.hear("RELOADING=1")
    manager.hear("READY=1")
    assert "the old configuration stays: prices.file" in service.log
    assert user.invoke("echo").annotations["cost"] == after
    prices.write_text(PLAN.format(name="new", invocation="0.5"))
    service.set(log__level="info")
    service._process.send_signal(1)
    manager.hear("RELOADING=1")
    manager.hear("READY=1")
    assert "reload: applied: log.level" in service.log


def test_a_reload_of_a_bad_file_changes_nothing(make, manager, make_user):
    service = make(limits__payload_bytes=4096)
    service.launch({"NOTIFY_SOCKET": manager.address})
    manager.hear("READY=1")
    service.wait_ready()
    user = make_user(service, "anna")
    user.deploy("echo", ECHO)
    good = service._file.read_text()
    service._file.write_text(good.replace("payload_bytes = 4096", "payload_bytes = 1000000\nnonsense = 1"))
    service._process.send_signal(1)
    manager.hear("RELOADING=1")
    manager.hear("READY=1")
    assert "nonsense" in service.log
    assert user.invoke("echo", {"text": "x" * 5000}).status == 413
    assert user.invoke("echo", {"n": 1}).status == 200
    service._file.write_text(good.replace("payload_bytes = 4096", "payload_bytes = 8192"))
    service._process.send_signal(1)
    manager.hear("RELOADING=1")
    manager.hear("READY=1")
    assert user.invoke("echo", {"text": "x" * 5000}).status == 200


def test_a_mount_that_is_withdrawn_by_a_reload_is_not_seen_by_the_next_call(make, manager, make_user, tmp_path):
    service = make()
    data = tmp_path / "data"
    data.mkdir()
    (data / "book").write_text("read me")
    without = service._file.read_text()
    service._file.write_text(f'{without}[[isolation.mounts]]\nname = "data"\nsource = "{data}"\ntarget = "/data"\n')
    service.launch({"NOTIFY_SOCKET": manager.address})
    manager.hear("READY=1")
    service.wait_ready()
    user = make_user(service, "anna", words=("--mount", "data"))
    user.deploy("look", "import os\ndef main(args):\n    return {'there': os.path.exists('/data/book')}\n")
    assert user.invoke("look").json["response"]["result"] == {"there": True}
    service._file.write_text(without)
    service._process.send_signal(1)
    manager.hear("RELOADING=1")
    manager.hear("READY=1")
    refused = user.invoke("look")
    assert refused.status == 502, refused.text
    assert "'data' is not offered" in refused.error
    assert refused.annotations["outcome"] == "mount-not-offered"
    # Nor does it keep the next daemon from starting, which finds a container that had the mount.
    service.stop()
    service.start()
    assert user.invoke("look").status == 502
    service._file.write_text(f'{without}[[isolation.mounts]]\nname = "data"\nsource = "{data}"\ntarget = "/data"\n')
    service._process.send_signal(1)
    service.wait(lambda: user.invoke("look").json["response"]["result"] == {"there": True}, "to offer it again")


# ---- starts that cannot be


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"pool__memroy_mib": 1}, "did you mean pool.memory_mib"),
        ({"pool__memory_mib": "much"}, "pool.memory_mib"),
        ({"limits__memory_max_mib": 65536}, "limits.memory_max_mib"),
        ({"prices__file": "/nonexistent/prices.toml"}, "prices"),
    ],
)
def test_a_bad_configuration_ends_with_78_and_tells_what_is_wrong(make, keys, said):
    service = make(**keys)
    done = run_to_its_end(service)
    assert done.returncode == 78, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_is_no_toml_ends_with_78(make):
    service = make()
    service._file.write_text("state_dir = [\n")
    done = run_to_its_end(service)
    assert done.returncode == 78
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("key", ["http.listen", "metrics.listen"])
def test_an_address_that_another_has_ends_with_78_and_names_the_key(make, key):
    service = make()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        service.set(**{key: f"127.0.0.1:{taken.getsockname()[1]}"})
        done = run_to_its_end(service)
    assert done.returncode == 78, done.stderr
    assert key in done.stderr
    assert "Traceback" not in done.stderr


def test_an_engine_that_is_not_there_is_told_without_a_traceback(make, tmp_path):
    service = make()
    service.set(**{"engine.url": f"unix://{tmp_path}/nobody.sock"})
    done = run_to_its_end(service)
    assert done.returncode == 1, done.stderr
    assert "nobody.sock" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_daemon_on_the_same_state_is_refused_and_the_first_goes_on(make, make_user):
    first, second = make("first"), make("second")
    first.start()
    user = make_user(first, "anna")
    user.deploy("echo", ECHO)
    held = user.invoke("echo").annotations["container"]
    second.set(state_dir=str(first.state_dir), node=first.node)
    for _ in range(2):
        done = run_to_its_end(second)
        assert done.returncode == 1
        assert f"process {first.pid}" in done.stderr
        assert str(first.state_dir) in done.stderr
        assert "Traceback" not in done.stderr
    again = user.invoke("echo", {"n": 1})
    assert (again.status, again.annotations["container"]) == (200, held)
    first.stop()
    # The lock went with the process: now it is the second one's turn.
    second.start()
    user.port = second.port
    assert user.invoke("echo", {"n": 2}).json["response"]["result"] == {"n": 2}


# ---- health


def test_a_full_pool_is_no_illness(make, make_user):
    """While users' calls have all of the memory, the daemon cannot test itself; that must not make it unwell."""
    service = make(pool__memory_mib=256)
    service.start()
    user = make_user(service, "anna")
    user.deploy("sleep", SLEEP, memory=256)
    call = user.invoke("sleep", {"s": 15}, "blocking=false").json["activationId"]
    seen = []
    while user.ask("GET", f"activations/{call}").status == 404:
        health, ready = user.ask("GET", "/health", key=None), user.ask("GET", "/ready", key=None)
        unwell = [f"{check['name']}: {check['detail']}" for check in health.json["checks"] if not check["ok"]]
        seen.append((health.status, ready.status, *unwell))
        time.sleep(0.2)
    assert len(seen) > 10
    assert set(seen) == {(200, 200)}
    assert user.record(call).annotations["outcome"] == "ok"
