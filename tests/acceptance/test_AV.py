"""Rows AV: what is recorded of an activation, and how it is found again."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

pytestmark = pytest.mark.docker

ECHO = "def main(args):\n    return args\n"
#: Upstream's test of a log line.
LINE = re.compile(r"\d+-\d+-\d+T\d+:\d+:\d+\.\d+Z\s+(stdout|stderr): (.*)")
#: Fields of what a list shows.
SUMMARY = {"namespace", "name", "version", "publish", "annotations", "activationId", "start", "end", "duration", "statusCode"}
#: By how much a wall clock may be set while a test runs.
CLOCK_MS = 1000
GONE = "The requested resource does not exist."


@pytest.fixture(scope="module")
def echo(client: Any) -> Any:
    client.deploy("echo", ECHO)
    return client


def run(client: Any, name: str, payload: Any = None) -> Any:
    """Invoke and return the record, as it is read later."""
    path = name if name.startswith("/") else f"actions/{name}"
    answer = client.ask("POST", f"{path}?blocking=true", payload or {})
    return client.record(answer.headers["x-openwhisk-activation-id"])


def test_AV_01_a_record_has_all_fields_and_annotations_of_a_cold_call(client):
    before = int(time.time() * 1000) - CLOCK_MS
    client.deploy("fresh", "def main(args):\n    print('said')\n    return {'a': 1}\n", timeout=5000, memory=128, logs=1)
    answer = run(client, "fresh")
    record = answer.json
    assert set(record) == SUMMARY - {"statusCode"} | {"subject", "response", "logs"}
    assert (record["namespace"], record["subject"], record["name"], record["version"]) == ("anna", "anna", "fresh", "0.0.1")
    assert record["publish"] is False
    assert before <= record["start"] <= record["end"] <= int(time.time() * 1000) + CLOCK_MS
    assert record["duration"] == record["end"] - record["start"]
    assert record["response"] == {"status": "success", "success": True, "result": {"a": 1}, "size": len('{"a": 1}')}
    notes = answer.annotations
    assert notes["path"] == "anna/fresh"
    assert notes["kind"] == "python:3"
    assert notes["limits"] == {"timeout": 5000, "memory": 128, "logs": 1, "concurrency": 1}
    assert notes["timeout"] is False
    assert isinstance(notes["waitTime"], int)
    assert isinstance(notes["initTime"], int)
    assert notes["initTime"] <= record["duration"]


def test_AV_01_only_a_cold_call_has_an_init_time(client):
    client.deploy("fresh", ECHO)
    assert "initTime" in run(client, "fresh").annotations
    assert "initTime" not in run(client, "fresh").annotations


def test_AV_01_the_blocking_answer_is_the_record_but_for_the_logs(client):
    client.deploy("fresh", "def main(args):\n    print('said')\n    return args\n")
    answer = client.invoke("fresh", {"n": 1}).json
    assert answer["logs"] == []
    later = client.record(answer["activationId"]).json
    assert later == answer | {"logs": later["logs"]}
    assert len(later["logs"]) == 1


@pytest.mark.parametrize("part", ["", "/logs", "/result"])
def test_AV_02_what_is_not_there_is_404_and_what_can_be_no_id_is_400(client, part):
    answer = client.ask("GET", f"activations/{'f' * 32}{part}")
    assert (answer.status, answer.json["error"]) == (404, GONE)
    for text, words in (
        ("f" * 31, "length is 31 but must be 32."),
        ("f" * 33, "length is 33 but must be 32."),
        ("F" * 32, "activation id is not valid"),
        ("g" * 32, "activation id is not valid"),
    ):
        answer = client.ask("GET", f"activations/{text}{part}")
        assert (answer.status, words in answer.json["error"]) == (400, True)
        assert answer.json["code"] == answer.headers["x-request-id"]


@pytest.fixture(scope="module")
def five(echo: Any) -> list[dict[str, Any]]:
    """Five records of `listed`, the newest first, each begun in a millisecond of its own."""
    echo.deploy("listed", ECHO)
    records: list[dict[str, Any]] = []
    while len(records) < 5:
        record = run(echo, "listed", {"n": len(records)}).json
        if not records or record["start"] > records[0]["start"]:
            records.insert(0, record)
    return records


def ids(answer: Any) -> list[str]:
    assert answer.status == 200, answer.text
    return [each["activationId"] for each in answer.json]


def test_AV_03_a_list_is_newest_first_and_cut_by_limit_and_skip(client, five):
    expected = [each["activationId"] for each in five]
    found = ids(client.ask("GET", f"activations?name=listed&since={five[-1]['start']}"))
    assert [each for each in found if each in expected] == expected
    recent = ids(client.ask("GET", "activations?name=listed&limit=200"))
    assert ids(client.ask("GET", "activations?name=listed&limit=2")) == recent[:2]
    assert ids(client.ask("GET", "activations?name=listed&limit=2&skip=1")) == recent[1:3]
    assert ids(client.ask("GET", "activations?name=listed&limit=0")) == recent
    assert ids(client.ask("GET", f"activations?name=listed&skip={len(recent)}")) == []


def test_AV_03_since_and_upto_are_milliseconds_and_include_their_ends(client, five):
    newest, middle, oldest = five[0], five[2], five[4]
    between = f"name=listed&since={middle['start']}&upto={newest['start']}"
    assert ids(client.ask("GET", f"activations?{between}")) == [each["activationId"] for each in five[:3]]
    assert ids(client.ask("GET", f"activations?name=listed&since={newest['start'] + 1}")) == []
    assert client.ask("GET", f"activations?{between}&count=true").json == {"activations": 3}
    assert client.ask("GET", f"activations?{between}&count=true&skip=2").json == {"activations": 1}
    older = ids(client.ask("GET", f"activations?name=listed&upto={oldest['start'] - 1}"))
    assert not set(older) & {each["activationId"] for each in five}


def test_AV_03_the_name_filters_simple_names_and_empty_is_no_filter(client, five):
    assert {each["name"] for each in client.ask("GET", "activations?name=listed").json} == {"listed"}
    assert ids(client.ask("GET", "activations?name=nobody")) == []
    assert ids(client.ask("GET", "activations?name=&limit=3")) == ids(client.ask("GET", "activations?limit=3"))


def test_AV_03_the_name_of_a_packaged_action_is_its_package_s_and_its_own(client):
    assert client.ask("PUT", "packages/box?overwrite=true", {}).status == 200
    client.deploy("box/inner", ECHO)
    activation_id = run(client, "box/inner").json["activationId"]
    assert ids(client.ask("GET", "activations?name=box/inner")) == [activation_id]
    assert ids(client.ask("GET", "activations?name=inner")) == []
    assert client.ask("GET", "activations?name=box/inner&count=true").json == {"activations": 1}


def test_AV_03_summaries_lack_what_docs_has(client, five):
    (summary,) = client.ask("GET", "activations?name=listed&limit=1").json
    assert set(summary) == SUMMARY
    assert summary["statusCode"] == 0
    (whole,) = client.ask("GET", "activations?name=listed&limit=1&docs=true").json
    assert whole == client.ask("GET", f"activations/{summary['activationId']}").json
    assert "statusCode" not in whole


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("docs=true&count=true", "'docs' is not permitted with 'count'"),
        ("name=a/b/c", "'simple' name or 'package-name/simple' name"),
        ("since=yesterday", "The query parameter 'since' was malformed"),
        ("upto=1.5", "The query parameter 'upto' was malformed"),
        ("limit=201", "The query parameter 'limit' was malformed"),
        ("limit=-1", "The query parameter 'limit' was malformed"),
        ("skip=-1", "The query parameter 'skip' was malformed"),
        ("docs=perhaps", "The query parameter 'docs' was malformed"),
    ],
)
def test_AV_03_what_cannot_be_asked_for_is_400(client, query, words):
    answer = client.ask("GET", f"activations?{query}")
    assert (answer.status, words in answer.json["error"]) == (400, True), answer.text


def test_AV_04_log_lines_have_the_form_of_both_streams_and_logs_and_result_are_read_alone(client):
    client.deploy(
        "speaks", "import sys\ndef main(args):\n    print('to out')\n    print('to err', file=sys.stderr)\n    return {'n': 1}\n"
    )
    record = run(client, "speaks").json
    matches = [LINE.fullmatch(line) for line in record["logs"]]
    assert sorted(match.groups() for match in matches if match) == [("stderr", "to err"), ("stdout", "to out")]
    path = f"activations/{record['activationId']}"
    assert client.ask("GET", f"{path}/logs").json == {"logs": record["logs"]}
    assert client.ask("GET", f"{path}/result").json == record["response"]
    assert client.ask("GET", f"{path}/").json == record
    for wrong in ("/logs/", "/nothing"):
        assert client.ask("GET", path + wrong).status == 404


def test_AV_05_a_run_of_a_shared_action_is_its_caller_s(client, daemon, make_user):
    assert client.ask("PUT", "packages/shared?overwrite=true", {"publish": True}).status == 200
    client.deploy("shared/echo", ECHO)
    bert = make_user(daemon, "bert", uid=20_002, gid=20_002)
    before = client.ask("GET", "activations?count=true").json
    answer = run(bert, "/api/v1/namespaces/anna/actions/shared/echo", {"n": 1})
    record = answer.json
    assert (record["namespace"], record["subject"], record["name"]) == ("bert", "bert", "echo")
    assert answer.annotations["path"] == "anna/shared/echo"
    assert ids(bert.ask("GET", "activations?name=shared/echo")) == [record["activationId"]]
    assert client.ask("GET", f"activations/{record['activationId']}").status == 404
    assert client.ask("GET", "activations?count=true").json == before


def test_AV_07_polling_sees_the_four_activations_of_the_catalogs_countdown(echo):
    """Each invokes the next from inside its container, with the caller's key; three wait for nobody."""
    latest = run(echo, "echo").json
    begun = echo.ask("POST", "/api/v1/namespaces/whisk.system/actions/samples/countdown", {"n": 3})
    assert begun.status == 202, begun.text
    shown: dict[str, dict[str, Any]] = {}
    deadline = time.monotonic() + 90
    while len(shown) < 4 and time.monotonic() < deadline:
        page = echo.ask("GET", f"activations?docs=true&limit=0&skip=0&since={latest['start']}").json
        shown |= {each["activationId"]: each for each in page if each["name"] == "countdown"}
        time.sleep(0.05)
    assert begun.json["activationId"] in shown
    said = sorted(([line.partition(": ")[2] for line in each["logs"]] for each in shown.values()), reverse=True)
    assert said == [["3"], ["2"], ["1"], ["0", "Happy New Year!"]]
    assert {each["namespace"] for each in shown.values()} == {"anna"}
    links = {each["response"]["result"].get("next") for each in shown.values()}
    assert links == {None, *shown} - {begun.json["activationId"]}, "each but the last names the next"
    assert all({"key": "path", "value": "whisk.system/samples/countdown"} in each["annotations"] for each in shown.values())


def test_AV_07_polling_sees_each_activation_once(echo):
    """As `wsk activation poll` does it: ask for whole records since the newest start it knows, forget those it has shown."""
    latest = run(echo, "echo").json
    echo.deploy("countdown", "def main(args):\n    print('counts', args['n'])\n    return {'n': args['n'] - 1}\n")
    started = [echo.invoke("countdown", {"n": n}, "").json["activationId"] for n in range(4)]
    shown, seen = {latest["activationId"]}, []
    deadline = time.monotonic() + 60
    while len(seen) < 4 and time.monotonic() < deadline:
        for each in echo.ask("GET", f"activations?docs=true&limit=0&skip=0&since={latest['start']}").json:
            if each["activationId"] not in shown:
                shown.add(each["activationId"])
                seen.append(each["logs"][0].partition(": ")[2])
        time.sleep(0.05)
    assert sorted(seen) == [f"counts {n}" for n in range(4)]
    assert set(started) <= shown
