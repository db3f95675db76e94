"""Row ACT-09: an action calls the API from inside its container, which has no network."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from bench.daemon import Daemon

pytestmark = pytest.mark.docker

NODE = "nodejs:20"
#: Where scripts/lib/setup.sh puts npm's packages.
NPM = Path(__file__).parents[2] / ".state/npm/node_modules"

#: Asks for `path` with `method`, and returns what was answered.
CALLER = """
import base64, json, os, urllib.error, urllib.request

def main(args):
    request = urllib.request.Request(
        os.environ["__OW_API_HOST"] + args["path"],
        data=None if args.get("body") is None else json.dumps(args["body"]).encode(),
        method=args.get("method", "POST"),
        headers={
            "Authorization": "Basic " + base64.b64encode(os.environ["__OW_API_KEY"].encode()).decode(),
            "Content-Type": "application/json",
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=50) as answer:
            return {"status": answer.status, "body": json.load(answer)}
    except urllib.error.HTTPError as error:
        return {"status": error.code, "body": json.load(error), "reason": error.headers.get("X-Invokerd-Reason")}
"""
ECHO = "def main(args):\n    return args\n"
#: Two levels with the official client, as in OpenWhisk's own test.
NPM_CALLER = """
const openwhisk = require('openwhisk')
exports.main = async function (args) {
  const ow = openwhisk()
  if (args.levels > 0) {
    const answer = await ow.actions.invoke({
      name: process.env.__OW_ACTION_NAME, blocking: true, result: true, params: { levels: args.levels - 1 },
    })
    return { depth: answer.depth + 1, ids: [...answer.ids, process.env.__OW_ACTIVATION_ID] }
  }
  const actions = await ow.actions.list()
  return { depth: 0, ids: [process.env.__OW_ACTIVATION_ID], sees: actions.map(each => each.name).sort() }
}
"""


def put_with_key(client: Any, name: str, code: str | bytes, **fields: Any) -> None:
    """Write an action that may have its caller's key."""
    text = base64.b64encode(code).decode() if isinstance(code, bytes) else code
    body = {
        "exec": {"kind": fields.pop("kind", "python:3"), "code": text, **({"main": "main"} if isinstance(code, bytes) else {})},
        "annotations": [{"key": "provide-api-key", "value": True}],
        "limits": fields,
    }
    answer = client.ask("PUT", f"actions/{name}?overwrite=true", body)
    assert answer.status == 200, answer.text


def call(client: Any, path: str, **args: Any) -> Any:
    answer = client.invoke("caller", {"path": path, **args})
    assert answer.status == 200, answer.text
    return answer.json["response"]["result"]


@pytest.fixture(scope="module", autouse=True)
def _actions(client):
    put_with_key(client, "caller", CALLER)
    client.deploy("echo", ECHO)


def test_ACT_09_a_blocking_call_from_inside_is_answered_like_any_other(client):
    path = "/api/v1/namespaces/_/actions/echo?blocking=true"
    for _ in range(3):  # cold, warm, frozen
        answer = call(client, path, body={"n": 1})
        assert (answer["status"], answer["body"]["response"]["result"]) == (200, {"n": 1})
        assert client.record(answer["body"]["activationId"]).json["namespace"] == "anna"
    not_blocking = call(client, "/api/v1/namespaces/_/actions/echo", body={"n": 2})
    assert not_blocking["status"] == 202
    assert client.record(not_blocking["body"]["activationId"]).json["response"]["result"] == {"n": 2}


def test_ACT_09_the_whole_api_is_there_and_errors_too(client):
    assert call(client, "/api/v1/namespaces", method="GET") == {"status": 200, "body": ["anna"]}
    written = {"exec": {"kind": "python:3", "code": ECHO}}
    assert call(client, "/api/v1/namespaces/_/actions/made-inside?overwrite=true", method="PUT", body=written)["status"] == 200
    assert client.invoke("made-inside", {"x": 1}).json["response"]["result"] == {"x": 1}
    assert call(client, "/api/v1/namespaces/_/actions/not-there")["status"] == 404


def test_ACT_09_nothing_but_the_api_can_be_reached(client, daemon):
    client.deploy(
        "looks",
        "import socket\n"
        "def main(args):\n"
        "    found = {}\n"
        "    for host, port in args['places']:\n"
        "        try:\n"
        "            socket.create_connection((host, port), timeout=2).close()\n"
        "            found[f'{host}:{port}'] = 'open'\n"
        "        except OSError as error:\n"
        "            found[f'{host}:{port}'] = type(error).__name__\n"
        "    return found\n",
    )
    places = [["127.0.0.1", 3233], ["127.0.0.1", daemon.metrics_port], ["127.0.0.1", daemon.port], ["10.0.0.1", 80]]
    found = client.invoke("looks", {"places": places}).json["response"]["result"]
    assert found.pop("127.0.0.1:3233") == "open"
    assert "open" not in found.values(), found


@pytest.mark.skipif(not (NPM / "openwhisk").is_dir(), reason="npm's client is not installed: scripts/test installs it")
def test_ACT_09_two_levels_with_npms_own_client(client, tmp_path):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("index.js", NPM_CALLER)
        packed.writestr("package.json", json.dumps({"name": "nested", "main": "index.js"}))
        for name in needed_by("openwhisk"):
            for file in sorted((NPM / name).rglob("*")):
                if file.is_file():
                    packed.write(file, Path("node_modules") / file.relative_to(NPM))
    put_with_key(client, "nested", archive.getvalue(), kind=NODE)
    done = client.invoke("nested", {"levels": 2})
    result = done.json["response"]["result"]
    assert (done.status, result.get("depth")) == (200, 2), done.text
    assert {"caller", "echo", "nested"} <= set(result["sees"]) if "sees" in result else len(set(result["ids"])) == 3
    for activation_id in result["ids"]:
        assert client.record(activation_id).json["name"] == "nested"


def needed_by(package: str) -> set[str]:
    """A package and all that it depends on, as npm has laid them out."""
    found: set[str] = set()
    rest = [package]
    while rest:
        name = rest.pop()
        if name not in found and (NPM / name / "package.json").is_file():
            found.add(name)
            rest += json.loads((NPM / name / "package.json").read_text()).get("dependencies", {})
    return found


def test_ACT_09_callers_that_fill_the_memory_are_told_and_do_not_hang(
    tmp_path_factory, engine_url, make_user, leave_no_containers
):
    # 64 MiB are the self-test's.
    daemon = Daemon(tmp_path_factory.mktemp("small"), engine_url, {"pool.memory_mib": 320, "pool.stem_cells.enabled": False})
    daemon.start()
    try:
        user = make_user(daemon, "full", uid=20_031, gid=20_031)
        put_with_key(user, "caller", CALLER, memory=256)
        user.deploy("echo", ECHO, memory=128)
        answer = user.invoke("caller", {"path": "/api/v1/namespaces/_/actions/echo?blocking=true", "body": {}})
        assert answer.status == 200, answer.text
        inner = answer.json["response"]["result"]
        assert (inner["status"], inner["reason"]) == (503, "nested-would-wait")
        assert user.invoke("echo", {"n": 1}).status == 200
    finally:
        daemon.stop()


def test_ACT_09_a_container_that_the_next_daemon_adopts_can_call_too(client, daemon):
    call(client, "/api/v1/namespaces", method="GET")
    before = client.invoke("caller", {"path": "/api/v1/namespaces", "method": "GET"}).annotations["container"]
    daemon.stop()
    daemon.start()
    answer = client.invoke("caller", {"path": "/api/v1/namespaces/_/actions/echo?blocking=true", "body": {"n": 1}})
    assert answer.annotations["container"] == before
    assert answer.json["response"]["result"]["status"] == 200, answer.text
