"""Rows AUTH: who calls, and what is said to whom nobody knows."""

import base64
import re

import msgspec
import pytest
from rows import CODE, put, refuse

MISSING = "requires authentication"
INVALID = "The supplied authentication is invalid"
CHALLENGE = 'Basic realm="OpenWhisk secure realm",charset=UTF-8'


def basic(text):
    return "Basic " + base64.b64encode(text.encode()).decode()


async def refuse_caller(site, credentials, words, path="actions"):
    headers = {} if credentials is None else {"Authorization": credentials}
    answered = await refuse(site, "GET", path, status=401, words=words, auth=False, headers=headers)
    assert answered.headers["WWW-Authenticate"] == CHALLENGE
    assert "Access-Control-Allow-Origin" not in answered.headers


@pytest.mark.parametrize("path", ["actions", "actions/x", "packages", "triggers/t", "rules/r", "limits", "nowhere", ""])
async def test_AUTH_01_without_credentials_everything_below_namespaces_is_401(site, path):
    await refuse_caller(site, None, MISSING, path)


async def test_AUTH_01_without_credentials_nothing_is_written(site):
    await refuse(site, "PUT", "actions/x", CODE, status=401, words=MISSING, auth=False)


async def test_AUTH_02_a_wrong_key_and_an_unknown_user_are_refused_alike(site):
    uuid = base64.b64decode(site.auth.removeprefix("Basic ")).decode().partition(":")[0]
    for credentials in (f"{uuid}:wrong", f"{uuid}:", uuid, "nobody:wrong", ":", "guest:guest"):
        await refuse_caller(site, basic(credentials), INVALID)


@pytest.mark.parametrize("credentials", ["Basic", "Basic ", "Basic !!!", "Basic a", "Bearer abc", "abc", "", "Digest x"])
async def test_AUTH_03_what_is_no_basic_credentials_is_as_none(site, credentials):
    await refuse_caller(site, credentials, MISSING)


async def test_AUTH_03_a_blocked_subject_is_refused_from_one_request_to_the_next(site):
    await put(site, "actions/x", CODE)
    site.entities.add_namespace(msgspec.structs.replace(site.entities.get_namespace("guest"), blocked=True))
    await refuse_caller(site, site.auth, INVALID)


@pytest.mark.parametrize(("path", "status"), [("actions", 200), ("actions/missing", 404), ("nowhere", 404)])
async def test_AUTH_04_the_id_of_a_request_is_taken_over_and_is_the_code_of_errors(site, path, status):
    answered = await site.ask("GET", path, headers={"X-Request-ID": "my-own-id"})
    assert (answered.status, answered.headers["X-Request-ID"]) == (status, "my-own-id")
    if status != 200:
        assert answered.json["code"] == "my-own-id"


@pytest.mark.parametrize("given", ["sid_abc", None, "x" * 257])
async def test_AUTH_04_else_an_id_is_made(site, given):
    headers = {} if given is None else {"X-Request-ID": given}
    answered = await site.ask("GET", "actions/missing", headers=headers)
    assert re.fullmatch(r"[A-Za-z0-9]{32}", answered.headers["X-Request-ID"])
    assert answered.error == "The requested resource does not exist."


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "words"),
    [
        ("GET", "nowhere", {}, 404, "could not be found"),
        ("PUT", "actions", {"body": CODE}, 404, "could not be found"),
        ("DELETE", "packages", {}, 404, "could not be found"),
        ("POST", "triggers", {"body": {}}, 404, "could not be found"),
        ("PATCH", "actions/x", {"body": {}}, 404, "could not be found"),
        ("POST", "/api/v1/namespaces", {"body": {}}, 404, "could not be found"),
        ("PUT", "limits", {"body": {}}, 404, "could not be found"),
        ("DELETE", "activations", {}, 404, "could not be found"),
        ("GET", "/nowhere", {}, 405, "supported methods: OPTIONS"),
        ("GET", "/api/v2/namespaces", {}, 405, "supported methods: OPTIONS"),
        ("PUT", "actions/x", {"body": "x", "headers": {"Content-Type": "text/plain"}}, 415, "Content-Type [text/plain] is not"),
        ("PUT", "actions/x", {"body": "{}", "json_type": False}, 415, "Content-Type is not supported"),
        ("PUT", "actions/x", {}, 400, "The request content was malformed:\n"),
        ("PUT", "actions/x", {"body": b"{"}, 400, "The request content was malformed:\n"),
        ("PUT", "triggers/t", {"body": b"[]"}, 400, "The request content was malformed:\n"),
        ("PUT", "packages/p", {"body": {"parameters": {}}}, 400, "parameters malformed!"),
        ("GET", "actions?limit=x", {}, 400, "The query parameter 'limit' was malformed:\n"),
        ("PUT", "packages/p?overwrite=perhaps", {"body": {}}, 400, "The query parameter 'overwrite' was malformed:\n"),
        ("GET", "actions", {"headers": {"Accept": "text/html"}}, 406, "application/json"),
    ],
)
async def test_AUTH_05_every_refusal_is_an_object_with_error_and_code(site, method, path, options, status, words):
    answered = await refuse(site, method, path, **({"body": None} | options), status=status, words=words)
    assert answered.headers["Content-Type"] == "application/json"
    assert "Access-Control-Allow-Origin" not in answered.headers


async def test_AUTH_05_a_415_names_the_type_that_is_expected(site):
    answered = await site.ask("PUT", "rules/r", "x", headers={"Content-Type": "text/plain"})
    assert answered.error == "The request's Content-Type [text/plain] is not supported. Expected:\napplication/json"
