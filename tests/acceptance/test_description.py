"""The API against its own description: schemathesis makes requests of every operation, good ones and bad ones.

It looks for answers of a status, a type or a body that the description does not know, and for failures of the server. The seed
is fixed. Once in process with an invoker that has its answers ready, once with a real daemon and containers that run.
"""

import asyncio
import base64

import msgspec
import pytest
from described import try_operations
from openapi_spec_validator import OpenAPIV31SpecValidator
from schemathesis.generation import GenerationMode

from invoker.http.description.operations import OPERATIONS
from invoker.invocation import Accepted202
from pool.model import ActivationId

HELLO = {"exec": {"kind": "python:3", "code": "def main(args): return args"}}


#: One of everything, so that not every answer is a 404.
ENTITIES = (
    ("packages/tools", {"publish": True, "parameters": [{"key": "a", "value": 1}]}),
    ("packages/bound", {"binding": {"namespace": "_", "name": "tools"}}),
    ("actions/hello", HELLO),
    ("actions/web", {**HELLO, "annotations": [{"key": "web-export", "value": True}]}),
    ("actions/tools/hello", HELLO),
    ("triggers/tick", {}),
    ("rules/rule", {"trigger": "/_/tick", "action": "/_/hello"}),
)


async def populate(site, make_activation):
    for path, body in ENTITIES:
        assert (await site.ask("PUT", f"{path}?overwrite=true", body)).status == 200, path
    record = make_activation(activation_id=ActivationId(f"{1:032x}"), result=msgspec.Raw(b'{"body":"hi"}'))
    site.activations.records.append(record)
    site.invoker.answer = lambda call: record if call.blocking else Accepted202(activation_id=record.activation_id)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("tag", sorted({operation.tag for operation in OPERATIONS}))
async def test_every_answer_is_as_described_and_the_server_never_fails(site, make_activation, tag, mode):
    description = (await site.ask("GET", "/api/v1/openapi.json", auth=False)).json
    OpenAPIV31SpecValidator(description).validate()
    await populate(site, make_activation)
    problems = await asyncio.to_thread(try_operations, description, mode, url=site.url, auth=site.auth, tag=tag)
    assert not problems, problems


@pytest.mark.docker
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_a_real_daemon_answers_as_described_and_never_fails(daemon, client, mode):
    try_the_daemon(daemon, client, mode, examples=4)


@pytest.mark.docker
@pytest.mark.long
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_a_real_daemon_answers_hundreds_of_requests_as_described(daemon, client, mode):
    try_the_daemon(daemon, client, mode, examples=30)


def try_the_daemon(daemon, client, mode, *, examples):
    description = client.ask("GET", "/api/v1/openapi.json", key=None).json
    for path, body in ENTITIES:
        assert client.ask("PUT", f"{path}?overwrite=true", body).status == 200, path
    auth = f"Basic {base64.b64encode(client.key.encode()).decode()}"
    problems = try_operations(description, mode, url=f"http://127.0.0.1:{daemon.port}", auth=auth, examples=examples)
    assert not problems, problems
    client.deploy("afterwards", HELLO["exec"]["code"])
    assert client.invoke("afterwards", {"a": 1}, "blocking=true&result=true").json == {"a": 1}, "it serves on"
