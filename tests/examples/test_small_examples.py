"""The small examples keep the action contract and answer bad input with a sentence."""

import hashlib
import io
import math
import os
import shutil
import struct
import subprocess
import zipfile
from pathlib import Path

import pytest
from catalogue import BALL, HIT_RATE, RESOLUTION, RINGS
from example_harness import EXAMPLES, last_line

from invoker.commands.ctl_code import zip_directory


@pytest.mark.parametrize("example", [RESOLUTION, HIT_RATE, RINGS, BALL], ids=lambda example: example.name)
def test_example_returns_what_the_catalogue_says(run, example):
    result = run(example.name, example.arguments)
    assert example.verify(result) is None
    assert "error" not in result


@pytest.mark.parametrize("example", [RESOLUTION, HIT_RATE, RINGS, BALL], ids=lambda example: example.name)
def test_the_catalogue_notices_a_wrong_result(example):
    assert example.verify({"volume": 5.0, "standard_error": 0.01, "d_a": 1.0, "hit_rate": 0.9, "rings": []}) is not None


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("resolution", {}, "energy_kev"),
        ("resolution", {"energy_kev": "x", "distance_mm": 1, "radius_mm": 1}, "numbers"),
        ("resolution", {"energy_kev": 0, "distance_mm": 1, "radius_mm": 1}, "above 0"),
        ("hitrate", {}, "frames"),
        ("hitrate", {"frames": [{"hit": True}, {"path": "x"}]}, "frames[1]"),
        ("rings", {"calibrant": "Unobtainium"}, "CeO2, LaB6, Si"),
        ("rings", {"wavelength_a": None}, "numbers"),
        ("rings", {"distance_mm": -1}, "distance_mm"),
        ("ball", {"dimension": 0}, "dimension"),
        ("ball", {"samples": 1.5}, "samples"),
        ("ball", {"seed": "7"}, "seed"),
        ("ball", [1], "JSON object"),
        ("checksum", {}, "path"),
        ("checksum", {"path": "relative"}, "slash"),
        ("checksum", {"path": "/no/such/file"}, "no such file"),
    ],
)
def test_bad_input_is_an_application_error_with_a_sentence(run, name, arguments, said):
    result = run(name, arguments)
    assert set(result) == {"error"}
    assert said in result["error"]


@pytest.mark.parametrize("path", ["/tmp/$(id)", "/tmp/`id`", "/tmp/a b", '/tmp/"; id; "', "/tmp/\\u0041"])
def test_shell_example_takes_no_text_that_a_shell_could_mistake(run, path):
    assert "characters" in run("checksum", {"path": path})["error"]


def test_shell_example_sums_the_very_bytes(run, tmp_path: Path):
    file = tmp_path / "frame.h5"
    file.write_bytes(bytes(range(256)) * 100)
    expected = {"path": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "bytes": 25600}
    assert run("checksum", {"path": str(file)}) == expected


def test_c_example_repeats_itself_for_a_seed_and_differs_for_another(run):
    first, again, other = (run("ball", {"dimension": 2, "samples": 100000, "seed": seed}) for seed in (1, 1, 2))
    assert first == again
    assert first["volume"] != other["volume"]
    assert first["volume"] == 3.14176  # on every machine: the generator and the count are integers


@pytest.mark.parametrize("dimension", [1, 2, 3, 10])
def test_c_example_finds_the_volume_within_its_own_error(run, dimension):
    result = run("ball", {"dimension": dimension, "samples": 300000})
    exact = math.pi ** (dimension / 2) / math.gamma(dimension / 2 + 1)
    assert result["exact"] == pytest.approx(exact, rel=1e-8)
    assert abs(result["volume"] - exact) <= 5 * result["standard_error"] + 1e-12


@pytest.mark.parametrize(
    "text",
    [
        '{"dimension": 2',
        '{"dimension" 2}',
        '{"a":}',
        '{"a"}',
        "",
        "nonsense",
        '{"a": "unterminated}',
        '{"a": "\\',
        "{} trailing",
        '{"a": [1, 2}}',
        "{" * 200,
        '{"a":' + "[" * 5000 + "]" * 5000 + "}",
    ],
)
def test_c_example_survives_what_is_no_json(executable, text):
    assert "not one JSON object" in last_line([str(executable)], None, text=text)["error"]


def test_c_example_reads_only_its_own_top_level_keys(executable):
    text = '{"x": {"dimension": 9}, "y": ["\\"dimension\\": 8", {}], "dimension" : 2 , "samples":10}'
    result = last_line([str(executable)], None, text=text)
    assert (result["dimension"], result["samples"]) == (2, 10)


@pytest.mark.skipif(not shutil.which("gcc"), reason="asks for the warnings of gcc")
def test_c_example_compiles_without_a_warning(tmp_path: Path):
    flags = ["-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror", "-O2"]
    command = ["gcc", *flags, "-o", str(tmp_path / "exec"), str(EXAMPLES / "c" / "ball.c"), "-lm"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.skipif(not shutil.which("gcc"), reason="only gcc and clang can link glibc statically")
def test_c_example_needs_no_dynamic_loader(executable):
    content = executable.read_bytes()
    assert content[:5] == b"\x7fELF\x02"
    table, size, count = struct.unpack_from("<Q", content, 32)[0], *struct.unpack_from("<HH", content, 54)
    kinds = {struct.unpack_from("<I", content, table + number * size)[0] for number in range(count)}
    interpreter, load = 3, 1
    assert load in kinds
    assert interpreter not in kinds


def test_whoami_tells_the_truth_and_leaves_nothing_behind(run, tmp_path: Path):
    result = run("whoami", {"mount": str(tmp_path)})
    assert (result["uid"], result["gid"]) == (os.getuid(), os.getgid())
    assert result["mount"] == {"path": str(tmp_path), "visible": True, "writable": True, "refusal": None}
    assert list(tmp_path.iterdir()) == []
    assert run("whoami", {"mount": "/no/such"})["mount"]["visible"] is False


def test_zip_example_carries_its_data_file_and_no_rubbish():
    with zipfile.ZipFile(io.BytesIO(zip_directory(EXAMPLES / "zip"))) as archive:
        names = set(archive.namelist())
    assert names == {
        "__main__.py",
        *(f"powder/{name}" for name in ("__init__.py", "calibrants.csv", "calibrants.py", "rings.py")),
    }


@pytest.mark.parametrize(
    ("calibrant", "forbidden", "allowed"),
    [("Si", [2, 0, 0], [2, 2, 0]), ("Si", [2, 2, 2], [3, 1, 1]), ("CeO2", [1, 0, 0], [2, 0, 0]), ("LaB6", None, [1, 0, 0])],
)
def test_zip_example_knows_the_absent_reflections(run, calibrant, forbidden, allowed):
    rings = [ring["hkl"] for ring in run("rings", {"calibrant": calibrant, "wavelength_a": 0.7})["rings"]]
    assert allowed in rings
    assert forbidden not in rings


def test_readme_names_every_example():
    readme = (EXAMPLES / "README.md").read_text()
    for name in ("resolution", "whoami", "hitrate", "checksum", "ball", "rings", "hitfinder"):
        for client in ("invokerctl", "wsk"):
            assert f"{client} action create {name} " in readme, f"{client} action create {name}"
