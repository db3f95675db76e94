"""What functions print, as it comes back through the API: every line, in its order, to the activation that wrote it."""

from __future__ import annotations

import re
import threading
from typing import Any

import pytest

from bench.daemon import Daemon

pytestmark = pytest.mark.docker

MIB = 1024 * 1024
#: The one of upstream's tests and of its command line's `--strip`.
LINE = re.compile(r"\d+-\d+-\d+T\d+:\d+:\d+\.\d+Z\s+(stdout|stderr): (.*)", re.DOTALL)
LOST = re.compile(r"There was an issue while collecting your logs: (\d+) lines were lost, the log pipe was full\.")


def split(lines: list[str]) -> list[tuple[str, str]]:
    """(stream, text) of each line; the prefix has upstream's form and width."""
    found = []
    for line in lines:
        match = LINE.fullmatch(line)
        assert match, line[:200]
        assert line[29:31] == "Z "
        found.append((match[1], match[2]))
    return found


def logs_of(client: Any, activation_id: str) -> list[str]:
    """Ask as clients do: first for the record, then for its logs."""
    record = client.record(activation_id)
    answer = client.ask("GET", f"activations/{activation_id}/logs")
    assert answer.status == 200, answer.text
    assert answer.json["logs"] == record.json["logs"]
    return answer.json["logs"]


def run(client: Any, name: str, payload: Any = None) -> list[tuple[str, str]]:
    """Invoke, and return the lines."""
    answer = client.invoke(name, payload)
    assert answer.status == 200, answer.text
    assert answer.json["logs"] == []  # they are for the record; a result does not wait for them
    return split(logs_of(client, answer.json["activationId"]))


def test_both_streams_arrive_line_by_line_in_order_with_time_and_stream(client):
    client.deploy(
        "streams",
        "import sys\ndef main(args):\n    for i in range(3):\n"
        "        print('out', i)\n        print('err', i, file=sys.stderr)\n    return {}\n",
    )
    lines = run(client, "streams")
    assert [text for stream, text in lines if stream == "stdout"] == ["out 0", "out 1", "out 2"]
    assert [text for stream, text in lines if stream == "stderr"] == ["err 0", "err 1", "err 2"]


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("python:3", "def main(args):\n    print('grün 漢字 🙂 \\u2028 \\t|')\n    return {}\n"),
        ("nodejs:20", "function main() { console.log('grün 漢字 🙂 \\u2028 \\t|'); return {}; }"),
        ("blackbox", "#!/bin/sh\nprintf 'grün 漢字 🙂 \\342\\200\\250 \\t|\\n{}\\n'\n"),
    ],
)
def test_utf_8_survives(client, kind, code):
    client.deploy("unicode", code, kind=kind, image="openwhisk/dockerskeleton" if kind == "blackbox" else None)
    assert run(client, "unicode") == [("stdout", "grün 漢字 🙂 \u2028 \t|")]


def test_bytes_that_are_no_utf_8_are_replaced_and_not_lost(client):
    client.deploy("bytes", "import os\ndef main(args):\n    os.write(1, b'a\\xff\\xfeb\\n')\n    return {}\n")
    assert run(client, "bytes") == [("stdout", "a\ufffd\ufffdb")]


def test_a_line_without_its_newline_survives_and_is_not_glued_to_the_next_call(client):
    client.deploy("tail", "def main(args):\n    print('first')\n    print(args['text'], end='')\n    return {}\n")
    assert run(client, "tail", {"text": "one"}) == [("stdout", "first"), ("stdout", "one")]
    assert run(client, "tail", {"text": "two"}) == [("stdout", "first"), ("stdout", "two")]


def test_a_line_of_a_megabyte_is_one_line(client):
    client.deploy("long", "def main(args):\n    print('ä' * 524288 + '.')\n    return {}\n")
    ((stream, text),) = run(client, "long")
    assert (stream, len(text), text[-1]) == ("stdout", 524_289, ".")
    assert set(text[:-1]) == {"ä"}


def test_what_children_and_c_code_write_is_captured(client):
    client.deploy(
        "mixed",
        """import ctypes, os, subprocess, sys, threading
def main(args):
    libc = ctypes.CDLL(None)
    libc.puts(b"from C")
    libc.fflush(None)
    subprocess.run(["sh", "-c", "echo from a child; echo its complaint >&2"], check=True)
    os.write(2, b"written to the descriptor\\n")
    thread = threading.Thread(target=print, args=("from a thread",))
    thread.start()
    thread.join()
    return {}
""",
    )
    assert sorted(run(client, "mixed")) == [
        ("stderr", "its complaint"),
        ("stderr", "written to the descriptor"),
        ("stdout", "from C"),
        ("stdout", "from a child"),
        ("stdout", "from a thread"),
    ]


def test_a_hundred_thousand_lines_of_one_call_arrive_or_the_last_one_says_how_many_were_lost(client):
    """R-26."""
    client.deploy("many", "def main(args):\n    for i in range(100_000):\n        print('line', i)\n    return {}\n", logs=100)
    lines = run(client, "many")
    said = LOST.fullmatch(lines[-1][1])
    lost = int(said[1]) if said else 0
    if said:
        assert lines.pop()[0] == "stderr"
    assert len(lines) + lost == 100_000
    numbers = [int(text.removeprefix("line ")) for _, text in lines]
    assert numbers == sorted(set(numbers))


def test_logs_over_the_limit_end_with_the_sentence_and_the_action_still_succeeds(client):
    client.deploy("much", "def main(args):\n    for i in range(3000):\n        print('x' * 999)\n    return {}\n", logs=1)
    lines = run(client, "much")
    assert lines[-1] == ("stderr", f"Logs were truncated because the total bytes size exceeds the limit of {MIB} bytes.")
    assert sum(len(text) for _, text in lines[:-1]) == MIB
    assert {text for _, text in lines[:-2]} == {"x" * 999}


def test_with_a_log_limit_of_zero_nothing_is_collected(client):
    client.deploy("mute", "def main(args):\n    print('nobody hears me')\n    return {}\n", logs=0)
    assert run(client, "mute") == []


def test_a_failed_init_has_its_lines_and_an_error_its_traceback(client):
    client.deploy("broken", "import sys\nprint('before')\nprint('aside', file=sys.stderr)\n1 / 0\n")
    answer = client.invoke("broken")
    assert answer.status == 502
    lines = split(logs_of(client, answer.json["activationId"]))
    assert ("stdout", "before") in lines
    assert ("stderr", "aside") in lines
    assert any("ZeroDivisionError" in text for stream, text in lines if stream == "stderr")
    client.deploy("raises", "def main(args):\n    print('so far')\n    raise ValueError('out of cheese')\n")
    answer = client.invoke("raises")
    lines = split(logs_of(client, answer.json["activationId"]))
    assert lines[0] == ("stdout", "so far")
    assert any("ValueError: out of cheese" in text for stream, text in lines if stream == "stderr")


@pytest.mark.parametrize("end", ["os._exit(3)", "ctypes.string_at(0)"])
def test_the_lines_of_an_action_that_killed_itself_are_there(client, end):
    # The moment before its end: what the process itself has not yet passed on dies with it.
    client.deploy("dies", f"import ctypes, os, time\ndef main(args):\n    print('last words')\n    time.sleep(0.2)\n    {end}\n")
    answer = client.invoke("dies")
    assert answer.status == 502
    assert split(logs_of(client, answer.json["activationId"]))[0] == ("stdout", "last words")


def test_the_lines_of_an_action_that_was_killed_are_there_to_the_last_whose_end_never_came(client):
    code = "import time\ndef main(args):\n    print('last words')\n    print('and so', end='', flush=True)\n    time.sleep(60)\n"
    client.deploy("killed", code, timeout=3000)
    answer = client.invoke("killed")
    assert answer.status == 502
    assert split(logs_of(client, answer.json["activationId"]))[:2] == [("stdout", "last words"), ("stdout", "and so")]


def test_non_blocking_calls_have_their_logs_as_soon_as_they_have_a_record(client):
    client.deploy("quick", "def main(args):\n    print('n', args['n'])\n    return {}\n")
    started = [client.invoke("quick", {"n": n}, "blocking=false").json["activationId"] for n in range(10)]
    for n, activation_id in enumerate(started):
        assert split(client.record(activation_id).json["logs"]) == [("stdout", f"n {n}")]


def test_the_lines_of_calls_that_run_at_the_same_time_do_not_mix(client):
    code = "def main(args):\n    for i in range(2000):\n        print(args['who'], i)\n    return {}\n"
    for action in ("left", "right"):
        client.deploy(action, code)
    found: dict[str, list[tuple[str, str]]] = {}

    def call(action: str, who: str) -> None:
        found[who] = run(client, action, {"who": who})

    threads = [threading.Thread(target=call, args=(a, f"{a}{n}")) for a in ("left", "right") for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    for who, lines in found.items():
        assert lines == [("stdout", f"{who} {i}") for i in range(2000)]


def test_a_child_that_never_stops_writing_holds_up_neither_the_result_nor_other_calls(client):
    """The pipe is the user's: what pours into it without end must not keep the daemon reading."""
    client.deploy("bystander", "def main(args):\n    return {'here': True}\n")
    assert client.invoke("bystander").status == 200
    client.deploy(
        "flood",
        """import subprocess
def main(args):
    with open("/run/invokerd/log", "wb") as pipe:
        subprocess.Popen(["yes", "x" * 1000], stdout=pipe)
    subprocess.Popen(["yes"])
    return {"flowing": True}
""",
        timeout=30_000,
    )
    answer = client.invoke("flood")
    assert answer.status == 200, answer.text
    assert answer.json["response"]["result"] == {"flowing": True}
    assert client.invoke("bystander").status == 200, "not a 202 after a minute's wait"
    client.ask("DELETE", "actions/flood")


def test_a_function_can_write_lines_in_nobodys_name_but_its_own(client, daemon: Daemon, make_user):
    """Frames with the id of an activation of somebody else change nothing but a counter."""
    bert = make_user(daemon, "bert", uid=20_002, gid=20_002)
    bert.deploy("victim", "import time\ndef main(args):\n    print('mine')\n    time.sleep(args['s'])\n    return {}\n")
    bert.invoke("victim", {"s": 0})
    client.deploy(
        "forger",
        """def main(args):
    with open("/run/invokerd/log", "wb", buffering=0) as pipe:
        pipe.write(b"%s 0 o 1700000000000000 forged\\n" % args["id"].encode())
    return {}
""",
    )
    running = bert.invoke("victim", {"s": 1.0}, "blocking=false").json["activationId"]
    assert client.invoke("forger", {"id": running}).status == 200
    assert split(logs_of(bert, running)) == [("stdout", "mine")]


@pytest.mark.parametrize("counts", ["9" * 5000 + ",0", "0," + "9" * 5000, "1,-1", ",", "x,y", "\\xb2,\\xb2"])
def test_a_function_that_lies_about_its_lines_in_its_own_answer_hurts_nobody_else(client, counts):
    """It shares the server's process, so it can answer for itself: what is in the answer is not to be trusted."""
    client.deploy("bystander", "def main(args):\n    return {'here': True}\n")
    client.deploy(
        "liar",
        f"""import os, socket
def main(args):
    body = b'{{"lied": true}}'
    for name in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(name))) as connection:
                connection.getpeername()
                head = b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\nX-Invokerd-Logs: {counts}\\r\\n\\r\\n"
                connection.sendall(head % len(body) + body)
        except OSError:
            pass
    return {{}}
""",
    )
    answer = client.invoke("liar")
    assert answer.status in {200, 502}, answer.text
    client.record(answer.json["activationId"])
    seen = client.invoke("bystander")
    assert (seen.status, seen.json["response"]["result"]) == (200, {"here": True})
