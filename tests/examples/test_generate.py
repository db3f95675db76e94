"""The generator: repeatable, honest about what it planted, and readable by others."""

import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hitfinder import generate
from hitfinder.generate import DEAD, GAP, HOT, SHADOW, Detector, Settings, write_run

SMALL = Settings(frames=4, size=512, seed=3)


def read(path: Path, event: int = 0) -> np.ndarray:
    with h5py.File(path) as file:
        return file["/entry/data/data"][event]


def test_equal_seeds_write_equal_files_and_another_seed_others(tmp_path: Path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_run(tmp_path / name, replace(SMALL, seed=seed))
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == [*(f"frame_{number:06}.h5" for number in range(4)), "truth.json"]
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
        assert (tmp_path / "a" / file).read_bytes() != (tmp_path / "c" / file).read_bytes()


def test_a_frame_does_not_depend_on_how_many_are_written_nor_on_their_packing(tmp_path: Path):
    long = write_run(tmp_path / "long", replace(SMALL, frames=6))
    short = write_run(tmp_path / "short", replace(SMALL, frames=5, frames_per_file=3, compression="bitshuffle"))
    assert [frame["peaks"] for frame in short["frames"]] == [frame["peaks"] for frame in long["frames"][:5]]
    for number in range(5):
        name, event = short["frames"][number]["file"], short["frames"][number]["event"]
        assert np.array_equal(read(tmp_path / "short" / name, event), read(tmp_path / "long" / f"frame_{number:06}.h5"))
    assert [(frame["file"], frame["event"]) for frame in short["frames"]][3:] == [
        ("frames_000003.h5", 0),
        ("frames_000003.h5", 1),
    ]


@pytest.mark.parametrize(("compression", "filters"), [("gzip", {"1", "2"}), ("bitshuffle", {"32008"}), ("none", set())])
def test_compression_is_the_one_that_was_asked_for(tmp_path: Path, compression, filters):
    write_run(tmp_path, replace(SMALL, frames=1, compression=compression))
    with h5py.File(tmp_path / "frame_000000.h5") as file:
        pipeline = file["/entry/data/data"].id.get_create_plist()
        used = {str(pipeline.get_filter(number)[0]) for number in range(pipeline.get_nfilters())}
    assert used == filters


def test_background_is_poisson_around_its_expectation():
    detector = Detector(replace(SMALL, hit_rate=0.0))
    frames = np.stack([detector.expose(number)[0] for number in range(12)]).astype(float)
    good = (detector.mask == 0) & (frames.max(axis=0) < 200)  # zingers left out
    mean, expected = frames.mean(axis=0)[good], detector.background[good]
    assert abs((mean - expected).mean() / expected.mean()) < 0.005
    assert abs(frames.var(axis=0, ddof=1)[good].mean() / expected.mean() - 1) < 0.02


def test_water_ring_stands_out_where_bragg_puts_it():
    detector = Detector(Settings())
    radius = generate.radius_map(detector.settings)
    means = [detector.background[(radius > r - 2) & (radius < r + 2)].mean() for r in (200, 289, 400)]
    assert means[1] > 1.2 * means[2]
    assert means[1] > means[0] * 0.9


def test_planted_spots_carry_their_photons():
    detector = Detector(replace(Settings(), hit_rate=1.0))
    frame, peaks = detector.expose(0)
    strong = [peak for peak in peaks if peak["snr"] > 20 and not peak["edge"]]
    assert len(strong) > 10
    ratios = []
    for peak in strong:
        row, column = round(peak["ss"]), round(peak["fs"])
        box = np.s_[row - 4 : row + 5, column - 4 : column + 5]
        if (detector.mask[box] == 0).all():
            ratios.append((frame[box].astype(float) - detector.background[box]).sum() / peak["intensity"])
    assert np.median(ratios) == pytest.approx(1.0, abs=0.05)


def test_hit_rate_is_kept_and_blanks_have_no_peaks():
    detector = Detector(Settings(size=256, hit_rate=0.3))
    peaks = [detector.expose(number)[1] for number in range(100)]
    assert 17 <= sum(found is not None for found in peaks) <= 43  # 30 expected; 2.8 standard deviations
    assert all(found for found in peaks if found is not None)


def test_mask_tells_every_pixel_that_measures_nothing(tmp_path: Path):
    write_run(tmp_path, replace(SMALL, frames=1, hit_rate=0.0))
    with h5py.File(tmp_path / "frame_000000.h5") as file:
        mask, frame = file["/entry/instrument/detector/pixel_mask"][()], file["/entry/data/data"][0]
        assert file["/entry/instrument/detector/beam_center_x"].attrs["units"] == "pixel"
        assert file["/entry"].attrs["NX_class"] == "NXentry"
    for bit in (GAP, DEAD, HOT, SHADOW):
        assert (mask & bit).any()
    assert (frame[mask == 0] < 65535).all()
    dark = (mask & (DEAD | SHADOW)) != 0
    assert (frame[dark] == 0).all()
    assert (frame[(mask != 0) & ~dark] == 65535).all()


def test_edge_marks_spots_near_gaps_and_only_those():
    detector = Detector(replace(SMALL, hit_rate=1.0))
    _, peaks = detector.expose(1)
    blocked = np.argwhere((detector.mask & (GAP | SHADOW)) != 0)
    assert {peak["edge"] for peak in peaks[::10]} == {False, True}
    for peak in peaks[::10]:
        at = np.array([round(peak["ss"]), round(peak["fs"])])
        gap = np.abs(blocked - at).max(axis=1).min()
        border = min(*at, *(SMALL.size - 1 - at))
        assert peak["edge"] == (gap <= 4 or border < 4)


def test_another_user_can_read_the_frames_whatever_the_umask(tmp_path: Path):
    before = os.umask(0o077)
    try:
        write_run(tmp_path, replace(SMALL, frames=1))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "frame_000000.h5").stat().st_mode) == 0o644


def test_a_run_is_reused_only_when_whole_and_of_equal_settings(tmp_path: Path):
    truth = write_run(tmp_path, SMALL)
    assert generate.read_run(tmp_path, SMALL) == truth
    assert generate.read_run(tmp_path, replace(SMALL, seed=9)) is None
    (tmp_path / "frame_000002.h5").unlink()
    assert generate.read_run(tmp_path, SMALL) is None
    assert generate.read_run(tmp_path / "nowhere", SMALL) is None


def test_progress_counts_up_to_the_number_of_frames(tmp_path: Path):
    seen = []
    write_run(tmp_path, replace(SMALL, frames=5, frames_per_file=2), seen.append)
    assert seen == [2, 4, 5]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--hit-rate", "2"], "hit rate"),
        (["--frames", "0"], "at least 1"),
        (["--size", "9000"], "size"),
        (["--seed", "-1"], "seed"),
        (["--compression", "rar"], "invalid choice"),
    ],
)
def test_command_line_refuses_with_a_sentence(tmp_path: Path, capsys, arguments, said):
    with pytest.raises(SystemExit) as stopped:
        generate.main([str(tmp_path / "run"), *arguments])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_command_line_writes_and_says_what(tmp_path: Path, capsys):
    assert generate.main([str(tmp_path / "run"), "--frames", "2", "--size", "512", "--hit-rate", "1"]) == 0
    assert "2 frames, 2 hits" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "truth.json").read_text())["settings"]["frames"] == 2


def test_command_line_says_where_it_cannot_write(tmp_path: Path, capsys):
    (tmp_path / "file").write_text("")
    assert generate.main([str(tmp_path / "file" / "run"), "--frames", "1", "--size", "512"]) == 1
    assert "cannot write to" in capsys.readouterr().err
