import pytest

from invoker.web.target import Extension, parse_web_target


@pytest.mark.parametrize(
    ("rest", "package", "action", "extension", "path", "query"),
    [
        ("default/hello", "", "hello", "http", "", ""),
        ("default/hello.json", "", "hello", "json", "", ""),
        ("tools/hello.html", "tools", "hello", "html", "", ""),
        ("tools/hello.svg/", "tools", "hello", "svg", "/", ""),
        ("tools/hello.text/a/b.json?x=1&y", "tools", "hello", "text", "/a/b.json", "x=1&y"),
        ("tools/hello.http?a=/b/c", "tools", "hello", "http", "", "a=/b/c"),
        ("tools/hello.tar.json", "tools", "hello.tar", "json", "", ""),
        ("tools/hello.pdf", "tools", "hello.pdf", "http", "", ""),
        ("tools/.json", "tools", ".json", "http", "", ""),
        ("tools/hell%6F%20you.json/%2F%2e", "tools", "hello you", "json", "/%2F%2e", ""),
        ("tools/../x", "tools", "..", "http", "/x", ""),
    ],
)
def test_a_url_names_an_action_an_extension_and_what_is_left_for_the_action(rest, package, action, extension, path, query):
    target = parse_web_target(f"/api/v1/web/guest/{rest}")
    assert target is not None
    assert (target.namespace, target.package, target.action) == ("guest", package, action)
    assert (target.extension, target.path, target.query) == (Extension(extension), path, query)
    assert target.entity_path == (f"{package}/{action}" if package else action)


@pytest.mark.parametrize(
    "target",
    [
        "/api/v1/web",
        "/api/v1/web/guest",
        "/api/v1/web/guest/x",
        "/api/v1/web/guest/x/",
        "/api/v1/web/guest//x",
        "/api/v1/web//p/x",
        "/api/v1/namespaces/guest/actions/x",
        "/api/v1/web/guest/x?a=/b/c/d",
    ],
)
def test_a_url_with_too_little_names_none(target):
    assert parse_web_target(target) is None
