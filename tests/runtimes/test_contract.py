"""What every runtime of ours must do: OpenWhisk's container contract and its own conformance list, and the framed log."""

import json
import time

import pytest

SENTINEL = "XXX_THE_END_OF_A_WHISK_ACTIVATION_XXX"
A, B = "a" * 32, "b" * 32
SENTENCE = "did not return a dictionary or array"

#: The same actions in each language.
ACTIONS = {
    "python": {
        "echo": "def main(args):\n    print('log: ä€😀')\n    return args",
        "env": "import os\ndef main(args):\n    return {'env': dict(os.environ)}",
        "scalar": "def main(args):\n    return 42",
        "list": "def main(args):\n    return [1, 'ä', {}]",
        "print": "def main(args):\n    for i in range(args['n']):\n        print('line', i)\n    return {}",
        "write": (
            "import sys\ndef main(args):\n    sys.stdout.write(args['text'])\n    sys.stderr.write('complaint')\n    return {}"
        ),
        "broken": "def main(args:\n",
        "quiet": "def main(args):\n    return {'n': args.get('n')}",
    },
    "nodejs": {
        "echo": "function main(args) { console.log('log: ä€😀'); return args; }",
        "env": "const main = () => ({ env: process.env });",
        "scalar": "function main() { return 42; }",
        "list": "exports.main = async () => [1, 'ä', {}];",
        "print": "function main(args) { for (let i = 0; i < args.n; i++) console.log('line', i); return {}; }",
        "write": "function main(args) { process.stdout.write(args.text); process.stderr.write('complaint'); }",
        "broken": "function main(args {",
        "quiet": "function main({ n }) { return { n }; }",
    },
    "blackbox": {
        "echo": "#!/bin/sh\necho 'log: ä€😀'\ncat",
        "env": "#!/usr/bin/env python3\nimport json, os\nprint(json.dumps({'env': dict(os.environ)}))",
        "scalar": "#!/bin/sh\necho 42",
        "list": "#!/bin/sh\necho '[1, \"ä\", {}]'",
        "print": (
            "#!/usr/bin/env python3\nimport json\nn = json.loads(input())['n']\n"
            "print('\\n'.join(f'line {i}' for i in range(n)))\nprint('{}')"
        ),
        "write": (
            "#!/usr/bin/env python3\nimport json, sys\ntext = json.loads(input())['text']\n"
            "print(text.removesuffix('\\n'))\nsys.stderr.write('complaint')\nprint('{}')"
        ),
        "quiet": "#!/bin/sh\nread -r line\nprintf '%s\\n' \"$line\"",
    },
}
ALL = pytest.mark.parametrize("kind", ["python", "nodejs", "blackbox"])
COMPILED = pytest.mark.parametrize("kind", ["python", "nodejs"])


@pytest.fixture
def started(start):
    """Start a runtime and initialise it with one of the actions."""

    def started(kind, action, **options):
        process = start(kind, **options)
        answer = process.init(ACTIONS[kind][action], env={"__OW_ACTIVATION_ID": A})
        assert answer.status == 200, answer
        return process

    return started


@ALL
def test_get_answers_200_before_and_after_init_and_leaves_no_log(start, kind):
    process = start(kind)
    assert process.client.get("/").status == 200
    assert process.init(ACTIONS[kind]["quiet"]).status == 200
    assert process.client.get("/").status == 200
    answer = process.run({"n": 1})
    assert (answer.json, answer.frames) == ({"n": 1}, (0, 0))


@COMPILED
@pytest.mark.parametrize("value", [{}, {"code": ""}, {"code": "x", "main": ""}])
def test_init_without_code_or_main_is_refused_with_the_sentence(start, kind, value):
    answer = start(kind).client.post("/init", {"value": {"name": "n", "main": "main", "binary": False, **value}})
    if value.get("main") == "" and kind == "python":
        assert answer.status == 502  # python falls back to the name main
    else:
        assert (answer.status, answer.json) == (403, {"error": "Missing main/no code to execute."})


@ALL
def test_second_init_is_refused(started, kind):
    answer = started(kind, "quiet").init(ACTIONS[kind]["quiet"])
    assert (answer.status, answer.json) == (403, {"error": "Cannot initialize the action more than once."})


@COMPILED
def test_broken_code_is_a_502_whose_trace_is_logged_and_init_may_be_tried_again(start, kind):
    process = start(kind)
    answer = process.init(ACTIONS[kind]["broken"], env={"__OW_ACTIVATION_ID": A})
    assert answer.status == 502
    assert "SyntaxError" in answer.json["error"]
    assert any("SyntaxError" in line for line in process.logs(answer, "e", A))
    assert process.init(ACTIONS[kind]["quiet"]).status == 200


@ALL
@pytest.mark.parametrize(
    "value",
    [{"a": "ä€😀"}, {"n": 1.5, "deep": {"x": [1, None, True, {"y": "z"}]}}, {}, ["an", {"array": 1}], {"quotes": "\"'\\ \n\t"}],
    ids=lambda value: json.dumps(value)[:12],
)
def test_argument_comes_back_as_it_went(started, kind, value):
    process = started(kind, "echo")
    answer = process.run(value)
    assert (answer.status, answer.json) == (200, value)
    assert process.logs(answer) == ["log: ä€😀"]


@ALL
def test_argument_of_a_megabyte(started, kind):
    value = {"text": "x" * 1_000_000}
    assert started(kind, "echo").run(value).json == value


@ALL
def test_environment_of_init_and_of_each_run_reaches_the_action(start, kind):
    process = start(kind)
    process.init(ACTIONS[kind]["env"], env={"GREETING": "ä=1", "EMPTY": "", "__OW_ACTIVATION_ID": A})
    first = process.run(activation=A, namespace="guest", deadline="1").json["env"]
    second = process.run(activation=B, namespace="guest", deadline="2").json["env"]
    assert (first["GREETING"], first["EMPTY"], first["__OW_NAMESPACE"]) == ("ä=1", "", "guest")
    assert (first["__OW_ACTIVATION_ID"], second["__OW_ACTIVATION_ID"]) == (A, B)
    assert (first["__OW_DEADLINE"], second["__OW_DEADLINE"]) == ("1", "2")


@ALL
def test_scalar_result_is_a_502_with_the_sentence(started, kind):
    answer = started(kind, "scalar").run()
    assert answer.status == 502
    assert SENTENCE in answer.json["error"]


@ALL
def test_array_result(started, kind):
    answer = started(kind, "list").run()
    assert (answer.status, answer.json) == (200, [1, "ä", {}])


@ALL
def test_argument_that_is_no_object_is_refused(started, kind):
    assert started(kind, "quiet").client.post("/run", {"value": 7}).status in {403, 404}


@ALL
@pytest.mark.parametrize("body", [b"{", b'{"value": "\xff"}', b"[1]", b"7"])
def test_rubbish_is_refused_and_the_next_call_works(started, kind, body):
    process = started(kind, "quiet")
    assert process.client.post("/run", body).status in {400, 403, 404}
    assert process.run({"n": 3}).json == {"n": 3}


@ALL
def test_an_argument_nested_too_deeply_is_refused_or_taken_and_the_next_call_works(started, kind):
    process = started(kind, "quiet")
    answer = process.client.post("/run", b'{"value":{"deep":' + b"[" * 100_000 + b"]" * 100_000 + b"}}")
    assert answer.status in {200, 400}, answer
    assert process.run({"n": 3}).json == {"n": 3}


@ALL
def test_one_connection_serves_many_calls_however_the_bytes_fall(started, kind):
    process = started(kind, "quiet")
    body = b'{"value":{"n":5},"activation_id":"%b"}' % A.encode()
    request = b"POST /run HTTP/1.1\r\nHost: a\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    for cut in range(1, len(request), 7):
        process.client.socket.sendall(request[:cut])
        process.client.socket.sendall(request[cut:])
        assert process.client.read().json == {"n": 5}
    process.client.socket.sendall(request * 3)  # pipelined
    assert [process.client.read().json for _ in range(3)] == [{"n": 5}] * 3


@ALL
def test_several_connections_are_served_in_turn(started, kind):
    process = started(kind, "quiet")
    others = [process.connect() for _ in range(3)]
    for _ in range(3):
        for number, client in enumerate(others):
            assert client.post("/run", {"value": {"n": number}}).json == {"n": number}
    assert process.run({"n": 9}).json == {"n": 9}


@ALL
def test_connection_close_is_honoured(started, kind):
    process = started(kind, "quiet")
    client = process.connect()
    client.socket.sendall(b"POST /run HTTP/1.1\r\nConnection: close\r\nContent-Length: 12\r\n\r\n" + b'{"value":{}}')
    assert client.read().status == 200
    assert client.socket.recv(1) == b""


@ALL
def test_frames_are_numbered_per_activation_and_counted_in_the_answer(started, kind):
    process = started(kind, "print")
    for activation, count in ((A, 3), (B, 2)):
        before = time.time_ns() // 1000
        answer = process.run({"n": count}, activation=activation)
        assert answer.frames == (count, 0)
        frames = process.pipe.wait(activation, count)
        assert [(frame.seq, frame.stream, frame.text) for frame in frames] == [
            (number, "o", b"line %d" % number) for number in range(count)
        ]
        assert all(before <= frame.time_us <= time.time_ns() // 1000 for frame in frames)
    assert not process.pipe.rejected


@COMPILED
def test_lines_of_init_count_together_with_those_of_the_run_of_the_same_activation(start, kind):
    process = start(kind)
    code = {"python": "print('loading')\n", "nodejs": "console.log('loading');\n"}[kind] + ACTIONS[kind]["print"]
    process.init(code, env={"__OW_ACTIVATION_ID": A})
    answer = process.run({"n": 1}, activation=A)
    assert answer.frames == (2, 0)
    assert process.logs(answer, activation=A) == ["loading", "line 0"]


@ALL
@pytest.mark.parametrize(
    "text",
    ["no newline", "two\nlines", "x" * 3900, "x" * 3901 + "\nnext", "ä" * 5000, "€" * 5000 + "\n", "😀" * 9999, "\n\nblank"],
    ids=["partial", "lines", "3900", "3901", "two-byte", "three-byte", "four-byte", "blank"],
)
def test_text_arrives_whole_on_both_streams(started, kind, text):
    process = started(kind, "write")
    answer = process.run({"text": text})
    frames = process.pipe.wait(f"{process.runs:032x}", answer.frames[0])
    assert all(frame.text.decode() or True for frame in frames)  # each is of whole characters
    assert process.logs(answer) == text.splitlines()
    assert process.logs(answer, "e") == ["complaint"]
    assert not process.pipe.rejected


@ALL
def test_hundred_thousand_lines_of_one_call_are_all_there_or_counted(started, kind):
    process = started(kind, "print")
    answer = process.run({"n": 100_000})
    written, dropped = answer.frames
    assert written + dropped == 100_000
    frames = process.pipe.wait(f"{process.runs:032x}", written)
    assert [frame.seq for frame in frames] == list(range(written))
    numbers = [int(frame.text.removeprefix(b"line ")) for frame in frames]
    assert numbers == sorted(set(numbers))


@ALL
def test_reader_that_never_reads_costs_lines_but_no_result(started, kind):
    process = started(kind, "print", reader=False)
    answer = process.run({"n": 50_000})
    written, dropped = answer.frames
    assert answer.status == 200
    assert written + dropped == 50_000
    assert dropped > 0
    process.pipe.start()
    assert len(process.pipe.wait(f"{process.runs:032x}", written)) == written
    assert process.run({"n": 1}).frames == (1, 0)


@ALL
def test_without_a_pipe_sentinels_end_each_run_on_both_streams_and_none_a_good_init(started, kind):
    process = started(kind, "print", piped=False)
    assert SENTINEL not in process.out.read_text()
    answer = process.run({"n": 1})
    assert "x-invokerd-logs" not in answer.headers
    process.run({"n": 2})
    assert process.out.read_text() == f"line 0\n{SENTINEL}\nline 0\nline 1\n{SENTINEL}\n"
    assert process.err.read_text() == f"{SENTINEL}\n{SENTINEL}\n"


@COMPILED
def test_without_a_pipe_a_failed_init_ends_with_sentinels(start, kind):
    process = start(kind, piped=False)
    process.init(ACTIONS[kind]["broken"])
    assert process.out.read_text() == f"{SENTINEL}\n"
    assert process.err.read_text().endswith(f"{SENTINEL}\n")


@ALL
def test_sigterm_ends_it_at_once(started, kind):
    process = started(kind, "quiet")
    process.process.terminate()
    assert process.process.wait(timeout=30) == -15


@COMPILED
def test_another_entry_point(start, kind):
    process = start(kind)
    code = {"python": "def other(args):\n    return {'other': 1}", "nodejs": "const other = () => ({ other: 1 });"}[kind]
    assert process.init(code, main="other").status == 200
    assert process.run().json == {"other": 1}


@COMPILED
def test_missing_entry_point_is_told(start, kind):
    answer = start(kind).init("x = 1", main="nowhere")
    assert answer.status == 502
    assert "nowhere" in answer.json["error"]


@ALL
def test_damaged_archive_is_told(start, kind):
    answer = start(kind).init("UEsDBAoAAAAA", binary=True)
    assert answer.status == 502
    assert answer.json["error"]
