"""An encrypted parameter is plain in the container that needs it and in what its owner reads, and nowhere else: every byte that
the daemon leaves is searched. So are the keys that clients hand to feeds, and those that they call with.

The action answers with a digest of what it got, so that an answer shows that it was opened and tells nobody the value.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from site_mounts import shared_data

from bench.daemon import Daemon

pytestmark = pytest.mark.docker

MEMORY_MIB = 512
#: Keeps all of the pool for as long as a file is missing; then answers with digests of its parameters.
CODE = """import hashlib, os, time

def main(args):
    if args.get("wait"):
        open("/data/begun", "w").close()
    while args.get("wait") and not os.path.exists("/data/go"):
        time.sleep(0.02)
    found = {key: args.get(key) or os.environ.get(key) for key in ("a", "p", "b", "t", "i", "authKey")}
    return {key: hashlib.sha256(value.encode()).hexdigest() for key, value in found.items() if value}
"""


def value_of(key: str) -> str:
    return f"the-secret-of-{key}-9f2c"


def digests(keys: Iterable[str]) -> dict[str, str]:
    return {key: hashlib.sha256(value_of(key).encode()).hexdigest() for key in keys}


def secret(key: str, **fields: Any) -> dict[str, Any]:
    return {"key": key, "value": value_of(key), "encryption": "aes-256"} | fields


class Site(NamedTuple):
    daemon: Daemon
    user: Any
    data: Path

    def put(self, path: str, **body: Any) -> Any:
        answer = self.user.ask("PUT", f"{path}?overwrite=true", body)
        assert answer.status == 200, answer.text
        return answer.json


@pytest.fixture(scope="module")
def site(tmp_path_factory: Any, engine_url: str, make_user: Any, leave_no_containers: None) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("secrets")
    daemon = Daemon(root, engine_url, {"pool.memory_mib": MEMORY_MIB, "log.level": "debug"})
    data = shared_data(daemon, root)
    daemon.start()
    try:
        user = make_user(daemon, "anna", words=("--mount", "data"))
        the_site = Site(daemon, user, data)
        the_site.put("packages/p", parameters=[secret("p"), secret("i", init=True)])
        the_site.put("packages/b", binding={"namespace": "_", "name": "p"}, parameters=[secret("b")])
        the_site.put(
            "actions/p/x", exec={"kind": "python:3", "code": CODE}, parameters=[secret("a")], limits={"memory": MEMORY_MIB}
        )
        the_site.put("actions/all", exec={"kind": "sequence", "components": ["/_/b/x"]})
        the_site.put("triggers/t", parameters=[secret("t")])
        for name, action in (("r", "/_/b/x"), ("s", "/_/all")):
            the_site.put(f"rules/{name}", trigger="/_/t", action=action)
        yield the_site
    finally:
        daemon.stop()


def test_every_parameter_is_open_for_the_action_and_in_no_byte_that_the_daemon_leaves(site):
    """It is killed while what a trigger has promised waits for the pool's only container: the promise is on the disk then."""
    called = site.user.invoke("b/x")
    assert called.json["response"]["result"] == digests("apbi")
    busy = site.user.invoke("b/x", {"wait": True}, "blocking=false").json["activationId"]
    site.daemon.wait((site.data / "begun").exists, "to be busy")
    fired = site.user.ask("POST", "triggers/t", {"plain": "this is found"}).json["activationId"]
    feed_key = {"lifecycleEvent": "CREATE", "triggerName": "/_/t", "authKey": value_of("authKey")}
    fed = site.user.invoke("p/x", feed_key, "blocking=false").json["activationId"]
    promised = [json.loads(line)["activationId"] for line in site.user.record(fired).json["logs"]]
    site.daemon.kill()
    assert_not_written(site)

    (site.data / "go").touch()
    site.daemon.start()
    assert site.user.record(busy).annotations["outcome"] == "lost"
    alone, whole = (site.user.record(each, 60) for each in promised)
    assert alone.json["response"]["result"] == digests("apbit")
    assert site.user.record(fed, 60).json["response"]["result"] == digests("api") | digests(["authKey"])
    assert whole.annotations["outcome"] == "lost", "a sequence that had begun is not run again"
    again = site.user.ask("POST", "triggers/t", {}).json["activationId"]
    promised = [json.loads(line)["activationId"] for line in site.user.record(again).json["logs"]]
    assert [site.user.record(each, 60).json["response"]["result"] for each in promised] == [digests("apbit")] * 2
    listed = site.user.ask("GET", "activations?docs=true&limit=0").text
    assert "the-secret-of" not in listed
    site.daemon.stop()
    assert_not_written(site)
    site.daemon.start()


def assert_not_written(site: Site) -> None:
    """Search the state directory, the configuration and the log."""
    found, sound = set(), False
    own_key = (site.user.key.partition(":")[2].encode(), base64.b64encode(site.user.key.encode()))
    for file in (path for path in site.daemon.state_dir.parent.rglob("*") if path.is_file()):
        data = file.read_bytes()
        sound = sound or b"this is found" in data
        found |= {(file.name, key) for key in (*"apbti", "authKey") if value_of(key).encode() in data}
        found |= {(file.name, "of the user") for key in own_key if key in data}
    assert sound, "what is no secret is found: the search works"
    assert not found


@pytest.mark.parametrize("path", ["actions/p/x", "actions/b/x", "packages/p", "packages/b", "triggers/t"])
def test_their_owner_reads_them_and_lists_have_none(site, path):
    shown = site.user.ask("GET", path)
    assert shown.status == 200
    values = {each["key"]: each["value"] for each in shown.json["parameters"]}
    assert values == {key: value_of(key) for key in values}
    assert {each["encryption"] for each in shown.json["parameters"]} == {"aes-256"}
    listed = site.user.ask("GET", path.partition("/")[0])
    assert path.rpartition("/")[2] in [each["name"] for each in listed.json]
    assert "the-secret-of" not in listed.text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("actions/refused", {"exec": {"kind": "no:kind", "code": ""}, "parameters": [secret("a")]}),
        ("actions/refused", {"exec": {"kind": "python:3", "code": ""}, "parameters": [secret("a", init="no")]}),
        ("triggers/refused", {"parameters": [secret("a", value=value_of("a") * 60_000)]}),
        ("packages/refused", {"parameters": [secret("a")], "publish": value_of("a")}),
        ("triggers/refused", {"parameters": [secret("a"), {"value": value_of("a")}]}),
    ],
    ids=["kind", "init", "size", "publish", "no-key"],
)
def test_a_refusal_does_not_repeat_the_value(site, path, body):
    answer = site.user.ask("PUT", path, body)
    assert answer.status in {400, 413}, answer.text
    assert "the-secret-of" not in answer.text
    assert "the-secret-of" not in site.daemon.end_of_log()
