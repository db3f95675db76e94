import base64
import json
from pathlib import Path

import click.testing
import pytest
from ctl_api import Api, Ctl, api, ctl

from invoker.commands.ctl import main

__all__ = ["api", "ctl"]

ID = "0123456789abcdef" * 2
ACTION = {
    "namespace": "alice",
    "name": "hello",
    "version": "0.0.1",
    "exec": {"kind": "python:3", "binary": False},
    "limits": {"timeout": 60000, "memory": 256, "logs": 10, "concurrency": 1},
    "annotations": [{"key": "exec", "value": "python:3"}],
    "updated": 1_700_000_000_000,
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "hello.py"
    path.write_text("def main(args): return args\n")
    return path


def test_create_puts_code_parameters_variables_annotations_and_limits(ctl: Ctl, api: Api, source: Path) -> None:
    api.lay_down(ACTION)
    options = ["-m", "512", "-t", "1000", "-p", "n", "5", "-e", "LEVEL", "3", "-a", "web-export", "true", "--main", "run"]
    created = ctl.run("action", "create", "tools/hello", str(source), *options)
    assert created.stdout == "created /alice/hello (python:3)\n"
    (asked,) = api.asked
    assert asked["what"] == "PUT /api/v1/namespaces/_/actions/tools/hello"
    assert asked["query"] == {"overwrite": "false"}
    assert asked["auth"] == "Basic " + base64.b64encode(b"u:k").decode()
    assert asked["body"] == {
        "exec": {"kind": "python:default", "main": "run", "code": source.read_text()},
        "parameters": [{"key": "n", "value": 5}, {"key": "LEVEL", "value": "3", "init": True}],
        "annotations": [{"key": "web-export", "value": True}],
        "limits": {"memory": 512, "timeout": 1000},
    }


def test_update_sends_only_what_is_given(ctl: Ctl, api: Api, source: Path) -> None:
    api.lay_down(ACTION)
    api.lay_down(ACTION)
    ctl.run("action", "update", "hello", "--memory", "512")
    ctl.run("action", "update", "hello", str(source), "--kind", "python:3", "--json")
    assert [asked["query"] for asked in api.asked] == [{"overwrite": "true"}] * 2
    assert api.asked[0]["body"] == {"limits": {"memory": 512}}
    assert api.asked[1]["body"] == {"exec": {"kind": "python:3", "code": source.read_text()}}


def test_an_action_is_shown_without_its_code_or_its_code_is_saved(ctl: Ctl, api: Api, tmp_path: Path) -> None:
    api.lay_down(ACTION)
    assert json.loads(ctl.run("action", "get", "hello").stdout) == ACTION
    assert api.asked[0]["query"] == {"code": "false"}
    api.lay_down({**ACTION, "exec": {"kind": "python:3", "binary": True, "code": base64.b64encode(b"PK\0").decode()}})
    ctl.run("action", "get", "hello", "--save", str(tmp_path / "saved"))
    assert (tmp_path / "saved").read_bytes() == b"PK\0"


def test_the_url_of_an_action_is_told_plain_for_a_web_action(ctl: Ctl, api: Api) -> None:
    web = {**ACTION, "namespace": "alice/tools", "name": "my page", "annotations": [{"key": "web-export", "value": True}]}
    for document, path in [
        (ACTION, "/api/v1/namespaces/alice/actions/hello"),
        ({**ACTION, "namespace": "alice/tools"}, "/api/v1/namespaces/alice/actions/tools/hello"),
        (web, "/api/v1/web/alice/tools/my%20page"),
        ({**web, "namespace": "alice"}, "/api/v1/web/alice/default/my%20page"),
    ]:
        api.lay_down(document)
        assert ctl.run("action", "get", "x", "--url").stdout == f"http://{ctl.apihost}{path}\n"
    assert "exclude each other" in ctl.run("action", "get", "x", "--url", "--save", "y", code=2).stderr


def test_an_update_of_what_is_not_there_says_so(ctl: Ctl, api: Api) -> None:
    api.lay_down({"error": "exec undefined", "code": "c"}, 400)
    api.lay_down({"error": "The requested resource does not exist.", "code": "c"}, 404)
    refused = ctl.run("action", "update", "nope", "-m", "512", code=1).stderr
    assert "there is no action nope to update" in refused
    assert "give its FILE" in refused
    api.lay_down({"error": "memory size 1 MB below allowed threshold", "code": "c"}, 400)
    api.lay_down(ACTION)
    assert "below allowed threshold" in ctl.run("action", "update", "hello", "-m", "1", code=1).stderr


def test_code_that_cannot_be_saved_is_told_with_the_reason(ctl: Ctl, api: Api, tmp_path: Path) -> None:
    api.lay_down({**ACTION, "exec": {"kind": "sequence", "components": ["/_/a"]}})
    assert (
        "has no code to save: its kind is sequence"
        in ctl.run("action", "get", "both", "--save", str(tmp_path / "x"), code=1).stderr
    )
    api.lay_down({**ACTION, "exec": {"kind": "python:3", "binary": False, "code": "text"}})
    refused = ctl.run("action", "get", "hello", "--save", str(tmp_path / "none" / "x"), code=2)
    assert f"{tmp_path}/none/x: No such file or directory" in refused.stderr


def test_actions_are_listed_also_of_one_package_and_deleted(ctl: Ctl, api: Api) -> None:
    api.lay_down([ACTION])
    api.lay_down([])
    api.lay_down(ACTION)
    lines = ctl.run("action", "list").stdout.splitlines()
    assert lines[1].split()[:7] == ["/alice/hello", "python:3", "0.0.1", "256", "MiB", "60", "s"]
    ctl.run("action", "list", "tools", "--limit", "0")
    assert ctl.run("action", "delete", "hello").stdout == "deleted /alice/hello\n"
    assert [asked["what"] for asked in api.asked] == [
        "GET /api/v1/namespaces/_/actions",
        "GET /api/v1/namespaces/_/actions/tools/",
        "DELETE /api/v1/namespaces/_/actions/hello",
    ]


def test_invoke_prints_the_id_alone_without_waiting(ctl: Ctl, api: Api) -> None:
    api.lay_down({"activationId": ID}, 202, x_openwhisk_activation_id=ID)
    assert ctl.run("action", "invoke", "hello", "-p", "name", "Ada").stdout == ID + "\n"
    assert api.asked[0]["query"] == {"blocking": "false", "result": "false"}
    assert api.asked[0]["body"] == {"name": "Ada"}


def test_invoke_waits_for_the_result_when_asked(ctl: Ctl, api: Api) -> None:
    api.lay_down({"hello": "Ada"}, 200, x_openwhisk_activation_id=ID)
    assert json.loads(ctl.run("action", "invoke", "hello", "--result", "--timeout", "5000").stdout) == {"hello": "Ada"}
    assert api.asked[0]["query"] == {"blocking": "true", "result": "true", "timeout": "5000"}


@pytest.mark.parametrize(
    ("status", "with_id", "code", "says"),
    [
        (502, True, 4, "the action failed"),
        (500, True, 1, "the platform failed"),
        (202, True, 5, "has not ended yet"),
        (404, False, 1, "gone [action hello] (code t)"),
        (429, False, 1, "wait a little"),
    ],
)
def test_each_end_of_an_invocation_has_its_exit_code(
    ctl: Ctl, api: Api, status: int, with_id: bool, code: int, says: str
) -> None:
    body = {"activationId": ID, "error": "gone", "code": "t"}
    api.lay_down(body, status, **({"x_openwhisk_activation_id": ID} if with_id else {}))
    assert says in ctl.run("action", "invoke", "hello", "-b", code=code).stderr


def test_a_key_may_stand_after_the_verb_too(ctl: Ctl, api: Api) -> None:
    api.lay_down([])
    result = click.testing.CliRunner().invoke(main, ["action", "list", "--apihost", ctl.apihost, "--auth", "x:y", "--json"])
    assert (result.exit_code, result.stdout) == (0, "[]\n")
    assert api.asked[0]["auth"] == "Basic " + base64.b64encode(b"x:y").decode()


def test_a_sequence_and_a_web_action_are_created_by_options(ctl: Ctl, api: Api, source: Path) -> None:
    api.lay_down(ACTION)
    api.lay_down(ACTION)
    ctl.run("action", "create", "row", "--sequence", "a,p/b")
    ctl.run("action", "create", "page", str(source), "--web", "true", "--web-secure", "word")
    assert api.asked[0]["body"] == {"exec": {"kind": "sequence", "components": ["/_/a", "/_/p/b"]}}
    assert {each["key"]: each["value"] for each in api.asked[1]["body"]["annotations"]} == {
        "web-export": True,
        "raw-http": False,
        "final": True,
        "require-whisk-auth": "word",
    }


def test_a_copy_is_what_the_other_is_but_for_what_is_given(ctl: Ctl, api: Api) -> None:
    original = ACTION | {"exec": {"kind": "python:3", "binary": False, "code": "code"}, "parameters": [{"key": "a", "value": 1}]}
    api.lay_down(original)
    api.lay_down(ACTION)
    ctl.run("action", "create", "new", "--copy", "/alice/hello", "--memory", "512", "-a", "mine", "1")
    assert (api.asked[0]["what"], api.asked[0]["query"]) == ("GET /api/v1/namespaces/alice/actions/hello", {"code": "true"})
    assert api.asked[1]["body"] == {
        "exec": original["exec"],
        "parameters": original["parameters"],
        "annotations": [*ACTION["annotations"], {"key": "mine", "value": 1}],
        "limits": ACTION["limits"] | {"memory": 512},
    }


@pytest.mark.parametrize("words", [("--copy", "hello", "--kind", "python:3"), ("--sequence", "a,b", "--native")])
def test_two_forms_of_an_action_at_once_are_refused(ctl: Ctl, api: Api, words: tuple[str, ...]) -> None:
    assert "beside it" in ctl.run("action", "create", "new", *words, code=2).stderr
    assert api.asked == []


def test_update_takes_annotations_away(ctl: Ctl, api: Api) -> None:
    api.lay_down(ACTION)
    ctl.run("action", "update", "hello", "--del-annotation", "mine", "--del-annotation", "theirs")
    assert api.asked[0]["body"] == {"delAnnotations": ["mine", "theirs"]}
