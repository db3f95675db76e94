"""What the daemon tells its operators of itself, and which limits it takes; other verbs are tested through the socket."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from invoker.control.operations import Operations
from invoker.errors import EntityNotFound, InvalidRequest
from invoker.health import Check, Health
from invoker.manifest import Manifest
from invoker.model import LimitOverrides, Namespace
from pool.model import ContainerState, PoolStatistics

STATISTICS = PoolStatistics(
    containers={ContainerState.FROZEN: 2, ContainerState.BUSY: 0},
    waiting=1,
    memory_used_mib=512,
    memory_budget_mib=1024,
    starts={},
    evictions=0,
)
WELL = Check(name="journal", ok=True, detail="all is well")
ILL = Check(name="engine", ok=False, detail="it does not answer")
WARNS = Check(name="databases", ok=True, detail="one row is damaged", warning=True)


def operations(*checks: Check, **others: Any) -> Operations:
    unused = dict.fromkeys(
        ("entities", "authenticator", "usage", "bill", "correct", "drain", "on_deleted", "on_changed", "kinds")
    )
    parts: dict[str, Any] = {
        "config": lambda: SimpleNamespace(node="n"),
        "pool": SimpleNamespace(statistics=lambda: STATISTICS),
        "invoker": SimpleNamespace(total_in_flight=4),
        "health": lambda: Health(checks=checks),
    }
    return Operations(**cast("Any", unused | parts | others))


@pytest.mark.parametrize(
    ("checks", "state", "problems"),
    [
        ((WELL,), "ready", ()),
        ((WELL, ILL), "degraded", ("engine: it does not answer",)),
        ((WELL, WARNS), "ready", ("databases: one row is damaged",)),
    ],
)
def test_what_an_operator_has_to_see_to_is_a_problem_also_where_the_node_serves(checks, state, problems):
    status = operations(*checks).status()
    assert (status.state, status.problems) == (state, problems)
    assert (status.running, status.waiting, status.containers) == (3, 1, {"frozen": 2})


# --- limits of a namespace

ANNA = Namespace(name="anna", uuid="u", key_hash="", uid=2001, gid=2001, created_ms=0)


class Namespaces:
    """An entity store of one namespace."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace

    def get_namespace(self, name: str) -> Namespace | None:
        return self.namespace if name == self.namespace.name else None

    async def put_namespace(self, namespace: Namespace) -> None:
        self.namespace = namespace


def limiting(namespaces: Namespaces, kinds: frozenset[str] = Manifest.load().kinds) -> Operations:
    return operations(entities=namespaces, kinds=kinds)


async def test_limits_take_kinds_that_there_are() -> None:
    namespaces = Namespaces(ANNA)
    wanted = LimitOverrides(allowed_kinds=("python:3", "blackbox", "sequence"))
    await limiting(namespaces).change_limits("anna", wanted)
    assert namespaces.namespace.limits == wanted


@pytest.mark.parametrize("kind", ["python:9", "python:default", "Python:3", ""])
async def test_a_kind_that_there_is_not_is_refused_with_those_that_there_are_and_changes_nothing(kind: str) -> None:
    namespaces = Namespaces(ANNA)
    with pytest.raises(InvalidRequest, match=f"there is no kind '{kind}' on this node; there are blackbox, .*sequence$"):
        await limiting(namespaces).change_limits("anna", LimitOverrides(allowed_kinds=("python:3", kind)))
    assert namespaces.namespace is ANNA


async def test_a_kind_that_the_node_has_lost_since_does_not_hinder_another_change() -> None:
    namespaces = Namespaces(ANNA)
    await limiting(namespaces, frozenset({"old:1", "new:1"})).change_limits("anna", LimitOverrides(allowed_kinds=("old:1",)))
    wanted = LimitOverrides(allowed_kinds=("old:1", "new:1"), invocations_per_minute=7)
    await limiting(namespaces, frozenset({"new:1"})).change_limits("anna", wanted)
    assert namespaces.namespace.limits == wanted


async def test_all_that_is_wrong_is_said_at_once() -> None:
    wrong = LimitOverrides(allowed_kinds=("x",), fires_per_minute=-1, cpu_seconds_per_window=-2)
    with pytest.raises(InvalidRequest, match=r"fires_per_minute is -1.*cpu_seconds_per_window is -2.*no kind 'x'"):
        await limiting(Namespaces(ANNA)).change_limits("anna", wrong)
    with pytest.raises(EntityNotFound, match="'bob'"):
        await limiting(Namespaces(ANNA)).change_limits("bob", LimitOverrides())
