import msgspec
import pytest

from invoker.errors import EntityNotFound, WrongCollection
from invoker.model import Action, Binding, Exec, Package, Parameter, Trigger
from invoker.resolve import merge_parameters, resolve_action, resolve_package


class Entities(dict):
    def get(self, namespace, path):
        return super().get((namespace, path))


def parameters(*, init=False, **values):
    return tuple(Parameter(key=key, value=msgspec.Raw(str(value).encode()), init=init) for key, value in values.items())


def values(entity):
    return {each.key: int(bytes(each.value)) for each in entity.parameters}


def action(path, **own):
    own.setdefault("revision", f"revision of {path}")
    return Action(namespace="lib", path=path, updated=1, exec=Exec(kind="python:3"), **own)


def package(namespace, name, binding=None, **own):
    bound = Binding(namespace=binding[0], name=binding[1]) if binding else None
    return Package(namespace=namespace, path=name, revision=f"revision of {name}", updated=1, binding=bound, **own)


def tree(*entities):
    return Entities({(each.namespace, each.path): each for each in entities})


FULL = tree(
    action("plain", parameters=parameters(a=3)),
    action("p/hello", parameters=parameters(a=3)),
    package("lib", "p", parameters=parameters(a=1, b=1, c=1)),
    package("guest", "mine", ("lib", "p"), parameters=parameters(a=2, b=2, d=2)),
)


def test_an_action_of_the_default_package_is_the_stored_one_itself():
    found = resolve_action(FULL, "lib", "plain")
    assert found.action is FULL.get("lib", "plain")
    assert (found.package, found.binding, found.binding_path) == (None, None, None)


def test_a_packaged_action_inherits_under_its_own_parameters():
    found = resolve_action(FULL, "lib", "p/hello")
    assert values(found.action) == {"a": 3, "b": 1, "c": 1}
    assert found.action.full_path == "lib/p/hello"
    assert found.action.revision == "revision of p/hello"
    assert (found.package, found.binding) == (FULL.get("lib", "p"), None)


def test_a_binding_lies_between_package_and_action_and_the_path_stays_the_providers():
    found = resolve_action(FULL, "guest", "mine/hello")
    assert values(found.action) == {"a": 3, "b": 2, "c": 1, "d": 2}
    assert found.action.full_path == "lib/p/hello"
    assert found.binding_path == "guest/mine"
    assert found.package is FULL.get("lib", "p")
    assert values(resolve_package(FULL, "guest", "mine")) == {"a": 2, "b": 2, "c": 1, "d": 2}


def test_without_inherited_parameters_nothing_is_copied():
    entities = tree(action("p/hello"), package("lib", "p"))
    assert resolve_action(entities, "lib", "p/hello").action is entities.get("lib", "p/hello")


def test_an_inherited_parameter_of_the_environment_makes_old_containers_unusable():
    entities = tree(action("p/hello"), package("lib", "p", parameters=parameters(init=True, a=1)))
    assert resolve_action(entities, "lib", "p/hello").action.revision == "revision of p/hello.revision of p"


def test_the_upper_parameter_counts_whole():
    (merged,) = merge_parameters(parameters(init=True, a=1), parameters(a=2))
    assert (bytes(merged.value), merged.init) == (b"2", False)


@pytest.mark.parametrize(
    ("entities", "path", "error"),
    [
        (tree(), "hello", EntityNotFound),
        (tree(), "p/hello", EntityNotFound),
        (tree(package("lib", "p")), "p/hello", EntityNotFound),
        (tree(package("lib", "p")), "p", WrongCollection),
        (tree(action("p")), "p/hello", WrongCollection),
        (tree(Trigger(namespace="lib", path="p", revision="r", updated=1, birth="b")), "p/hello", WrongCollection),
        (tree(package("lib", "b", ("lib", "gone"))), "b/hello", EntityNotFound),
        (tree(package("lib", "b", ("lib", "plain")), action("plain")), "b/hello", WrongCollection),
        (tree(package("lib", "b", ("lib", "c")), package("lib", "c", ("lib", "b"))), "b/hello", EntityNotFound),
    ],
)
def test_what_is_not_there_or_something_else_is_said(entities, path, error):
    with pytest.raises(error):
        resolve_action(entities, "lib", path)
