"""`invokerctl api` against the API itself."""

import asyncio
import json

import click.testing
import msgspec
import pytest

from invoker.commands.ctl import main
from invoker.commands.ctl_client import Exit


@pytest.fixture
async def ctl(site, make_activation, tmp_path, monkeypatch):
    """Runs `invokerctl api ...` as `guest`; there is a web action `books`."""
    monkeypatch.setenv("WSK_CONFIG_FILE", str(tmp_path / "none"))
    code = {"kind": "python:3", "code": "x"}
    await site.ask("PUT", "actions/books", {"exec": code, "annotations": [{"key": "web-export", "value": True}]})
    await site.ask("PUT", "actions/private", {"exec": code})
    site.invoker.answer = lambda _: make_activation(result=msgspec.Raw(b'{"body":"hi"}'))
    identity = site.authenticator.identify(site.auth)

    async def run(*words):
        words = ["--apihost", site.url, "--auth", identity.api_key, "api", *words]
        return await asyncio.to_thread(click.testing.CliRunner().invoke, main, words)

    return run


async def test_a_route_is_created_listed_served_and_deleted(site, ctl):
    made = await ctl("create", "/library", "/books", "get", "books", "--response-type", "http")
    assert (made.exit_code, made.output) == (0, "https://node.example/api/guest/library/books\n"), made.output
    assert (await site.ask("GET", "/api/guest/library/books", auth=False)).text == "hi"
    listed = await ctl("list")
    assert listed.output.splitlines()[1].split() == [
        "GET",
        "https://node.example/api/guest/library/books",
        "/guest/books",
        "/library",
    ]
    deleted = await ctl("delete", "/library", "/books", "get")
    assert (deleted.exit_code, deleted.output) == (0, "deleted /library/books GET\n")
    assert (await ctl("list")).output.splitlines() == ["METHOD  URL  ACTION  API"]


async def test_what_is_exported_is_imported(ctl, tmp_path):
    await ctl("create", "/library", "/books/{id}", "get", "books", "--name", "Library")
    exported = (await ctl("get", "Library")).output
    assert json.loads(exported)["paths"]["/books/{id}"]["get"]["x-openwhisk"]["action"] == "books"
    file = tmp_path / "library.json"
    file.write_text(exported)
    await ctl("delete", "/library")
    assert (await ctl("create", "--config-file", str(file))).exit_code == 0
    assert json.loads((await ctl("get", "/library")).output) == json.loads(exported)


async def test_the_secret_of_an_action_goes_to_its_api(site, ctl):
    annotations = [{"key": "web-export", "value": True}, {"key": "require-whisk-auth", "value": 4711}]
    await site.ask("PUT", "actions/books?overwrite=true", {"annotations": annotations})
    await ctl("create", "/library", "/books", "get", "books", "--response-type", "http")
    assert (await site.ask("GET", "/api/guest/library/books", auth=False)).status == 200


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["create", "/library", "/books", "get", "private"], Exit.REFUSED, "no web action"),
        (["create", "/library", "/books", "get", "none"], Exit.REFUSED, "does not exist"),
        (["create", "/library"], Exit.USAGE, "are needed"),
        (["create", "library", "/books", "get", "books"], Exit.REFUSED, "API creation failure: the base path 'library'"),
        (["create", "/library", "/books", "fetch", "books"], Exit.USAGE, "'fetch' is not one of"),
        (["get", "/none"], Exit.REFUSED, "there is no API"),
        (["delete", "/none"], Exit.REFUSED, "API '/none' does not exist"),
    ],
)
async def test_a_refusal_says_what_was_wrong(ctl, words, code, said):
    result = await ctl(*words)
    assert (result.exit_code, said in result.output) == (code, True), result.output


async def test_a_file_that_is_no_document_is_refused(ctl, tmp_path):
    for text, said in (("{", "Expecting"), ("[]", "JSON object")):
        file = tmp_path / "x.json"
        file.write_text(text)
        result = await ctl("create", "--config-file", str(file))
        assert (result.exit_code, said in result.output) == (Exit.USAGE, True), result.output
