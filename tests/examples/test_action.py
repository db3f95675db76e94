"""The hit finder: finds what was planted, and answers every bad input with a sentence."""

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from example_harness import EXAMPLES
from hitfinder import action
from hitfinder.check import LEAST_PRECISION, LEAST_RECALL, score_run
from hitfinder.generate import Settings, write_run


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("run")
    write_run(directory, Settings(frames=3, seed=5, hit_rate=1.0))
    return directory


def write_frame(path: Path, frame: np.ndarray, **extra: object) -> str:
    with h5py.File(path, "w") as file:
        file["/entry/data/data"] = frame
        for name, value in extra.items():
            file[f"/entry/instrument/detector/{name}"] = value
    return str(path)


def find(path: str | Path, **options: object) -> dict:
    return action.main({"path": str(path), "data_root": str(Path(path).parent), **options})


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_finds_the_planted_peaks_and_hardly_any_other(tmp_path: Path, seed):
    truth = write_run(tmp_path, Settings(frames=12, seed=seed))
    results = [find(tmp_path / frame["file"]) for frame in truth["frames"]]
    run = score_run(results, truth)
    assert run.failures == []
    assert run.total("visible") > 100
    assert run.recall >= LEAST_RECALL
    assert run.precision >= LEAST_PRECISION
    assert run.position_rms_px < 0.5
    assert [frame.called_hit for frame in run.frames] == [frame.crystal for frame in run.frames]


def test_blank_frames_have_no_peaks_at_all(tmp_path: Path):
    truth = write_run(tmp_path, Settings(frames=10, seed=8, hit_rate=0.0))
    assert [find(tmp_path / frame["file"])["n_peaks"] for frame in truth["frames"]] == [0] * 10


def test_stacks_and_bitshuffle_give_the_same_peaks(run_directory: Path, tmp_path: Path):
    write_run(tmp_path, Settings(frames=3, seed=5, hit_rate=1.0, frames_per_file=3, compression="bitshuffle"))
    for number in range(3):
        single, stacked = find(run_directory / f"frame_{number:06}.h5"), find(tmp_path / "frames_000000.h5", event=number)
        assert stacked["peaks"] == single["peaks"]
        assert (stacked["event"], single["event"]) == (number, 0)


def test_result_is_compact_json_and_the_same_each_time(run_directory: Path):
    first, again = (find(run_directory / "frame_000000.h5") for _ in range(2))
    assert len(json.dumps(first, allow_nan=False)) < 20_000
    assert first.pop("seconds") > 0
    assert again.pop("seconds") > 0
    for result in (first, again):
        assert result["frame"].pop("read_seconds") > 0
    assert first == again
    assert set(first) == {"path", "event", "hit", "n_peaks", "peaks", "frame"}
    assert set(first["peaks"][0]) == {"fs", "ss", "intensity", "snr", "n_pixels"}


def test_integrated_intensity_is_that_of_the_spot(run_directory: Path):
    truth = json.loads((run_directory / "truth.json").read_text())["frames"][0]
    found = {(round(p["fs"]), round(p["ss"])): p["intensity"] for p in find(run_directory / truth["file"])["peaks"]}
    ratios = [
        found[at] / peak["intensity"]
        for peak in truth["peaks"]
        if peak["snr"] > 15 and not peak["edge"] and (at := (round(peak["fs"]), round(peak["ss"]))) in found
    ]
    assert len(ratios) > 20
    assert np.median(ratios) == pytest.approx(1.0, abs=0.04)


def test_planted_square_is_found_at_its_centre_with_its_counts(tmp_path: Path):
    frame = np.random.default_rng(1).poisson(9, (200, 300))
    frame[100:103, 60:63] += 100
    frame[20, 20] += 500  # a zinger
    frame[150:170, 150:170] += 100  # ice: 400 pixels
    result = find(write_frame(tmp_path / "f.h5", frame))
    assert result["n_peaks"] == 1
    (peak,) = result["peaks"]
    assert (peak["fs"], peak["ss"], peak["n_pixels"]) == (pytest.approx(61, abs=0.1), pytest.approx(101, abs=0.1), 9)
    assert peak["intensity"] == pytest.approx(900, rel=0.1)
    assert result["frame"]["background"] == pytest.approx(9, rel=0.05)


@pytest.mark.parametrize(
    ("options", "n_peaks"),
    [
        ({}, 1),
        ({"snr": 60}, 0),
        ({"min_counts": 1000}, 0),
        ({"min_pixels": 10}, 0),
        ({"max_pixels": 8}, 0),
        ({"min_pixels": 1, "snr": 10}, 2),
    ],
)
def test_each_threshold_does_its_work(tmp_path: Path, options, n_peaks):
    frame = np.random.default_rng(1).poisson(9, (200, 300))
    frame[100:103, 60:63] += 100
    frame[20, 20] += 500
    assert find(write_frame(tmp_path / "f.h5", frame), **options)["n_peaks"] == n_peaks


def test_hit_needs_min_peaks_and_the_list_ends_at_max_peaks_brightest_first(run_directory: Path):
    path = run_directory / "frame_000000.h5"
    n_peaks = find(path)["n_peaks"]
    assert find(path, min_peaks=n_peaks)["hit"] is True
    assert find(path, min_peaks=n_peaks + 1)["hit"] is False
    short = find(path, max_peaks=5)
    assert short["n_peaks"] == n_peaks
    assert short["peaks"] == find(path)["peaks"][:5]
    intensities = [peak["intensity"] for peak in short["peaks"]]
    assert intensities == sorted(intensities, reverse=True)


def test_masked_pixels_are_neither_peaks_nor_background(tmp_path: Path):
    frame = np.random.default_rng(1).poisson(9, (200, 300)).astype(np.uint16)
    frame[50:54, 50:54] = 60000
    assert find(write_frame(tmp_path / "open.h5", frame))["n_peaks"] == 1
    mask = (frame == 60000).astype(np.uint32)
    result = find(write_frame(tmp_path / "masked.h5", frame, pixel_mask=mask))
    assert result["n_peaks"] == 0
    assert result["frame"]["good_pixels"] == 200 * 300 - 16


def test_touching_joins_corners_but_not_the_ends_of_rows():
    pixels = np.array([0 * 10 + 9, 1 * 10 + 0, 3 * 10 + 3, 4 * 10 + 4, 5 * 10 + 3, 7 * 10 + 0, 7 * 10 + 1, 8 * 10 + 9])
    count, labels = action.label_pixels(pixels, 10)
    assert count == 5
    assert labels[0] != labels[1]
    assert len({labels[2], labels[3], labels[4]}) == 1
    assert labels[5] == labels[6] != labels[7]


def test_tables_are_built_once_per_geometry_and_only_four_are_kept(tmp_path: Path):
    frame = np.random.default_rng(1).poisson(9, (64, 64))
    path = write_frame(tmp_path / "f.h5", frame)
    good = np.ones((64, 64), np.bool_)
    find(path, beam_centre=[30, 30])
    assert action.geometry_of(good, (30.0, 30.0)) is action.geometry_of(good, (30.0, 30.0))
    other = good.copy()
    other[3, 3] = False
    assert action.geometry_of(other, (30.0, 30.0)) is not action.geometry_of(good, (30.0, 30.0))
    for number in range(6):
        find(path, beam_centre=[number, 30])
    assert len(action._geometries) == 4


def test_beam_centre_comes_from_argument_file_or_middle(tmp_path: Path):
    frame = np.random.default_rng(1).poisson(9, (64, 64))
    told = write_frame(tmp_path / "told.h5", frame, beam_center_x=30.0, beam_center_y=31.0)
    silent = write_frame(tmp_path / "silent.h5", frame)
    assert find(told)["frame"]["beam_centre_from"] == "file"
    assert find(told, beam_centre=[1, 2])["frame"]["beam_centre_from"] == "argument"
    assert find(silent)["frame"]["beam_centre_from"] == "assumed: middle"


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((64, 64), np.int32),
        np.full((64, 64), 65535, np.uint16),
        np.full((64, 64), np.nan),
        np.where(np.arange(4096).reshape(64, 64) % 7 == 0, np.inf, 1.0),
        np.full((64, 64), 1e300),
        np.full((64, 64), -5, np.int16),
    ],
    ids=["zeros", "saturated", "nan", "inf", "huge", "negative"],
)
def test_frames_without_sense_have_no_peaks_and_no_nan(tmp_path: Path, frame):
    result = find(write_frame(tmp_path / "f.h5", frame))
    assert result["n_peaks"] == 0
    json.dumps(result, allow_nan=False)


def test_unknown_arguments_are_named_not_swallowed(run_directory: Path):
    assert find(run_directory / "frame_000000.h5", min_snr=8, __ow_user="x")["ignored"] == ["min_snr"]


def bad_files(directory: Path) -> dict[str, Path]:
    write_run(directory, Settings(frames=1, size=512, seed=5))
    whole = (directory / "frame_000000.h5").read_bytes()
    files = {
        name: directory / f"{name}.h5"
        for name in ("truncated", "torn", "empty", "text", "fifo", "scalar", "four", "mask", "tiny")
    }
    files["truncated"].write_bytes(whole[: len(whole) // 2])
    middle = len(whole) // 2
    files["torn"].write_bytes(whole[:middle] + bytes(4000) + whole[middle + 4000 :])
    files["empty"].write_bytes(b"")
    files["text"].write_text("not HDF5")
    os.mkfifo(files["fifo"])
    write_frame(files["scalar"], np.float64(1))
    write_frame(files["four"], np.zeros((2, 2, 40, 40)))
    write_frame(files["mask"], np.zeros((64, 64)), pixel_mask=np.zeros((32, 64)))
    write_frame(files["tiny"], np.zeros((8, 8)))
    return files


def test_each_damaged_or_foreign_file_gets_its_sentence(tmp_path: Path):
    said = {
        "truncated": "truncated, damaged or still being written",
        "torn": "truncated, damaged or still being written",
        "empty": "is not an HDF5 file",
        "text": "is not an HDF5 file",
        "fifo": "is not a regular file",
        "scalar": "a frame is numbers",
        "four": "a frame is numbers",
        "mask": "pixel_mask",
        "tiny": "32 x 32",
    }
    files = bad_files(tmp_path)
    assert files.keys() == said.keys()
    for name, path in files.items():
        result = find(path)
        assert set(result) == {"error"}, name
        assert said[name] in result["error"], name
        assert path.name in result["error"], name


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, '"path" is missing'),
        ({"path": 7}, "must be a non-empty text"),
        ({"path": "a\0b"}, "must be a non-empty text"),
        ({"path": "nothing.h5"}, "No such file"),
        ({"path": "."}, "not a regular file"),
        ({"path": "../frame_000000.h5"}, "outside the data mount"),
        ({"path": "/etc/passwd"}, "outside the data mount"),
        ({"path": "link"}, "outside the data mount"),
        ({"path": "frame_000000.h5", "event": 1}, "there is no event 1"),
        ({"path": "frame_000000.h5", "event": 0.5}, "whole number"),
        ({"path": "frame_000000.h5", "event": True}, "whole number"),
        ({"path": "frame_000000.h5", "snr": "high"}, "must be a number"),
        ({"path": "frame_000000.h5", "snr": float("nan")}, "must be from"),
        ({"path": "frame_000000.h5", "min_pixels": 0}, "must be from"),
        ({"path": "frame_000000.h5", "max_peaks": 10**6}, "must be from"),
        ({"path": "frame_000000.h5", "beam_centre": [1]}, "[fs, ss]"),
        ({"path": "frame_000000.h5", "beam_centre": [1, float("inf")]}, "[fs, ss]"),
        ({"path": "frame_000000.h5", "dataset": "/entry/data"}, "has no dataset"),
        ({"path": "frame_000000.h5", "dataset": "/nowhere"}, "has no dataset"),
        ({"path": "x" * 5000}, "File name too long"),
    ],
)
def test_each_bad_argument_gets_its_sentence(run_directory: Path, arguments, said):
    if not (run_directory / "link").is_symlink():
        (run_directory / "link").symlink_to("/etc/hostname")
    result = action.main({"data_root": str(run_directory), **arguments})
    assert set(result) == {"error"}
    assert said in result["error"]


def test_without_a_mount_the_message_says_so():
    said = action.main({"path": "/nowhere-mounted/run/frame.h5", "data_root": "/nowhere-mounted"})["error"]
    assert "nothing is mounted at /nowhere-mounted" in said


def test_it_runs_where_numpy_and_hdf5_find_no_home_and_one_thread(run_directory: Path):
    """As in the container: an uid without a name, a read-only home, and the limits in the environment."""
    code = (
        "import json, sys\n"
        "namespace = {'__name__': 'exec__'}\n"
        "exec(compile(open(sys.argv[1]).read(), 'exec__.py', 'exec'), namespace)\n"
        "print(json.dumps(namespace['main']({'path': 'frame_000000.h5', 'data_root': sys.argv[2]})['hit']))"
    )
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, str(EXAMPLES / "hitfinder" / "action.py"), str(run_directory)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.strip() == "true", done.stderr


def test_the_page_names_every_option_with_its_default():
    page = (EXAMPLES.parent / "docs" / "hitfinder.md").read_text()
    for name, (default, *_) in action.OPTIONS.items():
        row = next(line for line in page.splitlines() if line.startswith("|") and f"`{name}`" in line)
        assert f"{default:g}" in row, row
    for name in (*action.TEXTS, "beam_centre"):
        assert f"| `{name}` |" in page


@pytest.mark.long
def test_many_seeds_and_sizes_reach_the_promised_recall(tmp_path: Path):
    for size in (1024, 2048):
        for seed in range(10, 16):
            truth = write_run(tmp_path, Settings(frames=20, seed=seed, size=size))
            run = score_run([find(tmp_path / frame["file"]) for frame in truth["frames"]], truth)
            assert run.failures == [], (size, seed)
