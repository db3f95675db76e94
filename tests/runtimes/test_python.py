"""The runtime of kind python:3, beyond the common contract."""

import base64
import io
import os
import tarfile
import textwrap

import pytest

A = "a" * 32


@pytest.fixture
def python(start):
    return start("python")


def load(process, code, **value):
    answer = process.init(textwrap.dedent(code), env={"__OW_ACTIVATION_ID": A}, **value)
    assert answer.status == 200, answer
    return process


def test_exception_is_an_application_error_whose_trace_shows_the_users_lines(python):
    load(python, "def main(args):\n    raise ValueError('extraordinary: ' + args['x'])\n")
    answer = python.run({"x": "ä"})
    assert (answer.status, answer.json) == (200, {"error": "extraordinary: ä"})
    trace = python.logs(answer, "e")
    assert trace[0] == "Traceback (most recent call last):"
    assert "raise ValueError('extraordinary: ' + args['x'])" in "\n".join(trace)
    assert not any("invokerd" in line for line in trace)


def test_message_of_an_error_is_the_result_and_its_type_and_line_are_in_the_log(python):
    load(python, "def main(args):\n    return lookup(args)\n\ndef lookup(args):\n    return args['missing']\n")
    answer = python.run()
    assert (answer.status, answer.json) == (200, {"error": "'missing'"})
    log = python.logs(answer, "e")
    assert '  File "exec__.py", line 5, in lookup' in log
    assert log[-1] == "KeyError: 'missing'"


@pytest.mark.parametrize("zip_it", [False, True])
def test_log_shows_the_line_of_an_error_at_init(python, zipped, zip_it):
    code = "import os\n\nos.environ['NOT_THERE']\n\ndef main(args):\n    return {}\n"
    answer = python.init(zipped({"__main__.py": code}) if zip_it else code, binary=zip_it, env={"__OW_ACTIVATION_ID": A})
    assert answer.status == 502
    log = python.logs(answer, "e", A)
    assert log[0] == "Traceback (most recent call last):"
    assert log[1].endswith(('__main__.py", line 3, in <module>', '"exec__.py", line 3, in <module>')), log
    assert log[-1] == "KeyError: 'NOT_THERE'"


def test_code_without_its_entry_point_says_so_in_the_log(python):
    answer = python.init("def other(args): ...", env={"__OW_ACTIVATION_ID": A})
    assert answer.status == 502
    assert python.logs(answer, "e", A) == ["The code defines no function 'main', which is to be the action's entry point."]


def test_exit_is_a_failed_command_not_a_result_and_its_log_survives(python):
    load(python, "import sys\ndef main(args):\n    print('last words')\n    sys.exit(3)\n")
    answer = python.run()
    assert answer.status == 400
    assert answer.json["error"].startswith("command exited")
    assert python.logs(answer) == ["last words"]


@pytest.mark.parametrize("result", ["None", "'text'", "float('nan')", "{'n': float('inf')}", "{'o': object()}", "{1: {2, 3}}"])
def test_what_cannot_be_a_json_object_is_a_502(python, result):
    load(python, f"def main(args):\n    return {result}\n")
    answer = python.run()
    assert answer.status == 502
    assert answer.json["error"].startswith("The action did not return a dictionary or array.")


def test_tuple_is_an_array_and_a_lone_surrogate_is_escaped(python):
    load(python, "def main(args):\n    return (1, '\\ud800')\n")
    assert python.run().body == b'[1, "\\ud800"]'


def test_output_of_children_c_libraries_and_plain_descriptors_is_captured(python):
    load(
        python,
        """
        import ctypes, os, subprocess, sys
        def main(args):
            print("python", flush=True)
            subprocess.run(["sh", "-c", "echo child; echo complaint >&2"])
            os.write(1, b"descriptor\\n")
            ctypes.CDLL(None).puts(b"libc")
            sys.__stdout__.buffer.write(b"bytes \\xff\\n")
            return {}
        """,
    )
    answer = python.run()
    frames = python.pipe.wait(f"{python.runs:032x}", answer.frames[0])
    lines = [frame.text for frame in frames if frame.stream == "o"]
    assert lines[:3] == [b"python", b"child", b"descriptor"]
    assert sorted(lines[3:]) == [b"bytes \xff", b"libc"]  # both were kept in buffers to the end
    assert python.logs(answer, "e")[-1] == "complaint"


def test_streams_that_the_action_closed_do_no_harm(python):
    load(python, "import sys\ndef main(args):\n    sys.stdout = None\n    sys.stderr.close()\n    return {}\n")
    assert [python.run().status for _ in range(2)] == [200, 200]


def test_thread_that_prints_after_the_answer_speaks_for_the_last_activation(python):
    load(
        python,
        """
        import threading
        go = threading.Event()
        def late():
            go.wait()
            print("late")
        def main(args):
            if args:
                go.set()
            else:
                threading.Thread(target=late, daemon=True).start()
            return {}
        """,
    )
    python.run()
    answer = python.run({"go": 1}, activation="b" * 32)
    assert [frame.text for frame in python.pipe.wait("b" * 32, 1)] == [b"late"]
    assert answer.status == 200


def test_text_left_in_a_pipe_by_a_background_child_belongs_to_the_activation_that_left_it(python):
    load(
        python,
        """
        import subprocess
        def main(args):
            if args:
                child.stdin.close()
                child.wait()
            else:
                globals()["child"] = subprocess.Popen(["sh", "-c", "read x; printf unfinished"], stdin=subprocess.PIPE)
            return {}
        """,
    )
    python.run()
    answer = python.run({"go": 1})
    assert python.logs(answer) == ["unfinished"]


@pytest.mark.parametrize("how", ["print('so f\u00e4r', end='', flush=True)", "subprocess.run(['printf', 'so f\u00e4r'])"])
def test_a_line_whose_end_does_not_come_is_told_as_it_is_so_far(python, tmp_path, how):
    """A function that is killed has said it."""
    os.mkfifo(tmp_path / "go")
    code = f"import subprocess\ndef main(args):\n    {how}\n    open('{tmp_path}/go').read()\n    print(' and on')\n    return {{}}\n"
    load(python, code)
    python.client.send("/run", {"value": {}, "activation_id": "a" * 32})
    python.pipe.wait_unfinished("a" * 32, "so fär".encode())
    (tmp_path / "go").write_text("")
    answer = python.client.read()
    assert answer.frames == (1, 0)
    assert python.logs(answer, activation="a" * 32) == ["so fär and on"]


def test_forked_child_that_returns_does_not_answer_too(python):
    load(
        python,
        """
        import os
        def main(args):
            pid = os.fork()
            if pid:
                return {"status": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}
            if args:
                raise SystemExit(5)
            return {"child": True}
        """,
    )
    assert python.run().json == {"status": 0}
    assert python.run({"exit": 1}).json == {"status": 0}
    assert python.client.get("/").json == {"ok": True}


def test_background_processes_of_multiprocessing_work(python):
    load(
        python,
        """
        import multiprocessing
        def square(n):
            print("square", n)
            return n * n
        def main(args):
            with multiprocessing.get_context("fork").Pool(2) as pool:
                return {"squares": pool.map(square, [1, 2, 3])}
        """,
    )
    assert python.run().json == {"squares": [1, 4, 9]}


def test_exercise_leaves_nothing_behind(python):
    python.client.get("/")
    load(
        python,
        "import sys\ndef main(args):\n    return {'module': __name__, 'path': sys.path}\n",
    )
    result = python.run().json
    assert result["module"] == "exec__"
    assert "runtimes/python" in result["path"][-1]  # where an action's own imports look last


def test_main_guard_stays_quiet_and_names_of_ours_hide_nothing(python):
    load(
        python,
        """
        if __name__ == "__main__":
            raise SystemExit
        import sys
        def main(args):
            return {"start": "start" in sys.modules}
        """,
    )
    assert python.run().json == {"start": False}


def test_zip_with_modules_data_and_a_link(python, zipped):
    code = zipped(
        {
            "__main__.py": "import helper\ndef main(args):\n    return {'n': helper.twice(4), 'data': open('data/link').read()}",
            "helper.py": "def twice(n):\n    return 2 * n\n",
            "data/text": "from the zip",
        },
        links={"data/link": "text"},
    )
    load(python, code, binary=True)
    assert python.run().json == {"n": 8, "data": "from the zip"}


def test_zip_with_a_virtualenv(python, zipped):
    packages = "virtualenv/lib/python3.11/site-packages"
    code = zipped(
        {
            "__main__.py": "import package, hidden\ndef main(args):\n    return {'package': package.NAME, 'hidden': hidden.NAME}",
            f"{packages}/package.py": "NAME = 'site'\n",
            f"{packages}/more.pth": "elsewhere\n",
            f"{packages}/elsewhere/hidden.py": "NAME = 'pth'\n",
        }
    )
    load(python, code, binary=True)
    assert python.run().json == {"package": "site", "hidden": "pth"}


def test_tar_gz(python):
    buffer = io.BytesIO()
    text = b"def main(args):\n    return {'tar': True}\n"
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        entry = tarfile.TarInfo("__main__.py")
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text))
    load(python, base64.b64encode(buffer.getvalue()).decode(), binary=True)
    assert python.run().json == {"tar": True}


def test_directory_that_is_already_unpacked(python, tmp_path):
    code = tmp_path / "code"
    code.mkdir()
    (code / "__main__.py").write_text("import near\ndef main(args):\n    return {'near': near.X}\n")
    (code / "near.py").write_text("X = 1\n")
    code.chmod(0o555)
    assert python.init(code_path=str(code), binary=True).status == 200
    assert python.run().json == {"near": 1}


def test_archive_without_an_entry_point_says_so_in_the_log(python, zipped):
    answer = python.init(zipped({"module.py": "x = 1"}), binary=True, env={"__OW_ACTIVATION_ID": A})
    assert answer.status == 502
    assert answer.json["error"] == "The action failed to generate or locate a binary. See logs for details."
    assert "__main__.py" in python.logs(answer, "e", A)[0]


def test_code_that_is_no_base64_is_a_bad_request(python):
    assert python.init("§§§", binary=True).status == 400


def test_recursion_and_pickling_by_name_work_as_in_a_script(python):
    load(
        python,
        """
        import pickle
        class Point:
            x = 1
        def deep(n):
            return deep(n + 1)
        def main(args):
            if args:
                deep(0)
            return {"x": pickle.loads(pickle.dumps(Point())).x}
        """,
    )
    assert python.run().json == {"x": 1}
    assert "recursion" in python.run({"deep": 1}).json["error"]
    assert python.run().json == {"x": 1}
