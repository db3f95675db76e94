"""Every kind of code that can be deployed, from the PUT to the result: source, zip, large zip, script, binary."""

from __future__ import annotations

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
C_SOURCE = r"""
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#ifdef PADDING
__asm__(".section .data\npadding: .incbin \"" PADDING "\"\n.previous");
extern const unsigned char padding[];
#endif
int main(int argc, char **argv) {
    char line[256];
    if (!fgets(line, sizeof line, stdin)) return 1;
    line[strcspn(line, "\n")] = 0;
    fprintf(stderr, "said on stderr\n");
    printf("said on stdout\n");
#ifdef PADDING
    printf("{\"uid\": %d, \"argument\": %s, \"byte\": %d}\n", getuid(), argv[1], padding[PADDING_AT]);
#else
    printf("{\"uid\": %d, \"argument\": %s, \"stdin\": %s}\n", getuid(), argv[1], line);
#endif
    return 0;
}
"""


def zip_of(files: dict[str, str | bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (0o755 if name == "exec" else 0o644) << 16
            entry.compress_type = compression
            archive.writestr(entry, content)
    return buffer.getvalue()


def compiled(directory: Path, *options: str) -> bytes:
    if shutil.which("gcc") is None:
        pytest.skip("there is no C compiler")
    (directory / "action.c").write_text(C_SOURCE)
    command = ["gcc", "-O1", "-static", *options, "-o", str(directory / "action"), str(directory / "action.c")]
    subprocess.run(command, check=True)
    return (directory / "action").read_bytes()


def result_of(client: Any, name: str, payload: Any = None) -> Any:
    answer = client.invoke(name, payload)
    assert answer.status == 200, answer.text[:3000]
    assert answer.json["response"]["status"] == "success"
    return answer.json["response"]["result"]


# ---- python


def test_python_source_with_another_entry_point(client):
    execution = {
        "kind": "python:3",
        "code": "def hello(args):\n    return {'greeting': f\"Grüß Gott, {args['name']}\"}\n",
        "main": "hello",
    }
    assert client.ask("PUT", "actions/greet?overwrite=true", {"exec": execution}).status == 200
    assert result_of(client, "greet", {"name": "Jörg"}) == {"greeting": "Grüß Gott, Jörg"}


def test_python_zip_with_a_main_module_and_another_module_beside_it(client):
    files = {
        "__main__.py": "from helper import double\nfrom package.inner import NAME\n"
        "def main(args):\n    return {'n': double(args['n']), 'name': NAME}\n",
        "helper.py": "def double(n):\n    return 2 * n\n",
        "package/__init__.py": "",
        "package/inner.py": "NAME = 'inner'\n",
    }
    client.deploy("zip", zip_of(files))
    assert result_of(client, "zip", {"n": 21}) == {"n": 42, "name": "inner"}


def test_a_large_zip_is_mounted_read_only_and_takes_nothing_of_the_users_tmp_or_memory(client):
    look = """import os
def main(args):
    here = os.path.dirname(os.path.abspath(__file__))
    try:
        open(os.path.join(here, "x"), "w")
        writable = True
    except OSError:
        writable = False
    inside = sum(os.path.getsize(os.path.join(root, name)) for root, _, names in os.walk("/tmp") for name in names)
    used = os.statvfs("/tmp")
    return {"data": os.path.getsize(os.path.join(here, "data.bin")), "writable": writable, "tmp_files": inside,
            "tmp_used": (used.f_blocks - used.f_bfree) * used.f_frsize,
            "mounted": any(line.split()[4] == here and line.split()[5].startswith("ro") for line in open("/proc/self/mountinfo"))}
"""
    client.deploy("large", zip_of({"__main__.py": look, "data.bin": os.urandom(3 * MIB)}, zipfile.ZIP_STORED))
    answer = client.invoke("large")
    assert answer.status == 200, answer.text
    result = answer.json["response"]["result"]
    assert result == {"data": 3 * MIB, "writable": False, "tmp_files": 0, "tmp_used": 0, "mounted": True}
    assert answer.annotations["memory"]["shared"] < MIB
    assert result_of(client, "large") == result


def test_the_same_large_code_is_unpacked_once_and_a_new_revision_sees_the_new_code(client, daemon):
    def code(version: int) -> bytes:
        return zip_of(
            {"__main__.py": f"def main(args):\n    return {{'v': {version}}}\n", "d": bytes(2 * MIB)}, zipfile.ZIP_STORED
        )

    for name in ("one", "two"):
        client.deploy(name, code(1))
        assert result_of(client, name) == {"v": 1}
    client.deploy("one", code(2))
    assert result_of(client, "one") == {"v": 2}
    assert result_of(client, "two") == {"v": 1}


# ---- node


def test_node_function_promise_and_async(client):
    sources = {
        "plain": "function main(args) { return { n: args.n + 1 }; }",
        "promise": "function main(args) { return new Promise(resolve => setTimeout(() => resolve({ n: args.n + 1 }), 20)); }",
        "async": "const main = async args => ({ n: args.n + 1 });",
        "exported": "exports.main = args => ({ n: args.n + 1 });",
    }
    for name, source in sources.items():
        client.deploy(f"node-{name}", source, kind="nodejs:20")
        assert result_of(client, f"node-{name}", {"n": 1}) == {"n": 2}


def test_a_rejected_promise_is_an_error_of_the_application(client):
    client.deploy("rejects", "const main = () => Promise.reject({ code: 7 });", kind="nodejs:20")
    answer = client.invoke("rejects")
    assert answer.status == 502
    assert answer.json["response"] == {**answer.json["response"], "status": "application error", "result": {"error": {"code": 7}}}


def test_node_zip_with_modules(client):
    files = {
        "package.json": json.dumps({"name": "thing", "main": "lib/start.js"}),
        "lib/start.js": "const helper = require('./helper'); const dep = require('dep');\n"
        "exports.main = args => ({ n: helper(args.n), dep });\n",
        "lib/helper.js": "module.exports = n => 2 * n;\n",
        "node_modules/dep/index.js": "module.exports = 'a dependency';\n",
    }
    client.deploy("node-zip", zip_of(files), kind="nodejs:20")
    assert result_of(client, "node-zip", {"n": 4}) == {"n": 8, "dep": "a dependency"}
    large = {**files, "filler": os.urandom(2 * MIB)}
    client.deploy("node-zip-large", zip_of(large, zipfile.ZIP_STORED), kind="nodejs:20")
    assert result_of(client, "node-zip-large", {"n": 5}) == {"n": 10, "dep": "a dependency"}


# ---- anything that can be executed


def test_shell_script_gets_its_argument_and_surroundings(client):
    script = """#!/bin/sh
read -r line
echo "a line for the log"
echo "{\\"argument\\": $1, \\"stdin\\": $line, \\"name\\": \\"$__OW_ACTION_NAME\\", \\"id\\": \\"$__OW_ACTIVATION_ID\\"}"
"""
    client.deploy("shell", script, image=NATIVE)
    answer = client.invoke("shell", {"n": 1})
    result = answer.json["response"]["result"]
    assert result == {
        "argument": {"n": 1},
        "stdin": {"n": 1},
        "name": "/anna/shell",
        "id": answer.json["activationId"],
    }
    assert [line.partition(": ")[2] for line in client.record(answer.json["activationId"]).json["logs"]] == ["a line for the log"]


def test_a_c_binary_runs_natively(client, tmp_path):
    client.deploy("native", compiled(tmp_path), image=NATIVE)
    assert result_of(client, "native", {"n": 1}) == {"uid": 20_001, "argument": {"n": 1}, "stdin": {"n": 1}}


def test_an_executable_in_a_zip_finds_the_files_beside_it(client):
    files = {"exec": '#!/bin/sh\ncd "$(dirname "$0")" && cat answer.json\n', "answer.json": '{"beside": true}\n'}
    client.deploy("exec-zip", zip_of(files), image=NATIVE)
    assert result_of(client, "exec-zip") == {"beside": True}


def test_a_binary_of_tens_of_megabytes_runs_and_does_not_fill_tmp_or_memory(client, tmp_path):
    """35 MiB that do not compress are 46.7 MiB as base64, within 48; its memory could not hold them beside the runtime twice."""
    size = 35 * MIB
    padding = tmp_path / "padding"
    padding.write_bytes(os.urandom(size))
    last = padding.read_bytes()[-1]
    binary = compiled(tmp_path, f'-DPADDING="{padding}"', f"-DPADDING_AT={size - 1}")
    assert len(binary) > size
    client.deploy("huge", binary, image=NATIVE, memory=64)
    answer = client.invoke("huge", {})
    assert answer.status == 200, answer.text
    assert answer.json["response"]["result"] == {"uid": 20_001, "argument": {}, "byte": last}
    assert answer.annotations["memory"]["shared"] < MIB


def test_a_binary_of_forty_megabytes_in_a_zip_runs(client, tmp_path):
    size = 40 * MIB
    padding = tmp_path / "padding"
    padding.write_bytes(os.urandom(MIB) + bytes(size - 2 * MIB) + os.urandom(MIB))
    last = padding.read_bytes()[-1]
    binary = compiled(tmp_path, f'-DPADDING="{padding}"', f"-DPADDING_AT={size - 1}")
    client.deploy("huge-zip", zip_of({"exec": binary}), image=NATIVE, memory=64)
    assert result_of(client, "huge-zip", {})["byte"] == last


# ---- kinds and surroundings


def test_kind_names_tell_the_truth_about_the_version_inside(client):
    kinds = client.ask("GET", "/", key=None).json["runtimes"]
    sources = {
        "python": "import platform\ndef main(args):\n    return {'version': platform.python_version()}\n",
        "nodejs": "const main = () => ({ version: process.versions.node });",
    }
    assert set(kinds) == set(sources)
    for family, runtimes in kinds.items():
        for runtime in runtimes:
            client.deploy("version", sources[family], kind=runtime["kind"])
            version = result_of(client, "version")["version"]
            promised = runtime["kind"].partition(":")[2]
            assert version.split(".")[: promised.count(".") + 1] == promised.split(".")


@pytest.mark.parametrize(
    ("kind", "resolved", "code"),
    [
        ("python:default", "python:3", "def main(args):\n    return {}\n"),
        ("nodejs:default", "nodejs:20", "const main = () => ({});"),
    ],
)
def test_default_kinds_are_resolved(client, kind, resolved, code):
    client.deploy("by-default", code, kind=kind)
    assert client.ask("GET", "actions/by-default").json["exec"]["kind"] == resolved
    assert client.invoke("by-default").annotations["kind"] == resolved


def test_init_parameters_are_environment_and_bound_ones_are_arguments(client):
    code = (
        "import os\n"
        "START = dict(os.environ)\n"
        "def main(args):\n"
        "    names = ('TEXT', 'NUMBER', 'TRUE', 'NOTHING', 'LIST', 'OBJECT')\n"
        "    return {'environment': {name: START.get(name) for name in names}, 'arguments': args}\n"
    )
    values = {"TEXT": "as is", "NUMBER": 4.5, "TRUE": True, "NOTHING": None, "LIST": [1, "a"], "OBJECT": {"k": "v"}}
    parameters: list[dict[str, Any]] = [{"key": key, "value": value, "init": True} for key, value in values.items()]
    parameters += [{"key": "bound", "value": "by the action"}, {"key": "other", "value": "by the action"}]
    body = {"exec": {"kind": "python:3", "code": code}, "parameters": parameters}
    assert client.ask("PUT", "actions/parameters?overwrite=true", body).status == 200
    for payload in ({"other": "by the call"}, {"other": "by the call", "more": 1}):
        result = result_of(client, "parameters", payload)
        assert result["arguments"] == {"bound": "by the action", **payload}
        assert result["environment"] == {
            "TEXT": "as is",
            "NUMBER": "4.5",
            "TRUE": "true",
            "NOTHING": "",
            "LIST": '[1,"a"]',
            "OBJECT": '{"k":"v"}',
        }


SHOW_KEY = {
    "python:3": "import os\ndef main(args):\n    return {'key': os.environ.get('__OW_API_KEY')}\n",
    "nodejs:20": "const main = () => ({ key: process.env.__OW_API_KEY ?? null });",
    "blackbox": '#!/bin/sh\necho "{\\"key\\": \\"${__OW_API_KEY-}\\"}"\n',
}


@pytest.mark.parametrize("kind", SHOW_KEY)
@pytest.mark.parametrize("gives", [True, False])
def test_the_key_is_given_to_an_action_that_provides_it_and_the_key_works(client, kind, gives):
    execution = {"kind": kind, "code": SHOW_KEY[kind], **({"image": NATIVE} if kind == "blackbox" else {})}
    body = {"exec": execution, "annotations": [{"key": "provide-api-key", "value": gives}]}
    assert client.ask("PUT", "actions/key?overwrite=true", body).status == 200
    for _ in range(2):
        key = result_of(client, "key")["key"]
        if gives:
            assert client.ask("GET", "actions", key=key).status == 200
        else:
            assert not key


def test_the_context_of_each_call_is_its_own(client):
    code = (
        "import os\n"
        "def main(args):\n"
        "    names = [name for name in os.environ if name.startswith('__OW_')]\n"
        "    return {name.removeprefix('__OW_').lower(): os.environ[name] for name in names}\n"
    )
    client.deploy("context", code)
    for _ in range(2):
        answer = client.invoke("context", headers={"X-Request-ID": "a-request-of-mine"})
        context = answer.json["response"]["result"]
        assert context["activation_id"] == answer.json["activationId"]
        assert context["transaction_id"] == "a-request-of-mine"
        assert (context["namespace"], context["action_name"], context["action_version"]) == ("anna", "/anna/context", "0.0.1")
        assert answer.json["start"] < int(context["deadline"]) <= answer.json["end"] + 60_001
        assert context["api_host"] == "http://127.0.0.1:3233", "the container's own door to the API"
