"""Requests that schemathesis makes of every operation of the description, and what is wrong with the answers."""

import itertools

import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.core.failures import FailureGroup
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi import checks

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


def try_operations(description, mode, *, url, auth, tag=None, examples=5):
    """Make requests of the operations of one tag, or of all; return what was wrong.

    Args:
        description: the OpenAPI document.
        mode: what the description allows, or what it does not.
        url: where the API is.
        auth: value of the header Authorization.
        tag: None for all operations.
        examples: requests of each operation, at most.
    """
    problems = []
    schema = schemathesis.openapi.from_dict(description)
    for found in (schema.include(tag=tag) if tag else schema).get_all_operations():
        operation = found.ok()
        takes = (operation.path_parameters, operation.query, operation.headers, operation.body)
        if mode is GenerationMode.POSITIVE or any(map(len, takes)):  # what takes nothing cannot be asked wrongly
            problems += try_operation(operation, mode, url, auth, examples)
    return problems


def try_operation(operation, mode, url, auth, examples):
    problems, numbers = [], itertools.count()

    @seed(20_260)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def attempt(case):
        steer(case, next(numbers))
        response = case.call(base_url=url, headers={"Authorization": auth})
        if response.status_code >= 500 and not is_the_actions_fault(operation, response):
            problems.append((operation.label, response.status_code, response.text))
        try:
            case.validate_response(response, checks=CHECKS)
        except FailureGroup as failure:
            problems.append((operation.label, str(failure)))

    attempt()
    return problems


def is_the_actions_fault(operation, response):
    """An action that fails is a 502, and so is what OpenWhisk's gateway refuses."""
    return response.status_code == 502 and ("apimgmt" in operation.path or "x-openwhisk-activation-id" in response.headers)
