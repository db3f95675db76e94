"""Rows CORS: what browsers are told."""

import pytest
from rows import CODE, put

HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Headers": "Authorization, Origin, X-Requested-With, Content-Type, Accept, User-Agent",
    "Access-Control-Allow-Methods": "GET, DELETE, POST, PUT, HEAD",
}


def cors(answered):
    return {name: value for name, value in answered.headers.items() if name.startswith("Access-Control-")}


@pytest.mark.parametrize("path", ["", "/", "/namespaces/_/actions", "/namespaces/_/rules/r", "/no/such/place", "/web/a/b/c.json"])
async def test_CORS_01_options_is_answered_everywhere_below_the_api(site, path):
    answered = await site.ask("OPTIONS", f"/api/v1{path}", auth=False)
    if path.startswith("/web/"):
        assert answered.status in {200, 404}  # the action's own affair: rows WB
        return
    assert (answered.status, answered.text, answered.headers["Content-Type"]) == (200, "OK", "text/plain")
    assert cors(answered) == HEADERS


async def test_CORS_01_outside_of_it_options_has_the_methods_of_the_root(site):
    for path in ("/", "/api", "/nowhere"):
        answered = await site.ask("OPTIONS", path, auth=False)
        assert (answered.status, answered.text) == (200, "OK")
        assert answered.headers["Access-Control-Allow-Methods"] == "OPTIONS, GET, POST"


async def test_CORS_02_every_answer_of_an_entity_carries_them_its_404_too(site):
    entities = {
        "actions/a": CODE,
        "packages/p": {},
        "triggers/t": {},
        "rules/r": {"trigger": "/_/t", "action": "/_/a"},
    }
    for path, body in entities.items():
        await put(site, path, body)
        for method, sent, status in (("GET", None, 200), ("PUT", body, 409), ("DELETE", None, 200), ("GET", None, 404)):
            if method == "DELETE" and path in {"actions/a", "triggers/t"}:
                continue  # the rule needs both
            answered = await site.ask(method, path if status != 404 else f"{path}x", sent)
            assert (answered.status, cors(answered)) == (status, HEADERS)
    for path in ("actions", "packages", "triggers", "rules", "limits", "activations", "/api/v1/namespaces"):
        assert cors(await site.ask("GET", path)) == HEADERS
