import pytest

PATH = "/runtime/namespaces/{}/logForwarding"


@pytest.mark.parametrize("namespace", ["guest", "_"])
async def test_nothing_is_forwarded_and_nothing_goes_wrong_with_it(site, namespace):
    answer = await site.ask("GET", PATH.format(namespace))
    assert (answer.status, answer.json) == (200, {"adobe_io_runtime": {}})
    answer = await site.ask("GET", PATH.format(namespace) + "/errors")
    assert (answer.status, answer.json) == (200, {"destination": "adobe_io_runtime", "errors": []})


async def test_to_keep_logs_here_is_all_that_can_be_set(site):
    answer = await site.ask("PUT", PATH.format("guest"), {"adobe_io_runtime": {}})
    assert (answer.status, answer.json) == (200, {"adobe_io_runtime": {}})
    answer = await site.ask("PUT", PATH.format("guest"), {"splunk_hec": {"host": "logs.example"}})
    assert (answer.status, "forwards no logs" in answer.error) == (400, True)
    answer = await site.ask("PUT", PATH.format("guest"), "{")
    assert (answer.status, answer.error.startswith("The request content was malformed")) == (400, True)


async def test_it_is_the_caller_s_own_namespace_or_none(site):
    answer = await site.ask("GET", PATH.format("other"))
    assert (answer.status, "is not authorized to access 'other/logForwarding'" in answer.error) == (403, True)
    assert (await site.ask("GET", PATH.format("guest"), auth=False)).status == 401


@pytest.mark.parametrize(("method", "path"), [("DELETE", ""), ("PUT", "/errors"), ("GET", "/more")])
async def test_there_is_no_more_to_it(site, method, path):
    assert (await site.ask(method, PATH.format("guest") + path, {})).status == 405
