import pytest


async def test_there_is_one_namespace(site):
    for path in ("/api/v1/namespaces", "/api/v1/namespaces/"):
        assert (await site.ask("GET", path)).json == ["guest"]


async def test_the_root_document_names_the_kinds(site):
    root = (await site.ask("GET", "/", auth=False)).json
    assert [kind["kind"] for kind in root["runtimes"]["python"]] == ["python:2", "python:3"]
    assert root["limits"]["actions_per_minute"] == 60


@pytest.mark.parametrize("path", ["limits", "limits/"])
async def test_limits_are_the_sites_with_the_namespaces_own(site, path):
    site.grant(invocations_per_minute=7, concurrent_invocations=5)
    assert (await site.ask("GET", path)).json == {
        "invocationsPerMinute": 7,
        "concurrentInvocations": 5,
        "firesPerMinute": 60,
        "minActionMemory": 128,
        "maxActionMemory": 512,
        "minActionLogs": 0,
        "maxActionLogs": 10,
        "minActionTimeout": 100,
        "maxActionTimeout": 300000,
        "minActionConcurrency": 1,
        "maxActionConcurrency": 1,
        "maxParameterSize": "1048576 B",
        "maxActionInstances": 5,
    }


async def test_limits_have_no_entities(site):
    answered = await site.ask("GET", "limits/x")
    assert answered.status == 400
    assert answered.error
