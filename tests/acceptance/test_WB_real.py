"""Rows WB and AG with code that really runs: what it sees of a request, what comes back, and routes that outlive the daemon."""

from __future__ import annotations

import base64
from typing import Any

import pytest

pytestmark = pytest.mark.docker

CODE = """
import base64

def main(args):
    what = args.get("what", "seen")
    if what == "seen":
        return {"body": {name: value for name, value in args.items() if name != "__ow_headers"}}
    if what == "picture":
        return {"headers": {"content-type": "image/png"}, "body": base64.b64encode(bytes(range(256))).decode()}
    if what == "cookies":
        return {"statusCode": 302, "headers": {"location": "/", "Set-Cookie": ["a=1", "b=2"]}}
    if what == "refused":
        return {"error": {"statusCode": 403, "body": "no"}}
    if what == "half":
        return {"body": "\\ud800"}
    raise SystemExit(1)
"""


def put_web(client: Any, **annotations: Any) -> None:
    entries = {"web-export": True} | {name.replace("_", "-"): value for name, value in annotations.items()}
    body = {
        "exec": {"kind": "python:3", "code": CODE},
        "annotations": [{"key": key, "value": value} for key, value in entries.items()],
    }
    assert client.ask("PUT", "actions/web?overwrite=true", body).status == 200


def test_WB_04_code_sees_the_request_and_is_recorded_as_its_owners(client, daemon, make_user):
    put_web(client)
    caller = make_user(daemon, "bert", uid=20_002, gid=20_002)
    answer = caller.ask("POST", "/api/v1/web/anna/default/web.http/a/b?x=1", {"n": 9007199254740993})
    assert answer.status == 200, answer.text
    seen = answer.json
    assert (seen["__ow_method"], seen["__ow_path"], seen["__ow_user"]) == ("post", "/a/b", "bert")
    assert (seen["x"], seen["n"]) == ("1", 9007199254740993)
    record = client.record(answer.headers["x-openwhisk-activation-id"]).json
    assert (record["namespace"], record["name"]) == ("anna", "web")
    assert caller.ask("GET", f"activations/{record['activationId']}").status == 404


def test_WB_03_bytes_cookies_and_errors_come_back(client):
    put_web(client)
    url = "/api/v1/web/anna/default/web.http"
    assert client.ask("GET", f"{url}?what=cookies", key=None).headers["location"] == "/"
    refused = client.ask("GET", f"{url}?what=refused", key=None)
    assert (refused.status, refused.text) == (403, "no")
    for broken in ("exit", "half"):
        assert client.ask("GET", f"{url}?what={broken}", key=None).status == 400
    picture = client.ask("GET", "/api/v1/web/anna/default/web.json?what=picture", key=None)
    assert base64.b64decode(picture.json["body"]) == bytes(range(256))


def test_AG_01_a_route_is_served_by_code_and_outlives_the_daemon(client, daemon):
    put_web(client, require_whisk_auth="s3cret")
    action = {
        "name": "web",
        "namespace": "_",
        "backendMethod": "POST",
        "backendUrl": "http://node/api/v1/web/_/default/web.http",
        "authkey": client.key,
        "secureKey": "s3cret",
    }
    doc = {"namespace": "_", "gatewayBasePath": "/shop", "gatewayPath": "/items/{id}", "gatewayMethod": "GET", "action": action}
    made = client.ask("POST", "/api/v1/web/whisk.system/apimgmt/createApi.http?responsetype=http", {"apidoc": doc})
    assert made.status == 200, made.text
    assert made.json["gwApiUrl"] == f"http://127.0.0.1:{daemon.port}/api/anna/shop"
    for kill in (False, True):
        answer = client.ask("GET", "/api/anna/shop/items/7", key=None)
        assert answer.status == 200, answer.text
        assert answer.json["__ow_path"] == "/items/7"
        assert client.ask("POST", "/api/anna/shop/items/7", key=None).status == 405
        assert client.ask("GET", "/api/v1/web/anna/default/web.http", key=None).status == 401
        if not kill:
            daemon.kill()
            daemon.start()
