"""Rows INFO: the documents that clients read before they have a key."""

import re
from base64 import b64encode

import pytest
from api_site import Site, running
from openapi_spec_validator import OpenAPIV2SpecValidator

from invoker.health import Check, Health


async def test_INFO_01_the_api_document_has_what_property_get_prints(site):
    for path in ("/api/v1", "/api/v1/"):
        answered = await site.ask("GET", path, auth=False)
        assert (answered.status, answered.headers["Content-Type"]) == (200, "application/json")
        info = answered.json
        assert info["description"] == "OpenWhisk API"
        assert (info["api_version"], info["api_version_path"]) == ("1.0.0", "v1")
        assert isinstance(info["build"], str)
        assert isinstance(info["buildno"], str)
        assert info["swagger_paths"] == {"ui": "/docs", "api-docs": "/api-docs"}


async def test_INFO_02_the_root_document_has_limits_in_bytes_and_milliseconds(site):
    answered = await site.ask("GET", "/", auth=False)
    assert (answered.status, answered.headers["Content-Type"]) == (200, "application/json")
    root = answered.json
    assert root["api_paths"] == ["/api/v1"]
    assert set(root["support"]) == {"github", "slack"}
    ranges = {
        "min_action_duration": 100,
        "max_action_duration": 300_000,
        "min_action_memory": 128 * 2**20,
        "max_action_memory": 512 * 2**20,
        "min_action_logs": 0,
        "max_action_logs": 10 * 2**20,
    }
    assert root["limits"] == {
        "actions_per_minute": 60,
        "triggers_per_minute": 60,
        "concurrent_actions": 30,
        "sequence_length": 50,
        **ranges,
        **{f"default_{name}": value for name, value in ranges.items()},
    }


async def test_INFO_02_the_root_document_has_the_kinds_with_one_default_a_family(site):
    runtimes = (await site.ask("GET", "/", auth=False)).json["runtimes"]
    assert set(runtimes) == {"python", "nodejs", "java"}
    for family, kinds in runtimes.items():
        assert all(set(kind) == {"kind", "image", "deprecated", "default", "attached", "requireMain"} for kind in kinds)
        assert all(kind["kind"].startswith(f"{family}:") for kind in kinds)
        assert len(kinds) == 1 or sum(kind["default"] for kind in kinds) == 1


async def test_INFO_03_ping_answers_pong(site):
    answered = await site.ask("GET", "/ping", auth=False)
    assert (answered.status, answered.text) == (200, "pong")
    assert answered.headers["Content-Type"].startswith("text/plain")


async def test_INFO_03_operators_of_openwhisk_find_one_invoker(site):
    async def told():
        answers = [await site.ask("GET", f"/invokers{rest}", auth=False) for rest in ("", "/healthy/count", "/ready")]
        return [(each.status, each.json) for each in answers]

    assert await told() == [(200, {"invoker0/0": "up"}), (200, 1), (200, {"healthy": "1/1"})]
    site.health = Health(checks=(Check(name="engine", ok=False, detail="start it"),))
    assert await told() == [(200, {"invoker0/0": "unhealthy"}), (200, 0), (500, {"unhealthy": "0/1"})]


@pytest.mark.parametrize("slash", ["", "/"])
async def test_INFO_03_operators_of_openwhisk_see_what_is_in_flight(site, slash):
    site.invoker.running = 2
    told = await site.ask("GET", f"/activation{slash}", auth=False)
    assert (told.status, told.json) == (200, [f"{number:032x}" for number in range(2)])
    count = await site.ask("GET", "/activation/count", auth=False)
    assert (count.status, count.text) == (200, "2")


def basic(credentials):
    return "Basic " + b64encode(credentials.encode()).decode()


@pytest.mark.parametrize("configured", [None, "operator:hush"])
@pytest.mark.parametrize(
    ("given", "words"),
    [
        (False, "requires authentication"),
        ("Bearer x", "requires authentication"),
        (basic("operator:guess"), "username or password"),
        (basic("operator"), "username or password"),
        (True, "username or password"),
    ],
    ids=["none", "bearer", "wrong", "no password", "of a namespace"],
)
async def test_INFO_03_nobody_else_takes_the_node_out_of_service(configured, given, words):
    async with running(Site(operator=configured)) as site:
        refused = await site.ask("POST", "/disable", auth=given)
        assert (refused.status, words in refused.error, site.disabled) == (401, True, False)


async def test_INFO_03_an_operator_takes_the_node_out_of_service():
    async with running(Site(operator="operator:hush")) as site:
        assert (await site.ask("GET", "/disable", auth=basic("operator:hush"))).status == 405
        assert not site.disabled
        done = await site.ask("POST", "/disable", auth=basic("operator:hush"))
        assert (done.status, done.text, site.disabled) == (200, "controller is disabled", True)
        assert done.headers["Content-Type"].startswith("text/plain")


async def test_INFO_04_api_docs_are_swagger_2_with_the_definitions_that_are_looked_for(site):
    answered = await site.ask("GET", "/api/v1/api-docs", auth=False)
    assert (answered.status, answered.headers["Content-Type"]) == (200, "application/json")
    document = answered.json
    OpenAPIV2SpecValidator(document).validate()
    assert document["swagger"] == "2.0"
    assert {"ActionMeta", "ActionExecMeta", "RuleMeta", "TriggerMeta"} <= set(document["definitions"])


async def test_INFO_04_the_docs_page_is_there_and_nothing_else_below_it(site):
    answered = await site.ask("GET", "/api/v1/docs", auth=False)
    assert answered.status == 308
    assert re.match(r"docs/index\.html\?url=", answered.headers["Location"])
    page = await site.ask("GET", "/api/v1/docs/index.html?url=/api/v1/api-docs", auth=False)
    assert page.status == 200
    assert "<title>Swagger UI</title>" in page.text
    assert (await site.ask("GET", "/api/v1/docs/index.html2")).status == 404
