from invoker.gateway.management import _OPERATIONS as MANAGEMENT
from invoker.http.api import OWN_ACTIVATIONS, PUBLIC, ROUTES
from invoker.http.description.operations import APIMGMT, NS, OPERATIONS, PARAMETERS, WEB, parameters_of
from invoker.http.description.schemas import SCHEMAS
from invoker.http.operators import DISABLE
from invoker.web.handler import METHODS

#: The same with a slash at its end, and a path that is there only to be refused.
UNDESCRIBED = {("activations", "name/", "GET"), ("limits", "name", "GET")}


def shape_of(rest):
    """What the router calls the path behind a collection."""
    names = [segment for segment in rest.split("/") if segment]
    return "/".join(["name"] * len(names)) + ("/" if rest.endswith("/") and names else "")


def test_every_route_of_a_namespace_is_described_and_every_description_is_routed():
    described = set()
    for each in OPERATIONS:
        if each.path.startswith(f"{NS}/"):
            collection, _, rest = each.path.removeprefix(f"{NS}/").partition("/")
            described.add((collection, shape_of(rest), each.method.upper()))
    assert described == set(ROUTES) - UNDESCRIBED


def test_everything_that_needs_no_credentials_is_described():
    public = {tuple(each.path.split("/")[1:]) for each in OPERATIONS if not each.authenticated and each.tag == "Node"}
    assert public == {key for key in PUBLIC if key[-1] or len(key) == 1}


def test_what_is_routed_by_hand_is_described():
    paths = {(each.path, each.method.upper()) for each in OPERATIONS}
    assert {method for path, method in paths if path == WEB} == set(METHODS)
    assert {path.removeprefix(f"{APIMGMT}/") for path, _ in paths if path.startswith(APIMGMT)} == {
        f"{name}.http" for name in MANAGEMENT
    }
    assert ("/" + "/".join(OWN_ACTIVATIONS) + "/{activationId}/cancel", "POST") in paths
    assert ("/".join(("", *DISABLE)), "POST") in paths
    assert ("/api/v1/namespaces", "GET") in paths


def test_names_are_unique_and_parameters_are_known():
    names = [each.name for each in OPERATIONS]
    assert len(set(names)) == len(names)
    used = {name for each in OPERATIONS for name, _ in parameters_of(each)}
    assert used == set(PARAMETERS)


def test_every_schema_is_used():
    text = repr(OPERATIONS) + repr(SCHEMAS)
    assert [name for name in SCHEMAS if f"/{name}'" not in text and name != "ErrorMessage"] == []
