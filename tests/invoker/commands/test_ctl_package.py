import json

import pytest
from ctl_api import Api, Ctl, api, ctl

__all__ = ["api", "ctl"]

PACKAGE = {
    "namespace": "alice",
    "name": "tools",
    "version": "0.0.1",
    "publish": True,
    "binding": {},
    "annotations": [],
    "parameters": [],
    "updated": 1_700_000_000_000,
    "actions": [{"name": "find", "version": "0.0.2", "annotations": []}],
    "feeds": [{"name": "ticks", "version": "0.0.3", "annotations": []}],
}
PATH = "/api/v1/namespaces/_/packages/tools"


def test_create_puts_parameters_annotations_and_whether_it_is_shared(ctl: Ctl, api: Api) -> None:
    api.lay_down(PACKAGE)
    done = ctl.run("package", "create", "tools", "-p", "n", "5", "-a", "description", "mine", "--shared", "yes")
    assert done.stdout == "created /alice/tools\n"
    (asked,) = api.asked
    assert (asked["what"], asked["query"]) == (f"PUT {PATH}", {"overwrite": "false"})
    assert asked["body"] == {
        "parameters": [{"key": "n", "value": 5}],
        "annotations": [{"key": "description", "value": "mine"}],
        "publish": True,
    }


def test_update_sends_only_what_is_given(ctl: Ctl, api: Api) -> None:
    api.lay_down(PACKAGE)
    assert json.loads(ctl.run("package", "update", "tools", "--shared", "no", "--json").stdout) == PACKAGE
    (asked,) = api.asked
    assert (asked["query"], asked["body"]) == ({"overwrite": "true"}, {"publish": False})


def test_bind_names_the_provider_and_gives_parameters(ctl: Ctl, api: Api) -> None:
    api.lay_down(PACKAGE | {"name": "mine"})
    done = ctl.run("package", "bind", "/whisk.system/utils", "mine", "-p", "n", "5")
    assert done.stdout == "bound /whisk.system/utils as /alice/mine\n"
    assert api.asked[0]["body"] == {
        "parameters": [{"key": "n", "value": 5}],
        "binding": {"namespace": "whisk.system", "name": "utils"},
    }


def test_a_package_is_shown_whole_or_as_what_is_in_it(ctl: Ctl, api: Api) -> None:
    api.lay_down(PACKAGE)
    api.lay_down(PACKAGE)
    assert json.loads(ctl.run("package", "get", "/alice/tools").stdout) == PACKAGE
    assert api.asked[0]["what"] == "GET /api/v1/namespaces/alice/packages/tools"
    lines = ctl.run("package", "get", "tools", "--summary").stdout.splitlines()
    assert [line.split() for line in lines[1:]] == [["action", "find", "0.0.2"], ["feed", "ticks", "0.0.3"]]


def test_packages_are_listed_with_what_they_are_bound_to_also_another_s(ctl: Ctl, api: Api) -> None:
    bound = PACKAGE | {"name": "mine", "publish": False, "binding": {"namespace": "whisk.system", "name": "utils"}}
    api.lay_down([PACKAGE | {"binding": False}, bound])
    lines = ctl.run("package", "list", "/alice", "--limit", "0").stdout.splitlines()
    assert [line.split()[:4] for line in lines[1:]] == [
        ["/alice/tools", "yes", "-", "0.0.1"],
        ["/alice/mine", "no", "/whisk.system/utils", "0.0.1"],
    ]
    assert (api.asked[0]["what"], api.asked[0]["query"]["limit"]) == ("GET /api/v1/namespaces/alice/packages", "0")


def test_delete_takes_what_is_in_it_only_when_forced(ctl: Ctl, api: Api) -> None:
    api.lay_down({"error": "Package not empty (contains 1 entity).", "code": "t"}, 409)
    api.lay_down(PACKAGE)
    assert "not empty" in ctl.run("package", "delete", "tools", code=1).stderr
    assert ctl.run("package", "delete", "tools", "--force").stdout == "deleted /alice/tools\n"
    assert [asked["query"] for asked in api.asked] == [{}, {"force": "true"}]


@pytest.mark.parametrize("name", ["a/b", "/alice", "/a/b/c", "//b"])
def test_what_is_no_name_of_a_package_is_refused_before_anything_is_asked(ctl: Ctl, api: Api, name: str) -> None:
    assert "no name of a package" in ctl.run("package", "get", name, code=2).stderr
    assert api.asked == []
