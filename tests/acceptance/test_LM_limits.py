"""Row LM-06: the document of a namespace's limits, and what its overrides do."""

import pytest
from rows import CODE, get, put, refuse


async def test_LM_06_the_document_has_these_numbers(site):
    assert await get(site, "limits") == {
        "invocationsPerMinute": 60,
        "concurrentInvocations": 30,
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
        "maxActionInstances": 30,
    }


async def test_LM_06_overrides_are_shown(site):
    site.grant(invocations_per_minute=1, concurrent_invocations=2, fires_per_minute=3, allowed_kinds=("python:3",))
    limits = await get(site, "limits")
    assert (limits["invocationsPerMinute"], limits["concurrentInvocations"], limits["firesPerMinute"]) == (1, 2, 3)
    assert (limits["maxActionInstances"], limits["allowedKinds"]) == (2, ["python:3"])


@pytest.mark.parametrize("allowed", [0, 1])
async def test_LM_06_the_rate_that_is_allowed_is_said_when_it_is_exceeded(site, allowed):
    await put(site, "actions/a", CODE)
    site.grant(invocations_per_minute=allowed)
    for _ in range(allowed):
        assert (await site.ask("POST", "actions/a", {})).status == 202
    await refuse(site, "POST", "actions/a", {}, status=429, words=f"(count: {allowed + 1}, allowed: {allowed})")


@pytest.mark.parametrize("allowed", [0, 1])
async def test_LM_06_the_concurrency_that_is_allowed_is_said_when_it_is_reached(site, allowed):
    await put(site, "actions/a", CODE)
    site.grant(concurrent_invocations=allowed)
    site.invoker.running = allowed
    words = f"concurrent requests in flight (count: {allowed}, allowed: {allowed})"
    await refuse(site, "POST", "actions/a", {}, status=429, words=words)


async def test_LM_06_limits_of_another_namespace_are_403_and_have_no_parts(site):
    site.add_namespace("other")
    await refuse(site, "GET", "/api/v1/namespaces/other/limits", status=403, words="not authorized to access 'other/limits'")
    await refuse(site, "GET", "limits/x", status=400, words="cannot be read on its own")
