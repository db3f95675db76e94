"""The black-box runtime, beyond the common contract."""

import base64
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

A = "a" * 32
SENTENCE = "The action did not return a dictionary or array."
NO_BINARY = "The action failed to generate or locate a binary. See logs for details."


@pytest.fixture
def blackbox(start):
    return start("blackbox")


def descriptors_of(process):
    return len(list(Path(f"/proc/{process.process.pid}/fd").iterdir()))


def load(process, code, **value):
    answer = process.init(code, env={"__OW_ACTIVATION_ID": A}, **value)
    assert answer.status == 200, answer
    return process


def test_json_comes_on_stdin_and_as_the_first_argument(blackbox):
    load(blackbox, '#!/bin/sh\nread -r line\n[ "$line" = "$1" ] && printf \'{"same": %s}\' "$1"')
    assert blackbox.run({"n": [1, 2]}).json == {"same": {"n": [1, 2]}}


@pytest.mark.parametrize(("length", "arguments"), [(131071, 1), (131072, 0)])
def test_long_json_comes_on_stdin_alone(blackbox, length, arguments):
    load(blackbox, '#!/bin/sh\nread -r line\necho "{\\"arguments\\": $#, \\"length\\": ${#line}}"')
    filling = length - len('{"x": ""}')
    assert blackbox.run({"x": "y" * filling}).json == {"arguments": arguments, "length": length}


def test_zip_with_a_program_and_what_it_needs(blackbox, zipped):
    code = zipped(
        {"exec": '#!/bin/sh\n./lib/tool "$(cat data)"', "lib/tool": '#!/bin/sh\necho "{\\"tool\\": \\"$1\\"}"', "data": "text"},
        modes={"lib/tool": 0o755},
    )
    load(blackbox, code, binary=True)
    assert blackbox.run().json == {"tool": "text"}


def test_directory_that_is_already_unpacked(blackbox, tmp_path):
    code = tmp_path / "code"
    code.mkdir()
    (code / "exec").write_text('#!/bin/sh\necho "{\\"cwd\\": \\"$PWD\\"}"\n')
    (code / "exec").chmod(0o555)
    assert blackbox.init(code_path=str(code), binary=True).status == 200
    assert blackbox.run().json == {"cwd": str(code)}


@pytest.mark.parametrize("linking", ["-static", "-rdynamic"])
def test_binary_in_base64(blackbox, tmp_path, linking):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler here")
    source = tmp_path / "program.c"
    source.write_text('#include <stdio.h>\nint main(void) { puts("log"); puts("{\\"c\\": true}"); return 0; }\n')
    subprocess.run([compiler, linking, "-o", tmp_path / "program", source], check=True)
    load(blackbox, base64.b64encode((tmp_path / "program").read_bytes()).decode(), binary=True)
    answer = blackbox.run()
    assert answer.json == {"c": True}
    assert blackbox.logs(answer) == ["log"]


def test_script_without_a_shebang_is_a_shell_script(blackbox):
    assert load(blackbox, "echo '{\"shell\": true}'\n").run().json == {"shell": True}


def test_code_of_36_megabytes(blackbox):
    script = b"#!/bin/sh\necho '{\"large\": true}'\nexit\n"
    code = base64.b64encode(script + os.urandom(1024) + bytes(36 * 1024 * 1024 - len(script) - 1024)).decode()
    assert load(blackbox, code, binary=True).run().json == {"large": True}


def test_zip_without_exec_is_told(blackbox, zipped):
    answer = blackbox.init(zipped({"program": "x"}), binary=True, env={"__OW_ACTIVATION_ID": A})
    assert (answer.status, answer.json) == (502, {"error": NO_BINARY})
    assert "'exec'" in blackbox.logs(answer, "e", A)[0]


def test_without_code_and_without_a_baked_program(blackbox):
    answer = blackbox.init()
    if not Path("/action/exec").exists():
        assert (answer.status, answer.json) == (502, {"error": NO_BINARY})


@pytest.mark.parametrize(
    ("script", "last"),
    [
        ("true", None),
        ("echo text", "text"),
        ("echo '{\"ok\": true}'; echo more", "more"),
        ("echo '{\"cut\": '", '{"cut":'),
        ("echo '\"s\"'", '"s"'),
    ],
)
def test_last_line_that_is_no_object_is_a_502_and_goes_to_the_log(blackbox, script, last):
    load(blackbox, f"#!/bin/sh\n{script}\n")
    answer = blackbox.run()
    assert (answer.status, answer.json) == (502, {"error": SENTENCE})
    assert (blackbox.logs(answer) or [None])[-1] == last


def test_blank_lines_after_the_result_do_not_matter_and_those_before_are_log(blackbox):
    load(blackbox, "#!/bin/sh\nprintf 'a\\n\\nb\\n  {\"ok\": 1}  \\n\\n  \\n'")
    answer = blackbox.run()
    assert answer.json == {"ok": 1}
    assert blackbox.logs(answer) == ["a", "", "b"]


def test_exit_code_and_signal_of_a_program_without_a_result_are_told(blackbox):
    load(blackbox, "#!/bin/sh\nread -r x\ncase $x in *exit*) exit 3;; esac\nkill -SEGV $$")
    assert "exit code 3" in blackbox.logs(blackbox.run({"exit": 1}), "e")[-1]
    assert f"signal {int(signal.SIGSEGV)}" in blackbox.logs(blackbox.run(), "e")[-1]


def test_exit_code_of_a_program_with_a_result_is_ignored_as_upstream_does(blackbox):
    load(blackbox, '#!/bin/sh\necho \'{"error": "mine"}\'\nexit 1')
    answer = blackbox.run()
    assert (answer.status, answer.json) == (200, {"error": "mine"})


def test_interpreter_that_is_missing_is_told(blackbox):
    load(blackbox, "#!/no/such/interpreter\n")
    answer = blackbox.run()
    assert answer.status == 502
    assert answer.json["error"].startswith(SENTENCE)
    assert "cannot be started" in blackbox.logs(answer, "e")[0]
    before = descriptors_of(blackbox)
    for _ in range(5):
        blackbox.run()
    assert descriptors_of(blackbox) == before


def test_log_lines_arrive_while_the_program_runs(blackbox, tmp_path):
    os.mkfifo(tmp_path / "go")
    load(blackbox, f"#!/bin/sh\necho first\necho second\ncat {tmp_path}/go\necho '{{}}'")
    blackbox.client.send("/run", {"value": {}, "activation_id": A})
    assert blackbox.pipe.wait(A, 1)[0].text == b"first"
    (tmp_path / "go").write_text("")
    assert blackbox.client.read().json == {}
    assert blackbox.pipe.lines(A, 2) == ["first", "second"]


def test_a_line_that_cannot_be_the_result_is_not_held_back_for_the_end(blackbox, tmp_path):
    """Else a program that is killed at its time limit would lose the line that tells how far it came."""
    os.mkfifo(tmp_path / "go")
    load(blackbox, f"#!/bin/sh\necho '{{\"not\": \"yet\"}}'\necho last\necho\ncat {tmp_path}/go\necho '{{}}'")
    blackbox.client.send("/run", {"value": {}, "activation_id": A})
    assert [frame.text for frame in blackbox.pipe.wait(A, 2)] == [b'{"not": "yet"}', b"last"]
    (tmp_path / "go").write_text("")
    assert blackbox.client.read().json == {}
    assert blackbox.pipe.lines(A, 3) == ['{"not": "yet"}', "last", ""]


@pytest.mark.parametrize(
    ("said", "held"), [("one\\ntw", b"tw"), ('one\\n{"n": 1}\\n\\n', b'{"n": 1}'), ('one\\n{"n": ', b'{"n": '), ('{"n": 1}\\nye', b"ye")]
)
def test_what_may_not_be_the_last_line_yet_is_told_as_it_is_so_far(blackbox, tmp_path, said, held):
    """Else a program that is killed at its time limit would lose it."""
    os.mkfifo(tmp_path / "go")
    load(blackbox, f"#!/bin/sh\nprintf '{said}'\nprintf 'also' >&2\ncat {tmp_path}/go\nprintf '\\n{{}}'")
    blackbox.client.send("/run", {"value": {}, "activation_id": A})
    blackbox.pipe.wait_unfinished(A, held)
    blackbox.pipe.wait_unfinished(A, b"also", "e")
    (tmp_path / "go").write_text("")
    answer = blackbox.client.read()
    assert answer.json == {}
    lines = blackbox.pipe.lines(A, answer.frames[0])
    assert lines == [line for line in said.split("\\n") if line] + [""] * said.endswith("n") * 2


def test_program_that_does_not_read_its_input_does_not_hang_it(blackbox):
    load(blackbox, "#!/bin/sh\nexec <&-\necho '{\"deaf\": true}'")
    assert blackbox.run({"x": "y" * 900_000}).json == {"deaf": True}


def test_program_that_reads_late_and_writes_much_does_not_hang_it(blackbox):
    load(blackbox, "#!/usr/bin/env python3\nimport sys\nprint('z' * 300_000)\nprint('{\"n\": %d}' % len(sys.stdin.read()))")
    assert blackbox.run({"x": "y" * 900_000}).json["n"] > 900_000


def test_process_left_in_the_background_is_not_waited_for_and_its_lines_are_kept(blackbox, tmp_path):
    os.mkfifo(tmp_path / "go")
    load(blackbox, f"#!/bin/sh\n(cat {tmp_path}/go; echo late) &\necho '{{\"done\": true}}'")
    answer = blackbox.run(activation=A)  # before the child can end: it waits for what is written below
    assert (answer.json, answer.frames) == ({"done": True}, (0, 0))
    (tmp_path / "go").write_text("")
    assert blackbox.pipe.wait(A, 1)[0].text == b"late"


def test_program_that_closes_its_output_early_is_still_waited_for(blackbox, tmp_path):
    load(blackbox, f"#!/bin/sh\necho '{{\"ok\": 1}}'\nexec >&-\nsleep 0.2\ntouch {tmp_path}/ended")
    assert blackbox.run().json == {"ok": 1}
    assert (tmp_path / "ended").exists()


def test_broken_pipe_ends_a_program_as_in_a_shell(blackbox):
    load(blackbox, '#!/usr/bin/env bash\nset -o pipefail\nyes | head -1 >/dev/null\necho "{\\"status\\": $?}"')
    assert blackbox.run().json == {"status": 128 + signal.SIGPIPE}


def test_hundred_runs_leave_no_descriptors_and_no_zombies(blackbox):
    load(blackbox, "#!/bin/sh\necho '{}'")
    blackbox.run()
    before = descriptors_of(blackbox)
    for _ in range(100):
        blackbox.run()
    assert descriptors_of(blackbox) == before
    assert Path(f"/proc/{blackbox.process.pid}/task/{blackbox.process.pid}/children").read_text() == ""


@pytest.mark.parametrize("said", ["echo done", "true", "echo '{}'; echo 7"])
def test_log_tells_that_the_last_line_is_no_result(blackbox, said):
    assert blackbox.init(f"#!/bin/sh\n{said}\n").status == 200
    answer = blackbox.run()
    assert (answer.status, answer.json) == (502, {"error": "The action did not return a dictionary or array."})
    assert blackbox.logs(answer, "e") == ["The action's program gave no JSON object or array as its last line of output."]
