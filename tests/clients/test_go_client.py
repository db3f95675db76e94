"""Rows CL-07 and §7.1 of the reference: how answers of each status are read by the Go library of `wsk` and `wskdeploy`."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from go_client import USER_AGENT, read

from invoker.activation import Status
from invoker.invocation import Accepted202
from pool.errors import EngineUnavailable
from pool.model import ActivationId

ID = "0123456789abcdef" * 2
HEADERS = {"User-Agent": USER_AGENT, "Content-Type": "application/json"}
LARGE = [{"key": "k", "value": "x" * (1 << 20)}]
CODE = {"exec": {"kind": "python:3", "code": "def main(args): return args"}}


async def send(site: Any, method: str, path: str, body: Any = None, **options: Any) -> Any:
    return await site.ask(method, path, body, headers=HEADERS, **options)


@pytest.mark.parametrize(
    ("method", "path", "body", "exit_code", "said"),
    [
        ("PUT", "actions/x?overwrite=false", {"exec": {"kind": "cobol:68", "code": ""}}, 144, "is not supported"),
        ("PUT", "actions/x?overwrite=false", {}, 144, "exec undefined"),
        ("PUT", "actions/x?overwrite=false", {**CODE, "limits": {"memory": 1}}, 144, "allowed threshold"),
        ("GET", "actions/nobody?code=false", None, 148, "does not exist"),
        ("DELETE", "actions/nobody", None, 148, "does not exist"),
        ("POST", "actions/nobody?blocking=true&result=false", {}, 148, "does not exist"),
        ("POST", "packages/refresh", {}, 148, "could not be found"),
        ("PUT", "actions/hello?overwrite=false", CODE, 153, "resource already exists"),
        ("GET", "packages/hello", None, 153, "exists but is not in this collection"),
        ("PUT", "actions/x?overwrite=false", {**CODE, "parameters": LARGE}, 157, "larger than allowed"),
        ("GET", "actions?limit=201&skip=0", None, 144, "'limit' was malformed"),
        ("GET", "/api/v1/namespaces/other/actions/x", None, 147, "is not authorized to access 'other/x'"),
        ("GET", f"activations/{ID}", None, 148, "does not exist"),
        ("GET", "activations/short", None, 144, "length is 5 but must be 32"),
    ],
)  # fmt: skip
async def test_CL_07_a_refusal_has_its_exit_code_and_both_fields_of_an_error(site, method, path, body, exit_code, said):
    await site.put_hello()
    before = site.entities.everything()
    got = read(await send(site, method, path, body), "anything")
    assert (got.exit_code, said in got.said) == (exit_code, True), got
    assert site.entities.everything() == before


@pytest.mark.parametrize("auth", [False, "Basic bm86Ym9keQ=="])
async def test_CL_07_without_a_good_key_the_exit_code_is_145(site, auth):
    got = read(await send(site, "GET", "actions?limit=30&skip=0", auth=auth), "anything")
    assert (got.exit_code, "authentication" in got.said) == (145, True)


async def test_CL_07_over_the_rate_the_exit_code_is_173_and_the_counts_are_told(site):
    site.grant(invocations_per_minute=1)
    await site.put_hello()
    site.invoker.answer = lambda call: Accepted202(activation_id=ActivationId(ID))
    exits = [read(await send(site, "POST", "actions/hello", {}), "id") for _ in range(2)]
    assert [got.exit_code for got in exits] == [0, 173]
    assert "requests in the last minute (count: 2, allowed: 1)" in exits[1].said


async def test_CL_07_a_busy_node_is_503_and_exit_code_247(site):
    def unavailable(call):
        raise EngineUnavailable("the container engine does not answer")

    await site.put_hello()
    site.invoker.answer = unavailable
    got = read(await send(site, "POST", "actions/hello?blocking=true", {}), "activation", blocking=True)
    assert (got.exit_code, bool(got.said)) == (247, True)


@pytest.mark.parametrize(
    ("status", "result", "exit_code"),
    [
        (Status.SUCCESS, b'{"n":1}', 0),
        (Status.APPLICATION_ERROR, b'{"error":"mine"}', 246),
        (Status.DEVELOPER_ERROR, b'{"error":"theirs"}', 246),
        (Status.INTERNAL_ERROR, b'{"error":"ours"}', 244),
    ],
)
async def test_CL_07_each_end_of_a_blocking_invocation_has_its_exit_code(site, make_activation, status, result, exit_code):
    await site.put_hello()
    site.invoker.answer = lambda call: make_activation(status=status, result=msgspec.Raw(result))
    whole = read(await send(site, "POST", "actions/hello?blocking=true&result=false", {}), "activation", blocking=True)
    assert whole.exit_code == exit_code
    assert whole.value["response"]["result"] == msgspec.json.decode(result)
    bare = await send(site, "POST", "actions/hello?blocking=true&result=true", {})
    assert read(bare, "anything", blocking=True).exit_code == exit_code
    assert bare.json == msgspec.json.decode(result)
    assert "code" not in bare.json, "with a code it would be taken for an error of the API"


async def test_CL_07_a_blocking_call_that_goes_on_is_202_with_its_id(site):
    await site.put_hello()
    site.invoker.answer = lambda call: Accepted202(activation_id=ActivationId(ID))
    answer = await send(site, "POST", "actions/hello?blocking=true&result=true", {})
    got = read(answer, "id", blocking=True)
    assert (got.exit_code, got.value) == (202, {"activationId": ID})
    assert answer.headers["x-openwhisk-activation-id"] == ID


async def test_the_content_type_is_spelt_as_wskdeploy_compares_it_also_where_nobody_has_logged_in(site):
    for path in ("/", "/api/v1", "/api/v1/namespaces/_/actions", "/nowhere"):
        answer = await send(site, "GET", path, auth=False)
        assert answer.headers["Content-Type"] in "application/json; charset=UTF-8"


async def test_every_document_decodes_into_the_types_of_the_library(site, make_activation):
    await site.put_hello(
        annotations=[{"key": "a", "value": {"b": [1.5, None]}}],
        parameters=[{"key": "p", "value": 2**70}, {"key": "none", "value": None}],
    )
    await send(site, "PUT", "packages/p", {"publish": True})
    await send(site, "PUT", "actions/p/inner", CODE)
    await send(site, "PUT", "packages/bound", {"binding": {"namespace": "_", "name": "p"}})
    await send(site, "PUT", "actions/row", {"exec": {"kind": "sequence", "components": ["/_/hello", "/guest/p/inner"]}})
    await send(site, "PUT", "actions/box", {"exec": {"kind": "blackbox", "image": "example/box:1"}})
    await send(site, "PUT", "triggers/t", {"annotations": []})
    await send(site, "PUT", "rules/r", {"trigger": "/_/t", "action": "/_/hello", "status": ""})
    site.activations.records = [make_activation()]
    documents = {
        "action": ["actions/hello", "actions/p/inner", "actions/bound/inner", "actions/row", "actions/box"],
        "package": ["packages/p", "packages/bound"],
        "trigger": ["triggers/t"],
        "rule": ["rules/r"],
        "activation": [f"activations/{1:032x}"],
        "logs": [f"activations/{1:032x}/logs"],
        "list of action": ["actions?limit=0&skip=0", "actions/p/?limit=30&skip=0"],
        "list of package": ["packages?limit=30&skip=0"],
        "list of trigger": ["triggers?limit=30&skip=0"],
        "list of rule": ["rules?limit=30&skip=0"],
        "list of activation": ["activations?limit=30&skip=0", "activations?docs=true&limit=0&skip=0&since=0"],
        "names": ["/api/v1/namespaces"],
    }
    for what, paths in documents.items():
        for path in paths:
            assert read(await send(site, "GET", path), what).exit_code == 0, path
