import json

from ctl_api import Api, Ctl, api, ctl

__all__ = ["api", "ctl"]

ID = "0123456789abcdef" * 2
RECORD = {
    "namespace": "alice",
    "name": "hello",
    "version": "0.0.1",
    "activationId": ID,
    "start": 1_700_000_000_000,
    "duration": 12,
    "statusCode": 0,
    "annotations": [{"key": "kind", "value": "python:3"}],
}


def test_activations_are_listed_with_what_they_found(ctl: Ctl, api: Api) -> None:
    cold = RECORD | {
        "statusCode": 2,
        "annotations": [{"key": "kind", "value": "blackbox"}, {"key": "startKind", "value": "stem"}],
    }
    api.lay_down([RECORD, cold])
    lines = ctl.run("activation", "list", "tools/hello", "--since", "1700000000000").stdout.splitlines()
    assert lines[1].split()[2:] == [ID, "python:3", "-", "12", "ms", "success", "/alice/hello:0.0.1"]
    assert lines[2].split()[2:] == [ID, "blackbox", "stem", "12", "ms", "developer", "error", "/alice/hello:0.0.1"]
    assert api.asked[0]["query"] == {"name": "tools/hello", "limit": "30", "skip": "0", "since": "1700000000000"}


def test_logs_and_result_of_one_activation_or_of_the_last(ctl: Ctl, api: Api) -> None:
    line = "2026-01-01T00:00:00.000000Z    stdout: hi: you"
    api.lay_down({"logs": [line]})
    assert ctl.run("activation", "logs", ID).stdout == line + "\n"
    api.lay_down([RECORD])
    api.lay_down({"logs": [line]})
    assert ctl.run("activation", "logs", "--last", "--strip").stdout == "hi: you\n"
    api.lay_down({"result": {"error": "no"}, "success": False})
    assert json.loads(ctl.run("activation", "result", ID, code=4).stdout) == {"error": "no"}
    assert [asked["what"].rpartition("/activations")[2] for asked in api.asked] == [
        f"/{ID}/logs",
        "",
        f"/{ID}/logs",
        f"/{ID}/result",
    ]
    assert "--last" in ctl.run("activation", "get", code=2).stderr


def test_users_cancel_over_the_api_with_their_key(ctl: Ctl, api: Api) -> None:
    api.lay_down({"activation_id": ID, "was": "queued"})
    assert ctl.run("activation", "cancel", ID).stdout == f"cancelled {ID}, which was queued\n"
    assert api.asked[0]["what"] == f"POST /invokerd/v1/activations/{ID}/cancel"
