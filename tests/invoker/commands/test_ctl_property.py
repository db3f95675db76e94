import json
from pathlib import Path

import click.testing
import pytest
from ctl_api import Api, Ctl, api, ctl

from invoker.commands.ctl import main

__all__ = ["api", "ctl"]

ENTITY = {"namespace": "alice", "version": "0.0.1", "publish": False, "annotations": []}
PACKAGE = ENTITY | {"name": "tools", "binding": False}
ACTION = ENTITY | {"name": "hello", "annotations": [{"key": "exec", "value": "python:3"}]}
TRIGGER = ENTITY | {"name": "event"}
RULE = ENTITY | {"name": "link", "trigger": {"path": "alice", "name": "event"}, "action": {"path": "alice", "name": "hello"}}


def test_a_namespace_is_shown_with_all_that_is_in_it_and_the_status_of_its_rules(ctl: Ctl, api: Api) -> None:
    for reply in (["alice"], [PACKAGE], [ACTION], [TRIGGER], [RULE], RULE | {"status": "active"}):
        api.lay_down(reply)
    lines = ctl.run("namespace", "get").stdout.splitlines()
    assert [line.split(maxsplit=3) for line in lines[1:]] == [
        ["package", "/alice/tools", "0.0.1", "-"],
        ["action", "/alice/hello", "0.0.1", "python:3"],
        ["trigger", "/alice/event", "0.0.1", "-"],
        ["rule", "/alice/link", "0.0.1", "active: event -> /alice/hello"],
    ]
    assert api.asked[-1]["what"] == "GET /api/v1/namespaces/_/rules/link"


def test_a_collection_is_read_to_its_end(ctl: Ctl, api: Api) -> None:
    for reply in (["alice"], [], [ACTION] * 200, [ACTION], [], []):
        api.lay_down(reply)
    document = json.loads(ctl.run("namespace", "get", "--json").stdout)
    assert (document["namespace"], len(document["actions"])) == ("alice", 201)
    assert [asked["query"]["skip"] for asked in api.asked if asked["what"].endswith("/actions")] == ["0", "200"]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "wskprops"
    monkeypatch.setenv("WSK_CONFIG_FILE", str(path))
    return path


def run(*words: str, code: int = 0) -> click.testing.Result:
    result = click.testing.CliRunner().invoke(main, ["property", *words])
    assert result.exit_code == code, result.output
    return result


def test_properties_are_kept_in_the_file_of_wsk_and_what_else_is_in_it_stays(file: Path) -> None:
    file.write_text("# mine\nAPIHOST=old\nCERT=/a/certificate\n")
    assert run("set", "--apihost", "node.example", "--auth", "u:k").stdout == f"written to {file}\n"
    assert file.read_text().splitlines() == ["# mine", "CERT=/a/certificate", "APIHOST=node.example", "AUTH=u:k"]
    assert file.stat().st_mode & 0o777 == 0o600
    assert json.loads(run("unset", "auth", "--json").stdout) == {"file": str(file)}
    assert file.read_text().splitlines() == ["# mine", "CERT=/a/certificate", "APIHOST=node.example"]
    assert list(file.parent.iterdir()) == [file]


def test_nothing_to_set_and_what_is_no_line_are_refused_and_change_nothing(file: Path) -> None:
    file.write_text("AUTH=u:k\n")
    assert "nothing to set" in run("set", code=2).stderr
    assert "one line" in run("set", "--auth", "u:k\nAPIHOST=evil", code=2).stderr
    assert run("unset", "weather", code=2)
    assert file.read_text() == "AUTH=u:k\n"


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSK_CONFIG_FILE", str(tmp_path / "nowhere/wskprops"))
    assert "nowhere/wskprops: No such file or directory" in run("set", "--auth", "u:k", code=2).stderr


def test_get_tells_what_is_in_use_and_what_answers_there(ctl: Ctl, api: Api, file: Path) -> None:
    api.lay_down({"build": "2026-11-29", "buildno": "0.1.0"})
    api.lay_down(["alice"])
    told = json.loads(ctl.run("property", "get", "--json").stdout)
    assert told == {
        "file": str(file),
        "auth": "u:k",
        "apihost": f"http://{ctl.apihost}",
        "namespace": "alice",
        "build": "2026-11-29",
        "buildno": "0.1.0",
    }


def test_get_works_before_anybody_has_a_key(file: Path) -> None:
    assert json.loads(run("get", "--json").stdout) == {"file": str(file)}
