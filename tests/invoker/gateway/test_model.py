import pytest

from invoker.errors import DocumentError
from invoker.gateway.model import Api, PathTemplate, normal_base_path


def api(*paths, base="/demo", cors=True):
    operation = {"x-openwhisk": {"action": "hello", "namespace": "guest"}}
    return Api.of_document(
        "uuid",
        {
            "basePath": base,
            "info": {"title": "Demo"},
            "paths": {path: {"get": operation} for path in paths},
            "x-ibm-configuration": {"cors": {"enabled": cors}},
        },
        updated=1,
    )


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("/users", "/users"),
        ("/users/", "/users"),
        ("/users/me", "/users/me"),
        ("/users/7", "/users/{id}"),
        ("/users/a%2Fb", "/users/{id}"),
        ("/users/7.json", "/users/{id}.json"),
        ("/users/7/x", None),
        ("/", "/"),
        ("", "/"),
        ("/Users", None),
        ("/users//7", None),
        ("/users/%6De", "/users/me"),
    ],
)
def test_the_most_particular_path_that_fits_is_found(path, template):
    found = api("/users/{id}.json", "/users/{id}", "/users", "/users/me", "/").find(path)
    assert (found.template if found else None) == template


@pytest.mark.parametrize("template", ["/{}", "/{a", "/a}", "/{a}{b}", "/{a{b}}"])
def test_a_path_that_cannot_be_served_is_refused(template):
    with pytest.raises(DocumentError, match="may hold one parameter"):
        PathTemplate.of(template, {})


@pytest.mark.parametrize(("text", "base"), [("/", "/"), ("/a/b/", "/a/b"), ("/a b", "/a b")])
def test_a_base_path_has_one_form(text, base):
    assert normal_base_path(text) == base


@pytest.mark.parametrize("text", ["", "a", "/a//b"])
def test_a_base_path_that_is_none_is_refused(text):
    with pytest.raises(DocumentError):
        normal_base_path(text)


@pytest.mark.parametrize(
    ("base", "path", "within"),
    [
        ("/demo", "/demo/a", "/a"),
        ("/demo", "/demo", "/"),
        ("/demo", "/demo/", "/"),
        ("/demo", "/d%65mo/%2F", "/%2F"),
        ("/demo", "/demonstration", None),
        ("/demo/v1", "/demo", None),
        ("/demo/v1", "/demo/v1/x", "/x"),
        ("/", "/x/y", "/x/y"),
    ],
)
def test_the_base_path_is_cut_off(base, path, within):
    assert api(base=base).within(path) == within


def test_cors_is_the_documents():
    assert api().cors
    assert not api(cors=False).cors
    assert not api(cors="true").cors


def test_a_path_with_parameters_is_passed_on():
    made = api("/{id}", "/fixed")
    assert made.find("/7").operations["GET"].passes_path
    assert not made.find("/fixed").operations["GET"].passes_path
