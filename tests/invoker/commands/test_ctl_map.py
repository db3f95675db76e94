import json
from pathlib import Path
from typing import Any

import pytest
from ctl_api import Api, Ctl, api, ctl

__all__ = ["api", "ctl"]


def record(number: int, *, success: bool = True, cost: str | None = "0.1", **result: Any) -> dict[str, Any]:
    annotations = [{"key": "outcome", "value": "ok" if success else "application-error"}]
    if cost is not None:
        annotations.append({"key": "cost", "value": {"amount": cost, "currency": "EUR", "plan": "default@1"}})
    return {
        "activationId": f"{number:032x}",
        "response": {"status": "success" if success else "application error", "success": success, "result": result},
        "annotations": annotations,
    }


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "inputs"
    path.write_text('{"n": 1}\n\n{"n": 2, "threshold": 9}\n')
    return path


def test_each_line_is_a_call_and_the_sum_is_told(ctl: Ctl, api: Api, lines: Path) -> None:
    api.lay_down(record(1, found=7))
    api.lay_down(record(2, success=False, error="no peaks"), 502)
    ran = ctl.run("action", "map", "find", str(lines), "--jobs", "1", "-p", "threshold", "4", code=4)
    assert [json.loads(line) for line in ran.stdout.splitlines()] == [
        {"line": 1, "activationId": f"{1:032x}", "success": True, "outcome": "ok", "result": {"found": 7}},
        {
            "line": 3,
            "activationId": f"{2:032x}",
            "success": False,
            "outcome": "application-error",
            "result": {"error": "no peaks"},
        },
    ]
    assert "2 calls, 1 failed, 0.2 EUR" in ran.stderr
    assert f"line 3: application-error: no peaks  (invokerctl activation logs {2:032x})" in ran.stderr
    assert [asked["body"] for asked in api.asked] == [{"threshold": 4, "n": 1}, {"threshold": 9, "n": 2}]
    assert api.asked[0]["query"] == {"blocking": "true"}


def test_lines_may_be_texts_that_one_parameter_is_given(ctl: Ctl, api: Api, lines: Path) -> None:
    lines.write_text("/data/a b.h5\n/data/1.h5")
    for number in (1, 2):
        api.lay_down(record(number, cost=None))
    ran = ctl.run("action", "map", "find", str(lines), "--as", "path", "--jobs", "1")
    assert [asked["body"] for asked in api.asked] == [{"path": "/data/a b.h5"}, {"path": "/data/1.h5"}]
    assert "2 calls, 0 failed\n" in ran.stderr


def test_results_come_in_the_order_of_the_lines_however_many_run(ctl: Ctl, api: Api, lines: Path) -> None:
    lines.write_text("".join(f'{{"n": {n}}}\n' for n in range(40)))
    for n in range(40):
        api.lay_down(record(n, cost="0.0000000000000000000000000000000000001"))
    ran = ctl.run("action", "map", "find", str(lines), "--jobs", "7")
    assert [json.loads(line)["line"] for line in ran.stdout.splitlines()] == list(range(1, 41))
    assert sorted(asked["body"]["n"] for asked in api.asked) == list(range(40))
    assert "40 calls, 0 failed, 0.000000000000000000000000000000000004 EUR" in ran.stderr


def test_a_busy_node_and_a_long_call_are_waited_for(ctl: Ctl, api: Api, lines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    lines.write_text("{}\n")
    api.lay_down({"error": "Too many requests.", "code": "c"}, 429, Retry_After="7")
    api.lay_down({"error": "The node is busy.", "code": "c"}, 503)
    api.lay_down({"activationId": "a" * 32}, 202)
    api.lay_down({"error": "The requested resource does not exist.", "code": "c"}, 404)
    api.lay_down(record(1))
    assert "1 call, 0 failed" in ctl.run("action", "map", "find", str(lines)).stderr
    assert slept == [7.0, 1.0, 1.0]
    assert api.asked[-1]["what"] == f"GET /api/v1/namespaces/_/activations/{'a' * 32}"


@pytest.mark.parametrize(("text", "says"), [("nonsense\n", "line 1 is no JSON"), ("[1]\n", "line 1 is no JSON object")])
def test_a_line_that_is_no_object_is_named_with_what_to_do(ctl: Ctl, lines: Path, text: str, says: str) -> None:
    lines.write_text(text)
    refused = ctl.run("action", "map", "find", str(lines), code=2)
    assert says in refused.stderr
    assert "--as KEY" in refused.stderr


def test_a_refusal_ends_it_and_names_the_action(ctl: Ctl, api: Api, lines: Path) -> None:
    api.lay_down({"error": "The requested resource does not exist.", "code": "c"}, 404)
    api.lay_down({"error": "The requested resource does not exist.", "code": "c"}, 404)
    assert "does not exist. [action find]" in ctl.run("action", "map", "find", str(lines), code=1).stderr
