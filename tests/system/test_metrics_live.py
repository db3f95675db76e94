"""`/metrics` of a daemon that has worked: what promtool says of it, and whether what happened is in it."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from site_mounts import shared_data

from bench.daemon import Daemon
from bench.proxy import CountingProxy

pytestmark = pytest.mark.docker


@dataclass
class Site:
    daemon: Daemon
    proxy: CountingProxy
    user: Any
    #: Writable for the functions of the user, as `/data`.
    data: Path
    ask: Any

    def scrape(self) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.daemon.metrics_port, timeout=30)
        try:
            connection.request("GET", "/metrics")
            response = connection.getresponse()
            assert response.status == 200
            return response.read().decode()
        finally:
            connection.close()

    def metric(self, name: str, **labels: str) -> float:
        return self.daemon.metric(name, **labels)

    def containers(self) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = json.loads(self.daemon.control("pool", "--json"))["containers"]
        return listed

    def has(self, **wanted: str) -> bool:
        return any(wanted.items() <= each.items() for each in self.containers())

    def cpu_of(self, container: str) -> int:
        """CPU time of a container's processes so far, hundredths of a second, as the host sees them."""
        status, body = self.ask("GET", f"/containers/{container}/top?ps_args=-eo%20pid")
        assert status == 200, body
        ticks = 0
        for (pid,) in json.loads(body)["Processes"]:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, engine_url: str, ask: Any, make_user: Any) -> Iterator[Site]:
    """A daemon with some of everything behind it: each start kind, failures, refusals, an engine that went away."""
    root = tmp_path_factory.mktemp("metrics")
    config = {
        "pool.memory_mib": 2048,
        "pool.freeze_grace_s": 0.5,
        "limits.concurrent_invocations": 2,
    }
    with CountingProxy(root / "engine.sock", engine_url.removeprefix("unix://")) as proxy:
        daemon = Daemon(root, proxy.url, config)
        data = shared_data(daemon, root)
        daemon.start()
        try:
            user = make_user(daemon, "anna", words=("--mount", "data"))
            site = Site(daemon, proxy, user, data, ask)
            user.deploy("echo", "def main(args):\n    return args\n", memory=192)
            for _ in range(3):
                assert user.invoke("echo").status == 200
            daemon.wait(lambda: site.has(action="anna/echo", state="frozen"), "to freeze it")
            assert user.invoke("echo").annotations["startKind"] == "frozen"
            user.deploy("raises", "def main(args):\n    raise ValueError('no')\n")
            daemon.wait(lambda: site.has(namespace="anna", state="stem_frozen"), "to have a stem cell")
            assert user.invoke("raises").annotations["startKind"] == "stem"
            yield site
        finally:
            daemon.stop()


def test_promtool_finds_nothing_after_real_traffic(site):
    promtool = shutil.which("promtool")
    if promtool is None:
        if os.environ.get("INVOKERD_TEST_PROMTOOL") == "1":
            pytest.fail("INVOKERD_TEST_PROMTOOL=1 promises promtool, and it is not on PATH")
        pytest.skip("promtool is not here: apt-get install prometheus")
    done = subprocess.run([promtool, "check", "metrics"], input=site.scrape(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_metric_of_the_documentation_is_exposed(site):
    page = (Path(__file__).parents[2] / "docs/metrics.md").read_text()
    documented = set(re.findall(r"^\| `(invokerd_\w+)` \|", page, re.MULTILINE))
    exposed = set(re.findall(r"^# TYPE (invokerd_\w+) ", site.scrape(), re.MULTILINE))
    assert len(documented) > 30
    assert exposed == documented


def test_activations_are_counted_by_start_and_end_and_again_by_namespace_and_action(site):
    starts = {start: site.metric("invokerd_activations_total", start=start) for start in ("cold", "stem", "warm", "frozen")}
    assert min(starts.values()) >= 1
    before = site.metric("invokerd_activations_total", start="warm", status="success")
    billed = site.metric("invokerd_namespace_billed_seconds_total", namespace="anna")
    for _ in range(5):
        assert site.user.invoke("echo").status == 200
    after = sum(site.metric("invokerd_activations_total", start=start, status="success") for start in ("warm", "frozen"))
    assert after >= before + 5
    assert site.metric("invokerd_activations_total", status="application_error", outcome="application-error") == 1
    assert site.metric("invokerd_action_activations_total", namespace="anna", action="echo") >= 9
    assert site.metric("invokerd_action_errors_total", namespace="anna", action="raises") == 1
    assert site.metric("invokerd_namespace_billed_seconds_total", namespace="anna") > billed
    assert site.metric("invokerd_namespace_cpu_seconds_total", namespace="anna") > 0
    total = site.metric("invokerd_activations_total")
    assert site.metric("invokerd_activation_duration_seconds_count") == total
    assert site.metric("invokerd_namespace_activations_total", namespace="anna") == total


def test_requests_to_the_engine_are_counted_by_operation_and_timed(site):
    for operation in ("create", "start"):
        count = site.metric("invokerd_engine_calls_total", operation=operation, result="ok")
        assert count >= 3  # a cold one, a stem cell, the self-test
        assert site.metric("invokerd_engine_call_seconds_count", operation=operation) == count
        assert site.metric("invokerd_engine_call_seconds_sum", operation=operation) > 0
    before = site.metric("invokerd_engine_calls_total", operation="create")
    site.user.deploy("another", "def main(args):\n    return {}\n", memory=160)
    assert site.user.invoke("another").annotations["startKind"] == "cold"
    assert site.metric("invokerd_engine_calls_total", operation="create") >= before + 1
    assert site.metric("invokerd_engine_up") == 1


def test_the_journals_writes_are_timed(site):
    before = site.metric("invokerd_journal_write_seconds_count")
    assert before >= 5
    for _ in range(3):
        site.user.invoke("echo")
    assert site.metric("invokerd_journal_write_seconds_count") >= before + 3


def test_a_call_over_the_namespaces_limit_is_counted_with_its_reason(site):
    site.user.deploy("slow", "import time\ndef main(args):\n    time.sleep(1.0)\n    return {}\n")
    threads = [threading.Thread(target=site.user.invoke, args=("slow",)) for _ in range(2)]
    for thread in threads:
        thread.start()
    site.daemon.wait(lambda: site.metric("invokerd_activations_in_flight") == 2, "to have both in flight")
    refused = site.user.invoke("echo")
    for thread in threads:
        thread.join()
    assert refused.status == 429
    assert site.metric("invokerd_throttled_total", namespace="anna", reason="concurrent") == 1
    assert site.metric("invokerd_throttled_total") == 1


def test_a_call_over_the_rate_is_counted_with_its_reason(tmp_path, engine_url, make_user):
    daemon = Daemon(tmp_path, engine_url, {"pool.memory_mib": 512, "limits.invocations_per_minute": 0})
    daemon.start()
    try:
        user = make_user(daemon, "anna")
        assert user.invoke("nothing").status == 429
        assert daemon.metric("invokerd_throttled_total", namespace="anna", reason="rate") == 1
    finally:
        daemon.stop()


def test_what_the_node_refuses_is_counted_by_the_error(site):
    site.user.deploy("new", "def main(args):\n    return {}\n", memory=224)
    with site.proxy.failing("refuse"):
        assert site.user.invoke("new").status == 503
    assert site.metric("invokerd_refused_total", reason="engine-unavailable") == 1
    assert site.metric("invokerd_engine_calls_total", result="engine-unavailable") >= 1
    site.daemon.wait(lambda: site.user.invoke("new").status == 200, "to have its engine again")


def test_a_stopped_daemon_does_not_hold_up_a_function_and_the_lines_lost_meanwhile_are_counted(site):
    lines = 100_000
    site.user.deploy(
        "talks",
        f"""import os, time
def main(args):
    open("/data/began", "w").close()
    while not os.path.exists("/data/go"):
        time.sleep(0.01)
    for i in range({lines}):
        print("line", i)
    return {{}}
""",
        logs=100,
    )
    before = site.metric("invokerd_log_lines_dropped_total")
    activation_id = site.user.invoke("talks", {}, "blocking=false").json["activationId"]
    site.daemon.wait((site.data / "began").exists, "to run it")
    container = next(each for each in site.containers() if each["action"] == "anna/talks")["container"]
    os.kill(site.daemon.pid, signal.SIGSTOP)
    try:
        used = [site.cpu_of(container)]
        (site.data / "go").touch()
        deadline = time.monotonic() + 30
        # It has said all it can when the container uses no more CPU: it has answered, though nobody reads.
        while len(used) < 2 or used[-1] != used[-2] or used[-1] < used[0] + 5:
            assert time.monotonic() < deadline, "the function is held up by a reader that does not read"
            used.append(site.cpu_of(container))
            time.sleep(0.5)
    finally:
        os.kill(site.daemon.pid, signal.SIGCONT)
    logs = site.user.record(activation_id).json["logs"]
    said = re.search(r"your logs: (\d+) lines were lost, the log pipe was full\.$", logs[-1])
    assert said, logs[-1]
    assert int(said[1]) > 0
    assert len(logs) - 1 + int(said[1]) == lines
    assert site.metric("invokerd_log_lines_dropped_total") - before == int(said[1])


def test_counters_only_go_up_while_the_daemon_runs(site):
    def counters() -> dict[str, float]:
        text = site.scrape()
        names = set(re.findall(r"^# TYPE (\S+) counter$", text, re.MULTILINE))
        lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
        return {series: float(value) for series, _, value in lines if series.partition("{")[0] in names}

    before = counters()
    site.user.invoke("echo")
    after = counters()
    assert {series for series, value in before.items() if after.get(series, -1.0) < value} == set()
    assert after != before


def test_a_deleted_action_or_namespace_is_no_longer_exposed(site, make_user):
    leaver = make_user(site.daemon, "leaver", uid=20_009, gid=20_009)
    leaver.deploy("last", "def main(args):\n    return {}\n")
    assert leaver.invoke("last").status == 200
    assert site.metric("invokerd_action_activations_total", namespace="leaver", action="last") == 1
    assert leaver.ask("DELETE", "actions/last").status == 200
    assert 'action="last"' not in site.scrape()
    assert 'namespace="leaver"' in site.scrape()
    site.daemon.control("namespace", "delete", "leaver", "--yes")
    assert 'namespace="leaver"' not in site.scrape()
