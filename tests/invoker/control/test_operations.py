"""What the daemon tells its operators of itself; the verbs that change something are tested through the socket and the system."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from invoker.control.operations import Operations
from invoker.health import Check, Health
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


def operations(*checks: Check) -> Operations:
    unused = dict.fromkeys(("entities", "authenticator", "usage", "bill", "correct", "drain", "on_deleted", "on_changed"))
    parts: dict[str, Any] = {
        "config": lambda: SimpleNamespace(node="n"),
        "pool": SimpleNamespace(statistics=lambda: STATISTICS),
        "invoker": SimpleNamespace(total_in_flight=4),
        "health": lambda: Health(checks=checks),
    }
    return Operations(**cast("Any", unused | parts))


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
