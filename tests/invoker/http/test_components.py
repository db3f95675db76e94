import pytest

from invoker.errors import EntityNotFound, InvalidRequest, MalformedContent, NotAuthorised
from invoker.http.components import sequence_exec
from invoker.model import Action, Binding, Exec, Identity, Namespace, Package

GUEST = Identity(namespace=Namespace(name="guest", uuid="u", key_hash="", uid=1, gid=1, created_ms=0), api_key="u:k")


class Entities(dict):
    def get(self, namespace, path):
        return super().get((namespace, path))


def action(path, namespace="guest"):
    return Action(namespace=namespace, path=path, revision="r", updated=1, exec=Exec(kind="python:3"))


def sequence(path, *components):
    return Action(namespace="guest", path=path, revision="r", updated=1, exec=Exec(kind="sequence", components=components))


def package(name, namespace="guest", binding=None, publish=False):
    return Package(namespace=namespace, path=name, revision="r", updated=1, binding=binding, publish=publish)


def tree(*entities):
    return Entities({(each.namespace, each.path): each for each in entities})


def make(entities, *components, own_path="guest/s"):
    return sequence_exec(entities, GUEST, components, own_path=own_path)


def test_components_are_stored_as_full_paths_in_their_order():
    entities = tree(action("a"), action("p/b"), package("p"), package("lib", "other", publish=True), action("lib/c", "other"))
    made = make(entities, "/_/a", "/guest/p/b", "other/lib/c", "/_/a")
    assert made == Exec(kind="sequence", components=("guest/a", "guest/p/b", "other/lib/c", "guest/a"))


def test_a_sequence_needs_components():
    with pytest.raises(MalformedContent, match="'components'"):
        sequence_exec(tree(), GUEST, None, own_path="guest/s")
    with pytest.raises(InvalidRequest, match="No component specified"):
        make(tree())


def test_a_missing_action_and_a_missing_package_are_told_apart():
    with pytest.raises(InvalidRequest, match="Sequence component does not exist"):
        make(tree(), "/_/a")
    with pytest.raises(InvalidRequest, match="Sequence component does not exist"):
        make(tree(package("p")), "/_/p/a")
    with pytest.raises(EntityNotFound):
        make(tree(), "/_/p/a")


def test_what_another_namespace_does_not_share_is_forbidden():
    with pytest.raises(NotAuthorised, match="'other/a'"):
        make(tree(action("a", "other")), "/other/a")


LEAF = action("a")
BOUND = package("b", binding=Binding(namespace="guest", name="p"))


@pytest.mark.parametrize(
    ("own_path", "named", "entities"),
    [
        ("s", "s", tree(sequence("s", "guest/a"), LEAF)),
        ("s", "x", tree(sequence("s", "guest/a"), sequence("x", "guest/s"), LEAF)),
        ("s", "x", tree(sequence("s", "guest/a"), sequence("x", "guest/y"), sequence("y", "guest/a", "guest/s"), LEAF)),
        ("p/s", "x", tree(sequence("p/s", "guest/a"), sequence("x", "guest/b/s"), LEAF, package("p"), BOUND)),
    ],
)
def test_a_sequence_may_not_contain_itself_however_deep(own_path, named, entities):
    with pytest.raises(InvalidRequest, match="may not refer to itself"):
        make(entities, f"/_/{named}", own_path=f"guest/{own_path}")


def test_fifty_atomic_actions_are_the_limit_nested_ones_counted():
    entities = tree(action("a"), sequence("ten", *["guest/a"] * 10))
    assert len(make(entities, *["/_/ten"] * 5).components) == 5
    with pytest.raises(InvalidRequest, match="Too many actions in the sequence"):
        make(entities, *["/_/ten"] * 5, "/_/a")


def test_the_same_sequence_may_come_twice_beside_itself():
    assert make(tree(action("a"), sequence("x", "guest/a")), "/_/x", "/_/x").components == ("guest/x", "guest/x")


def test_a_chain_of_two_thousand_nested_sequences_is_checked_without_recursion():
    chain = [sequence(f"s{n}", f"guest/s{n - 1}") for n in range(1, 2000)]
    assert make(tree(sequence("s0", "guest/a"), action("a"), *chain), "/_/s1999")
