"""The runtime of kind nodejs:20, beyond the common contract."""

import base64
import io
import json
import tarfile

import pytest

A = "a" * 32


@pytest.fixture
def nodejs(start):
    return start("nodejs")


def load(process, code, **value):
    answer = process.init(code, env={"__OW_ACTIVATION_ID": A}, **value)
    assert answer.status == 200, answer
    return process


@pytest.mark.parametrize(
    ("body", "status", "result"),
    [
        ("return Promise.resolve({ n: 1 });", 200, {"n": 1}),
        ("return new Promise((resolve) => setTimeout(() => resolve({ later: 1 }), 5));", 200, {"later": 1}),
        ("return undefined;", 200, {}),
        ("return null;", 200, None),
        ("return { error: 'mine' };", 200, {"error": "mine"}),
        ("return Promise.reject({ code: 7 });", 200, {"error": {"code": 7}}),
        ("return Promise.reject();", 200, {"error": {}}),
        ("return 'text';", 502, {"error": "The action did not return a dictionary or array."}),
        ("throw new Error('Extraordinary exception');", 502, {"error": "An error has occurred: Error: Extraordinary exception"}),
        (
            "setTimeout(() => { throw new Error('late'); }, 1); return NEVER;",
            502,
            {"error": "An error has occurred: Error: late"},
        ),
        ("Promise.reject(new Error('lost')); return NEVER;", 502, {"error": "An error has occurred: Error: lost"}),
    ],
)
def test_what_becomes_of_a_return(nodejs, body, status, result):
    load(nodejs, f"const NEVER = new Promise(() => {{}}); function main(args) {{ {body} }}")
    answer = nodejs.run()
    assert (answer.status, answer.json) == (status, result)


def test_rejected_error_keeps_its_fields(nodejs):
    load(nodejs, "async function main() { throw Object.assign(new TypeError('bad'), { code: 'E' }); }")
    error = nodejs.run().json["error"]
    assert (error["name"], error["message"], error["code"]) == ("TypeError", "bad", "E")
    assert "at main" in error["stack"]


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("function main() {\n  throw new TypeError('bad');\n}", "TypeError: bad"),
        ("async function main() {\n  throw new TypeError('bad');\n}", "TypeError: bad"),
        ("function main() {\n  return Promise.reject(new RangeError('far'));\n}", "RangeError: far"),
    ],
)
def test_log_shows_the_line_of_an_error_that_ends_a_run(nodejs, code, sentence):
    load(nodejs, code)
    answer = nodejs.run()
    log = nodejs.logs(answer, "e")
    assert log[0] == sentence
    assert "main (/action/index.js:2:" in log[1]


def test_what_is_no_error_is_a_result_and_no_line_of_the_log(nodejs):
    load(nodejs, "async function main() { throw { code: 7 }; }")
    answer = nodejs.run()
    assert (answer.json, nodejs.logs(answer, "e")) == ({"error": {"code": 7}}, [])


def test_log_shows_the_line_of_an_error_at_init(nodejs):
    answer = nodejs.init("function main() {}\nno_such_thing();", env={"__OW_ACTIVATION_ID": A})
    log = nodejs.logs(answer, "e", A)
    assert log[0] == "Error during initialization: ReferenceError: no_such_thing is not defined"
    assert "/action/index.js:2" in log[1]


def test_result_that_cannot_be_json_is_a_502(nodejs):
    load(nodejs, "function main(args) { if (args.big) return { n: 1n }; const a = {}; a.a = a; return a; }")
    for argument in ({}, {"big": 1}):
        answer = nodejs.run(argument)
        assert answer.status == 502
        assert "cannot be JSON" in answer.json["error"]


def test_failed_init_tells_the_reason_with_its_stack(nodejs):
    answer = nodejs.init("no_such_thing();\nfunction main() {}", env={"__OW_ACTIVATION_ID": A})
    assert answer.status == 502
    assert answer.json["error"].startswith("Initialization has failed due to: ReferenceError: no_such_thing is not defined")
    assert "/action/index.js:1" in answer.json["error"]


def test_exit_of_the_action_ends_the_process_and_its_log_survives(nodejs):
    load(nodejs, "function main() { console.log('last words'); process.exit(3); }")
    with pytest.raises(ConnectionError):
        nodejs.run()
    assert nodejs.process.wait(timeout=30) == 3
    assert nodejs.pipe.wait(f"{nodejs.runs:032x}", 1)[0].text == b"last words"


def test_second_run_at_the_same_time_is_refused(nodejs):
    load(
        nodejs,
        "function main() { console.log('runs'); return new Promise(() => {}); }",
    )
    other = nodejs.connect()
    nodejs.client.send("/run", {"value": {}, "activation_id": A})
    nodejs.pipe.wait(A, 1)
    answer = other.post("/run", {"value": {}})
    assert answer.status == 403


def test_exported_function_and_dotted_entry_point(nodejs):
    load(nodejs, "exports.api = { call: (args) => ({ got: args.n }) };", main="api.call")
    assert nodejs.run({"n": 3}).json == {"got": 3}


def test_inline_code_may_require_what_node_has(nodejs):
    load(
        nodejs,
        "const { join } = require('path'); module.exports.main = () => ({ os: require('os').platform(), p: join('a', 'b') });",
    )
    assert nodejs.run().json == {"os": "linux", "p": "a/b"}


@pytest.mark.parametrize(
    "files",
    [
        {"index.js": "exports.main = (args) => ({ n: require('./lib/helper')(args.n) });"},
        {
            "package.json": '{"main": "source/start.js"}',
            "source/start.js": "exports.main = (args) => ({ n: require('../lib/helper')(args.n) });",
        },
    ],
    ids=["index", "package"],
)
def test_zip(nodejs, zipped, files):
    helper = {
        "lib/helper.js": "module.exports = (n) => require('twice')(n);",
        "node_modules/twice/index.js": "module.exports = (n) => 2 * n;",
    }
    load(nodejs, zipped({**files, **helper}), binary=True)
    assert nodejs.run({"n": 21}).json == {"n": 42}


def test_zip_keeps_modes_and_links(nodejs, zipped):
    code = "const { execFileSync } = require('child_process'); exports.main = () => ({ out: execFileSync('./link').toString() });"
    load(
        nodejs,
        zipped({"index.js": code, "tool": "#!/bin/sh\nprintf tool"}, modes={"tool": 0o755}, links={"link": "tool"}),
        binary=True,
    )
    assert nodejs.run().json == {"out": "tool"}


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_gz_with_long_names(nodejs, form):
    long_name = "d" * 90 + "/" + "e" * 90 + "/helper.js"
    files = {"index.js": f"exports.main = () => ({{ n: require('./{long_name}') }});", long_name: "module.exports = 7;"}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=form) as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    load(nodejs, base64.b64encode(buffer.getvalue()).decode(), binary=True)
    assert nodejs.run().json == {"n": 7}


@pytest.mark.parametrize("name", ["../outside.js", "/absolute.js"])
def test_zip_cannot_write_outside_of_itself(nodejs, zipped, tmp_path, name):
    answer = nodejs.init(zipped({"index.js": "", name: "x"}), binary=True)
    assert answer.status == 502 or not (tmp_path / "outside.js").exists()
    assert not any(tmp_path.rglob("outside.js"))


def test_zip_without_an_entry_point_is_told(nodejs, zipped):
    answer = nodejs.init(zipped({"other.js": ""}), binary=True)
    assert answer.status == 502
    assert "package.json or index.js" in answer.json["error"]


def test_directory_that_is_already_unpacked(nodejs, tmp_path):
    code = tmp_path / "code"
    code.mkdir()
    (code / "package.json").write_text(json.dumps({"main": "a.js"}))
    (code / "a.js").write_text("exports.main = () => ({ path: process.cwd() });")
    assert nodejs.init(code_path=str(code), binary=True).status == 200
    assert nodejs.run().json == {"path": str(code)}


def test_every_way_to_print_is_captured_in_order(nodejs):
    load(
        nodejs,
        "function main() { console.log('%s-%d', 'a', 1); process.stdout.write('b'); process.stdout.write('c\\n');"
        "console.error('e'); console.table([{ x: 1 }]); }",
    )
    answer = nodejs.run()
    lines = nodejs.logs(answer)
    assert lines[:2] == ["a-1", "bc"]
    assert any("x" in line for line in lines[2:])
    assert nodejs.logs(answer, "e") == ["e"]


def test_a_line_whose_end_does_not_come_is_told_as_it_is_so_far_also_by_a_function_that_never_waits(nodejs, tmp_path):
    """A function that is killed has said it."""
    load(
        nodejs,
        "function main() { process.stdout.write('so '); process.stdout.write('far'); process.stderr.write('oh');"
        f"while (!require('fs').existsSync('{tmp_path}/go')); console.log(' and on'); }}",
    )
    nodejs.client.send("/run", {"value": {}, "activation_id": "a" * 32})
    nodejs.pipe.wait_unfinished("a" * 32, b"so far")
    nodejs.pipe.wait_unfinished("a" * 32, b"oh", "e")
    (tmp_path / "go").touch()
    answer = nodejs.client.read()
    assert answer.frames == (2, 0)
    assert nodejs.logs(answer, activation="a" * 32) == ["so far and on"]


def test_an_action_that_writes_very_many_pieces_has_the_last_of_a_line_told_when_it_waits(nodejs, tmp_path):
    load(
        nodejs,
        "async function main() { for (let i = 0; i < 1000; i += 1) process.stdout.write('.');"
        f"while (!require('fs').existsSync('{tmp_path}/go')) await new Promise((done) => setTimeout(done, 10)); }}",
    )
    nodejs.client.send("/run", {"value": {}, "activation_id": "a" * 32})
    nodejs.pipe.wait_unfinished("a" * 32, b"." * 1000)
    (tmp_path / "go").touch()
    assert nodejs.client.read().frames == (1, 0)


CHILDREN = {
    "spawn": "ended(spawn('sh', ['-c', SCRIPT], { stdio: 'inherit' }), 'exit')",
    "spawn with streams named": "ended(spawn('sh', ['-c', SCRIPT], { stdio: ['ignore', process.stdout, 2] }), 'close')",
    "fork": "ended(fork('-c', [SCRIPT], { execPath: '/bin/sh' }), 'exit')",
    "spawnSync": "spawnSync('sh', ['-c', SCRIPT], { stdio: 'inherit' }).stdout",
    "execSync": "execSync(SCRIPT, { stdio: 'inherit' })",
    "execFileSync": "execFileSync('sh', ['-c', SCRIPT], { stdio: 'inherit' })",
}


@pytest.mark.parametrize("how", CHILDREN)
def test_children_that_inherit_the_streams_are_heard_before_the_answer(nodejs, how):
    script = "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; echo aside >&2"
    code = (
        "const { execFileSync, execSync, fork, spawn, spawnSync } = require('child_process');\n"
        "const ended = (child, how) => new Promise((resolve) => child.on(how, () => resolve(child.stdout)));\n"
        f"const SCRIPT = {json.dumps(script)};\nasync function main() {{ return {{ out: await {CHILDREN[how]} }}; }}"
    )
    load(nodejs, code)
    answer = nodejs.run()
    assert (answer.status, answer.json) == (200, {"out": None})
    assert answer.frames == (3001, 0)
    frames = nodejs.pipe.wait(f"{nodejs.runs:032x}", 3001)
    assert [frame.text.decode() for frame in frames if frame.stream == "o"] == [f"line {i}" for i in range(3000)]
    assert [frame.text for frame in frames if frame.stream == "e"] == [b"aside"]


def test_a_child_that_fails_or_cannot_be_started_fails_as_ever(nodejs):
    load(
        nodejs,
        "const { execSync, spawn } = require('child_process');\n"
        "async function main(args) {\n"
        "  const missing = () => spawn('no-such-program', { stdio: 'inherit' });\n"
        "  if (args.missing) return new Promise((_, reject) => missing().on('error', reject));\n"
        "  execSync('echo so far; exit 3', { stdio: 'inherit' });\n}",
    )
    error = nodejs.run().json["error"]
    assert (error["status"], error["stdout"]) == (3, None)
    assert nodejs.pipe.wait(f"{nodejs.runs:032x}", 1)[0].text == b"so far"
    assert nodejs.run({"missing": True}).json["error"]["code"] == "ENOENT"
