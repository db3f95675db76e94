import json

import pytest
from ctl_api import Api, Ctl, api, ctl

from invoker.commands import ctl_poll

__all__ = ["api", "ctl"]


def record(number: int, start: int = 1_700_000_000_000) -> dict:
    return {
        "namespace": "alice",
        "name": "hello",
        "activationId": f"{number:032x}",
        "start": start + number,
        "duration": 12,
        "response": {"status": "success", "success": True},
        "logs": [f"2026-01-01T00:00:00.000000000Z stdout: line of {number}"],
    }


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctl_poll, "PAUSE_S", 0.001)


def test_what_ends_from_now_on_is_shown_once_with_its_logs_the_oldest_first(
    ctl: Ctl, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, late, new = record(5), record(3), record(9)
    for reply in ([known], [known], [new, known], [new, known, late]):
        api.lay_down(reply)
    clock = iter([0.0, 1.0, 9.0, 9.0])
    monkeypatch.setattr(ctl_poll.time, "monotonic", lambda: next(clock))
    lines = ctl.run("activation", "poll", "--exit", "5").stdout.splitlines()
    assert [line.split()[2] for line in lines[::2]] == [new["activationId"], late["activationId"]]
    assert [line.strip() for line in lines[1::2]] == [*new["logs"], *late["logs"]]
    first, *looks = api.asked
    assert first["query"] == {"limit": "1", "skip": "0"}
    assert all(look["query"]["docs"] == "true" for look in looks)
    assert int(looks[-1]["query"]["since"]) == new["start"] - ctl_poll.LATE_MS


def test_since_begins_in_the_past_and_goes_through_all_pages(ctl: Ctl, api: Api) -> None:
    api.lay_down([record(number) for number in range(200)])
    api.lay_down([record(200)])
    out = ctl.run("activation", "poll", "hello", "--since", "1700000000000", "--exit", "0", "--json").stdout
    assert len([json.loads(line) for line in out.splitlines()]) == 201
    assert [look["query"]["skip"] for look in api.asked] == ["0", "200"]
    assert {(look["query"]["since"], look["query"]["name"]) for look in api.asked} == {("1700000000000", "hello")}
