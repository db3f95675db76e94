"""Rows LM: what an action may ask for, and what happens at its limits when it runs."""

from __future__ import annotations

import re

import pytest

pytestmark = pytest.mark.docker

MIB = 1024 * 1024
NODE = "nodejs:20"


def ended(answer, status):
    assert answer.status == (200 if status == "success" else 502), answer.text[:2000]
    assert answer.json["response"]["status"] == status
    return answer.json["response"]["result"]


def texts(client, answer):
    lines = client.record(answer.headers["x-openwhisk-activation-id"]).json["logs"]
    return [line.partition(": ")[2] for line in lines]


CUT = "Logs were truncated because the total bytes size exceeds the limit of {} bytes."
#: Prints numbered lines, each `length` characters long.
PRINT = {
    "python:3": (
        "def main(args):\n    for i in range(args['lines']):\n"
        "        print(f'{i:07} ' + 'x' * (args['length'] - 8))\n    return {}\n"
    ),
    NODE: (
        "function main({ lines, length }) {\n  for (let i = 0; i < lines; i++)\n"
        "    console.log(String(i).padStart(7, '0') + ' ' + 'x'.repeat(length - 8));\n}"
    ),
}
LOST = re.compile(r"There was an issue while collecting your logs: (\d+) lines were lost, the log pipe was full\.")


def whole_but_for_what_is_said_to_be_lost(lines, length, total):
    """Lines are there, in their order, uncut; on a busy machine some may be lost, and then the last line says how many."""
    said = LOST.fullmatch(lines[-1])
    kept = lines[:-1] if said else lines
    numbers = [int(text[:7]) for text in kept]
    assert len(numbers) + (int(said[1]) if said else 0) == total
    assert numbers == sorted(set(numbers))
    assert {len(text) for text in kept} == {length}


@pytest.mark.parametrize("kind", PRINT)
def test_LM_02_logs_are_cut_at_their_limit_and_the_last_line_says_so(client, kind):
    client.deploy("prints", PRINT[kind], kind=kind, logs=1)
    for _ in range(5):  # more than the pipe holds: on a busy machine some may be lost, and then the last line is another
        answer = client.invoke("prints", {"lines": 1050, "length": 1024})
        ended(answer, "success")
        lines = client.record(answer.json["activationId"]).json["logs"]
        if not LOST.fullmatch(lines[-1].partition(": ")[2]):
            break
    assert re.fullmatch(r"\S+Z stderr: " + re.escape(CUT.format(MIB)), lines[-1])
    kept = [line.partition(": ")[2] for line in lines[:-1]]
    assert sum(map(len, kept)) == MIB
    assert [text[:7] for text in kept] == [f"{n:07}" for n in range(len(kept))]


@pytest.mark.parametrize("kind", PRINT)
def test_LM_02_ten_megabytes_of_logs_are_all_there(client, kind):
    client.deploy("prints", PRINT[kind], kind=kind, logs=10)
    answer = client.invoke("prints", {"lines": 10_239, "length": 1024})
    ended(answer, "success")
    whole_but_for_what_is_said_to_be_lost(texts(client, answer), 1024, 10_239)


@pytest.mark.parametrize("kind", PRINT)
def test_LM_02_of_a_burst_of_a_hundred_thousand_lines_none_is_lost_silently(client, kind):
    client.deploy("prints", PRINT[kind], kind=kind, logs=10)
    answer = client.invoke("prints", {"lines": 100_000, "length": 12})
    ended(answer, "success")
    whole_but_for_what_is_said_to_be_lost(texts(client, answer), 12, 100_000)


@pytest.mark.parametrize("kind", PRINT)
def test_LM_02_with_no_log_limit_nothing_is_collected_and_nothing_said(client, kind):
    client.deploy("prints", PRINT[kind], kind=kind, logs=0)
    answer = client.invoke("prints", {"lines": 10, "length": 10})
    ended(answer, "success")
    assert texts(client, answer) == []


def test_LM_02_a_payload_of_a_megabyte_passes_and_a_byte_more_is_413(client):
    client.deploy("length", "def main(args):\n    return {'length': len(args['p'])}\n")
    frame = len(b'{"p":""}')
    body = b'{"p":"' + b"x" * (MIB - frame) + b'"}'
    assert ended(client.invoke("length", body), "success") == {"length": MIB - frame}
    answer = client.invoke("length", body.replace(b'""', b'"x"').replace(b"x", b"xx", 1))
    assert (answer.status, answer.error) == (413, f"Request larger than allowed: {MIB + 1} > {MIB} bytes.")
    assert "x-openwhisk-activation-id" not in answer.headers


def test_LM_02_a_result_over_a_megabyte_is_an_application_error_with_its_beginning(client):
    client.deploy("long", "def main(args):\n    return {'r': 'y' * args['n']}\n")
    first = client.invoke("long", {"n": 1})
    frame = len('{"r": ""}')
    assert len(ended(client.invoke("long", {"n": MIB - frame}), "success")["r"]) == MIB - frame
    answer = client.invoke("long", {"n": MIB - frame + 1})
    error = ended(answer, "application error")["error"]
    head, _, shown = error.partition("The truncated response was: ")
    assert f"exceeded the allowed length: {MIB + 1} > {MIB} bytes." in head
    assert shown == ('{"r": "' + "y" * (MIB - frame + 1) + '"}')[:MIB]
    assert answer.json["response"]["size"] == MIB + 1
    assert client.record(answer.json["activationId"]).json["response"] == answer.json["response"]
    assert answer.annotations["container"] == first.annotations["container"], "it is no crash: the container is kept"


def test_LM_03_a_thousand_files_can_be_open_and_not_many_more(client):
    code = """def main(args):
    files = []
    try:
        while len(files) < 2000:
            files.append(open('/dev/zero'))
    except OSError as error:
        return {'opened': len(files), 'errno': error.errno}
    return {'opened': len(files)}
"""
    client.deploy("opens", code)
    result = ended(client.invoke("opens"), "success")
    assert 994 < result["opened"] <= 1024
    assert result["errno"] == 24


def test_LM_03_an_action_that_exhausts_its_memory_is_ended_and_says_so(client):
    code = "def main(args):\n    held = bytearray(args['mib'] << 20)\n    return {'held': len(held) >> 20}\n"
    client.deploy("eats", code, memory=128)
    assert ended(client.invoke("eats", {"mib": 64}), "success") == {"held": 64}
    assert "exhausted its memory and was aborted" in ended(client.invoke("eats", {"mib": 256}), "action developer error")["error"]
    client.deploy("eats", code, memory=512)
    assert ended(client.invoke("eats", {"mib": 256}), "success") == {"held": 256}


def test_LM_04_an_action_over_its_time_lasts_at_least_as_long_as_its_limit(client):
    client.deploy("sleeps", "import time\ndef main(args):\n    time.sleep(60)\n", timeout=500)
    answer = client.invoke("sleeps")
    assert ended(answer, "action developer error") == {"error": "The action exceeded its time limits of 500 milliseconds."}
    assert answer.json["duration"] >= 500
    assert answer.annotations["timeout"] is True
