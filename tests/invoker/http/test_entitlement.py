import pytest

from invoker.errors import NotAuthorised
from invoker.http.entitlement import Right, authorise
from invoker.model import Identity, Namespace

GUEST = Identity(namespace=Namespace(name="guest", uuid="u", key_hash="", uid=1, gid=1, created_ms=0), api_key="u:k")


@pytest.mark.parametrize("right", Right)
@pytest.mark.parametrize("collection", ["actions", "packages", "triggers", "rules", "activations", "limits"])
def test_the_owner_may_do_everything(right, collection):
    authorise(GUEST, right, "guest", collection, "x")


def test_anybody_may_list_packages():
    authorise(GUEST, Right.READ, "other", "packages")


@pytest.mark.parametrize(
    ("right", "collection", "path"),
    [
        (Right.READ, "actions", "hello"),
        (Right.ACTIVATE, "actions", "p/hello"),
        (Right.PUT, "actions", "hello"),
        (Right.DELETE, "packages", "p"),
        (Right.READ, "packages", "p"),
        (Right.READ, "triggers", "t"),
        (Right.READ, "rules", "r"),
    ],
)
def test_all_else_of_another_namespace_is_forbidden_by_name(right, collection, path):
    with pytest.raises(NotAuthorised, match=f"is not authorized to access 'other/{path}'"):
        authorise(GUEST, right, "other", collection, path)


@pytest.mark.parametrize("collection", ["actions", "triggers", "rules", "activations", "limits"])
def test_other_collections_of_another_namespace_are_forbidden(collection):
    with pytest.raises(NotAuthorised, match=f"'other/{collection}'"):
        authorise(GUEST, Right.READ, "other", collection)
