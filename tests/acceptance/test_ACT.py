"""Rows ACT, as far as they run code: what an action may be, what it is told, and what its end looks like to the caller."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.docker

MIB = 1024 * 1024
NATIVE = "openwhisk/dockerskeleton"
NODE = "nodejs:20"
#: Of tests/foreign, too: compiling Go's library takes half a minute, once.
GO_CACHE = Path(__file__).parents[2] / ".state/cache/go"
ECHO = "def main(args):\n    return args\n"


def zipped(files: dict[str, str | bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (0o755 if name == "exec" else 0o644) << 16
            archive.writestr(entry, content)
    return buffer.getvalue()


def ended(answer: Any, status: str) -> Any:
    """The result of an activation that ended so; its record says the same as the answer."""
    assert answer.status == (200 if status == "success" else 502), answer.text[:2000]
    response = answer.json["response"]
    assert (response["status"], response["success"]) == (status, status == "success")
    return response["result"]


def texts(client: Any, answer: Any) -> list[str]:
    """What an activation said, without times and streams."""
    lines = client.record(answer.headers["x-openwhisk-activation-id"]).json["logs"]
    return [line.partition(": ")[2] for line in lines]


def test_ACT_01_blocking_gives_the_record_or_the_result_and_not_blocking_the_id(client):
    client.deploy("echo", ECHO)
    record = client.invoke("echo", {"n": 1})
    assert (record.status, record.json["response"]["result"], record.json["logs"]) == (200, {"n": 1}, [])
    result = client.invoke("echo", {"n": 2}, "blocking=true&result=true")
    assert (result.status, result.json) == (200, {"n": 2})
    for query in ("", "result=true", "blocking=false"):
        accepted = client.invoke("echo", {"n": 3}, query)
        assert (accepted.status, list(accepted.json)) == (202, ["activationId"])
        assert client.record(accepted.json["activationId"]).json["response"]["result"] == {"n": 3}


def test_ACT_01_no_body_and_an_empty_object_are_the_same(client):
    client.deploy("echo", ECHO)
    for body in (b"", {}):
        answer = client.ask("POST", "actions/echo?blocking=true&result=true", body, headers={"Content-Type": "application/json"})
        assert (answer.status, answer.json) == (200, {})


@pytest.mark.parametrize("code", ["def main(args):\n    return {}\n", "function main() {}"])
def test_ACT_02_an_empty_result_is_an_empty_object(client, code):
    client.deploy("empty", code, kind=NODE if "function" in code else "python:3")
    assert ended(client.invoke("empty"), "success") == {}


def test_ACT_02_an_array_is_answered_bare_with_and_without_result(client):
    client.deploy("array", 'function main() { return [1, "two", { three: 3 }]; }', kind=NODE)
    for query in ("blocking=true", "blocking=true&result=true"):
        answer = client.invoke("array", {}, query)
        assert (answer.status, answer.json) == (200, [1, "two", {"three": 3}])
        assert client.record(answer.headers["x-openwhisk-activation-id"]).json["response"]["result"] == answer.json


@pytest.mark.parametrize("value", ['"text"', "42", "true"])
def test_ACT_02_a_result_that_is_neither_object_nor_array_is_a_developer_error(client, value):
    client.deploy("scalar", f"function main() {{ return {value}; }}", kind=NODE)
    assert "did not return a dictionary" in ended(client.invoke("scalar"), "action developer error")["error"]


@pytest.mark.parametrize("value", ["text", 42, True, None, False, "", {}, {"deep": [1]}])
def test_ACT_02_whatever_stands_under_error_makes_an_application_error_and_comes_back_as_it_is(client, value):
    client.deploy("fails", "def main(args):\n    return {'error': args['value'], 'dropped': 1}\n")
    answer = client.invoke("fails", {"value": value})
    assert ended(answer, "application error") == {"error": value}
    bare = client.invoke("fails", {"value": value}, "blocking=true&result=true")
    assert (bare.status, bare.json) == (502, {"error": value})


def test_ACT_03_a_rejected_promise_and_a_returned_error_are_application_errors(client):
    code = (
        "const main = ({ how }) => (how === 'reject' ? Promise.reject({ code: 7 }) : { error: 'This error thrown on purpose.' });"
    )
    client.deploy("rejects", code, kind=NODE)
    assert ended(client.invoke("rejects", {"how": "reject"}), "application error") == {"error": {"code": 7}}
    assert ended(client.invoke("rejects", {"how": "return"}), "application error") == {"error": "This error thrown on purpose."}
    client.deploy("rejects", "function main() { return Promise.reject(); }", kind=NODE)
    assert ended(client.invoke("rejects"), "application error") == {"error": {}}


def test_ACT_04_code_that_cannot_be_loaded_is_a_developer_error_that_names_the_mistake(client):
    client.deploy("malformed", "x", kind=NODE)
    answer = client.invoke("malformed")
    assert "ReferenceError" in ended(answer, "action developer error")["error"]
    assert any("ReferenceError: x is not defined" in text for text in texts(client, answer))
    client.deploy("malformed", "def main(args:\n", kind="python:3")
    answer = client.invoke("malformed")
    assert "SyntaxError" in ended(answer, "action developer error")["error"]
    assert any("SyntaxError" in text for text in texts(client, answer))


@pytest.mark.parametrize("kind", [NODE, "python:3"])
def test_ACT_05_an_empty_file_can_be_created_and_its_invocation_says_what_is_missing(client, kind):
    client.deploy("nothing", "", kind=kind)
    assert ended(client.invoke("nothing"), "action developer error") == {"error": "Missing main/no code to execute."}


def test_ACT_06_an_uncaught_exception_is_told(client):
    client.deploy("throws", "function main() { throw new Error('Extraordinary exception'); }", kind=NODE)
    answer = client.invoke("throws")
    expected = {"error": "An error has occurred: Error: Extraordinary exception"}
    assert ended(answer, "action developer error") == expected
    client.deploy(
        "throws", "function main() { return new Promise(() => setTimeout(() => { throw new Error('late'); }, 5)); }", kind=NODE
    )
    assert ended(client.invoke("throws"), "action developer error") == {"error": "An error has occurred: Error: late"}
    client.deploy("raises", "def main(args):\n    raise ValueError('out of cheese')\n")
    answer = client.invoke("raises")
    assert ended(answer, "application error") == {"error": "out of cheese"}
    assert texts(client, answer)[-1] == "ValueError: out of cheese"


def test_ACT_07_a_copy_keeps_code_annotations_limits_and_parameters(client):
    """As `wsk action create --copy` does it: the entity that was read is written under another name."""
    body = {
        "exec": {"kind": "python:3", "code": ECHO},
        "parameters": [{"key": "a", "value": 1}],
        "annotations": [{"key": "mine", "value": {"k": [1]}}],
        "limits": {"memory": 128, "timeout": 5000, "logs": 1},
    }
    original = client.ask("PUT", "actions/original?overwrite=true", body).json
    read = client.ask("GET", "actions/original?code=true").json
    copied = client.ask("PUT", "actions/copy?overwrite=true", read)
    assert copied.status == 200
    for field in ("exec", "parameters", "limits", "annotations"):
        assert copied.json[field] == original[field]
    assert (copied.json["name"], copied.json["version"]) == ("copy", "0.0.1")
    assert ended(client.invoke("copy", {"b": 2}), "success") == {"a": 1, "b": 2}


def test_ACT_08_an_action_made_anew_does_not_run_its_old_code(client):
    for n in range(3):
        client.deploy("again", f"def main(args):\n    return {{'n': {n}}}\n")
        assert ended(client.invoke("again"), "success") == {"n": n}
        if n == 1:
            assert client.ask("DELETE", "actions/again").status == 200


UNICODE = "¿où est 漢字 🙂 ß \u2028 \t|"


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("python:3", "def main(args):\n    print('%s')\n    return {'code': '%s', 'given': args['given']}\n"),
        (NODE, "function main(args) { console.log('%s'); return { code: '%s', given: args.given }; }"),
        (
            "blackbox",
            '#!/bin/sh\nread -r line\necho "%s"\nprintf \'{"code": "%s", %%s\\n\' "${line#?}"\n',
        ),
    ],
)
def test_ACT_10_unicode_survives_in_code_parameters_result_and_logs(client, kind, code):
    text = UNICODE.replace("\t", " ").replace("\u2028", " ")
    client.deploy("unicode", code % (text, text), kind=kind, image=NATIVE if kind == "blackbox" else None)
    answer = client.invoke("unicode", {"given": UNICODE})
    assert ended(answer, "success") == {"code": text, "given": UNICODE}
    assert texts(client, answer) == [text]


def test_ACT_11_a_container_can_neither_ping_nor_reach_anything(client):
    code = """import socket
def attempt(*kind, to=None):
    try:
        with socket.socket(*kind) as s:
            s.settimeout(2)
            if to:
                s.connect(to)
        return 'done'
    except OSError as error:
        return type(error).__name__
def main(args):
    with open('/proc/self/status') as file:
        capabilities = {line.split()[0]: line.split()[1] for line in file if line.startswith('Cap')}
    return {'ping': attempt(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
            'out': attempt(socket.AF_INET, socket.SOCK_STREAM, to=('192.0.2.1', 80)),
            'effective': int(capabilities['CapEff:'], 16), 'bounding': int(capabilities['CapBnd:'], 16)}
"""
    client.deploy("ping", code)
    result = ended(client.invoke("ping"), "success")
    assert result == {"ping": "PermissionError", "out": "OSError", "effective": 0, "bounding": 0}


def test_ACT_12_large_code_runs(client):
    source = f"def main(args):\n    return {{'length': len(TEXT)}}\nTEXT = '{'x' * (8 * MIB)}'\n"
    client.deploy("large", source)
    assert ended(client.invoke("large"), "success") == {"length": 8 * MIB}


def test_ACT_12_zips_run_and_one_without_an_entry_point_is_a_developer_error(client):
    client.deploy(
        "zip", zipped({"package.json": '{"main": "start.js"}', "start.js": "exports.main = () => ({ zip: 1 });"}), kind=NODE
    )
    assert ended(client.invoke("zip"), "success") == {"zip": 1}
    client.deploy("zip", zipped({"start.js": "exports.main = () => ({});"}), kind=NODE)
    said = ended(client.invoke("zip"), "action developer error")["error"]
    assert "Zipped actions must contain either package.json or index.js at the root." in said
    client.deploy("zip", zipped({"start.py": ECHO}))
    assert "failed to generate or locate a binary" in ended(client.invoke("zip"), "action developer error")["error"]


def compiled(source: str, suffix: str, directory: Path) -> bytes:
    """Compile a program that runs anywhere; skips where there is no compiler and none was promised."""
    (directory / f"action{suffix}").write_text(source)
    program = str(directory / "action")
    commands = {
        ".c": ["gcc", "-static", "-o", program, f"{program}.c"],
        ".go": ["go", "build", "-o", program, f"{program}.go"],
        ".rs": ["rustc", "-O", "-C", "target-feature=+crt-static", "-o", program, f"{program}.rs"],
    }
    path = f"{os.environ['PATH']}:/usr/local/go/bin:{Path.home()}/.cargo/bin"
    compiler = shutil.which(commands[suffix][0], path=path)
    if compiler is None:
        if os.environ.get("INVOKERD_TEST_COMPILER") == "1" and suffix != ".rs":
            pytest.fail(f"INVOKERD_TEST_COMPILER=1 promises {commands[suffix][0]}, and it is not there", pytrace=False)
        pytest.skip(f"there is no {commands[suffix][0]} here")
    settings = {
        "PATH": path,
        "GOCACHE": str(GO_CACHE),
        "CGO_ENABLED": "0",
        "GOTOOLCHAIN": "local",
        "GOPROXY": "off",
        "GOFLAGS": "",
    }
    subprocess.run(commands[suffix], check=True, cwd=directory, env={**os.environ, **settings})
    return (directory / "action").read_bytes()


PROGRAMS = {
    ".c": '#include <stdio.h>\nint main(int n, char **words) { printf("from C\\n{\\"got\\": %s}\\n", words[1]); return 0; }\n',
    ".go": 'package main\nimport ("fmt"; "os")\nfunc main() { fmt.Printf("from Go\\n{\\"got\\": %s}\\n", os.Args[1]) }\n',
    ".rs": 'fn main() { println!("from Rust\\n{{\\"got\\": {}}}", std::env::args().nth(1).unwrap()); }\n',
}
LANGUAGES = {".c": "C", ".go": "Go", ".rs": "Rust"}


@pytest.mark.parametrize("suffix", PROGRAMS)
def test_ACT_13_a_native_binary_runs_and_its_log_has_no_sentinels(client, tmp_path, suffix):
    client.deploy("native", compiled(PROGRAMS[suffix], suffix, tmp_path), image=NATIVE)
    for n in range(2):
        answer = client.invoke("native", {"n": n})
        assert ended(answer, "success") == {"got": {"n": n}}
        assert texts(client, answer) == [f"from {LANGUAGES[suffix]}"]


def test_ACT_13_a_script_and_a_zip_with_exec_run(client):
    client.deploy("native", "#!/bin/bash\necho said\necho '{\"plain\": true}'\n", image=NATIVE)
    answer = client.invoke("native")
    assert (ended(answer, "success"), texts(client, answer)) == ({"plain": True}, ["said"])
    client.deploy("native", zipped({"exec": "#!/bin/sh\ncat beside.json\n", "beside.json": '{"zip": true}\n'}), image=NATIVE)
    assert ended(client.invoke("native"), "success") == {"zip": True}
    client.deploy("native", zipped({"other": "nothing to run"}), image=NATIVE)
    assert "failed to generate or locate a binary" in ended(client.invoke("native"), "action developer error")["error"]


def test_ACT_13_without_code_an_image_runs_what_it_brings(client):
    client.deploy("stub", None, image=NATIVE)
    assert "stub action" in ended(client.invoke("stub"), "application error")["error"]


def test_ACT_13_an_image_that_cannot_be_had_is_named(client):
    client.deploy("bogus", None, image="nowhere.invalid/no/such:1")
    said = ended(client.invoke("bogus"), "action developer error")["error"]
    assert "pull container image 'nowhere.invalid/no/such:1'." in said


CONTEXT = (
    "import os\nSTART = dict(os.environ)\ndef main(args):\n"
    "    return {'init': START, 'run': {k: v for k, v in os.environ.items() if k.startswith('__OW_')}}\n"
)


def test_ACT_14_the_context_is_told_with_the_key_and_without(client):
    for gives in (True, False):
        body = {"exec": {"kind": "python:3", "code": CONTEXT}, "annotations": [{"key": "provide-api-key", "value": gives}]}
        assert client.ask("PUT", "actions/context?overwrite=true", body).status == 200
        answer = client.invoke("context", headers={"X-Request-ID": "mine"})
        seen = ended(answer, "success")
        expected = {
            "__OW_NAMESPACE": "anna",
            "__OW_ACTION_NAME": "/anna/context",
            "__OW_ACTION_VERSION": answer.json["version"],
            "__OW_ACTIVATION_ID": answer.json["activationId"],
            "__OW_TRANSACTION_ID": "mine",
            "__OW_API_HOST": "http://127.0.0.1:3233",
        }
        for moment in ("init", "run"):
            assert expected.items() <= seen[moment].items()
            assert seen[moment].get("__OW_API_KEY") == (client.key if gives else None)


def test_ACT_14_init_parameters_are_strings_of_the_environment_and_no_arguments(client):
    values = {"TEXT": "as is", "NUMBER": 4.5, "TRUE": True, "NOTHING": None, "LIST": [1, "a"], "EMPTY": ""}
    body = {
        "exec": {"kind": "python:3", "code": "import os\ndef main(args):\n    return {'env': dict(os.environ), 'args': args}\n"},
        "parameters": [{"key": key, "value": value, "init": True} for key, value in values.items()]
        + [{"key": "plain", "value": 1}],
    }
    assert client.ask("PUT", "actions/init-parameters?overwrite=true", body).status == 200
    result = ended(client.invoke("init-parameters", {"more": 2}), "success")
    assert result["args"] == {"plain": 1, "more": 2}
    expected = {"TEXT": "as is", "NUMBER": "4.5", "TRUE": "true", "NOTHING": "", "LIST": '[1,"a"]', "EMPTY": ""}
    assert {name: result["env"].get(name) for name in values} == expected


def test_ACT_15_the_deadline_lies_ahead_by_no_more_than_the_time_limit(client):
    code = "function main() { const left = process.env.__OW_DEADLINE - Date.now(); return { left }; }"
    client.deploy("deadline", code, kind=NODE, timeout=20_000)
    for _ in range(2):
        assert 0 < ended(client.invoke("deadline"), "success")["left"] <= 20_000


def test_ACT_16_over_its_time_an_action_is_ended_and_the_next_call_finds_a_fresh_container(client):
    client.deploy(
        "sleeps", "import os, time\ndef main(args):\n    time.sleep(args['s'])\n    return {'pid': os.getpid()}\n", timeout=1000
    )
    answer = client.invoke("sleeps", {"s": 60})
    said = ended(answer, "action developer error")["error"]
    assert said == "The action exceeded its time limits of 1000 milliseconds."
    assert answer.annotations["timeout"] is True
    assert answer.json["duration"] >= 1000
    after = client.invoke("sleeps", {"s": 0})
    ended(after, "success")
    assert after.annotations["timeout"] is False
    assert after.annotations["container"] != answer.annotations["container"]
    assert "initTime" in after.annotations


@pytest.mark.parametrize(
    ("code", "timeout", "expected"),
    [
        ("import time\ntime.sleep(60)\n", 1000, "exceeded its time limits of 1000 milliseconds during initialization."),
        ("import os\nos._exit(1)\n", 30_000, "did not initialize and exited unexpectedly"),
        ("import os\ndef main(args):\n    os._exit(1)\n", 30_000, "did not produce a valid response and exited unexpectedly."),
        ("import sys\ndef main(args):\n    sys.exit(1)\n", 30_000, "command exited"),
    ],
    ids=["init hangs", "init exits", "run exits", "run calls sys.exit"],
)  # fmt: skip
def test_ACT_16_hanging_and_exiting_have_their_sentences(client, code, timeout, expected):
    client.deploy("ends", code, timeout=timeout)
    assert expected in ended(client.invoke("ends"), "action developer error")["error"]


@pytest.mark.parametrize(("code", "expected"), [
    ("process.exit(1)", "did not initialize and exited unexpectedly"),
    ("function main() { process.exit(0); }", "did not produce a valid response and exited unexpectedly."),
])  # fmt: skip
def test_ACT_16_node_may_exit_as_well(client, code, expected):
    client.deploy("ends", code, kind=NODE)
    assert expected in ended(client.invoke("ends"), "action developer error")["error"]


def test_ACT_21_every_invocation_that_has_an_activation_names_it(client):
    client.deploy("echo", ECHO)
    client.deploy("fails", "def main(args):\n    return {'error': 1}\n")
    client.deploy("broken", "def main(args:\n")
    answers = [
        client.invoke("echo"),
        client.invoke("echo", {}, "blocking=true&result=true"),
        client.invoke("echo", {}, ""),
        client.invoke("fails"),
        client.invoke("fails", {}, "blocking=true&result=true"),
        client.invoke("broken"),
    ]
    assert [answer.status for answer in answers] == [200, 200, 202, 502, 502, 502]
    names = [answer.headers["x-openwhisk-activation-id"] for answer in answers]
    assert len(set(names)) == len(names)
    for name in names:
        assert client.record(name).json["activationId"] == name
    refused = client.invoke("nobody")
    assert (refused.status, "x-openwhisk-activation-id" in refused.headers) == (404, False)


def test_ACT_23_a_zip_reads_back_as_it_was_sent_and_is_told_to_be_binary(client):
    sent = zipped({"__main__.py": ECHO})
    client.deploy("zip", sent)
    got = client.ask("GET", "actions/zip").json["exec"]
    assert (got["binary"], base64.b64decode(got["code"])) == (True, sent)
    listed = [each for each in client.ask("GET", "actions?limit=0").json if each["name"] == "zip"]
    assert listed[0]["exec"] == {"binary": True}
    assert "code" not in client.ask("GET", "actions/zip?code=false").json["exec"]
    client.deploy("zip", ECHO)
    got = client.ask("GET", "actions/zip").json["exec"]
    assert (got["binary"], got["code"]) == (False, ECHO)


def test_ACT_02_a_result_of_an_action_that_prints_json_keeps_its_numbers(client):
    numbers = '{"large": 12345678901234567890, "small": 1e-400, "zero": -0.0}'
    client.deploy("numbers", f"#!/bin/sh\necho '{numbers}'\n", image=NATIVE)
    answer = client.invoke("numbers", {}, "blocking=true&result=true")
    assert (answer.status, json.loads(answer.text, parse_float=str)) == (200, json.loads(numbers, parse_float=str))
