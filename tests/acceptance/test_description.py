"""The API against its own description: schemathesis makes requests of every operation, good ones and bad ones.

It looks for answers of a status, a type or a body that the description does not know, and for failures of the server.
The seed is fixed.
"""

import asyncio
import itertools

import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from openapi_spec_validator import OpenAPIV31SpecValidator
from schemathesis.core.failures import FailureGroup
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi import checks

from invoker.http.description.operations import OPERATIONS
from invoker.invocation import Accepted202
from pool.model import ActivationId

CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
]
#: Names that exist on the site, by the parameter that they are given as.
EXISTING = {
    "namespace": ["_"],
    "actionName": ["hello", "web"],
    "packageName": ["tools", "bound"],
    "triggerName": ["tick"],
    "ruleName": ["rule"],
    "activationId": [f"{1:032x}"],
}
HELLO = {"exec": {"kind": "python:3", "code": "def main(args): return args"}}


async def populate(site, make_activation):
    """Have one of everything, so that not every answer is a 404."""
    web = {**HELLO, "annotations": [{"key": "web-export", "value": True}]}
    for path, body in (
        ("packages/tools", {"publish": True, "parameters": [{"key": "a", "value": 1}]}),
        ("packages/bound", {"binding": {"namespace": "_", "name": "tools"}}),
        ("actions/hello", HELLO),
        ("actions/web", web),
        ("actions/tools/hello", HELLO),
        ("triggers/tick", {}),
        ("rules/rule", {"trigger": "/_/tick", "action": "/_/hello"}),
    ):
        assert (await site.ask("PUT", f"{path}?overwrite=true", body)).status == 200, path
    record = make_activation(activation_id=ActivationId(f"{1:032x}"), result=msgspec.Raw(b'{"body":"hi"}'))
    site.activations.records.append(record)
    site.invoker.answer = lambda call: record if call.blocking else Accepted202(activation_id=record.activation_id)


def steer(case, number):
    """Let most requests get past the first check: to what exists, and with code that this site could run."""
    for name in case.path_parameters or {}:
        if name == "namespace" or number % 3:
            case.path_parameters[name] = EXISTING[name][number % len(EXISTING[name])]
    body = case.body
    if (
        number % 3
        and case.operation.path.endswith("{actionName}")
        and isinstance(body, dict)
        and isinstance(body.get("exec"), dict)
    ):
        body["exec"]["kind"] = "python:3"
        body["exec"].setdefault("code", "")


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("tag", sorted({operation.tag for operation in OPERATIONS}))
async def test_every_answer_is_as_described_and_the_server_never_fails(site, make_activation, tag, mode):
    description = (await site.ask("GET", "/api/v1/openapi.json", auth=False)).json
    OpenAPIV31SpecValidator(description).validate()
    await populate(site, make_activation)
    problems = await asyncio.to_thread(try_operations, site, description, tag, mode)
    assert not problems, problems


def try_operations(site, description, tag, mode):
    """Make requests of the operations of one tag; return what was wrong."""
    problems = []
    for found in schemathesis.openapi.from_dict(description).include(tag=tag).get_all_operations():
        operation = found.ok()
        takes = (operation.path_parameters, operation.query, operation.headers, operation.body)
        if mode is GenerationMode.POSITIVE or any(map(len, takes)):  # what takes nothing cannot be asked wrongly
            problems += try_operation(site, operation, mode)
    return problems


def try_operation(site, operation, mode):
    problems, numbers = [], itertools.count()

    @seed(20_260)
    @settings(
        max_examples=5,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def attempt(case):
        steer(case, next(numbers))
        response = case.call(base_url=site.url, headers={"Authorization": site.auth})
        if response.status_code >= 500 and not (response.status_code == 502 and "apimgmt" in operation.path):
            problems.append((operation.label, response.status_code, response.text))
        try:
            case.validate_response(response, checks=CHECKS)
        except FailureGroup as failure:
            problems.append((operation.label, str(failure)))

    attempt()
    return problems
