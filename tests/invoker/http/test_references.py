import pytest

from invoker.errors import InvalidName, MalformedContent
from invoker.http.references import Reference


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("/_/t", ("guest", "t")),
        ("/other/t", ("other", "t")),
        ("other/t", ("other", "t")),
        ("/_/p/a", ("guest", "p/a")),
        ("ns/p/a", ("ns", "p/a")),
        (" /ns/a b@c ", ("ns", "a b@c")),
    ],
)
def test_a_reference_names_namespace_and_path(text, reference):
    assert Reference.parse(text, own="guest") == reference


@pytest.mark.parametrize("text", ["", "a", "/a", "/a/b/c/d", "a/b/c/d"])
def test_a_reference_of_another_length_is_malformed(text):
    with pytest.raises(MalformedContent, match="must contain at least the namespace and the name of the entity"):
        Reference.parse(text, own="guest")


@pytest.mark.parametrize("text", ["//a", "/ns/", "/ns/a+b", "/$/a", "/ns/p/", "/ns//a", "/ns/" + "x" * 257])
def test_a_reference_with_a_segment_that_is_no_name_is_refused(text):
    with pytest.raises(InvalidName):
        Reference.parse(text, own="guest")


def test_a_full_path_is_split_and_joined():
    assert Reference.of_path("ns/p/a") == ("ns", "p/a")
    assert Reference.of_path("ns/p/a").full_path == "ns/p/a"
