import pytest

from invoker.entitlement import Resource, Right, authorise, authorise_all, may_read_package
from invoker.errors import NotAuthorised
from invoker.model import Binding, Identity, Namespace, Package

GUEST = Identity(namespace=Namespace(name="guest", uuid="u", key_hash="", uid=1, gid=1, created_ms=0), api_key="u:k")
COLLECTIONS = ["actions", "packages", "triggers", "rules", "activations", "limits"]


class Entities(dict):
    def get(self, namespace, path):
        return super().get((namespace, path))


def package(namespace, name, *, publish=False, binding=None):
    bound = Binding(namespace=binding[0], name=binding[1]) if binding else None
    return Package(namespace=namespace, path=name, revision="r", updated=1, publish=publish, binding=bound)


def tree(*entities):
    return Entities({(each.namespace, each.path): each for each in entities})


TREE = tree(
    package("other", "shared", publish=True),
    package("other", "private"),
    package("other", "binding", publish=True, binding=("other", "shared")),
    package("guest", "own"),
    package("guest", "to-own", binding=("guest", "own")),
    package("guest", "to-shared", binding=("other", "shared")),
    package("guest", "to-private", binding=("other", "private")),
    package("guest", "to-nothing", binding=("other", "gone")),
)


@pytest.mark.parametrize("right", Right)
@pytest.mark.parametrize("collection", COLLECTIONS)
def test_the_owner_may_do_everything(right, collection):
    authorise(tree(), GUEST, right, Resource("guest", collection, "x"))
    authorise(TREE, GUEST, right, Resource("guest", collection, "own/x" if collection == "actions" else "own"))


def test_anybody_may_list_packages():
    authorise(TREE, GUEST, Right.READ, Resource("other", "packages"))


@pytest.mark.parametrize(
    ("right", "collection", "path"),
    [
        (Right.READ, "actions", "hello"),
        (Right.ACTIVATE, "actions", "private/hello"),
        (Right.ACTIVATE, "actions", "missing/hello"),
        (Right.ACTIVATE, "actions", "binding/hello"),
        (Right.READ, "actions", "private/"),
        (Right.PUT, "actions", "hello"),
        (Right.PUT, "actions", "shared/hello"),
        (Right.DELETE, "actions", "shared/hello"),
        (Right.DELETE, "packages", "shared"),
        (Right.PUT, "packages", "shared"),
        (Right.READ, "packages", "private"),
        (Right.READ, "packages", "missing"),
        (Right.READ, "packages", "binding"),
        (Right.READ, "triggers", "t"),
        (Right.READ, "rules", "r"),
    ],
)
def test_all_else_of_another_namespace_is_forbidden_by_name(right, collection, path):
    with pytest.raises(NotAuthorised, match=f"is not authorized to access 'other/{path}'"):
        authorise(TREE, GUEST, right, Resource("other", collection, path))


@pytest.mark.parametrize("collection", ["actions", "triggers", "rules", "activations", "limits"])
def test_other_collections_of_another_namespace_are_forbidden(collection):
    with pytest.raises(NotAuthorised, match=f"'other/{collection}'"):
        authorise(TREE, GUEST, Right.READ, Resource("other", collection))


def test_a_published_package_of_another_may_be_read_and_its_actions_listed_read_and_run():
    authorise(TREE, GUEST, Right.READ, Resource("other", "packages", "shared"))
    authorise(TREE, GUEST, Right.READ, Resource("other", "actions", "shared/"))
    authorise(TREE, GUEST, Right.READ, Resource("other", "actions", "shared/hello"))
    authorise(TREE, GUEST, Right.ACTIVATE, Resource("other", "actions", "shared/hello"))


@pytest.mark.parametrize(
    ("name", "may"),
    [("own", True), ("to-own", True), ("to-shared", True), ("to-private", False), ("to-nothing", True), ("missing", True)],
)
def test_ones_own_binding_is_as_good_as_the_package_behind_it(name, may):
    assert may_read_package(TREE, "guest", "guest", name) is may
    if not may:
        with pytest.raises(NotAuthorised, match=f"'guest/{name}/hello'"):
            authorise(TREE, GUEST, Right.ACTIVATE, Resource("guest", "actions", f"{name}/hello"))


def test_of_several_all_that_are_refused_are_named_once_and_in_order():
    names = ["b", "private/a", "shared/a", "b"]
    with pytest.raises(NotAuthorised, match=r"to access 'other/b, other/private/a'\.$"):
        authorise_all(TREE, GUEST, Right.ACTIVATE, [Resource("other", "actions", name) for name in names])
    authorise_all(TREE, GUEST, Right.ACTIVATE, [Resource("other", "actions", "shared/a"), Resource("guest", "actions", "a")])
    authorise_all(TREE, GUEST, Right.ACTIVATE, [])
