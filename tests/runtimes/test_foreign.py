"""The foreign runtime: that it speaks the contract at all, so that tests of the daemon can rely on it."""

import json
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "lib"))

from engine_api import Engine  # noqa: E402

pytestmark = pytest.mark.docker

SENTINEL = b"XXX_THE_END_OF_A_WHISK_ACTIVATION_XXX"
CLIENT = """
import http.client, json, sys, time
for method, path, body in json.load(sys.stdin):
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", 8080)
        try:
            connection.connect()
            break
        except ConnectionRefusedError:
            time.sleep(0.001)
    connection.request(method, path, json.dumps(body))
    response = connection.getresponse()
    print(json.dumps([response.status, json.load(response)]))
"""


def test_foreign_image_speaks_the_contract_and_prints_sentinels(engine_url):
    built = subprocess.run(
        [sys.executable, ROOT / "tests" / "foreign" / "build.py", "--engine", engine_url],
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    engine = Engine(engine_url)
    host = {"NetworkMode": "none", "LogConfig": {"Type": "json-file", "Config": {}}, "CapDrop": ["ALL"], "ReadonlyRootfs": True}
    body = {"Image": built.stdout.strip(), "User": "4242:4242", "Labels": {"invokerd-test": "foreign"}, "HostConfig": host}
    query = [("name", f"invokerd-test-foreign-{uuid.uuid4().hex[:8]}")]
    container = engine.request("POST", "/containers/create", query=query, body=json.dumps(body).encode())["Id"]
    try:
        engine.request("POST", f"/containers/{container}/start")
        pid = engine.request("GET", f"/containers/{container}/json")["State"]["Pid"]
        run = ["POST", "/run"]
        calls = [
            ["POST", "/init", {"value": {"env": {"GREETING": "hello"}}}],
            ["POST", "/init", {"value": {}}],
            [*run, {"value": {"do": "env"}, "namespace": "guest"}],
            [*run, {"value": {"do": "error"}}],
            [*run, {"value": {"do": "fail"}}],
            [*run, {"value": {"do": "scalar"}}],
            [*run, {"value": {"n": 1}}],
        ]
        entered = ["nsenter", f"--target={pid}", "--net", "--", sys.executable, "-c", CLIENT]
        said = subprocess.run(entered, input=json.dumps(calls), capture_output=True, text=True, check=True, timeout=30).stdout
        answers = [json.loads(line) for line in said.splitlines()]
        assert [status for status, _ in answers] == [200, 403, 200, 200, 502, 200, 200]
        assert {"GREETING=hello", "__OW_NAMESPACE=guest"} <= set(answers[2][1]["env"])
        assert (answers[2][1]["uid"], answers[2][1]["gid"]) == (4242, 4242)
        assert answers[3][1] == {"error": "as asked"}
        assert answers[5][1] == 42
        assert answers[6][1] == {"echo": {"n": 1}}
        deadline = time.monotonic() + 30
        while True:  # the engine has the lines a little after the container wrote them
            logs = engine.request_bytes("GET", f"/containers/{container}/logs?stdout=1&stderr=1")
            if logs.count(SENTINEL) >= 2 * 5 or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        assert logs.count(SENTINEL) == 2 * 5  # on both streams of each run
    finally:
        engine.request("DELETE", f"/containers/{container}", query=[("force", "1"), ("v", "1")])
